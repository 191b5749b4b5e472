"""`openherd export`: a model to where others use it, with the check that nothing changed (paper 3.2).

`hf` is the identity: our model directories are Hugging Face's. `meta` is what Meta's own code and torchtune read. `gguf` is for
llama.cpp and ollama. Beside what is written stands a manifest: what it was made from, the SHA-256 of each file, the check.
"""

import datetime
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from openherd.core.errors import InputError
from openherd.core.rundir import Output, file_sha256, package_versions
from openherd.interchange.check import compare, template_of
from openherd.interchange.sources import (
    CONSOLIDATED,
    META_LAYER,
    META_NAMES,
    PARAMS,
    RANKS,
    HuggingFace,
    Meta,
    ModelSource,
    feed_forward_width,
    heads_of,
    names_in_order,
    released_rope_factor,
    to_neighbours,
)
from openherd.model.config import ModelConfig, RopeScaling
from openherd.model.flops import parameters
from openherd.model.weights import check_tensors
from openherd.tokenizer.files import ranks_of, write_ranks
from openherd.tokenizer.tokenizer import FILES, Tokenizer

Format = Literal["hf", "meta", "gguf"]
MANIFEST = "openherd.json"  # in a directory; beside a file it is FILE.json
OWN_TYPE = {torch.float16: "f16", torch.bfloat16: "bf16"}
MULTIPLES = (4_096, 1_024, 256, 64, 1)  # of the feed-forward width, Meta's releases' first
MULTIPLIERS = (None, 1.3, 1.2, 1.5)


def export(model: Path, to: Format, out: Path, kind: str = "", check: bool = True) -> str:
    """Write a model directory elsewhere; returns what was done and the check, in words.

    `kind` is the type of a GGUF file's weights: their own where nothing is said, f16 for fp32. Raises InputError where the format
    cannot hold the model, something is there already, or the check of a conversion that loses nothing fails; nothing is left then.
    """
    if kind and to != "gguf":
        raise InputError("--type", f"{kind} with --to {to}", allowed="with --to gguf; the others keep the weights' type")
    if out.exists():
        raise InputError(out, "is there already", do="give another --out, or remove it")
    source = HuggingFace(model)
    check_tensors(model, source.config, {name: shape for name, (shape, _) in source.found().items()})
    own = OWN_TYPE.get(source.found()["model.norm.weight"][1], "f16")
    kind = kind or own if to == "gguf" else "as they were"
    with Output(out.parent).write(out.name) as temporary:
        other, template, note = WRITERS[to](source, temporary, kind)
        found = compare(model, other, template) if check else None
        if found and is_lossless(source, to, kind):
            found.refuse_difference(model, "export")
        files = sorted(temporary.iterdir()) if temporary.is_dir() else [temporary]
        facts: dict[str, Any] = {
            "format": to,
            "weights": kind,
            "parameters": parameters(source.config),
            "made_from": {file.name: file_sha256(file) for file in source.files},
            "files": {out.name if f == temporary else f.name: {"bytes": f.stat().st_size, "sha256": file_sha256(f)} for f in files},
            "check": found.metrics() if found else "skipped",
            "packages": package_versions(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        text = json.dumps(facts, indent=1) + "\n"
        manifest = out / MANIFEST if temporary.is_dir() else out.with_name(f"{out.name}.json")
        (temporary / MANIFEST if temporary.is_dir() else manifest).write_text(text, encoding="utf-8")
    n_bytes = sum(entry["bytes"] for entry in facts["files"].values())
    lines = [f"done: {out} · {n_bytes / 1e6:,.1f} MB · manifest {manifest}", f"check: {found.text() if found else 'skipped'}"]
    return "\n".join([*lines, note] if note else lines)


def is_lossless(source: HuggingFace, to: Format, kind: str) -> bool:
    """Whether the conversion keeps every weight's value."""
    if to != "gguf":
        return True
    types = {dtype for _, dtype in source.found().values()}
    return {OWN_TYPE.get(dtype) for dtype in types} == {kind}


Written = tuple[ModelSource, str | None, str]  # what was written, read back; its chat template; what to know of it


def to_hugging_face(source: HuggingFace, out: Path, kind: str) -> Written:
    """The directory as it is, without what lies in folders."""
    out.mkdir()
    for file in source.path.iterdir():
        if file.is_file() and file.name != MANIFEST:
            shutil.copyfile(file, out / file.name)
    return HuggingFace(out), template_of(out), ""


def to_gguf(source: HuggingFace, out: Path, kind: str) -> Written:
    """One file, with tokenizer and template."""
    from openherd.interchange.llama_cpp import Gguf, write_gguf

    if not (source.path / FILES[0]).exists():
        raise InputError(source.path, f"no {FILES[0]}", allowed="a model directory with its tokenizer, for a GGUF file")
    write_gguf(source, Tokenizer.load(source.path), template_of(source.path), out, kind)
    written = Gguf(out)
    return written, written.template, ""


def to_meta(source: HuggingFace, out: Path, kind: str) -> Written:
    """`consolidated.00.pth`, `params.json` and, where there is a tokenizer, `tokenizer.model`.

    The weights are mapped, but for queries and keys, which are permuted: they are in memory, a twelfth of the 8B.
    """
    config = source.config
    facts = meta_params(source.path, config)
    out.mkdir()
    (out / PARAMS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if (source.path / FILES[0]).exists():
        write_ranks(ranks_of(Tokenizer.load(source.path)), out / RANKS)
    to_theirs = {ours: meta for meta, (ours, _) in META_NAMES.items()}
    layer_to_theirs = {ours: meta for meta, (ours, _) in META_LAYER.items()}
    state = {}
    with source.mapped() as read:
        for name in names_in_order(config):
            tensor = read(name)
            if heads := heads_of(name, config):
                tensor = to_neighbours(tensor, heads)
            if name in to_theirs:
                state[to_theirs[name]] = tensor
            else:
                _, _, layer, part = name.removesuffix(".weight").split(".", 3)
                state[f"layers.{layer}.{layer_to_theirs[part]}.weight"] = tensor
        if config.tied_embeddings:  # theirs holds both
            state["output.weight"] = state["tok_embeddings.weight"]
        torch.save(state, out / CONSOLIDATED.replace("*", "00"))
    factor = config.rope_scaling.factor if config.rope_scaling else 0.0
    note = f"{PARAMS} cannot say that RoPE is scaled by {factor:g}: import it with --rope-factor {factor:g}"
    return Meta(out, factor), None, note if factor and factor != released_rope_factor(config) else ""


WRITERS: dict[Format, Callable[[HuggingFace, Path, str], Written]] = {"hf": to_hugging_face, "meta": to_meta, "gguf": to_gguf}


def meta_params(where: Path, config: ModelConfig) -> dict[str, Any]:
    """The contents of params.json. Raises InputError where it cannot say the shape."""
    c = config
    if c.head_width * c.n_heads != c.d_model:
        text = f"heads of {c.head_width}, {c.n_heads} of them, in a model {c.d_model} wide"
        raise InputError(where, text, allowed="head width times heads = model width, in Meta's format")
    if c.rope_scaling is not None and c.rope_scaling != RopeScaling(factor=c.rope_scaling.factor):
        text = f"RoPE scaled from {c.rope_scaling.original_positions:,} positions on"
        raise InputError(where, text, allowed="Llama 3.1's scaling from 8,192 on, in Meta's format")
    exact = (c.d_feed_forward + 0.5) / int(8 * c.d_model / 3)
    pairs = [(multiplier, multiple) for multiple in MULTIPLES for multiplier in MULTIPLIERS] + [(exact, 1)]
    multiplier, multiple = next(p for p in pairs if feed_forward_width(c.d_model, *p) == c.d_feed_forward)
    facts = {
        "dim": c.d_model,
        "n_layers": c.n_layers,
        "n_heads": c.n_heads,
        "n_kv_heads": c.n_kv_heads,
        "vocab_size": c.vocabulary,
        "ffn_dim_multiplier": multiplier,
        "multiple_of": multiple,
        "norm_eps": c.norm_epsilon,
        "rope_theta": c.rope_theta,
        "use_scaled_rope": c.rope_scaling is not None,
    }
    return {key: value for key, value in facts.items() if value is not None}
