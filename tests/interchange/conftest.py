"""What the tests of imports and exports share."""

from pathlib import Path

import pytest
import torch

from interchange_models import SHAPES, sharp_model
from openherd.model.weights import save_model
from openherd.tokenizer.files import write_tokenizer
from openherd.tokenizer.train import learn


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory) -> Path:
    """A tokenizer of 304 tokens and 256 special ones."""
    path = tmp_path_factory.mktemp("words")
    write_tokenizer(learn([Path(__file__).read_text(encoding="utf-8")], 304), path, 128)
    return path


@pytest.fixture
def hugging_face(tmp_path, tokenizer_directory):
    """A function that makes a Hugging Face directory with transformers."""

    def make(shape: str, dtype: torch.dtype = torch.float32, shard_size: str = "5GB", tokenizer: bool = False) -> Path:
        from transformers import AutoModelForCausalLM

        plain = tmp_path / "plain"
        save_model(sharp_model(SHAPES[shape]), plain)
        folder = tmp_path / "hugging-face"
        model = AutoModelForCausalLM.from_pretrained(plain, dtype=dtype)
        model.save_pretrained(folder, max_shard_size=shard_size)
        if tokenizer:
            for file in tokenizer_directory.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
        return folder

    return make
