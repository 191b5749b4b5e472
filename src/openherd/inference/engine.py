"""The engine: continuations and readings of many texts at once, over one cache (paper 6).

Each step computes tokens of several texts in one pass of the model: the scheduler says which, the cache holds their keys and
values, and hidden states that somebody waits for become tokens, log-probabilities or whatever a reader makes of them.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from openherd.core.errors import InputError
from openherd.core.progress import Progress
from openherd.core.seeds import derive_seed
from openherd.inference.cache import Blocks
from openherd.inference.constraint import Constraint
from openherd.inference.graphs import Graphs
from openherd.inference.native import BLOCK, Compiling, is_native
from openherd.inference.paged import PagedAttend, Part
from openherd.inference.repack import tiled
from openherd.inference.sampling import Sampling, sample
from openherd.inference.scheduler import Scheduler, Text
from openherd.inference.text import TextStream
from openherd.model.transformer import Transformer
from openherd.tokenizer.tokenizer import Tokenizer

CACHE_BYTES = 1 << 30  # of keys and values, where nobody says otherwise
LOGIT_ROWS = 256  # rows that become logits at once
TEXTS_AT_ONCE = 32  # that are scored together

Why = Literal["", "stop", "length", "error"]
Reader = Callable[[Tensor, int], None]  # of hidden states (n, D), and the position of the first


@dataclass(eq=False)
class Answer:
    """A continuation in the making."""

    prompt: list[int]
    sampling: Sampling
    stop: Collection[int]
    constraint: Constraint | None = None
    tokens: list[int] = field(default_factory=list)
    # Of them, as far as it is certain: whole characters, and no beginning of a stop string. Special tokens have none.
    text: str = ""
    logprobs: list[float] = field(default_factory=list)  # natural, of each token under the model alone
    # The likeliest tokens beside each, `sampling.logprobs` of them.
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    finished: Why = ""
    error: str = ""  # why it could not go on
    _text: TextStream = field(init=False)

    def __post_init__(self) -> None:
        self._text = TextStream(self.sampling.stop_strings)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How much at once."""

    block: int = 16  # tokens
    cache_bytes: int = CACHE_BYTES
    most_tokens: int = 512  # in one step: what a prompt may stall the others
    most_texts: int = 64
    graphs: bool = True  # on CUDA, of steps in which each text has one token
    deterministic: bool = False  # the same request gets the same answer to the last bit, whatever else is computed; slower


class Engine:
    """One model, and the texts that it works on."""

    def __init__(
        self,
        model: Transformer | Compiling,
        tokenizer: Tokenizer | None = None,
        config: EngineConfig | None = None,
        *,
        tokens: int | None = None,
    ) -> None:
        """With a tokenizer answers have text, and stop strings end them. `tokens` is for how many there is work at most: a small
        job takes a small cache. A model that is being compiled goes over to the kernel between two steps; where the same answer is
        asked for every time, it is awaited first."""
        config = config or EngineConfig()
        self.tokenizer = tokenizer
        self.compiling: Compiling | None = None
        if isinstance(model, Compiling):  # where the same answer is asked for every time, there is one way to it
            self.compiling, model = model, model.wait() if config.deterministic else model.model
        self.model = tiled(model) if config.deterministic and not is_native(model) else model
        if config.block % BLOCK and (self.compiling or is_native(model)):
            raise ValueError(f"blocks of {config.block} tokens: the kernel takes multiples of {BLOCK}")
        weight, shape = model.embed.weight, model.config
        self.device = weight.device
        of_token = 2 * shape.n_layers * shape.n_kv_heads * shape.head_width * weight.element_size()
        # At least one text of the model's whole context.
        count = max(config.cache_bytes // (of_token * config.block), -(-shape.max_positions // config.block))
        if tokens is not None:
            count = min(count, -(-tokens // config.block))
        self.attend = PagedAttend(shape, count, config.block, weight.dtype, self.device, config.deterministic)
        graphs = self.device.type == "cuda" and config.graphs and not config.deterministic
        self.graphs = Graphs(self.model, self.attend) if graphs else None
        self.scheduler = Scheduler(Blocks(count, config.block), most_tokens=config.most_tokens, most_texts=config.most_texts)
        self.answers: dict[Text, Answer] = {}
        self.readers: dict[Text, Reader] = {}

    def add(
        self, prompt: Sequence[int], sampling: Sampling, stop: Collection[int] = (), constraint: Constraint | None = None
    ) -> Answer:
        """Continue a prompt. The answer ends before a stop token, after `max_new_tokens`, or at the model's `max_positions`; with
        an error where no token can be chosen.

        Raises ValueError for an empty prompt and for tokens that the model does not have, ConfigError for what the cache cannot
        hold.
        """
        if not prompt:
            raise ValueError("an empty prompt")
        self._check(prompt)
        if sampling.stop_strings and self.tokenizer is None:
            raise ValueError("stop strings need a tokenizer")
        sampling.check_vocabulary(self.model.config.vocabulary)
        answer = Answer(list(prompt), sampling, stop, constraint)
        most = min(len(prompt) + sampling.max_new_tokens, self.model.config.max_positions)
        if most <= len(prompt):
            answer.finished = "length"
            return answer
        text = Text(list(prompt), most, len(prompt) - 1)
        self.scheduler.add(text)
        self.answers[text] = answer
        return answer

    def read(self, tokens: Sequence[int], read_from: int, reader: Reader) -> Text:
        """Give `reader` the hidden states of all positions from `read_from` on, in order, in parts; returns what `cancel` takes.

        Where the model gives what is no number, all that follow are none.

        Raises ValueError where there is no such position or token and for a text beyond the model's `max_positions`, ConfigError
        for one that the cache cannot hold.
        """
        if not 0 <= read_from < len(tokens):
            raise ValueError(f"position {read_from} of {len(tokens)} tokens")
        if len(tokens) > self.model.config.max_positions:
            raise ValueError(f"a text of {len(tokens)} tokens; the model's context has {self.model.config.max_positions}")
        self._check(tokens)
        text = Text(list(tokens), len(tokens), read_from)
        self.scheduler.add(text)
        self.readers[text] = reader
        return text

    def cancel(self, asked: Answer | Text) -> None:
        """Forget an answer or a reading that nobody waits for; one that is finished stays as it is."""
        for text in [*self.answers, *self.readers]:
            if asked is text or asked is self.answers.get(text):
                self._forget(text)

    def _check(self, tokens: Sequence[int]) -> None:
        """What is added later than this would end the step of all."""
        least, most, vocabulary = min(tokens), max(tokens), self.model.config.vocabulary
        if least < 0 or most >= vocabulary:
            raise ValueError(f"token {least if least < 0 else most}; the model has {vocabulary}")

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.answers or self.readers)

    @torch.no_grad()
    def step(self) -> list[Answer]:
        """Compute one step; returns the answers that have a token more or are finished."""
        parts = self.scheduler.schedule()
        if not parts:
            return []
        if self.compiling is not None and not is_native(self.model):
            self.model = self.compiling.model
        hidden_TD, broken = self._compute(parts), set[Text]()
        if not bool(hidden_TD.isfinite().all()):
            hidden_TD, broken = self._compute_apart(parts)
        ended = [self._break(text) for text in broken]
        due: dict[Text, int] = {}  # a row for each text that waits for its next token
        row = 0
        for text, n in parts.items():
            if text in self.readers:
                skipped = max(text.read_from - text.computed, 0)
                if skipped < n:
                    self.readers[text](hidden_TD[row + skipped : row + n], text.computed + skipped)
            elif text in self.answers and n == text.remaining:
                due[text] = row + n - 1
            row += n
        self.scheduler.done(parts)
        for text in parts:
            if text in self.readers and not text.remaining:
                self._forget(text)
        return [answer for answer in ended if answer] + (self._write(due, hidden_TD) if due else [])

    def _compute_apart(self, parts: Mapping[Text, int]) -> tuple[Tensor, set[Text]]:
        """A step again, text by text, and the texts that are broken: through masks, what is no number comes to others."""
        placed = {text: Part(text.blocks, text.computed, n) for text, n in parts.items()}
        for part in placed.values():
            self.attend.clear(part)
        found, broken = [], set()
        for text, n in parts.items():
            found.append(self._compute({text: n}).clone())
            if not bool(found[-1].isfinite().all()):
                broken.add(text)
                self.attend.clear(placed[text])
        return torch.cat(found), broken

    def _break(self, text: Text) -> Answer | None:
        """End a text whose hidden states are no numbers; returns its answer."""
        answer, reader = self.answers.get(text), self.readers.get(text)
        if answer:
            answer.finished, answer.error = "error", "the model gave what is no number"
            answer.text += answer._text.finish()
        if reader:
            first = max(text.read_from, text.computed)
            reader(torch.full((len(text.tokens) - first, self.model.config.d_model), torch.nan, device=self.device), first)
        self._forget(text)
        return answer

    def _compute(self, parts: Mapping[Text, int]) -> Tensor:
        """Final hidden states of a step's tokens, text after text, shape (tokens, D)."""
        tokens = [token for text, n in parts.items() for token in text.tokens[text.computed : text.computed + n]]
        placed = [Part(text.blocks, text.computed, n) for text, n in parts.items()]
        if self.graphs is not None and len(tokens) == len(parts) and not self.readers:  # what readers get may not be overwritten
            return self.graphs.run(tokens, placed)
        self.attend.place(placed)
        positions = [i for part in placed for i in range(part.first, part.first + part.n)]
        given, at = (torch.tensor([values], device=self.device) for values in (tokens, positions))
        return self.model.trunk(self.model.embed(given), at, self.attend)[0]

    def _write(self, due: Mapping[Text, int], hidden_TD: Tensor) -> list[Answer]:
        """The next token of each text that waits for one; returns their answers."""
        answers = [self.answers[text] for text in due]
        logits_BV = self.model.head(hidden_TD[torch.tensor([*due.values()], device=self.device)]).float()
        if self.tokenizer:  # a padded model has rows that are no tokens
            logits_BV[:, self.tokenizer.vocabulary :] = -torch.inf
        allowed_BV = self._allowed(answers, logits_BV)
        requests, prompts, outputs = zip(*((a.sampling, a.prompt, a.tokens) for a in answers), strict=True)
        sampled = sample(logits_BV, requests, prompts, outputs, allowed_BV)
        for i, (text, answer) in enumerate(zip(due, answers, strict=True)):
            token = sampled.tokens[i]
            if token < 0 and not answer.error:
                answer.finished, answer.error = "error", "no token can be chosen"
            elif not answer.error and token in answer.stop:
                answer.finished = "stop"
            elif not answer.error:
                text.tokens.append(token)
                answer.tokens.append(token)
                answer.logprobs.append(sampled.logprobs[i])
                if answer.sampling.logprobs:
                    answer.top.append(sampled.top[i])
                self._follow(answer, token)
                if not answer.finished and len(text.tokens) == text.most:
                    answer.finished = "length"
            if answer.finished:
                answer.text += answer._text.finish()
                if answer._text.stopped is not None and answer.finished == "length":  # a stop string that only the end made certain
                    answer.finished = "stop"
                self._forget(text)
        return answers

    def _follow(self, answer: Answer, token: int) -> None:
        """What a token means to the text and the constraint of an answer, which may end with it."""
        if answer.constraint:
            try:
                answer.constraint.accept(token)
            except (InputError, ValueError) as error:  # too complex to go on: this answer's fault, not the step's
                answer.finished, answer.error = "error", str(error)
                return
            if answer.constraint.finished:
                answer.finished = "stop"
        if self.tokenizer and token not in self.tokenizer.special_ids:
            answer.text += answer._text.push(self.tokenizer.decode_bytes([token]))
            if answer._text.stopped is not None:
                answer.finished = "stop"

    def _allowed(self, answers: Sequence[Answer], logits_BV: Tensor) -> Tensor | None:
        """Which tokens may follow; None where all may. An answer whose constraint fails ends with its error."""
        if not any(answer.constraint for answer in answers):
            return None
        allowed_BV = torch.ones_like(logits_BV, dtype=torch.bool)
        for row, answer in zip(allowed_BV, answers, strict=True):
            try:
                if answer.constraint:
                    answer.constraint.fill(row)
            except InputError as error:
                answer.finished, answer.error = "error", str(error)
                row.fill_(True)
        return allowed_BV

    def _forget(self, text: Text) -> None:
        self.scheduler.remove(text)
        self.answers.pop(text, None)
        self.readers.pop(text, None)

    def run(self) -> None:
        """Until there is nothing to do."""
        while self.busy:
            self.step()


def needed(model: Transformer | Compiling, lengths: Sequence[int]) -> int:
    """Tokens of cache for texts of these lengths, each in whole blocks."""
    block, most = EngineConfig().block, model.config.max_positions
    return sum(-(-min(n, most) // block) * block for n in lengths)


def stream(
    model: Transformer | Compiling, tokenizer: Tokenizer, prompt: Sequence[int], sampling: Sampling, stop: Collection[int]
) -> Iterator[str]:
    """The text of one continuation, as it is made, in pieces of whole characters.

    Raises ValueError where no token can be chosen.
    """
    engine = Engine(model, tokenizer, tokens=needed(model, [len(prompt) + sampling.max_new_tokens]))
    answer = engine.add(prompt, sampling, stop)
    while engine.busy:
        before = len(answer.text)
        engine.step()
        if piece := answer.text[before:]:
            yield piece
    if answer.error:
        raise ValueError(answer.error)


def generate(
    model: Transformer, prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Collection[int], samples: int = 1
) -> list[list[int]]:
    """The continuations of prompts, in their order; of each prompt `samples`, each with a seed of its own.

    Raises ValueError where no token can be chosen.
    """
    lengths = [len(p) + sampling.max_new_tokens for p in prompts for _ in range(samples)]
    engine = Engine(model, tokens=needed(model, lengths))
    answers = [
        engine.add(prompt, replace(sampling, seed=derive_seed(sampling.seed, "answer", i, k)), stop)
        for i, prompt in enumerate(prompts)
        for k in range(samples)
    ]
    engine.run()
    if error := next((answer.error for answer in answers if answer.error), ""):
        raise ValueError(error)
    return [answer.tokens for answer in answers]


def score(
    model: Transformer, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], engine: Engine | None = None
) -> list[Tensor]:
    """Natural log-probability of each token of each continuation behind its prompt, fp32, shape (tokens,) each.

    Raises ValueError for an empty prompt and beyond the model's context.
    """
    if not all(prompts):
        raise ValueError("an empty prompt")
    texts = [[*prompt, *continuation] for prompt, continuation in zip(prompts, continuations, strict=True)]
    engine = engine or Engine(model, tokens=needed(model, [len(t) for t in texts]))
    scores = [torch.empty(len(c)) for c in continuations]

    def reader(tokens: list[int], begin: int, out: Tensor) -> Reader:
        def read(hidden_TD: Tensor, first: int) -> None:
            for rows_TD in hidden_TD.split(LOGIT_ROWS):
                first, last = first + 1, first + len(rows_TD)
                following = torch.tensor(tokens[first : last + 1], device=rows_TD.device)
                found = torch.log_softmax(model.head(rows_TD).float(), -1).gather(1, following[:, None])[:, 0]
                out[first - begin : last + 1 - begin] = found.cpu()
                first = last

        return read

    for tokens, prompt, out in zip(texts, prompts, scores, strict=True):
        if len(out):
            engine.read(tokens[:-1], len(prompt) - 1, reader(tokens, len(prompt), out))
    engine.run()
    return scores


def log_probabilities(model: Transformer, texts: Sequence[Sequence[int]], context: int) -> list[Tensor]:
    """Natural log-probability of every token of each text but its first, fp32, shape (tokens - 1,).

    A text longer than `context` is cut into windows that overlap by half: each token is scored once, in the window where it has at
    least half a context of text before it (the first window scores all of its own).
    """
    stride = max(context // 2, 1)
    begun, gone_on, cuts = [], [], []
    for tokens in texts:
        first, scored, end = 0, min(1, len(tokens)), min(context + 1, len(tokens))
        cuts.append(0)
        while scored < end:
            begun.append(tokens[first:scored])
            gone_on.append(tokens[scored:end])
            cuts[-1] += 1
            first, scored, end = end - 1 - (context - stride), end, min(end + stride, len(tokens))
    found = iter(score(model, begun, gone_on))
    return [torch.cat([torch.empty(0), *itertools.islice(found, n)]) for n in cuts]


def bits_of_tokens(model: Transformer, texts: Sequence[Sequence[int]], context: int, what: str) -> list[float]:
    """Bits of each text under a model, but for its first token; see `log_probabilities`."""
    bits: list[float] = []
    with Progress(what, len(texts), "documents") as progress:
        for i in range(0, len(texts), TEXTS_AT_ONCE):
            found = log_probabilities(model, texts[i : i + TEXTS_AT_ONCE], context)
            bits += [-float(scores.double().sum()) / math.log(2) for scores in found]
            progress.advance(len(found))
    return bits


def bits_of(model: Transformer, tokenizer: Tokenizer, texts: list[str], what: str) -> list[float]:
    """Bits of each text under a model."""
    encoded = [[tokenizer.bos_id, *ids] for ids in tokenizer.encode_batch(texts)]
    return bits_of_tokens(model, encoded, model.config.max_positions, f"bits per byte, {what}")
