"""Chat in the terminal, and one prompt (paper 4.1.1's dialog format); answers stream as they are made.

A line that begins with a slash is a command, of which `COMMANDS` is the table; every other line is a question.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from openherd.core.errors import ConfigError, InputError, OpenherdError
from openherd.core.records import write_jsonl
from openherd.inference.engine import stream
from openherd.inference.load import open_model
from openherd.inference.native import Compiling
from openherd.inference.sampling import Sampling
from openherd.model.transformer import Transformer
from openherd.tokenizer.dialog import Message, encode_dialog
from openherd.tokenizer.tokenizer import Tokenizer


def answer(model: Transformer | Compiling, tokenizer: Tokenizer, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
    """The continuation of a prompt as it comes. Raises InputError where the prompt fills the model's context."""
    if len(prompt) >= model.config.max_positions:
        raise InputError("prompt", f"{len(prompt):,} tokens", allowed=f"under {model.config.max_positions:,}, the model's context")
    return stream(model, tokenizer, prompt, sampling, tokenizer.stop_ids)


def say(pieces: Iterator[str], until_interrupted: bool = False) -> str:
    """Print pieces as they come; returns the whole, or what there was of it when Ctrl-C stopped it."""
    whole: list[str] = []
    try:
        for piece in pieces:
            whole.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        if not until_interrupted:
            raise
    sys.stdout.write("\n")
    sys.stdout.flush()
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
    say(answer(model, tokenizer, ids, sampling))


def opening(system: str) -> list[Message]:
    """The system message, where there is one."""
    return [{"role": "system", "content": system}] if system else []


@dataclass
class Conversation:
    """What was said, and how it goes on. A command's method takes what stands behind its name and returns what to reply."""

    model: Transformer | Compiling
    tokenizer: Tokenizer
    sampling: Sampling
    system: str = ""
    turns: list[Message] = field(default_factory=list)

    def take(self, line: str) -> None:
        """Do what a line asks for. Raises OpenherdError, and is then as it was."""
        if line.startswith("/"):
            name, *rest = line.split(maxsplit=1)
            if name not in COMMANDS:
                do = "a space before it sends it to the model"
                raise InputError(name, "no command", allowed=", ".join(COMMANDS), do=do)
            sys.stdout.write(COMMANDS[name].method(self, "".join(rest).strip()))
        elif line.strip():
            self.ask(line.strip())

    def ask(self, question: str) -> None:
        """Print the answer to a question. The oldest turns are not read where the conversation outgrows the model's context."""
        turns: list[Message] = [*self.turns, {"role": "user", "content": question}]
        for first in range(0, len(turns), 2):
            prompt = encode_dialog(self.tokenizer, [*opening(self.system), *turns[first:]], generation_prompt=True).ids
            if len(prompt) + self.sampling.max_new_tokens <= self.model.config.max_positions:
                break
        if said := say(answer(self.model, self.tokenizer, prompt, self.sampling), until_interrupted=True):
            self.turns = [*turns, {"role": "assistant", "content": said}]

    def help(self, _: str) -> str:
        """The table of commands."""
        rows = [f"{name + ' ' + command.takes:<18}{command.summary}\n" for name, command in COMMANDS.items()]
        return "".join([*rows, "Ctrl-C stops an answer; what there is of it stays. Every other line is a question.\n"])

    def set_system(self, text: str) -> str:
        """Show, set or clear the system message."""
        if text:
            self.system = "" if text == "-" else text
        return f"system message: {self.system or 'none'}\n"

    def set_temperature(self, text: str) -> str:
        """Show or set the temperature. Raises ConfigError."""
        if text:
            try:
                self.sampling = replace(self.sampling, temperature=float(text))
            except ValueError:
                raise ConfigError("temperature", repr(text), allowed="a number; 0 takes the likeliest token") from None
        return f"temperature: {self.sampling.temperature:g}\n"

    def save(self, text: str, overwrite: bool = False) -> str:
        """Write the conversation as a line that finetuning reads. Raises InputError."""
        path = Path(os.path.expanduser(text))
        if not text:
            raise InputError("/save", "no file", do="give one: /save chat.jsonl")
        if not self.turns:
            raise InputError("/save", "nothing was said yet")
        if path.exists() and not overwrite:
            raise InputError(path, "exists already", do="another name, or /save! to overwrite it")
        try:
            write_jsonl(path, [{"messages": [*opening(self.system), *self.turns]}])
        except (OSError, ValueError) as error:
            raise InputError(path, f"cannot be written ({getattr(error, 'strerror', error)})") from None
        return f"{path}: {len(self.turns)} messages{' and the system message' if self.system else ''}\n"

    def overwrite(self, text: str) -> str:
        """The same, over a file that exists."""
        return self.save(text, overwrite=True)

    def forget(self, _: str) -> str:
        """Begin again, with the system message and temperature that there are."""
        self.turns = []
        return ""

    def leave(self, _: str) -> str:
        """End the chat."""
        raise EOFError


@dataclass(frozen=True)
class Command:
    """What a slash and a name do."""

    takes: str
    summary: str
    method: Callable[[Conversation, str], str]


COMMANDS = {
    "/help": Command("", "this list", Conversation.help),
    "/system": Command("TEXT", "the system message from here on; - for none; without TEXT: show it", Conversation.set_system),
    "/temperature": Command("X", "from here on; 0 takes the likeliest token; without X: show it", Conversation.set_temperature),
    "/save": Command("FILE", "write the conversation, as JSON Lines that finetuning and the page read", Conversation.save),
    "/save!": Command("FILE", "the same, over a file that exists", Conversation.overwrite),
    "/new": Command("", "forget what was said", Conversation.forget),
    "/quit": Command("", "leave, as Ctrl-D does", Conversation.leave),
}


def chat(directory: Path, sampling: Sampling, system: str, example: str = "", weights: str = "auto", device: str = "auto") -> None:
    """Read lines and answer them until the end of input or Ctrl-C at the prompt. `example` is a question to begin with."""
    conversation = Conversation(open_model(directory, weights, device), Tokenizer.load(directory), sampling, system)
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):  # `input` then edits lines and knows those before
            import readline  # noqa: F401
        sys.stdout.write(f"Ask something{f', such as: {example}' if example else '.'}\n/help lists the commands.\n")
    try:
        while True:
            try:
                conversation.take(input("> " if interactive else ""))
            except OpenherdError as error:
                sys.stderr.write(f"{error}\n")
    except (EOFError, KeyboardInterrupt):
        if interactive:
            sys.stdout.write("\n")
    except UnicodeDecodeError:
        raise InputError("standard input", "not UTF-8") from None
