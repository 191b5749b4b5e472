"""The server: OpenAI's endpoints over our engine, for one or more models, and the page.

`openherd serve DIR` begins here. Requests are checked and encoded on the event loop's side, answers are written on the worker's
thread; see `worker`, `answers` and `http`.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from openherd import __version__
from openherd.core.errors import ConfigError, InputError
from openherd.core.seeds import derive_seed
from openherd.inference.constraint import Constraint
from openherd.inference.engine import CACHE_BYTES, Engine, EngineConfig
from openherd.inference.load import open_model
from openherd.inference.sampling import Sampling
from openherd.serving.answers import ChatExchange, CompletionExchange
from openherd.serving.guard import Guard
from openherd.serving.http import (
    CLOSED,
    LOOPBACK,
    ClientLeftError,
    Connection,
    EventStream,
    Gate,
    bug,
    error_response,
    is_loopback,
    while_connected,
)
from openherd.serving.metrics import Counters, exposition
from openherd.serving.protocol import (
    Chat,
    ChatRequest,
    Completion,
    CompletionRequest,
    ErrorResponse,
    Generation,
    Model,
    ModelList,
    RequestError,
    refusal_of,
)
from openherd.serving.schemas import Schemas, schema_of
from openherd.serving.worker import Wanted, Worker
from openherd.tokenizer.dialog import Message, encode_dialog
from openherd.tokenizer.special import PYTHON_TAG
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.tools import Preamble, ToolFormat

PAGE = Path(__file__).with_name("page")
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/metrics", "/health", "/openapi.json", "/")
T = TypeVar("T")
logger = logging.getLogger(__name__)
FLUSH_S = 1.0  # for what is written to be read, at the end
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


@dataclass(frozen=True)
class Served:
    """A model, its tokenizer and its engine."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def load(
        cls,
        name: str,
        directory: Path,
        *,
        weights: str = "auto",
        device: str = "auto",
        cache_bytes: int = CACHE_BYTES,
        deterministic: bool = False,
    ) -> "Served":
        """Read a model directory. Raises InputError, ConfigError."""
        tokenizer, model = Tokenizer.load(directory), open_model(directory, weights, device)
        if tokenizer.vocabulary > model.config.vocabulary:
            found = f"{tokenizer.vocabulary:,} tokens, of which the model knows {model.config.vocabulary:,}"
            raise InputError(directory / "tokenizer.json", found, do="bring the tokenizer that the model was trained with")
        config = EngineConfig(cache_bytes=cache_bytes, deterministic=deterministic)
        try:
            return cls(name, Engine(model, tokenizer, config), tokenizer)
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise ConfigError("--cache-gb", f"{cache_bytes / 2**30:g}", allowed="what the memory holds beside the model") from None

    @property
    def context(self) -> int:
        """Tokens of a prompt and its answer together."""
        return self.engine.model.config.max_positions

    def sampling(self, request: Generation, max_new_tokens: int, logprobs: int) -> Sampling:
        """What a request asks for. Raises RequestError."""
        try:
            sampling = Sampling(
                max_new_tokens=max_new_tokens,
                temperature=request.temperature,
                top_k=max(request.top_k, 0),
                top_p=request.top_p,
                min_p=request.min_p,
                repetition_penalty=request.repetition_penalty,
                presence_penalty=request.presence_penalty,
                frequency_penalty=request.frequency_penalty,
                logit_bias=request.biases,
                seed=secrets.randbits(63) if request.seed is None else request.seed,
                stop_strings=tuple(request.stop),
                logprobs=logprobs,
            )
            sampling.check_vocabulary(self.tokenizer.vocabulary)
        except ConfigError as error:
            raise RequestError.of(error, error.where.removeprefix("sampling.")) from None
        return sampling

    def room(self, n_prompt: int, asked: int | None, most: int, param: str, max_param: str) -> int:
        """Tokens that an answer may have. Raises RequestError for a prompt that is too long, or more than anybody may have."""
        if n_prompt >= self.context + (asked == 0):
            message = f"{param}: {n_prompt:,} tokens; allowed: under {self.context:,}, the context of {self.name}; shorten it"
            raise RequestError(400, message, param, "context_length_exceeded")
        if most and asked is not None and asked > most:
            raise RequestError(
                400, f"{max_param} = {asked}; allowed: at most {most}, this server's limit", max_param, "invalid_value"
            )
        room = self.context - n_prompt
        return min(room, asked if asked is not None else most or room)

    def choices(self, prompts: Sequence[list[int]], n: int, sampling: Sequence[Sampling], **more: Any) -> list[Wanted]:
        """The answers to prompts, `n` to each; the first has the request's seed, the others seeds made of it."""
        made = []
        constraint: Constraint | None = more.pop("constraint", None)
        for i, (prompt, one) in enumerate(zip(prompts, sampling, strict=True)):
            for k in range(n):
                seed = derive_seed(one.seed, "choice", i, k) if i or k else one.seed
                made.append(Wanted(prompt, replace(one, seed=seed), constraint=constraint and constraint.copy(), **more))
        return made


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


def create_app(models: Sequence[Served], config: ServerConfig, guard: Guard | None = None, page: Path = PAGE) -> FastAPI:
    """The application; its `state.service` has the worker."""
    worker = Worker({served.name: served.engine for served in models}, max_queue=config.max_queue)
    service = Service({served.name: served for served in models}, worker, config, guard)
    requests = Counters()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        service.schemas.close()
        await worker.stop()

    failed: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}}
    app = FastAPI(
        title="openherd",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=failed,
        redirect_slashes=False,
    )
    app.state.service = service

    @app.post("/v1/chat/completions", responses={200: {"model": Chat}})
    async def chat_completions(request: ChatRequest, http: Request) -> Response:
        """Answer a dialog."""
        return await service.answer(http, service.chat(request), request.stream)

    @app.post("/v1/completions", responses={200: {"model": Completion}})
    async def completions(request: CompletionRequest, http: Request) -> Response:
        """Continue texts."""
        return await service.answer(http, service.completion(request), request.stream)

    @app.get("/v1/models", responses={200: {"model": ModelList}})
    async def list_models() -> Response:
        """The models that can be asked for."""
        listed = ModelList(object="list", data=[model_of(served) for served in models])
        return Response(listed.json_bytes(), media_type="application/json")

    @app.get("/v1/models/{model:path}", responses={200: {"model": Model}})
    async def retrieve_model(model: str) -> Response:
        """One of them."""
        return Response(model_of(service.served(model)).json_bytes(), media_type="application/json")

    @app.get("/health")
    async def health() -> PlainTextResponse:
        """200 while it takes requests, 503 while it shuts down."""
        is_well = worker.alive and not worker.draining
        return PlainTextResponse("ok\n" if is_well else "shutting down\n", 200 if is_well else 503)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Numbers for Prometheus."""
        text = exposition(requests, worker.metrics, worker.gauges())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    @app.exception_handler(RequestValidationError)
    async def invalid(http: Request, error: RequestValidationError) -> Response:
        asked = ChatRequest if http.url.path == "/v1/chat/completions" else CompletionRequest
        return error_response(refusal_of(error.errors(), error.body, asked.model_fields))

    @app.exception_handler(StarletteHTTPException)
    async def refused(http: Request, error: HTTPException) -> Response:
        return error_response(error)

    if page.is_dir():
        files = StaticFiles(directory=page, html=True)

        async def elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
            """What is no endpoint: a file of the page, or nothing."""
            is_read = scope["method"] in ("GET", "HEAD") or scope["path"] == "/"
            if not is_read:
                raise HTTPException(404)
            await files(scope, receive, send)

        app.router.default = elsewhere  # behind all endpoints, whose other methods are refused as such
    own = {*LOOPBACK, config.host} if is_loopback(config.host) else {*LOOPBACK}
    hosts = sorted(own | {*config.allowed_hosts}) if is_loopback(config.host) or config.allowed_hosts else ()
    app.add_middleware(
        Gate,
        requests=requests,
        keys=config.api_keys,
        hosts=hosts,
        paths=ENDPOINTS,
        posts=ENDPOINTS[:2],
        max_body=config.max_body_bytes,
    )
    if config.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client in a page sends a dozen of its own
            expose_headers=["Retry-After"],
        )
    return app


def model_of(served: Served) -> Model:
    """As a client reads it."""
    return Model(id=served.name, object="model", created=served.created, owned_by="openherd", max_model_len=served.context)


class Server(uvicorn.Server):
    """uvicorn, which ends in our way: first what is being written, then the connections."""

    def __init__(self, app: FastAPI, config: ServerConfig, say: Callable[[str], object]) -> None:
        # The requests' own end comes before uvicorn's, which cuts connections.
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=5,
                lifespan="on",
                ws="none",
            )
        )
        self._worker: Worker = app.state.service.worker
        self._grace_s, self._say = config.grace_s, say
        self._ending: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Ours: uvicorn's would raise them again at the end."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(RuntimeError, ValueError):  # in another than the main thread a test calls `end` itself
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.end)
        yield

    def end(self) -> None:
        """Finish what is being written, for some seconds, and end; asked a second time, drop it."""
        if self._ending and not self.should_exit:
            self._ending.cancel()
            self._grace_s = 0.0
        if not self.should_exit:
            self._ending = asyncio.get_running_loop().create_task(self._end(self._grace_s))

    async def _end(self, grace_s: float) -> None:
        n = len(self._worker.tickets)
        if n and grace_s:
            self._say(f"requests to finish: {n}, in {grace_s:g} s; Ctrl-C again drops them\n")
        failed = await self._worker.drain(grace_s)
        end = time.perf_counter() + FLUSH_S
        while self.server_state.tasks and time.perf_counter() < end:  # for clients to read what is written
            await asyncio.sleep(0.02)
        dropped = len(failed | self._worker.tickets)  # what its client did not read in time is dropped too
        for connection in [*self.server_state.connections]:
            connection.cut()  # type: ignore[union-attr]
        self._say(f"stopped; requests dropped: {dropped}\n" if dropped else "stopped; nothing was dropped\n")
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve on. Raises ConfigError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024)
    except (OSError, OverflowError) as error:
        do = "--port 0 takes one that is free" if isinstance(error, OSError) and error.strerror else ""
        raise ConfigError(f"{host}:{port}", f"cannot listen ({error})", do=do) from None


def serve(models: Sequence[Served], config: ServerConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises ConfigError where the port cannot be had."""
    with listen(config.host, config.port) as listener:
        port = listener.getsockname()[1]
        name = f"[{config.host}]" if ":" in config.host else config.host
        names = ", ".join(served.name for served in models)
        sys.stdout.write(f"http://{name}:{port} serves {names}: a page, /v1 for OpenAI's clients, /metrics; Ctrl-C ends it\n")
        if not is_loopback(config.host) and not config.api_keys:
            sys.stdout.write("anybody who reaches this address can use it; --api-key asks for a key\n")
        sys.stdout.flush()
        server = Server(create_app(models, config), config, sys.stdout.write)
        asyncio.run(server.serve(sockets=[listener]))
