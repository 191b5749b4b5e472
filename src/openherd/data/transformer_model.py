"""Transformer classifiers: how they lie on disk and how they score (paper 3.1.1: DistilRoBERTa). `classifiers/` trains them.

The model is our own decoder with a row of weights for each label in place of the output projection; a text's logits are those of
its last token, which has seen all others. The folder is Hugging Face's `LlamaForSequenceClassification` with its tokenizer, so
that transformers loads it too; `classifier.json` adds the calibration and how many tokens of a text are read.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from openherd.core.config import load_config
from openherd.core.errors import InputError
from openherd.data.calibration import Calibration
from openherd.model.attention import CausalAttend
from openherd.model.config import ModelConfig
from openherd.model.shards import WEIGHTS
from openherd.model.transformer import Transformer
from openherd.model.weights import CONFIG, hugging_face_config, hugging_face_name, open_weights, read_config, weight_files
from openherd.tokenizer.tokenizer import Tokenizer

Floats = npt.NDArray[np.float64]

ARCHITECTURE = "LlamaForSequenceClassification"
SCORE = "score.weight"  # Hugging Face's name of the labels' rows
SETTINGS = "classifier.json"
TOKENS_AT_ONCE = 8_192
MOST_CHARACTERS = 16  # of a text for each token that is read; prose has four or five


def trunk_of(config: ModelConfig) -> Transformer:
    """A model without an output projection, on the meta device."""
    with torch.device("meta"):
        model = Transformer(replace(config, tied_embeddings=False))
        model.head = None  # type: ignore[assignment]
    return model


def encode(tokenizer: Tokenizer, texts: Sequence[str], text_tokens: int) -> list[list[int]]:
    """Each text's first tokens behind the beginning of a text; a text is cut first where it is far too long."""
    cut = [text[: MOST_CHARACTERS * text_tokens] for text in texts]
    return [[tokenizer.bos_id, *ids][:text_tokens] for ids in tokenizer.encode_batch(cut)]


def last_positions(model: Transformer, rows: Sequence[Sequence[int]]) -> Tensor:
    """The hidden states of the last token of each row, shape (n, D); what fills a row up stands behind it and is not seen."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens_BT = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for i, row in enumerate(rows):
        tokens_BT[i, : len(row)] = torch.tensor(row)
    device = model.embed.weight.device
    positions_BT = torch.arange(tokens_BT.shape[1], device=device).expand_as(tokens_BT)
    hidden_BTD = model.trunk(model.embed(tokens_BT.to(device)), positions_BT, CausalAttend())
    return hidden_BTD[torch.arange(len(rows)), lengths - 1]


@dataclass(frozen=True)
class TransformerModel:
    """A Transformer classifier."""

    labels: tuple[str, ...]
    model: Transformer
    rows_LD: Tensor  # of the labels
    tokenizer: Tokenizer
    text_tokens: int
    calibration: Calibration

    @torch.inference_mode()
    def logits(self, texts: Sequence[str]) -> Floats:
        """Before calibration; shape (n, 1) for two labels, else (n, labels). Texts of like length are computed together."""
        rows = encode(self.tokenizer, texts, self.text_tokens)
        found = np.empty((len(rows), len(self.labels)))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        while order:
            longest = len(rows[order[-1]])
            batch = [order.pop() for _ in range(min(max(TOKENS_AT_ONCE // longest, 1), len(order)))]
            hidden = last_positions(self.model, [rows[i] for i in batch])
            found[batch] = (hidden @ self.rows_LD.T).double().cpu().numpy()
        return found[:, 1:] - found[:, :1] if len(self.labels) == 2 else found

    def score(self, texts: Sequence[str]) -> Floats:
        """Of two labels the probability of the second, shape (n,); of more that of each, shape (n, labels)."""
        return self.calibration.probabilities(self.logits(texts))

    def save(self, folder: Path) -> None:
        """Write the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {hugging_face_name(name): p.detach().cpu().contiguous() for name, p in self.model.named_parameters()}
        save_file({**tensors, SCORE: self.rows_LD.detach().cpu().contiguous()}, folder / WEIGHTS, metadata={"format": "pt"})
        shape, words = replace(self.model.config, tied_embeddings=False), self.tokenizer
        config = hugging_face_config(shape, str(self.rows_LD.dtype).removeprefix("torch."), words.bos_id, sorted(words.stop_ids))
        names = {str(i): label for i, label in enumerate(self.labels)}
        config |= {
            "architectures": [ARCHITECTURE],
            "id2label": names,
            "label2id": {label: int(i) for i, label in names.items()},
            "pad_token_id": words.eos_id,
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        settings = {"text_tokens": self.text_tokens, "calibration": asdict(self.calibration)}
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        words.save(folder)

    @classmethod
    def load(cls, folder: Path) -> "TransformerModel":
        """Read a folder. Raises InputError where it is none, or damaged."""
        shape = read_config(folder, ARCHITECTURE)
        do = "train it again, or give another folder"
        tensors: dict[str, Tensor] = {}
        for file in weight_files(folder):
            with open_weights(file) as found:
                tensors |= {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
        try:
            names = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["id2label"]
            labels = tuple(str(names[str(i)]) for i in range(len(names)))
            settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            text_tokens = int(settings["text_tokens"])
            calibration = load_config(Calibration, settings["calibration"], folder / SETTINGS)
            rows_LD = tensors.pop(SCORE)
            model = trunk_of(shape)
            ours = {hugging_face_name(name): name for name, _ in model.named_parameters()}
            if rows_LD.shape != (len(labels), shape.d_model) or len(labels) < 2:
                raise InputError(folder, f"rows of shape {tuple(rows_LD.shape)} for {len(labels)} labels", do=do)
            model.load_state_dict({ours[name]: tensor.float() for name, tensor in tensors.items()}, assign=True)
        except FileNotFoundError as error:
            raise InputError(folder, f"no classifier (no {Path(str(error.filename)).name})", do=do) from None
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise InputError(folder, f"a damaged classifier ({error})", do=do) from None
        return cls(labels, model.eval(), rows_LD.float(), Tokenizer.load(folder), text_tokens, calibration)
