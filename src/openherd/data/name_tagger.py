"""Names of people in text of cased scripts (Latin, Greek, Cyrillic), by a small linear tagger (paper 3.1.1 names personal data).

Only words that begin in a capital are looked at, left to right: the word, its beginning, end and shape, its neighbours and what
was said of the word before are hashed into a table of weights, whose sum is the log-odds of being a name's part. Names run together
over particles ("van der", "de la"). `classifiers/name_tagger.py` trains the table; the built-in one was trained on sentences and
names that were made (scripts/name-corpus), on no real person's data. In scripts without capitals
nothing is found.
"""

import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from openherd.core.errors import InputError

KIND = "openherd-names"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
TOKEN = re.compile(r"\b(?:Mrs|Mr|Ms|Dr|Prof|St|Sr|Jr)\.|\b[^\W\d_]\.(?!\w)|\w+(?:['’-]\w+)*|\n+|[^\w\s]")
PARTICLES = frozenset(
    "van von der den de da di del della dos das do du la le ten ter bin ibn al el y e zu af av och".split()  # noqa: SIM905
)
START = "<s>"


class Token(NamedTuple):
    """A word or sign with its place."""

    text: str
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """Words, signs and line ends; "J." and "Mr." are words."""
    return [Token(match[0], match.start(), match.end()) for match in TOKEN.finditer(text)]


def shape_of(word: str) -> str:
    """What a word looks like: "X" capitals, "Xx" a capital first, "XxX" more of them, "X." an initial, "x" small, "0" digits."""
    if word.endswith("."):
        return "X." if len(word) == 2 else "Xx."
    if word.isdigit():
        return "0"
    if not word[0].isalpha():
        return "." if not word[0].isalnum() else "0x"
    if not word[0].isupper():
        return "x"
    if len(word) == 1 or word.isupper():
        return "X"
    return "Xx" if word[1:].islower() else "XxX"


def features(tokens: list[Token], place: int, is_after_name: bool) -> Iterator[str]:
    """What is asked of the token at a place."""
    word = tokens[place].text
    low = word.lower().removesuffix("'s").removesuffix("’s")
    before = tokens[place - 1].text if place else START
    before_2 = tokens[place - 2].text if place > 1 else START
    after = tokens[place + 1].text if place + 1 < len(tokens) else START
    after_2 = tokens[place + 2].text if place + 2 < len(tokens) else START
    shape = shape_of(word)
    shapes = shape_of(before) + "_" + shape + "_" + shape_of(after)
    yield "bias"
    yield "w=" + low
    yield "e3=" + low[-3:]
    yield "e2=" + low[-2:]
    yield "b3=" + low[:3]
    yield "s=" + shape
    yield "ss=" + shapes
    yield "-1=" + before.lower()
    yield "-2=" + before_2.lower() + " " + before.lower()
    yield "+1=" + after.lower()
    yield "+2=" + after.lower() + " " + after_2.lower()
    yield "n=" + str(is_after_name)
    yield "ns=" + str(is_after_name) + shape
    if not is_after_name:
        yield "0-1=" + before.lower()
    if word.endswith(("'s", "’s")):
        yield "'s"


def bucket(feature: str, bits: int) -> int:
    """The place of a feature in the table."""
    return zlib.crc32(feature.encode("utf-8", "surrogatepass")) & ((1 << bits) - 1)


def is_candidate(token: Token) -> bool:
    """Whether a token may be a part of a name: a word that begins in a capital and is no abbreviation."""
    text = token.text
    return text[0].isupper() and not (text == "I" or (1 < len(text) <= 3 and text.isupper() and text[-1] != "."))


@dataclass(frozen=True)
class NameTagger:
    """A table of weights, in steps of `scale`."""

    weights: npt.NDArray[np.int8]
    scale: float
    bits: int

    def probabilities(self, tokens: list[Token], threshold: float = 0.5) -> dict[int, float]:
        """The probability of each candidate, by its place."""
        weights, found, was_name = self.weights, {}, -9
        for place, token in enumerate(tokens):
            if is_candidate(token):
                is_after = was_name == place - 1 or (was_name == place - 2 and tokens[place - 1].text.lower() in PARTICLES)
                total = sum(int(weights[bucket(feature, self.bits)]) for feature in features(tokens, place, is_after))
                found[place] = 1 / (1 + math.exp(-max(-30.0, min(30.0, total * self.scale))))
                if found[place] >= threshold:
                    was_name = place
        return found

    def find(self, text: str, threshold: float = 0.5) -> Iterator[tuple[int, int]]:
        """(start, end) of each name."""
        tokens = tokens_of(text)
        probability = self.probabilities(tokens, threshold)
        names = [place for place, value in probability.items() if value >= threshold]
        run: list[int] = []
        for place in names:
            if run and not joins(tokens, run[-1], place):
                yield span_of(tokens, run)
                run = []
            run.append(place)
        if run:
            yield span_of(tokens, run)

    def save(self, folder: Path) -> None:
        """Write the folder."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weights": self.weights}, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps({"kind": KIND, "bits": self.bits, "scale": self.scale}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | None = None) -> "NameTagger":
        """Read a folder, or the built-in tagger. Raises InputError where it is none or damaged."""
        return built_in() if folder is None else read(folder)


def joins(tokens: list[Token], first: int, second: int) -> bool:
    """Whether two parts of names are of one: side by side, or with particles between, on one line."""
    between = tokens[first + 1 : second]
    return all(token.text.lower() in PARTICLES for token in between) and "\n" not in "".join(token.text for token in between)


def span_of(tokens: list[Token], run: list[int]) -> tuple[int, int]:
    """From the first part to the last, without a genitive's ending."""
    last = tokens[run[-1]]
    return tokens[run[0]].start, last.end - (2 if last.text.endswith(("'s", "’s")) else 0)


def read(folder: Path) -> NameTagger:
    """The tagger in a folder. Raises InputError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    do = "train it again, or give another folder"
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["kind"] != KIND:
            raise InputError(folder / CONFIG, f"kind {config['kind']!r}", allowed=KIND, do=do)
        weights = load_file(folder / WEIGHTS)["weights"]
        if weights.dtype != np.int8 or weights.shape != (1 << config["bits"],):
            raise InputError(folder, f"weights {weights.dtype} {weights.shape} for {config['bits']} bits", do=do)
        return NameTagger(weights, float(config["scale"]), int(config["bits"]))
    except FileNotFoundError as error:
        raise InputError(folder, f"no tagger of names (no {Path(error.filename).name})", do=do) from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(folder, f"a damaged tagger of names ({error})", do=do) from None


@cache
def built_in() -> NameTagger:
    """The tagger that comes with openherd, read once."""
    return read(Path(str(files("openherd.data") / "names")))
