"""Chat in the terminal, and one prompt (paper 4.1.1's dialog format); answers stream as they are made."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from openherd.core.errors import InputError
from openherd.inference.engine import stream
from openherd.inference.load import open_model
from openherd.inference.native import Compiling
from openherd.inference.sampling import Sampling
from openherd.model.transformer import Transformer
from openherd.tokenizer.dialog import Message, encode_dialog
from openherd.tokenizer.tokenizer import Tokenizer


def answer(model: Transformer | Compiling, tokenizer: Tokenizer, prompt: Sequence[int], sampling: Sampling) -> str:
    """Print the continuation of a prompt as it comes; returns it. Raises InputError where the prompt fills the model's context."""
    if len(prompt) >= model.config.max_positions:
        raise InputError("prompt", f"{len(prompt):,} tokens", allowed=f"under {model.config.max_positions:,}, the model's context")
    return say(stream(model, tokenizer, prompt, sampling, tokenizer.stop_ids))


def say(pieces: Iterator[str]) -> str:
    """Print pieces as they come; returns the whole."""
    whole = []
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
        whole.append(piece)
    sys.stdout.write("\n")
    return "".join(whole)


def generate_one(
    directory: Path, prompt: str, sampling: Sampling, system: str, as_text: bool, weights: str = "auto", device: str = "auto"
) -> None:
    """Answer one prompt of a user, or continue a text."""
    model, tokenizer = open_model(directory, weights, device), Tokenizer.load(directory)
    if as_text:
        ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    else:
        ids = encode_dialog(tokenizer, [*opening(system), {"role": "user", "content": prompt}], generation_prompt=True).ids
    answer(model, tokenizer, ids, sampling)


def opening(system: str) -> list[Message]:
    """The system message, where there is one."""
    return [{"role": "system", "content": system}] if system else []


def chat(directory: Path, sampling: Sampling, system: str, example: str = "", weights: str = "auto", device: str = "auto") -> None:
    """Read lines, answer each; '/new' forgets the conversation, '/quit' or the end of input leaves.

    The oldest turns go when the conversation outgrows the model's context. `example` is a question to begin with.
    """
    model, tokenizer = open_model(directory, weights, device), Tokenizer.load(directory)
    interactive = sys.stdin.isatty()
    if interactive:
        sys.stdout.write(f"Ask something{f', such as: {example}' if example else '.'}\n/new starts again, /quit leaves.\n")
    turns: list[Message] = []
    while True:
        if interactive:
            sys.stdout.write("> ")
            sys.stdout.flush()
        line = sys.stdin.readline()
        if not line or line.strip() == "/quit":
            return
        if line.strip() == "/new":
            turns = []
        elif line.strip():
            turns.append({"role": "user", "content": line.strip()})
            prompt = encode_dialog(tokenizer, [*opening(system), *turns], generation_prompt=True).ids
            while len(prompt) + sampling.max_new_tokens > model.config.max_positions and len(turns) > 1:
                turns = turns[2:]
                prompt = encode_dialog(tokenizer, [*opening(system), *turns], generation_prompt=True).ids
            turns.append({"role": "assistant", "content": answer(model, tokenizer, prompt, sampling)})
