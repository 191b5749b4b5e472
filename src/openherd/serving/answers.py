"""From the engine's pieces to what a client reads: judged, with calls read back, with log-probabilities.

A stream and a whole answer are one thing here: the whole is its chunks, joined.
"""

import codecs
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from openherd.serving.guard import Guard
from openherd.serving.protocol import (
    AnsweredCall,
    AnsweredFunction,
    AnsweredMessage,
    AnsweredToken,
    Chat,
    ChatChoice,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    FinishReason,
    LikelyToken,
    RequestError,
    Usage,
)
from openherd.serving.worker import Piece, Ticket, Worker
from openherd.tokenizer.dialog import Message
from openherd.tokenizer.special import PYTHON_TAG
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.tools import ToolCall, ToolFormat, as_json, read_calls, read_tagged

FUNCTION_TAG = "<function="
# What stands before and behind the arguments of a call, where they are JSON.
HEADS = {
    "json": re.compile(r'\s*\{\s*("type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"(?P<name>[^"]+)"\s*,\s*"parameters"\s*:\s*(?=\{)'),
    "function": re.compile(rf"{FUNCTION_TAG}(?P<name>[^<>\s]+)>\s*(?=\{{)"),
}
JSON = json.JSONDecoder()
TAILS = {"json": "}", "function": "</function>"}


@dataclass
class Exchange:
    """One request and its answers."""

    worker: Worker
    ticket: Ticket
    tokenizer: Tokenizer
    model: str
    prompts: Sequence[list[int]]
    messages: Sequence[Message]  # what a guard reads
    guard: Guard | None
    n: int  # answers to each prompt
    with_usage: bool  # at the end of a stream
    n_logprobs: int | None  # of each token; None: not even its own
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    n_tokens: int = 0

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """The pieces of each answer that may be shown. Raises RequestError."""
        held: dict[int, Piece] = {}
        shown: dict[int, str] = {}
        async for news in self.ticket:
            for index, piece in news.items():
                self.n_tokens += len(piece.tokens)
                if piece.finished == "error":
                    param = "response_format" if piece.error.startswith("constraint") else None
                    raise RequestError(400, f"{param or 'the answer'}: {piece.error}", param)
                if self.guard is None:
                    yield index, piece
                    continue
                if index in held:
                    held[index].join(piece)
                else:
                    held[index] = piece
                if len(held[index].text) < self.guard.part and not piece.finished:
                    continue
                piece = held.pop(index)
                shown[index] = shown.get(index, "") + piece.text
                if await self.guard.judge_answer(self.messages, shown[index], bool(piece.finished)):
                    self.worker.drop(self.ticket, index)
                    piece = Piece(finished="content_filter")
                yield index, piece

    @property
    def usage(self) -> Usage:
        """Tokens so far; a prompt counts once, however many answers it has."""
        given = sum(map(len, self.prompts))
        return Usage(prompt_tokens=given, completion_tokens=self.n_tokens, total_tokens=given + self.n_tokens)

    def likely(self, token: int, logprob: float) -> LikelyToken:
        """A token and its log-probability, as a chat has them."""
        text, given = spelling(self.tokenizer, token)
        # Checked by nothing: they are ours, and an answer may have a hundred thousand of them.
        return LikelyToken.model_construct({"token", "logprob", "bytes"}, token=text, logprob=logprob, bytes=given)

    def spelt(self, token: int) -> str:
        """A token as completions have it: bytes that are no text are spelt out, so that two of them differ."""
        given = self.tokenizer.decode_bytes([token])
        try:
            return given.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in given)


@lru_cache(maxsize=1 << 17)
def spelling(tokenizer: Tokenizer, token: int) -> tuple[str, list[int]]:
    """A token's text and bytes."""
    return tokenizer.decode([token]), list(tokenizer.decode_bytes([token]))


class Offsets:
    """Where in the text each token begins, in characters; one that goes on with a character begins where that does."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._n = tokenizer, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def of(self, tokens: Sequence[int]) -> list[int]:
        """Of the tokens that come next."""
        found = []
        for token in tokens:
            found.append(self._n)
            if token not in self._tokenizer.special_ids:
                self._n += len(self._decoder.decode(self._tokenizer.decode_bytes([token])))
        return found

    def finish(self) -> None:
        """A character that is not whole ends here: what comes next is another text."""
        self._n += len(self._decoder.decode(b"", final=True))


def reason_of(piece: Piece) -> FinishReason | None:
    """Why an answer ended, in OpenAI's words."""
    return None if piece.finished in ("", "error") else piece.finished  # type: ignore[return-value]


@dataclass
class CallReader:
    """What an answer says, and the calls that it makes: text that may be a call is held until that is known.

    A call is certain once its arguments begin, as JSON, behind the name of a function that may be called. They stream from there,
    and break off where the answer is cut. Other calls are read when they are whole.
    """

    tokenizer: Tokenizer
    tool_format: ToolFormat
    names: Collection[str]  # of functions that may be called; none: everything is text
    tagged_at: int | None = None  # where in the text `<|python_tag|>` stood
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    n_shown: int = 0
    arguments_at: int | None = None  # where in the text those of a call begin that streams
    has_called: bool = False

    def push(self, piece: Piece) -> tuple[str, list[AnsweredCall]]:
        """The text that is certain, and what is new of the calls."""
        self.text += piece.text
        if not self.names:
            return piece.text, []
        tag = self.tokenizer.ids_of([PYTHON_TAG])
        if self.tagged_at is None and (at := next((i for i, token in enumerate(piece.tokens) if token in tag), None)) is not None:
            before = [*self.tokens, *piece.tokens[:at]]
            said = self.tokenizer.decode(token for token in before if token not in self.tokenizer.special_ids)
            self.tagged_at = min(len(said), len(self.text))
        self.tokens += piece.tokens
        if self.arguments_at is not None:
            return self._go_on(bool(piece.finished))
        if head := self._head():
            text, self.arguments_at = self.text[self.n_shown : head.start()], head.end()
            self.n_shown, self.has_called = head.end(), True
            behind, parts = self._go_on(bool(piece.finished))
            return text + behind, [called(0, head["name"]), *parts]
        end, calls = (self._read() if piece.finished == "stop" else (len(self.text), [])) if piece.finished else (self._safe(), [])
        self.has_called = bool(calls)
        text, self.n_shown = self.text[self.n_shown : end], max(end, self.n_shown)
        functions = [call["function"] for call in calls]
        return text, [called(i, f["name"], as_json(f["arguments"])) for i, f in enumerate(functions)]

    def _head(self) -> re.Match[str] | None:
        """The beginning of a call whose arguments can stream."""
        head = HEADS[self.tool_format].match(self.text, self._safe()) if self.tool_format in HEADS else None
        return head if head and head["name"] in self.names else None

    def _go_on(self, is_finished: bool) -> tuple[str, list[AnsweredCall]]:
        """What is new of the arguments, and at the end what was said behind the call."""
        try:
            end = JSON.raw_decode(self.text, self.arguments_at or 0)[1]
        except (ValueError, RecursionError):
            end = len(self.text)
        new, self.n_shown = self.text[self.n_shown : end], end
        tail, behind = TAILS[self.tool_format], self.text[end:].strip() if is_finished else ""
        said = "" if tail.startswith(behind) else behind.removeprefix(tail)
        return said, [AnsweredCall(index=0, function=AnsweredFunction(arguments=new))] if new else []

    def _safe(self) -> int:
        """How much of the text is no part of a call."""
        if self.tagged_at is not None:
            return self.tagged_at
        if self.tool_format == "function":
            at = self.text.find(FUNCTION_TAG)
            begun = (n for n in range(len(FUNCTION_TAG) - 1, 0, -1) if self.text.endswith(FUNCTION_TAG[:n]))
            return at if at >= 0 else len(self.text) - next(begun, 0)
        opening = "[" if self.tool_format == "python" else "{"
        return 0 if self.text.lstrip()[:1] in ("", opening) else len(self.text)

    def _read(self) -> tuple[int, list[ToolCall]]:
        """Where the text ends that is said, and the calls behind it."""
        calls: list[ToolCall] = []
        end = len(self.text)
        if self.tagged_at is not None:
            end, calls = self.tagged_at, [read_tagged(self.text[self.tagged_at :])]
        elif self.tool_format == "json":
            end, calls = (0, [read_tagged(self.text.strip())]) if self.text.lstrip().startswith("{") else (end, [])
        else:
            said, calls = read_calls(self.text.rstrip() if self.tool_format == "function" else self.text.strip(), self.tool_format)
            end = len(said) if calls else end
        known = all(call["function"]["name"] in self.names for call in calls)
        return (end, calls) if known else (len(self.text), [])


@dataclass
class ChatExchange(Exchange):
    """A dialog and its answers."""

    tool_format: ToolFormat = "json"
    names: Collection[str] = ()
    forced: bool = False  # the prompt ends with `<|python_tag|>`

    async def chunks(self) -> AsyncIterator[Chat]:
        """The answers as they come. Raises RequestError."""
        more = {"usage": None} if self.with_usage else {}
        readers: dict[int, CallReader] = {}
        held: dict[int, list[AnsweredToken]] = {}

        def chunk(choice: ChatChoice) -> Chat:
            return Chat(
                id=f"chatcmpl-{self.id}",
                object="chat.completion.chunk",
                created=self.created,
                model=self.model,
                choices=[choice],
                **more,
            )

        async for index, piece in self.pieces():
            if index not in readers:
                readers[index] = CallReader(self.tokenizer, self.tool_format, self.names, 0 if self.forced else None)
                yield chunk(ChatChoice(index=index, delta=AnsweredMessage(role="assistant", content=""), finish_reason=None))
            text, calls = readers[index].push(piece)
            tokens = held.setdefault(index, [])
            tokens += self._tokens(piece)
            if text or calls or (tokens and piece.finished):
                delta = AnsweredMessage(content=text) if text else AnsweredMessage()
                if calls:
                    delta.tool_calls = calls
                logprobs = {"logprobs": ChatLogprobs(content=[*tokens], refusal=None)} if tokens else {}
                tokens.clear()
                yield chunk(ChatChoice(index=index, delta=delta, finish_reason=None, **logprobs))  # type: ignore[arg-type]
            if reason := reason_of(piece):
                reason = "tool_calls" if readers[index].has_called and reason == "stop" else reason
                yield chunk(ChatChoice(index=index, delta=AnsweredMessage(), finish_reason=reason))
        if self.with_usage:
            last = chunk(ChatChoice(index=0))
            yield last.model_copy(update={"choices": [], "usage": self.usage})

    def _tokens(self, piece: Piece) -> Iterator[AnsweredToken]:
        if self.n_logprobs is None:
            return
        for i, (token, logprob) in enumerate(zip(piece.tokens, piece.logprobs, strict=True)):
            top = [self.likely(*other) for other in piece.top[i]] if self.n_logprobs else []
            yield AnsweredToken.model_construct(
                {"token", "logprob", "bytes", "top_logprobs"}, **vars(self.likely(token, logprob)), top_logprobs=top
            )

    async def whole(self) -> Chat:
        """All answers, once they are finished. Raises RequestError."""
        choices: dict[int, dict[str, Any]] = {}
        async for part in self.chunks():
            for choice in part.choices:
                mine = choices.setdefault(choice.index, {"content": "", "calls": [], "tokens": [], "finish_reason": None})
                assert choice.delta is not None
                mine["content"] += choice.delta.content or ""
                for call in choice.delta.tool_calls or []:
                    if call.id:
                        mine["calls"].append(AnsweredCall(id=call.id, type=call.type, function=call.function))
                    else:
                        mine["calls"][-1].function.arguments += call.function.arguments
                mine["tokens"] += choice.logprobs.content if choice.logprobs else []
                mine["finish_reason"] = choice.finish_reason
        return Chat(
            id=f"chatcmpl-{self.id}",
            object="chat.completion",
            created=self.created,
            model=self.model,
            choices=[self._choice(index, **choices[index]) for index in sorted(choices)],
            usage=self.usage,
        )

    def _choice(
        self, index: int, content: str, calls: list[AnsweredCall], tokens: list[AnsweredToken], finish_reason: FinishReason
    ) -> ChatChoice:
        message = AnsweredMessage(role="assistant", content=content if content or not calls else None, refusal=None)
        if calls:
            message.tool_calls = calls
        logprobs = None if self.n_logprobs is None else ChatLogprobs(content=tokens, refusal=None)
        return ChatChoice(index=index, message=message, logprobs=logprobs, finish_reason=finish_reason)


def called(index: int, name: str, arguments: str = "") -> AnsweredCall:
    """A call, or the first part of one."""
    function = AnsweredFunction(name=name, arguments=arguments)
    return AnsweredCall(index=index, id=f"call_{secrets.token_hex(12)}", type="function", function=function)


@dataclass
class CompletionExchange(Exchange):
    """Texts and their continuations."""

    echoed: Sequence[str] | None = None  # the prompts, where answers begin with them

    async def chunks(self) -> AsyncIterator[Completion]:
        """The answers as they come. Raises RequestError."""
        offsets: dict[int, Offsets] = {}
        async for index, piece in self.pieces():
            text, prompt = piece.text, None
            tokens: list[int] = []
            begins: list[int] = []
            logprobs: list[float | None] = []
            top: list[list[tuple[int, float]] | None] = []
            if index not in offsets:
                offsets[index] = Offsets(self.tokenizer)
                if self.echoed is not None:
                    text, prompt = self.echoed[index // self.n] + text, self.prompts[index // self.n]
                    if scores := self.ticket.scores.get(index):
                        tokens, logprobs, top = [*prompt], [None, *scores.logprobs], [None, *scores.top]
                        begins = offsets[index].of(tokens)
                        offsets[index].finish()
            if self.n_logprobs is not None:
                tokens += piece.tokens
                begins += offsets[index].of(piece.tokens)
                logprobs += piece.logprobs
                top += piece.top if self.n_logprobs else [[] for _ in piece.tokens]
            if not text and not tokens and not piece.finished:
                continue
            choice = CompletionChoice(index=index, text=text, logprobs=None, finish_reason=reason_of(piece))
            if self.n_logprobs is not None:
                choice.logprobs = self._logprobs(tokens, logprobs, top, begins)
            yield self._completion([choice], {"usage": None} if self.with_usage else {})
        if self.with_usage:
            yield self._completion([], {"usage": self.usage})

    def _logprobs(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[float | None],
        top: Sequence[list[tuple[int, float]] | None],
        begins: list[int],
    ) -> CompletionLogprobs:
        likely = [None if one is None else {self.spelt(token): logprob for token, logprob in one} for one in top]
        spelt = [self.spelt(token) for token in tokens]
        return CompletionLogprobs(tokens=spelt, token_logprobs=[*logprobs], top_logprobs=likely, text_offset=begins)

    async def whole(self) -> Completion:
        """All answers, once they are finished. Raises RequestError."""
        choices: dict[int, CompletionChoice] = {}
        async for part in self.chunks():
            for choice in part.choices:
                mine = choices.setdefault(choice.index, choice)
                if mine is choice:
                    continue
                mine.text += choice.text
                mine.finish_reason = choice.finish_reason
                if mine.logprobs and choice.logprobs:
                    mine.logprobs.tokens += choice.logprobs.tokens
                    mine.logprobs.token_logprobs += choice.logprobs.token_logprobs
                    mine.logprobs.top_logprobs += choice.logprobs.top_logprobs
                    mine.logprobs.text_offset += choice.logprobs.text_offset
        return self._completion([choices[index] for index in sorted(choices)], {"usage": self.usage})

    def _completion(self, choices: list[CompletionChoice], more: dict[str, Usage | None]) -> Completion:
        return Completion(
            id=f"cmpl-{self.id}", object="text_completion", created=self.created, model=self.model, choices=choices, **more
        )
