"""Linear classifiers over hashed n-grams: how they lie on disk and how they score (paper 3.1.1). `classifiers/` trains them.

A folder holds `model.safetensors` (`weights`, buckets x classes or one column for two classes; `bias`) and `config.json` (labels,
n-grams, calibration). A text's logits are the sum of its buckets' weights over the root of their number, plus the bias; its score
is the calibrated probability of the second of two labels, or that of each of more. Users' own fastText models score through the
package fasttext-predict, where that is installed.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from openherd.core.config import load_config
from openherd.core.errors import InputError
from openherd.data.calibration import Calibration
from openherd.data.ngram_features import Buckets, NgramConfig, features

Floats = npt.NDArray[np.float64]

WEIGHTS, CONFIG = "model.safetensors", "config.json"
KIND = "openherd-linear"
FASTTEXT_ENDINGS = (".bin", ".ftz")
LABEL_PREFIX = "__label__"  # of fastText
TEXTS_AT_ONCE = 256


def sums(weights: npt.NDArray[np.float32], bias: Floats, found: Sequence[Buckets]) -> Floats:
    """Logits of texts by their buckets, shape (n, columns)."""
    n_columns = weights.shape[1]
    logits = np.empty((len(found), n_columns))
    for i, buckets in enumerate(found):
        logits[i] = weights[buckets].sum(axis=0, dtype=np.float64) / max(len(buckets), 1) ** 0.5 + bias
    return logits


@dataclass(frozen=True)
class LinearModel:
    """A linear classifier."""

    labels: tuple[str, ...]
    ngrams: NgramConfig
    weights: npt.NDArray[np.float32]
    bias: Floats
    calibration: Calibration

    def logits(self, texts: Sequence[str]) -> Floats:
        """Before calibration; shape (n, 1) for two labels, else (n, labels)."""
        parts = [
            sums(self.weights, self.bias, features(texts[i : i + TEXTS_AT_ONCE], self.ngrams))
            for i in range(0, len(texts), TEXTS_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.weights.shape[1]))

    def score(self, texts: Sequence[str]) -> Floats:
        """Of two labels the probability of the second, shape (n,); of more that of each, shape (n, labels)."""
        return self.calibration.probabilities(self.logits(texts))

    def save(self, folder: Path) -> None:
        """Write the folder."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weights": self.weights, "bias": self.bias}, folder / WEIGHTS)
        config = {
            "kind": KIND,
            "labels": list(self.labels),
            "ngrams": asdict(self.ngrams),
            "calibration": asdict(self.calibration),
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "LinearModel":
        """Read a folder. Raises InputError where it is none, damaged, or does not fit itself."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        where = folder / CONFIG
        do = "train it again, or give another folder"
        try:
            config = json.loads(where.read_text(encoding="utf-8"))
            if config.get("kind") != KIND:
                raise InputError(where, f"kind {config.get('kind')!r}", allowed=KIND, do=do)
            labels = tuple(map(str, config["labels"]))
            ngrams = load_config(NgramConfig, config["ngrams"], where)
            calibration = load_config(Calibration, config["calibration"], where)
            tensors = load_file(folder / WEIGHTS)
            weights, bias = tensors["weights"], tensors["bias"]
        except FileNotFoundError as error:
            raise InputError(folder, f"no classifier (no {Path(error.filename or WEIGHTS).name})", do=do) from None
        except NotADirectoryError:
            allowed = f"the folder of a classifier that was trained here, or a fastText model ({', '.join(FASTTEXT_ENDINGS)})"
            raise InputError(folder, "a file", allowed=allowed) from None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(folder, f"a damaged classifier ({error})", do=do) from None
        n_columns = 1 if len(labels) == 2 else len(labels)
        if len(labels) < 2 or weights.shape != (1 << ngrams.bucket_bits, n_columns) or bias.shape != (n_columns,):
            found = f"weights {weights.shape}, bias {bias.shape} for {len(labels)} labels and {1 << ngrams.bucket_bits} buckets"
            raise InputError(folder, found, do=do)
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise InputError(folder, "weights that are not finite", do=do)
        return cls(labels, ngrams, weights.astype(np.float32, copy=False), bias.astype(np.float64, copy=False), calibration)


@dataclass(frozen=True)
class FastTextModel:
    """A user's fastText model, by the package fasttext-predict."""

    labels: tuple[str, ...]
    model: Any

    def score(self, texts: Sequence[str]) -> Floats:
        """As fastText gives them: of two labels that of the second by name, else of each in the order of their names."""
        found = np.zeros((len(texts), len(self.labels)))
        place = {label: i for i, label in enumerate(self.labels)}
        for i, text in enumerate(texts):
            names, values = self.model.predict(text.replace("\n", " "), k=len(self.labels), threshold=-1.0)
            for name, value in zip(names, values, strict=True):
                found[i, place[name.removeprefix(LABEL_PREFIX)]] = value
        return np.clip(found[:, 1] if len(self.labels) == 2 else found, 0.0, 1.0)

    @classmethod
    def load(cls, file: Path) -> "FastTextModel":
        """Read a file. Raises InputError where the package is not installed, or the file is no model."""
        try:
            import fasttext
        except ImportError:
            raise InputError(file, "a fastText model needs one more package", do="pip install 'openherd[fasttext]'") from None
        try:
            model = fasttext.load_model(str(file))
            names, _ = model.predict("", k=-1, threshold=-1.0)  # which gives all labels
            labels = tuple(sorted(str(name).removeprefix(LABEL_PREFIX) for name in names))
        except (ValueError, RuntimeError) as error:
            raise InputError(file, f"no fastText model ({error})") from None
        if len(labels) < 2:
            raise InputError(file, f"a fastText model of {len(labels)} labels", allowed="two or more")
        return cls(labels, model)


def load(place: Path | str) -> LinearModel | FastTextModel:
    """The classifier in a folder of ours, or in a fastText file. Raises InputError."""
    path = Path(place)
    return FastTextModel.load(path) if path.suffix in FASTTEXT_ENDINGS else LinearModel.load(path)
