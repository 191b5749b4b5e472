"""Commands that answer with a model: chat, generate, serve."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from openherd.cli.arguments import Parser, model_directory
from openherd.core.errors import ConfigError


def command_chat(arguments: list[str]) -> None:
    """`openherd chat`"""
    about = "Talk to the model of a run; answers stream. Ctrl-C stops one. /help in the conversation lists its commands."
    parser = Parser(prog="openherd chat", description=about)
    generation_arguments(parser)
    given = parser.parse_args(arguments)
    from openherd.core.errors import InputError
    from openherd.inference.chat import chat
    from openherd.report.terminal import example_question
    from openherd.runner import open_stage

    directory = model_directory(given.directory)
    try:
        example = example_question(open_stage(given.directory, "dialogs"))
    except InputError:  # a model directory, or a run that made no dialogs
        example = ""
    chat(directory, sampling_of(given), given.system, example, given.weights, given.device)


def command_generate(arguments: list[str]) -> None:
    """`openherd generate`"""
    parser = Parser(prog="openherd generate", description="Answer one prompt, or continue one text with --text.")
    generation_arguments(parser)
    parser.add_argument("prompt", help="the prompt; '-' reads standard input")
    parser.add_argument("--text", action="store_true", help="continue the text itself, without a chat")
    given = parser.parse_args(arguments)
    from openherd.inference.chat import generate_one

    prompt = sys.stdin.read() if given.prompt == "-" else given.prompt
    generate_one(
        model_directory(given.directory), prompt, sampling_of(given), given.system, given.text, given.weights, given.device
    )


def command_serve(arguments: list[str]) -> None:
    """`openherd serve`"""
    parser = Parser(
        prog="openherd serve", description="Answer by HTTP: OpenAI's endpoints under /v1, a page to chat on at /, /metrics."
    )
    what = "a run, a stage's run directory, or a model directory"
    parser.add_argument("directory", type=Path, metavar="DIR", help=f"{what}; its name is the model's")
    parser.add_argument("--name", default="", help="another name for it")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=DIR", help="serve this one too; may be given again")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8_000, help="0: any that is free (default 8000)")
    parser.add_argument("--api-key", action="append", default=[], metavar="KEY", help="ask for a key under /v1; may be given again")
    parser.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME", help="a name the server is called by, behind a proxy for one"
    )
    parser.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help="pages of this origin may call it too")
    parser.add_argument("--max-queue", type=int, default=256, metavar="N", help="answers that may wait their turn (default 256)")
    parser.add_argument("--max-tokens", type=int, default=0, metavar="N", help="of an answer (default 0: what the context holds)")
    parser.add_argument("--max-body-mb", type=float, default=4.0, metavar="MB", help="of a request (default 4)")
    parser.add_argument("--grace", type=float, default=30.0, metavar="S", help="seconds to finish in at the end (default 30)")
    parser.add_argument("--cache-gb", type=float, default=1.0, metavar="GIB", help="keys and values of each model (default 1)")
    parser.add_argument(
        "--tool-format", default="json", choices=("json", "function", "python"), help="how the model writes calls (default json)"
    )
    parser.add_argument("--deterministic", action="store_true", help="an answer does not depend on what else is asked; slower")
    loading_arguments(parser)
    given = parser.parse_args(arguments)
    limits = {"max-queue": 0, "max-tokens": 0, "grace": 0, "cache-gb": 0, "max-body-mb": 0.001}
    for name, least in limits.items():
        if not least <= (value := getattr(given, name.replace("-", "_"))) < 1e9:
            raise ConfigError(f"--{name}", f"{value:g}", allowed=f"{least:g} or more")
    texts = {"name": [given.name or "x"], "host": [given.host], "api-key": given.api_key, "allowed-host": given.allowed_host}
    for name, values in texts.items():
        for value in values:
            if not value.strip() or not value.isprintable():
                raise ConfigError(f"--{name}", f"{value!r}", allowed="a text in one line, not empty")
    for origin in given.cors:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
            raise ConfigError("--cors", f"{origin!r}", allowed="SCHEME://HOST[:PORT] without a path, or * for all")
    directories = {given.name or given.directory.resolve().name: given.directory}
    for pair in given.model:
        name, equals, directory = pair.partition("=")
        if not equals or not name.strip() or not name.isprintable() or name in directories:
            raise ConfigError("--model", f"{pair!r}", allowed="NAME=DIR, each name once")
        directories[name] = Path(directory)
    from openherd.serving.served import Served
    from openherd.serving.server import serve
    from openherd.serving.service import ServerConfig

    config = ServerConfig(
        host=given.host,
        port=given.port,
        api_keys=tuple(given.api_key),
        origins=tuple(given.cors),
        allowed_hosts=tuple(given.allowed_host),
        max_queue=given.max_queue,
        max_tokens=given.max_tokens,
        max_body_bytes=int(given.max_body_mb * 1e6),
        grace_s=given.grace,
        tool_format=given.tool_format,
    )
    more = {"weights": given.weights, "device": given.device, "deterministic": given.deterministic}
    paths = {name: model_directory(directory) for name, directory in directories.items()}
    serve([Served.load(name, path, cache_bytes=int(given.cache_gb * 2**30), **more) for name, path in paths.items()], config)


def generation_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of chat and generate."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run, a stage's run directory, or a model directory")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, metavar="N", help="choose among the N likeliest tokens; 0: all (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="among the fewest that have this probability together")
    parser.add_argument("--min-p", type=float, default=0.0, help="among those with this share of the likeliest one's probability")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="over 1 makes tokens that were there unlikelier")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--system", default="", help="a system message")
    loading_arguments(parser)


def loading_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of everything that opens a model to answer with."""
    parser.add_argument("--weights", default="auto", metavar="TYPE", help="auto (the faster one here), float32, bfloat16, int8")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, mps")


def sampling_of(given: argparse.Namespace) -> Any:
    """The sampling that the arguments ask for. Raises ConfigError."""
    from openherd.inference.sampling import Sampling

    if given.max_new_tokens < 1:
        raise ConfigError("max-new-tokens", str(given.max_new_tokens), allowed="at least 1")
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    return Sampling(**{name: getattr(given, name) for name in names}, stop_strings=tuple(given.stop))
