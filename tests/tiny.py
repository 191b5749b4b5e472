"""Small models made on the spot."""

import torch

from openherd.core.rundir import Output
from openherd.model.config import ModelConfig
from openherd.model.init import initialise
from openherd.model.transformer import Transformer
from openherd.model.weights import save_model
from openherd.tokenizer.tokenizer import Tokenizer


def tiny_model(config: ModelConfig, seed: int = 0) -> Transformer:
    """A random model; its head is random too (a fresh one is zero), its norms are away from 1, so that a forgotten one shows."""
    model = Transformer(config)
    # A tied head's logits are then about as large as another's: fp32 resolves 1e-5 of them.
    initialise(model, seed, embedding_std=2 * config.d_model**-0.5 if config.tied_embeddings else 0.5)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if not config.tied_embeddings:
            model.head.weight.normal_(std=config.d_model**-0.5, generator=generator)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model


def write_tiny(model: Transformer, tokenizer: Tokenizer, out: Output) -> None:
    """Write `model/` as a training stage does."""
    with out.write("model") as path:
        save_model(model, path, bos=tokenizer.bos_id, eos=sorted(tokenizer.stop_ids))
        tokenizer.save(path)
