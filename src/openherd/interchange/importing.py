"""`openherd import`: a Llama 3 from elsewhere as a run directory of ours, with the check that nothing changed (paper 3.2).

The outcome is what a training stage leaves, less the optimizer's state: `model/`, a Hugging Face directory, and `tokenizer/`. So it
can be chatted with, finetuned, trained further by a recipe, and exported. Tensors go one by one; files that need no change are
copied.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.rundir import Output, Outside
from openherd.interchange.check import compare, template_of
from openherd.interchange.sources import RANKS, HuggingFace, Meta, ModelSource, names_in_order, narrowed, open_source, read_as_ours
from openherd.model.config import ModelConfig
from openherd.model.flops import parameters
from openherd.model.shards import Planned, write_shards
from openherd.model.weights import CONFIG, INDEX, check_tensors, hugging_face_config
from openherd.tokenizer.files import read_ranks, write_tokenizer
from openherd.tokenizer.tokenizer import FILES, Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BESIDE = (*FILES, "special_tokens_map.json", "generation_config.json", "chat_template.jinja")


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Settings of an import."""

    dtype: Annotated[
        Literal["keep", "float32", "bfloat16", "float16"], Field(description="type of the weights; keep: the source's")
    ] = "keep"
    rope_factor: Annotated[
        float, Field(description="of Meta's scaled RoPE, which params.json does not say; 0: 32 for the shapes of 3.2, else 8", ge=0)
    ] = 0.0
    check: Annotated[bool, Field(description="compare with the source afterwards")] = True


def import_model(config: ImportConfig, *, source: Outside, out: Output) -> dict[str, Any]:
    """Read a model directory of Hugging Face's or Meta's. Raises InputError where it is no Llama 3, or the check fails."""
    path = Path(source.location).expanduser()
    if not path.is_dir():
        raise InputError(path, "no directory", allowed="a directory with config.json, or with params.json")
    model = open_source(path, config.rope_factor)
    found = model.found()
    check_tensors(path, model.config, {name: shape for name, (shape, _) in found.items()})
    types = {dtype for _, dtype in found.values()}
    if config.dtype == "keep" and not types <= set(DTYPES.values()):
        raise InputError(path, f"weights of type {', '.join(map(str, types))}", allowed=", ".join(DTYPES))
    with out.write("tokenizer") as folder:
        has_tokenizer = copy_tokenizer(path, folder, model.config)
    if not has_tokenizer:
        shutil.rmtree(out.path / "tokenizer")
    with out.write("model") as folder:
        folder.mkdir()
        copy_weights(model, found, config.dtype, folder)
        if has_tokenizer:
            shutil.copytree(out.path / "tokenizer", folder, dirs_exist_ok=True)
        write_config(model, folder, found, config.dtype)
        for name in BESIDE[len(FILES) :]:
            if (path / name).exists():
                shutil.copyfile(path / name, folder / name)
        template = None if isinstance(model, Meta) else template_of(path)  # Meta's files hold none
        checked = compare(folder, model, template) if config.check else None
        if checked and config.dtype == "keep":
            checked.refuse_difference(path, "import")
    return {
        "format": "hugging face" if isinstance(model, HuggingFace) else "meta",
        "parameters": parameters(model.config),
        "dtype": ", ".join(sorted(str(t).removeprefix("torch.") for t in types)) if config.dtype == "keep" else config.dtype,
        "tokenizer": has_tokenizer,
        "check": checked.metrics() if checked else "skipped",
    }


def copy_tokenizer(path: Path, folder: Path, config: ModelConfig) -> bool:
    """Bring the source's tokenizer into `folder`; returns whether there is one.

    Raises InputError for Llama 2's, and for one with more tokens than the model.
    """
    folder.mkdir()
    if (path / FILES[0]).exists():
        for name in FILES:
            if (path / name).exists():
                shutil.copyfile(path / name, folder / name)
    elif (path / RANKS).exists():
        write_tokenizer(read_ranks(path / RANKS), folder, config.max_positions)
    else:
        return False
    found = Tokenizer.load(folder).vocabulary
    if found > config.vocabulary:
        text = f"its tokenizer has {found:,} tokens and its model {config.vocabulary:,}"
        raise InputError(path, text, allowed="no more tokens than the model", do="remove the tokenizer, or bring its own")
    return True


def copy_weights(model: ModelSource, found: dict[str, tuple[tuple[int, ...], torch.dtype]], dtype: str, folder: Path) -> None:
    """The weights into `folder`: Hugging Face's files as they are where the type stays, else written tensor by tensor."""
    if isinstance(model, HuggingFace) and dtype == "keep":
        for file in [*model.files, *([model.path / INDEX] if len(model.files) > 1 else [])]:
            shutil.copyfile(file, folder / file.name)
        return
    plan = [Planned(name, found[name][0], DTYPES.get(dtype, found[name][1])) for name in names_in_order(model.config)]
    types = {planned.name: planned.dtype for planned in plan}
    write_shards(plan, lambda name: narrowed(read_as_ours(model, name), types[name], model.path, name), folder, "import")


def write_config(model: ModelSource, folder: Path, found: dict[str, tuple[tuple[int, ...], torch.dtype]], dtype: str) -> None:
    """config.json: the source's own with the new type, or one made from Meta's."""
    written = dtype if dtype != "keep" else str(found["model.norm.weight"][1]).removeprefix("torch.")
    if isinstance(model, HuggingFace):
        config = json.loads((model.path / CONFIG).read_text(encoding="utf-8"))
        if dtype != "keep":
            config = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")} | {"torch_dtype": written}
    else:
        ids: dict[str, Any] = {}
        if (folder / FILES[0]).exists():
            words = Tokenizer.load(folder)
            ids = {"bos": words.bos_id, "eos": sorted(words.stop_ids)}
        config = hugging_face_config(model.config, written, **ids)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
