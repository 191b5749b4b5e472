"""Tokenizer extension (after paper 3.2): new tokens for a finished model, learned on a domain, and that model with them.

Fewer tokens a text make training and answers cheaper and the context longer; what a new token means has to be learned, for which
its embedding begins as the mean of those of the tokens that stood in its place, and its row of the head likewise. Old ids, the
special ones among them, and old rows stay as they are. Written are `tokenizer/` and `model/`, from which `continue-pretrain` goes
on; what text costs in bits before it does, with the old tokens and the new, is among the metrics.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from openherd.core.errors import ConfigError, InputError
from openherd.core.metrics import ratio_estimate
from openherd.core.progress import track
from openherd.core.records import count_rows, read_parquet
from openherd.core.rundir import Output, Run
from openherd.core.seeds import uniform
from openherd.inference.engine import bits_of
from openherd.model.device import Device, announce, choose_device
from openherd.model.weights import load_model, model_of, read_tensors, write_model
from openherd.parallel.stage import EMBED, HEAD
from openherd.tokenizer.continued import count_pieces, extended_file, learn_further
from openherd.tokenizer.files import tokens_of
from openherd.tokenizer.tokenizer import FILES, Tokenizer, split_pattern


@dataclass(frozen=True, kw_only=True)
class ExtendTokenizerConfig:
    """Settings of tokenizer extension. The paper is silent; ours."""

    new_tokens: Annotated[int, Field(description="at most so many; multiples of 128 suit a GPU", ge=1)] = 4_096
    least_count: Annotated[
        int, Field(description="occurrences of a new token in the text it is learned from; a rarer one learns too little", ge=1)
    ] = 100
    sources: Annotated[tuple[str, ...], Field(description="learn from these sources of the documents; empty: from all")] = ()
    max_bytes: Annotated[int, Field(description="of text to learn from; of more, documents are drawn by seed", ge=1)] = 10**9
    initial: Annotated[
        Literal["parts", "all"], Field(description="rows of a new token: the mean of the tokens it is made of, or of all tokens")
    ] = "parts"
    check_bytes: Annotated[int, Field(description="of held-out text on which both models are compared; 0: none", ge=0)] = 50_000
    device: Annotated[Device, Field(description="where to compare; auto: CUDA, else mps, else cpu")] = "auto"
    seed: Annotated[int, Field(description="of the choice of documents")] = 0


def texts_of(file: Path, sources: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Id and text of the documents of some sources, or of all."""
    for row in read_parquet(file, ["id", "source", "text"]):
        if row["text"] and (not sources or row["source"] in sources):
            yield row["id"], row["text"]


def learn_tokens(config: ExtendTokenizerConfig, file: Path, tokenizer: Tokenizer) -> list[bytes]:
    """New tokens from `train.parquet`. Raises InputError where the tokenizer cannot be extended, or the text gives none."""
    tokens = tokens_of(tokenizer)
    pattern = split_pattern(tokenizer.contents())
    assert pattern is not None
    n_bytes = sum(len(text.encode()) for _, text in texts_of(file, config.sources))
    if not n_bytes:
        raise InputError(file, f"no text of the sources {', '.join(config.sources)}" if config.sources else "no text")
    share = config.max_bytes / n_bytes
    rows = track(texts_of(file, config.sources), "extend-tokenizer", "documents", 0 if config.sources else count_rows(file) or 0)
    pieces = count_pieces((text for id_, text in rows if uniform(config.seed, "extend", id_) < share), pattern)
    ranks = {i: rank for rank, i in enumerate(i for i in range(tokenizer.vocabulary) if i not in tokenizer.special_ids)}
    new = learn_further(
        tokens, pieces, lambda piece: [ranks[i] for i in tokenizer.encode_piece(piece)], config.new_tokens, config.least_count
    )
    if not new:
        raise InputError(file, f"no new token stands {config.least_count} times in it", do="lower least_count, or give more text")
    return new


def extended_rows(rows_VD: Tensor, tokenizer: Tokenizer, new: list[bytes], initial: str) -> Tensor:
    """Embeddings, or a head, with a row for each new token; old rows are the same bits."""
    n = tokenizer.vocabulary
    of_all = rows_VD[:n].float().mean(0)
    made = [of_all if initial == "all" else rows_VD[tokenizer.encode_piece(token)].float().mean(0) for token in new]
    return torch.cat([rows_VD[:n], torch.stack(made).to(rows_VD.dtype), rows_VD[n + len(new) :]])


def extend_tokenizer(config: ExtendTokenizerConfig, *, base: Run, documents: Run, out: Output) -> dict[str, Any]:
    """Learn new tokens from `train.parquet` for the model of `base`; writes `tokenizer/` and `model/`."""
    device = choose_device(config.device)
    announce(out, device)
    directory = model_of(base)[0]
    before = Tokenizer.load(directory)
    train, heldout = documents.file("train.parquet"), documents.file("heldout.parquet")
    known = {row["source"] for file in (train, heldout) for row in read_parquet(file, ["source"])}
    if missing := [name for name in config.sources if name not in known]:
        raise ConfigError("extend-tokenizer", f"no source {missing[0]!r}", allowed=", ".join(sorted(filter(None, known))))
    new = learn_tokens(config, train, before)
    with out.write("tokenizer") as path:
        before.save(path)
        (path / FILES[0]).write_text(json.dumps(extended_file(before, new), ensure_ascii=False) + "\n", encoding="utf-8")
        after = Tokenizer.load(path)
        assert after.follows_ranks, "what was written encodes otherwise than was learned"
    shape, tensors = read_tensors(directory)
    dtype = tensors[EMBED].dtype
    for tensor in tensors.values():
        dtype = torch.promote_types(dtype, tensor.dtype)
    longer = replace(shape, vocabulary=max(shape.vocabulary, after.vocabulary))

    def read(name: str) -> Tensor:
        return extended_rows(tensors[name], before, new, config.initial) if name in (EMBED, HEAD) else tensors[name]

    with out.write("model") as path:
        write_model(longer, dtype, read, path, bos=after.bos_id, eos=sorted(after.stop_ids))
        shutil.copytree(out.path / "tokenizer", path, dirs_exist_ok=True)
    texts: list[str] = []
    for _, text in texts_of(heldout, config.sources):
        texts += [text] if sum(map(len, texts)) < config.check_bytes else []
    metrics: dict[str, Any] = {"new_tokens": len(new), "vocabulary": after.vocabulary}
    if texts:
        sizes = [float(len(text.encode())) for text in texts]
        for name, tokenizer, place in (("before", before, directory), ("after", after, out.path / "model")):
            metrics[f"bytes_per_token_{name}"] = sum(sizes) / sum(map(len, tokenizer.encode_batch(texts)))
            bits = bits_of(load_model(place, str(device)), tokenizer, texts, name)
            metrics[f"bits_per_byte_{name}"] = ratio_estimate(bits, sizes)
    return metrics
