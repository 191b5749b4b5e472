"""The endpoints' work: from a request, checked and encoded, to the exchange that answers it."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError

from openherd.core.errors import InputError
from openherd.inference.constraint import Constraint
from openherd.serving.answers import ChatExchange, CompletionExchange
from openherd.serving.guard import Guard
from openherd.serving.http import CLOSED, ClientLeftError, EventStream, bug, error_response, while_connected
from openherd.serving.protocol import ChatRequest, CompletionRequest, RequestError
from openherd.serving.schemas import Schemas, schema_of
from openherd.serving.served import Served
from openherd.serving.worker import Wanted, Worker
from openherd.tokenizer.dialog import Message, encode_dialog
from openherd.tokenizer.special import PYTHON_TAG
from openherd.tokenizer.tools import Preamble, ToolFormat

T = TypeVar("T")
logger = logging.getLogger(__name__)
PREAMBLE = TypeAdapter(Preamble)


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How to serve."""

    host: str = "127.0.0.1"
    port: int = 8_000  # 0: any that is free
    api_keys: tuple[str, ...] = ()  # none: nobody is asked for one
    origins: tuple[str, ...] = ()  # of pages elsewhere that may call it from a browser
    allowed_hosts: tuple[str, ...] = ()  # names it is called by, beside the loopback's
    max_queue: int = 256  # answers of a model that may wait
    max_tokens: int = 0  # of an answer; 0: what the context holds
    max_body_bytes: int = 4 << 20
    grace_s: float = 30.0  # to finish in when it is told to end
    tool_format: ToolFormat = "json"


def dialog_of(request: ChatRequest) -> list[Message]:
    """The messages as the tokenizer takes them."""
    made: list[Message] = []
    for given in request.messages:
        parts = given.content if isinstance(given.content, str) else [part.model_dump() for part in given.content or []]
        role = "system" if given.role == "developer" else given.role
        message: Message = {"role": role, "content": parts}  # type: ignore[typeddict-item]
        if given.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in given.tool_calls]  # type: ignore[misc]
        made.append(message)
    return made


def preamble_of(request: ChatRequest, tool_format: ToolFormat) -> Preamble:
    """What the dialog is told of tools. Raises RequestError."""
    tools = [] if request.tool_choice == "none" else [tool.model_dump(exclude_unset=True) for tool in request.tools]
    settings = {"tool_format": tool_format, **request.chat_template_kwargs}
    if "tools" in settings:
        raise RequestError(400, "chat_template_kwargs.tools; allowed: tools beside it alone", "chat_template_kwargs.tools")
    for param, value in (("tools", tools), ("chat_template_kwargs", settings)):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise RequestError(400, f"{param}: half of a surrogate pair, which is no text", param) from None
    try:
        preamble = Preamble.of({"tools": tools, "chat_template_kwargs": settings})
        return PREAMBLE.validate_json(json.dumps(vars(preamble)), strict=True)  # as JSON, lists are sequences too
    except InputError as error:
        raise RequestError.of(error, "chat_template_kwargs") from None
    except ValidationError as error:
        first = error.errors()[0]
        param = "tools" if first["loc"][:1] == ("tools",) else "chat_template_kwargs"
        raise RequestError(400, f"{'.'.join(map(str, (param, *first['loc'])))}; allowed: {first['msg']}", param) from None


def told_by(preamble: Preamble) -> list[Message]:
    """What a dialog is told before its own messages, as a message of the system, for a guard."""
    words = [preamble.system_lines, preamble.definitions if preamble.tools_in_user_message else ""]
    text = "\n\n".join(filter(None, words))
    return [{"role": "system", "content": text}] if text else []


class Service:
    """The endpoints' work: from a request to an exchange."""

    def __init__(self, models: Mapping[str, Served], worker: Worker, config: ServerConfig, guard: Guard | None) -> None:
        self.models, self.worker, self.config, self.guard = models, worker, config, guard
        self.schemas = Schemas()

    def served(self, name: str) -> Served:
        """A model. Raises RequestError."""
        if name not in self.models:
            raise RequestError(404, f"model = {name[:80]!r}; known: {', '.join(self.models)}", "model", "model_not_found")
        return self.models[name]

    async def chat(self, request: ChatRequest) -> ChatExchange:
        """Have a dialog answered. Raises RequestError."""
        served = self.served(request.model)
        dialog = dialog_of(request)
        preamble = preamble_of(request, self.config.tool_format)
        judged = [*told_by(preamble), *dialog]
        await self._judge(judged, "messages")
        param, schema = schema_of(request, preamble)
        constraint = None if schema is None else await self.schemas.constraint(param, schema, served.tokenizer)
        forced = param == "tool_choice"
        wanted = await asyncio.to_thread(self._chat, served, request, dialog, preamble, constraint, forced)
        names = [tool.function.name for tool in request.tools] if preamble.tools else []
        return ChatExchange(
            worker=self.worker,
            ticket=self._submit(served, wanted),
            tokenizer=served.tokenizer,
            model=served.name,
            prompts=[wanted[0].prompt],
            messages=judged,
            guard=self.guard,
            n=request.n,
            with_usage=request.stream_options.include_usage,
            n_logprobs=request.top_logprobs if request.logprobs else None,
            tool_format=preamble.tool_format,
            names=[*names, *(preamble.builtin_tools or ())],
            forced=forced,
        )

    def _chat(
        self,
        served: Served,
        request: ChatRequest,
        dialog: list[Message],
        preamble: Preamble,
        constraint: Constraint | None,
        forced: bool,
    ) -> list[Wanted]:
        tokenizer = served.tokenizer
        try:
            prompt = encode_dialog(tokenizer, dialog, preamble=preamble, generation_prompt=True).ids
        except InputError as error:
            number = error.where.removeprefix("message ")
            raise RequestError.of(error, f"messages[{number}]" if number.isdecimal() else "messages") from None
        except RecursionError:
            raise RequestError(400, "messages: nested too deeply", "messages") from None
        if forced:
            prompt += [*tokenizer.ids_of([PYTHON_TAG])]
        max_param = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
        room = served.room(len(prompt), request.most_tokens, self.config.max_tokens, "messages", max_param)
        sampling = served.sampling(request, room, request.top_logprobs)
        stop = frozenset() if request.ignore_eos else tokenizer.stop_ids
        return served.choices([prompt], request.n, [sampling], stop=stop, constraint=constraint)

    async def completion(self, request: CompletionRequest) -> CompletionExchange:
        """Have texts continued. Raises RequestError."""
        served = self.served(request.model)
        if len(request.prompts) * request.n > 128:
            raise RequestError(400, f"n: {len(request.prompts)} prompts x {request.n}; allowed: 128 answers to a request", "n")
        wanted, texts = await asyncio.to_thread(self._completion, served, request)
        messages: list[Message] = [{"role": "user", "content": text} for text in texts]
        await self._judge(messages, "prompt")
        return CompletionExchange(
            worker=self.worker,
            ticket=self._submit(served, wanted),
            tokenizer=served.tokenizer,
            model=served.name,
            prompts=[one.prompt for one in wanted[:: request.n]],
            messages=messages,
            guard=self.guard,
            n=request.n,
            with_usage=request.stream_options.include_usage,
            n_logprobs=request.logprobs,
            echoed=texts if request.echo else None,
        )

    def _completion(self, served: Served, request: CompletionRequest) -> tuple[list[Wanted], list[str]]:
        tokenizer = served.tokenizer
        prompts, texts, sampling = [], [], []
        asked: Sequence[str | list[int]] = request.prompts
        for i, given in enumerate(asked):
            param = "prompt" if isinstance(request.prompt, str) or isinstance(request.prompt[0], int) else f"prompt[{i}]"
            if isinstance(given, str):
                try:
                    prompt, text = [tokenizer.bos_id, *tokenizer.encode(given)], given
                except InputError as error:
                    raise RequestError.of(error, param) from None
            else:
                if (most := max(given)) >= tokenizer.vocabulary:
                    raise RequestError(400, f"{param}: token {most}; allowed: ids below {tokenizer.vocabulary}", param)
                prompt, text = given, tokenizer.decode(token for token in given if token not in tokenizer.special_ids)
            room = served.room(len(prompt), request.max_tokens, self.config.max_tokens, param, "max_tokens")
            prompts.append(prompt)
            texts.append(text)
            sampling.append(served.sampling(request, room, request.logprobs or 0))
        stop = frozenset() if request.ignore_eos else tokenizer.stop_ids
        scored = request.echo and request.logprobs is not None
        return served.choices(prompts, request.n, sampling, stop=stop, scores_prompt=scored), texts

    def _submit(self, served: Served, wanted: Sequence[Wanted]) -> Any:
        if len(wanted) > (limit := self.worker.limits[served.name]):
            raise RequestError(400, f"n: {len(wanted)} answers; allowed: {limit}, what the queue holds", "n")
        return self.worker.submit(served.name, wanted)

    async def _judge(self, messages: Sequence[Message], param: str) -> None:
        if self.guard and (why := await self.guard.judge_prompt(messages)):
            raise RequestError(400, f"{param}: refused ({why})", param, "content_filter")

    async def answer(self, http: Request, begun: Coroutine[Any, Any, ChatExchange | CompletionExchange], stream: bool) -> Response:
        """The whole answer, or its stream: that begins with the first piece, so that what fails before has its own status."""
        try:
            exchange = await while_connected(http.receive, begun)
        except ClientLeftError:
            return Response(status_code=CLOSED)
        is_handed_over = False
        try:
            if not stream:
                whole = await while_connected(http.receive, exchange.whole())
                return Response(whole.json_bytes(), media_type="application/json")
            chunks = exchange.chunks()
            first = await while_connected(http.receive, first_of(chunks))
            is_handed_over = True
            return EventStream(self._events(first, chunks), lambda: self.worker.close(exchange.ticket))
        except ClientLeftError:
            return Response(status_code=CLOSED)
        finally:
            if not is_handed_over:
                self.worker.close(exchange.ticket)

    async def _events(self, first: Any, chunks: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        try:
            yield first.json_bytes()
            async for chunk in chunks:
                yield chunk.json_bytes()
            yield b"[DONE]"
        except RequestError as error:
            yield bytes(error_response(error).body)
        except Exception as error:  # a bug of ours: a stream must not look as if the connection had broken
            logger.exception("a stream")
            yield bytes(error_response(bug(error)).body)


async def first_of(values: AsyncIterator[T]) -> T:
    """The first value."""
    return await anext(values)
