"""A model that is served: its tokenizer, its engine, and what a request may ask of it."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openherd.core.errors import ConfigError, InputError
from openherd.core.seeds import derive_seed
from openherd.inference.constraint import Constraint
from openherd.inference.engine import CACHE_BYTES, Engine, EngineConfig
from openherd.inference.load import open_model
from openherd.inference.sampling import Sampling
from openherd.serving.protocol import Generation, Model, RequestError
from openherd.serving.worker import Wanted
from openherd.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Served:
    """A model, its tokenizer and its engine."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def load(
        cls,
        name: str,
        directory: Path,
        *,
        weights: str = "auto",
        device: str = "auto",
        cache_bytes: int = CACHE_BYTES,
        deterministic: bool = False,
    ) -> "Served":
        """Read a model directory. Raises InputError, ConfigError."""
        tokenizer, model = Tokenizer.load(directory), open_model(directory, weights, device)
        if tokenizer.vocabulary > model.config.vocabulary:
            found = f"{tokenizer.vocabulary:,} tokens, of which the model knows {model.config.vocabulary:,}"
            raise InputError(directory / "tokenizer.json", found, do="bring the tokenizer that the model was trained with")
        config = EngineConfig(cache_bytes=cache_bytes, deterministic=deterministic)
        try:
            return cls(name, Engine(model, tokenizer, config), tokenizer)
        except (RuntimeError, OSError) as error:
            if "memory" not in str(error):
                raise
            raise ConfigError("--cache-gb", f"{cache_bytes / 2**30:g}", allowed="what the memory holds beside the model") from None

    @property
    def context(self) -> int:
        """Tokens of a prompt and its answer together."""
        return self.engine.model.config.max_positions

    def sampling(self, request: Generation, max_new_tokens: int, logprobs: int) -> Sampling:
        """What a request asks for. Raises RequestError."""
        try:
            sampling = Sampling(
                max_new_tokens=max_new_tokens,
                temperature=request.temperature,
                top_k=max(request.top_k, 0),
                top_p=request.top_p,
                min_p=request.min_p,
                repetition_penalty=request.repetition_penalty,
                presence_penalty=request.presence_penalty,
                frequency_penalty=request.frequency_penalty,
                logit_bias=request.biases,
                seed=secrets.randbits(63) if request.seed is None else request.seed,
                stop_strings=tuple(request.stop),
                logprobs=logprobs,
            )
            sampling.check_vocabulary(self.tokenizer.vocabulary)
        except ConfigError as error:
            raise RequestError.of(error, error.where.removeprefix("sampling.")) from None
        return sampling

    def room(self, n_prompt: int, asked: int | None, most: int, param: str, max_param: str) -> int:
        """Tokens that an answer may have. Raises RequestError for a prompt that is too long, or more than anybody may have."""
        if n_prompt >= self.context + (asked == 0):
            message = f"{param}: {n_prompt:,} tokens; allowed: under {self.context:,}, the context of {self.name}; shorten it"
            raise RequestError(400, message, param, "context_length_exceeded")
        if most and asked is not None and asked > most:
            raise RequestError(
                400, f"{max_param} = {asked}; allowed: at most {most}, this server's limit", max_param, "invalid_value"
            )
        room = self.context - n_prompt
        return min(room, asked if asked is not None else most or room)

    def choices(self, prompts: Sequence[list[int]], n: int, sampling: Sequence[Sampling], **more: Any) -> list[Wanted]:
        """The answers to prompts, `n` to each; the first has the request's seed, the others seeds made of it."""
        made = []
        constraint: Constraint | None = more.pop("constraint", None)
        for i, (prompt, one) in enumerate(zip(prompts, sampling, strict=True)):
            for k in range(n):
                seed = derive_seed(one.seed, "choice", i, k) if i or k else one.seed
                made.append(Wanted(prompt, replace(one, seed=seed), constraint=constraint and constraint.copy(), **more))
        return made

    def listed(self) -> Model:
        """As a client reads it."""
        return Model(id=self.name, object="model", created=self.created, owned_by="openherd", max_model_len=self.context)
