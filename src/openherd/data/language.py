"""Language identification (paper 3.1.1: fastText over 176 languages).

Here py3langid's model of 140 labels, which is inside its wheel, or a fastText file that the user has (`language_models.py`). Only
the first characters of the document's prose are looked at: lines with few letters (code, tables) say little. A page in several
languages can be told by blocks of lines: its main language is then the one that most of its characters are in, and the rest is
measured, or goes. Splitting such a page into one document per language is a stage of its own (`language_split.py`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import regex
from pydantic import Field

from openherd.core.config import nearest
from openherd.core.errors import ConfigError, InputError
from openherd.core.rundir import Output, Outside, Run
from openherd.data.documents import LANGUAGE_SCHEMA, Drop, Judge, Judged
from openherd.data.engine import EngineConfig, EngineSetting, judge_documents
from openherd.data.language_models import UNDETERMINED, LanguageModel, load_model

PROSE_SHARE = 0.8  # of a line's characters are letters, their marks and blanks
LONGEST_LINE = 4_000  # characters of one line that are looked at
LOOKED_THROUGH = 8  # times as many characters are read as are taken
MOST_BLOCKS = 32  # of a document
BLOCK_SCORE = 0.5  # a block told with less joins the main language

_NO_LETTER = regex.compile(r"[^\p{L}\p{M}\s]+")
_ASCII_LETTERS = bytes(c for c in range(128) if chr(c).isalpha() or chr(c).isspace())


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Settings of `language`."""

    languages: Annotated[
        tuple[str, ...],
        Field(description="codes to keep, as the model spells them (ISO 639, two letters where there are); empty: all"),
    ] = ()
    min_score: Annotated[
        float, Field(description="probability under which a document is dropped; the paper is silent, ccNet 0.5", ge=0, le=1)
    ] = 0.0
    sample_characters: Annotated[int, Field(description="of a document's prose that are looked at; ours", ge=100)] = 2_000
    mixed: Annotated[
        Literal["off", "score", "main"],
        Field(
            description="pages in several languages: not looked for; measured by blocks of lines; their main language alone kept"
        ),
    ] = "off"
    block_characters: Annotated[int, Field(description="fewest characters of a block that is told by itself; ours", ge=20)] = 100
    min_language_share: Annotated[
        float, Field(description="share of a page's characters in its main language; needs `mixed`; ours; 0 = off", ge=0, le=1)
    ] = 0.0
    engine: EngineSetting = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if self.min_language_share and self.mixed == "off":
            found = f"min_language_share = {self.min_language_share:g} with mixed = 'off'"
            raise ConfigError("language", found, do="give mixed = 'score' or 'main'")


def measures_schema(config: LanguageConfig) -> pa.Schema:
    """What is measured of a document; the shares where pages in several languages are looked for."""
    shares = [("language_share", pa.float64()), ("second_language", pa.string()), ("second_language_share", pa.float64())]
    return pa.schema([("language_score", pa.float64()), *(shares if config.mixed != "off" else [])])


def limits(config: LanguageConfig, language: str | None) -> dict[str, tuple[float, float]]:
    """The lowest score and share."""
    return {"language_score": (config.min_score, np.inf), "language_share": (config.min_language_share, np.inf)}


class Block(NamedTuple):
    """Lines that stand together, and the language that they are in."""

    text: str  # with the line ends
    language: str
    score: float


def is_prose(line: str) -> bool:
    """Whether a line is mostly letters, their marks and blanks."""
    if line.isascii():
        return len(line.encode().translate(None, _ASCII_LETTERS)) < (1 - PROSE_SHARE) * len(line)
    return len(_NO_LETTER.sub("", line)) > PROSE_SHARE * len(line)


def sample(text: str, characters: int) -> str:
    """The first prose of a text, or any text where there is none."""
    taken: list[str] = []
    left = characters
    for line in text[: LOOKED_THROUGH * characters].split("\n"):
        line = line[:LONGEST_LINE].strip()
        if line and is_prose(line):
            taken.append(line[:left])
            left -= len(line) + 1
            if left <= 0:
                break
    return "\n".join(taken) or text[:characters]


def line_blocks(text: str, characters: int) -> list[str]:
    """A text cut at line ends into blocks of at least so many characters, more where there would be too many blocks."""
    wanted = max(characters, len(text) // MOST_BLOCKS)
    blocks, held, size = [], [], 0
    for line in text.splitlines(keepends=True):
        held.append(line)
        size += len(line.strip())
        if size >= wanted:
            blocks.append("".join(held))
            held, size = [], 0
    if held and blocks and size < wanted:
        blocks[-1] += "".join(held)
    elif held:
        blocks.append("".join(held))
    return blocks


def identify(texts: Sequence[str], sample_characters: int = 2_000, model: LanguageModel | None = None) -> list[tuple[str, float]]:
    """The most likely language of each text, and its probability."""
    return (model or load_model()).identify([sample(text, sample_characters) for text in texts])


def languages_of_blocks(text: str, whole: tuple[str, float], block_characters: int, model: LanguageModel) -> list[Block]:
    """The blocks of a text; what cannot be told, or has no prose, is taken for the language of the `whole`, as that was told."""
    found = line_blocks(text, block_characters)
    if len(found) < 2:
        return [Block(block, *whole) for block in found]
    told = [any(map(is_prose, filter(str.strip, block.split("\n")))) for block in found]
    answers = iter(model.identify([sample(block, 4 * block_characters) for block, has_prose in zip(found, told) if has_prose]))
    languages = [next(answers) if has_prose else (UNDETERMINED, 0.0) for has_prose in told]
    return [Block(block, *(answer if answer[1] >= BLOCK_SCORE else whole)) for block, answer in zip(found, languages)]


def shares_of(blocks: Sequence[Block]) -> list[tuple[str, float]]:
    """Languages and their shares of the blocks' characters, the largest first."""
    characters: Counter[str] = Counter()
    for block in blocks:
        characters[block.language] += len(block.text)
    total = max(characters.total(), 1)
    return [(code, n / total) for code, n in characters.most_common()]


def prepare_language(config: LanguageConfig, model_path: str = "") -> Judge:
    """The stage on batches of documents; `model_path` is a fastText file, or empty."""
    model = load_model(model_path)
    schema = LANGUAGE_SCHEMA

    def mixed(text: str, whole: tuple[str, float]) -> tuple[str, tuple[str, float], dict[str, Any]]:
        blocks = languages_of_blocks(text, whole, config.block_characters, model)
        (main, share), *others = shares_of(blocks) or [(whole[0], 1.0)]
        if main != whole[0]:
            mine = [block for block in blocks if block.language == main]
            whole = main, float(np.average([block.score for block in mine], weights=[len(block.text) for block in mine]))
        if config.mixed == "main" and others:
            text = "".join(block.text for block in blocks if block.language == main)
        second, second_share = others[0] if others else ("", 0.0)
        return text, whole, {"language_share": share, "second_language": second, "second_language_share": second_share}

    def decide(code: str, score: float, share: float) -> Drop | None:
        if config.languages and code not in config.languages:
            return Drop("language", f"{code} ({score:.2f})")
        if score < config.min_score:
            return Drop("language score", f"{code} {score:.2f}, limit {config.min_score}")
        if share < config.min_language_share:
            return Drop("language share", f"{share:.2f} in {code}, limit {config.min_language_share}")
        return None

    def judge(batch: pa.RecordBatch) -> Judged:
        texts = batch.column("text").to_pylist()
        answers = identify(texts, config.sample_characters, model)
        measures: list[dict[str, Any]] = [{} for _ in texts]
        if config.mixed != "off":
            looked = [mixed(text, answer) for text, answer in zip(texts, answers)]
            texts, answers, measures = [list(column) for column in zip(*looked)] or [[], [], []]
        measures = [{"language_score": score, **measured} for (_, score), measured in zip(answers, measures)]
        given = {name: batch.column(name) for name in schema.names if name in batch.schema.names}
        columns = given | {
            "text": pa.array(texts, pa.string()),
            "language": pa.array([code for code, _ in answers], pa.string()),
            "language_score": pa.array([score for _, score in answers], pa.float32()),
        }
        drops = [decide(*answer, measured.get("language_share", 1.0)) for answer, measured in zip(answers, measures)]
        out = pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
        return Judged(out, drops, pa.RecordBatch.from_pylist(measures, measures_schema(config)))

    return judge


def model_file(given: Outside | None) -> str:
    """The path of the user's model, or empty. Raises InputError where the input is not one file."""
    if given is None:
        return ""
    files = given.files()
    if len(files) != 1:
        raise InputError(given.location, f"{len(files)} files", allowed="one fastText model, such as lid.176.ftz")
    return files[0]


def check_languages(languages: Sequence[str], model: LanguageModel) -> None:
    """Raise ConfigError for a language that the model cannot answer with."""
    for code in languages:
        if code not in model.labels:
            raise ConfigError("languages", f"the model has no {code!r}", do=nearest(code, model.labels))


def language(config: LanguageConfig, *, documents: Run, model: Outside | None = None, out: Output) -> dict[str, Any]:
    """Add `language` and `language_score`; drop what is not asked for. Returns documents by language besides the funnel."""
    path = model_file(model)
    labels = load_model(path).labels
    check_languages(config.languages, load_model(path))
    counts: Counter[str] = Counter()

    def count(judged: Judged) -> None:
        languages = judged.batch.column("language").to_pylist()
        counts.update(code for code, drop in zip(languages, judged.drops, strict=True) if drop is None)

    metrics = judge_documents("language", partial(prepare_language, config, path), documents, out, config.engine, count)
    return metrics | {"documents_by_language": dict(sorted(counts.items())), "languages_covered": len(labels)}
