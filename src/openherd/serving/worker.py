"""The thread that drives the engines, and how answers get from it to the event loop.

Everything that touches an engine runs on this one thread: work comes to it as functions through a queue, and engines that have
work take a step by turns. After each step the event loop is woken once, with what all answers have got. A client that reads slowly
gets its pieces joined; there is no queue of them that could grow. A step that raises ends the answers that its engine was at, each
with an error; the engine goes on with what comes next.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Literal

import torch
from torch import Tensor

from openherd.core.errors import OpenherdError
from openherd.inference.constraint import Constraint
from openherd.inference.engine import LOGIT_ROWS, Answer, Engine, Why
from openherd.inference.sampling import Sampling, likeliest
from openherd.serving.metrics import ModelMetrics
from openherd.serving.protocol import RequestError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """One answer to be written."""

    prompt: list[int]
    sampling: Sampling
    stop: Collection[int]
    constraint: Constraint | None = None
    scores_prompt: bool = False  # log-probabilities of the prompt's tokens too


@dataclass
class Piece:
    """What an answer has got since the last piece."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    finished: Why | Literal["content_filter"] = ""
    error: str = ""

    def join(self, other: "Piece") -> None:
        """Take in what came behind it."""
        self.text += other.text
        self.tokens += other.tokens
        self.logprobs += other.logprobs
        self.top += other.top
        self.finished, self.error = other.finished, other.error


class PromptScores:
    """Log-probabilities of a prompt's tokens but the first, and the likeliest in their places, as the engine reads it."""

    def __init__(self, engine: Engine, prompt: list[int], n_top: int) -> None:
        self.logprobs: list[float] = []
        self.top: list[list[tuple[int, float]]] = []
        self._engine, self._prompt, self._n_top = engine, prompt, n_top
        self._vocabulary = engine.tokenizer.vocabulary if engine.tokenizer else None  # rows beyond are no tokens
        self._reading = engine.read(prompt[:-1], 0, self._read) if len(prompt) > 1 else None

    @property
    def complete(self) -> bool:
        """Whether all have been read."""
        return len(self.logprobs) == len(self._prompt) - 1

    def cancel(self) -> None:
        """Read no further."""
        if self._reading:
            self._engine.cancel(self._reading)

    def _read(self, hidden_TD: Tensor, first: int) -> None:
        for rows_TD in hidden_TD.split(LOGIT_ROWS):
            log_probs_TV = self._engine.model.head(rows_TD).float()[:, : self._vocabulary].log_softmax(-1)
            following = torch.tensor(self._prompt[first + 1 : first + 1 + len(rows_TD)], device=rows_TD.device)
            self.logprobs += log_probs_TV.gather(1, following[:, None])[:, 0].tolist()
            self.top += [likeliest(row_V, self._n_top) for row_V in log_probs_TV]
            first += len(rows_TD)


@dataclass(eq=False)
class _Job:
    """An answer on the worker's side."""

    ticket: "Ticket"
    index: int
    engine: Engine
    answer: Answer
    scores: PromptScores | None
    n_text: int = 0
    n_tokens: int = 0

    @property
    def awaits_scores(self) -> bool:
        """Whether its prompt is still being read, behind which it begins."""
        return self.scores is not None and not self.scores.complete

    def news(self) -> Piece:
        """What came since it was last asked for."""
        answer = self.answer
        piece = Piece(
            answer.text[self.n_text :],
            answer.tokens[self.n_tokens :],
            answer.logprobs[self.n_tokens :],
            answer.top[self.n_tokens :],
            answer.finished,
            answer.error,
        )
        self.n_text, self.n_tokens = len(answer.text), len(answer.tokens)
        return piece


class Ticket:
    """The answers to one request, on the event loop's side: iterate over it for their pieces."""

    def __init__(self, model: str, n: int) -> None:
        self.model = model
        self.unfinished = set(range(n))
        self.scores: dict[int, PromptScores] = {}
        self.failure: RequestError | None = None
        self.start = time.perf_counter()
        self._last: dict[int, float] = {}
        self._pieces: dict[int, Piece] = {}
        self._woken = asyncio.Event()

    def put(self, index: int, piece: Piece, metrics: ModelMetrics) -> None:
        """More of an answer."""
        if index not in self.unfinished:  # nobody waits for it any more
            return
        if n := len(piece.tokens):
            now = time.perf_counter()
            if index in self._last:
                metrics.token_s.add((now - self._last[index]) / n, n)
            else:
                metrics.first_token_s.add(now - self.start)
            self._last[index] = now
            metrics.generated_tokens += n
        if index in self._pieces:
            self._pieces[index].join(piece)
        else:
            self._pieces[index] = piece
        if piece.finished:
            self.unfinished.discard(index)
        self._woken.set()

    def fail(self, failure: RequestError) -> None:
        """End what is unfinished with an error."""
        if self.unfinished:
            self.failure = failure
            self.unfinished.clear()
            self._woken.set()

    def drop(self, index: int) -> None:
        """Nobody waits for one of its answers any more."""
        self.unfinished.discard(index)
        self._pieces.pop(index, None)
        self._woken.set()

    async def __aiter__(self) -> AsyncIterator[dict[int, Piece]]:
        """What each answer has got since the last time. Raises RequestError."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            pieces, self._pieces = self._pieces, {}
            if pieces:
                yield pieces
            if self.failure:
                raise self.failure
            if not self.unfinished and not self._pieces:
                return


class Worker:
    """Engines by name, and the thread that drives them. All methods but `_run` and what it calls are the event loop's."""

    def __init__(self, engines: Mapping[str, Engine], *, max_queue: int) -> None:
        self.engines = engines
        self.metrics = {name: ModelMetrics() for name in engines}
        self.limits = {name: engine.scheduler.most_texts + max_queue for name, engine in engines.items()}
        self.tickets: set[Ticket] = set()
        self.draining = False
        self._mean_s = 1.0  # of a request
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._jobs: dict[Answer, _Job] = {}  # the worker's own
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin; on the event loop that is to be told."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def gauges(self) -> dict[str, dict[str, float]]:
        """How full it is."""
        found: dict[str, dict[str, float]] = {}
        for name, engine in self.engines.items():
            blocks, running = engine.scheduler.blocks, len(engine.scheduler.running)
            waiting = self._active(name) - running
            used = blocks.count - blocks.available()
            found[name] = {"running": running, "waiting": max(waiting, 0), "blocks_used": used, "blocks": blocks.count}
        return found

    def _active(self, model: str) -> int:
        """Answers that are being written or wait."""
        return sum(len(ticket.unfinished) for ticket in self.tickets if ticket.model == model)

    def submit(self, model: str, wanted: Sequence[Wanted]) -> Ticket:
        """Have answers written. Raises RequestError: 503 while shutting down, 429 where too many wait."""
        if self.draining or not self.alive:
            raise RequestError(503, "the server is shutting down; ask again later", headers={"Retry-After": "5"})
        active, limit = self._active(model), self.limits[model]
        if active + len(wanted) > limit:
            rounds = 1 + active // self.engines[model].scheduler.most_texts
            again = min(max(round(self._mean_s * rounds), 1), 60)
            message = f"{model}: {active} answers are being written or wait, {limit} at most; ask again in {again} s"
            raise RequestError(429, message, code="queue_full", headers={"Retry-After": str(again)})
        ticket = Ticket(model, len(wanted))
        self.tickets.add(ticket)
        self.metrics[model].prompt_tokens += sum(len(one.prompt) for one in wanted)
        self._inbox.put(lambda: self._begin(ticket, wanted))
        return ticket

    def close(self, ticket: Ticket) -> None:
        """Nobody waits for it any more: what is unfinished is forgotten, and its blocks are free before the next step."""
        self.tickets.discard(ticket)
        if not ticket.unfinished and not ticket.failure:
            self._mean_s += 0.1 * (time.perf_counter() - ticket.start - self._mean_s)
        for index in [*ticket.unfinished]:
            self.drop(ticket, index)

    def drop(self, ticket: Ticket, index: int) -> None:
        """Nobody waits for one of its answers any more."""
        if index in ticket.unfinished:
            self.metrics[ticket.model].cancelled += 1
            self._inbox.put(lambda: self._cancel(ticket, index))
        ticket.drop(index)

    async def drain(self, grace_s: float) -> set[Ticket]:
        """Take nothing new, and finish what there is. What is not finished in time ends with an error; returns that."""
        self.draining = True
        end = time.perf_counter() + grace_s
        while self.tickets and time.perf_counter() < end:
            await asyncio.sleep(0.02)
        dropped = {ticket for ticket in self.tickets if ticket.unfinished}
        for ticket in dropped:
            ticket.fail(RequestError(503, "the server shut down before the answer was finished; ask again later"))
        return dropped

    async def stop(self) -> None:
        """End the thread."""
        self.draining = True
        self._inbox.put(None)
        if self.alive:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while True:
            try:
                if not self._take_in():
                    return
                for name, engine in self.engines.items():
                    if engine.busy:
                        self._step(name, engine)
            except Exception:  # a bug of ours; the thread must live
                logger.exception("the engine's thread")

    def _take_in(self) -> bool:
        """Do what was asked for since the last step; wait for it where there is nothing else to do. False at the end."""
        is_busy = any(engine.busy for engine in self.engines.values())
        try:
            while True:
                asked = self._inbox.get(block=not is_busy)
                if asked is None:
                    return False
                asked()
                is_busy = True
        except Empty:
            return True

    def _begin(self, ticket: Ticket, wanted: Sequence[Wanted]) -> None:
        engine = self.engines[ticket.model]
        begun: list[_Job] = []
        scores: dict[tuple[int, ...], PromptScores] = {}
        try:
            for index, one in enumerate(wanted):
                answer = engine.add(one.prompt, one.sampling, one.stop, one.constraint)
                job = _Job(ticket, index, engine, answer, None)
                self._jobs[answer] = job
                begun.append(job)
                if one.scores_prompt:
                    key = tuple(one.prompt)
                    scores[key] = scores.get(key) or PromptScores(engine, one.prompt, one.sampling.logprobs)
                    job.scores = ticket.scores[index] = scores[key]
        except Exception as error:
            self._cancel(ticket)
            failure = RequestError(400, str(error)) if isinstance(error, OpenherdError) else self._broken(error)
            self._tell(ticket.fail, failure)
        else:
            self._deliver(ticket.model, [job for job in begun if job.answer.finished])

    def _cancel(self, ticket: Ticket, index: int | None = None) -> None:
        for job in [job for job in self._jobs.values() if job.ticket is ticket and index in (None, job.index)]:
            job.engine.cancel(job.answer)
            del self._jobs[job.answer]
            if job.scores and all(other.scores is not job.scores for other in self._jobs.values()):
                job.scores.cancel()

    def _step(self, name: str, engine: Engine) -> None:
        waiting = [job for job in self._jobs.values() if job.answer.finished]  # for their prompts' scores
        try:
            changed = engine.step()
        except Exception as error:
            failure = self._broken(error)
            ended = {job.ticket for job in self._jobs.values() if job.engine is engine}
            for ticket in ended:
                self._cancel(ticket)
            self._tell(self._failed, name, ended, failure)
            return
        jobs = [self._jobs[answer] for answer in changed if answer in self._jobs]
        self._deliver(name, [*jobs, *(job for job in waiting if job.engine is engine and job not in jobs)])

    def _deliver(self, model: str, jobs: Sequence[_Job]) -> None:
        """Tell the event loop, once, what these answers have got."""
        news = []
        for job in jobs:
            if job.awaits_scores:
                continue
            piece = job.news()
            if piece.finished:
                del self._jobs[job.answer]
            if piece.text or piece.tokens or piece.finished:
                news.append((job.ticket, job.index, piece))
        if news:
            self._tell(self._put, self.metrics[model], news)

    def _put(self, metrics: ModelMetrics, news: Sequence[tuple[Ticket, int, Piece]]) -> None:
        for ticket, index, piece in news:
            ticket.put(index, piece, metrics)

    def _failed(self, model: str, tickets: Collection[Ticket], failure: RequestError) -> None:
        self.metrics[model].failed_steps += 1
        for ticket in tickets:
            ticket.fail(failure)

    def _broken(self, error: Exception) -> RequestError:
        logger.error("the engine failed", exc_info=error)
        return RequestError(500, f"the engine failed ({type(error).__name__}); the server goes on, and its log says more")

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have the event loop call a function. A loop that is closed needs to know nothing."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            logger.debug("the event loop is closed")
