"""Training the tokenizer (paper 3.2): byte-level byte-pair encoding with Llama 3's split pattern and its 256 special tokens.

The paper's 128,000 tokens are about 100,000 of tiktoken's and 28,000 for other languages than English. So are ours: a base part is
learned from the base languages, then tokens are learned from the others, and those that the base part lacks are put behind it, in
their order, as long as what stands before them can be joined to them. The 256 special tokens come last.

All 256 bytes are tokens, so any text can be encoded. Whole pieces are looked up before merging, as Meta's encoder does. Programs
that read `tokenizer.json` begin a text with `<|begin_of_text|>`, as with Llama 3's own and as in training.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import rustbpe
from pydantic import Field

from openherd.core.config import nearest
from openherd.core.errors import ConfigError, InputError
from openherd.core.progress import Progress
from openherd.core.records import read_parquet
from openherd.core.rundir import Output, Run
from openherd.core.seeds import uniform
from openherd.tokenizer.encoder import long_spaces
from openherd.tokenizer.files import read_ranks, write_ranks, write_tokenizer
from openherd.tokenizer.pattern import SPLIT_PATTERN
from openherd.tokenizer.ranks import split_of
from openherd.tokenizer.special import N_SPECIAL
from openherd.tokenizer.tokenizer import Tokenizer

BYTES = 256
SAMPLE_BYTES = 1_000_000  # of training text, on which bytes per token are measured
TEXTS_AT_ONCE = 256  # held in memory while their pieces are counted
BASE_PART = "base.tiktoken"


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Settings of tokenizer training. The vocabulary is the 256 bytes, both kinds of merges and the 256 special tokens."""

    # The paper: 100K of tiktoken's tokens and 28K more; its tokenizer has 128,000 with the bytes.
    merges_base: Annotated[int, Field(description="merges learned from the base languages", ge=0)] = 100_000
    merges_multilingual: Annotated[
        int, Field(description="merges added for the others; 0: the base part learns from all", ge=0)
    ] = 27_744
    base_languages: Annotated[
        tuple[str, ...], Field(description="whose text the base part is learned from; the paper took tiktoken's", min_length=1)
    ] = ("en",)
    language_weights: Annotated[
        dict[str, float], Field(description="how often a language's documents count, 1 where none is given; the paper is silent")
    ] = field(default_factory=dict)
    max_bytes: Annotated[
        int, Field(description="of text that each part learns from; of a larger corpus documents are drawn by seed; ours", ge=1)
    ] = 10_000_000_000
    max_model_tokens: Annotated[int, Field(description="context written to tokenizer_config.json", ge=1)] = 131_072
    seed: Annotated[int, Field(description="of the choice of documents")] = 0

    def __post_init__(self) -> None:
        if wrong := [f"{name} = {w:g}" for name, w in self.language_weights.items() if w < 0]:
            raise ConfigError("tokenizer", f"language_weights: {wrong[0]}", allowed="at least 0")

    @property
    def vocabulary(self) -> int:
        """All tokens."""
        return BYTES + self.merges_base + self.merges_multilingual + N_SPECIAL


def learn(texts: Iterable[str], n: int) -> list[bytes]:
    """The `n` tokens of byte-pair encoding, by rank, the bytes first; fewer where the text gives no more.

    The most frequent pair is joined, of equally frequent ones that of the lowest ranks.
    """
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(short_spaces(texts), n, buffer_size=TEXTS_AT_ONCE, pattern=SPLIT_PATTERN)
    return [bytes(token) for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda entry: entry[1])]


def short_spaces(texts: Iterable[str]) -> Iterator[str]:
    """Texts without their very long runs of spaces, which the trainer's regular expressions cannot take."""
    for text in texts:
        at = 0
        for start, end in long_spaces(text):
            yield text[at:start]
            at = end
        yield text[at:] if at else text


def extend(tokens: Sequence[bytes], others: Iterable[bytes], n: int) -> list[bytes]:
    """`tokens`, and behind them the first `n` of the others that are new and can be joined from what stands before them."""
    extended = list(tokens)
    ranks = {token: rank for rank, token in enumerate(tokens)}
    for token in others:
        if len(extended) == len(tokens) + n:
            break
        if token not in ranks and split_of(token, ranks):
            ranks[token] = len(extended)
            extended.append(token)
    return extended


@dataclass(frozen=True)
class Corpus:
    """The documents of `train.parquet`, by language."""

    file: Path
    bytes_of: Counter[str]
    config: TokenizerConfig

    @classmethod
    def open(cls, file: Path, config: TokenizerConfig) -> "Corpus":
        """Measure the languages. Raises ConfigError for a weight of one that is not there."""
        sizes: Counter[str] = Counter()
        for row in read_parquet(file, ["language", "text"]):
            sizes[row["language"] or ""] += len(row["text"].encode())
        for language in config.language_weights:
            if language not in sizes:
                raise ConfigError("language_weights", f"no text in {language!r}", do=nearest(language, sizes))
        return cls(file, sizes, config)

    def texts(self, part: str, wanted: Callable[[str], bool]) -> Iterator[str]:
        """Texts of the wanted languages, as often as they weigh, at most about `max_bytes` of them."""
        config = self.config
        weights = {language: config.language_weights.get(language, 1.0) for language in self.bytes_of if wanted(language)}
        n_bytes = sum(self.bytes_of[language] * weight for language, weight in weights.items())
        share = min(1.0, config.max_bytes / n_bytes) if n_bytes else 0.0
        with Progress(f"tokenizer, {part} part", int(n_bytes * share / 1e6), "MB") as progress:
            done = 0.0
            for row in read_parquet(self.file, ["id", "language", "text"]):
                often = weights.get(row["language"] or "", 0.0) * share
                times = int(often + uniform(config.seed, part, row["id"]))  # the fraction is a chance
                for _ in range(times):
                    yield row["text"]
                done += times * len(row["text"].encode()) / 1e6
                progress.advance(int(done) - progress.done)


def tokenizer(config: TokenizerConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Train a tokenizer on `train.parquet`; writes `tokenizer/`. Raises InputError where the text is too little.

    Where there are two parts, the first is kept in `base.tiktoken`: a stopped run does not learn it again.
    """
    file = documents.file("train.parquet", do="run holdout on them before")
    corpus = Corpus.open(file, config)
    n_base, n = BYTES + config.merges_base, BYTES + config.merges_base + config.merges_multilingual
    multilingual = config.merges_multilingual > 0

    def is_base(language: str) -> bool:
        return not multilingual or language in config.base_languages

    def enough(found: Sequence[bytes], wanted: int, part: str) -> None:
        if len(found) < wanted:
            text = f"the text of the {part} part gives only {len(found):,} tokens"
            raise InputError(file, text, allowed=f"{wanted:,} asked", do=f"lower merges_{part} or give more text")

    base_part = out.path / BASE_PART
    if base_part.exists():
        tokens = read_ranks(base_part)
    else:
        tokens = learn(corpus.texts("base", is_base), n_base)
        enough(tokens, n_base, "base")
        if multilingual:
            with out.write(BASE_PART) as path:
                write_ranks(tokens, path)
    if multilingual:
        tokens = extend(tokens, learn(corpus.texts("multilingual", lambda x: not is_base(x)), n), config.merges_multilingual)
        enough(tokens, n, "multilingual")
    with out.write("tokenizer") as path:
        write_tokenizer(tokens, path, config.max_model_tokens)
    trained = Tokenizer.load(out.path / "tokenizer")
    sample = []
    n_bytes = 0
    for row in read_parquet(file, ["text"]):
        sample.append(row["text"])
        n_bytes += len(row["text"].encode())
        if n_bytes >= SAMPLE_BYTES:
            break
    n_tokens = sum(len(ids) for ids in trained.encode_batch(sample))
    return {
        "vocabulary": trained.vocabulary,
        "bytes_per_token": n_bytes / n_tokens,
        "sample_bytes": n_bytes,
        "bytes_by_language": dict(sorted(corpus.bytes_of.items())),
    }
