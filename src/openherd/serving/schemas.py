"""What an answer must keep to: the schema of `response_format`, or those of the tools of which one must be called.

A schema is a program of the client's, and llguidance's limits do not end every one: 29 patterns that must all match, 1.5 kB, kept a
core busy for over three minutes whatever they were set to. So a schema that is new is compiled first in a process that may take
`CHECK_S` and `CHECK_BYTES`; what passes is compiled here, on threads of its own, and kept for the next request.
"""

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from openherd.core.errors import InputError, OpenherdError
from openherd.inference.constraint import Constraint, json_grammar
from openherd.serving.protocol import ChatRequest, RequestError, ToolChoice
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.tools import Preamble

MOST_BYTES = 64_000  # of a schema
CHECK_S = 2  # of a processor, to compile a schema in
CHECK_BYTES = 1 << 30  # of address space
WAIT_S = 30.0  # for that process, where others use the processor too
KEPT = 32  # schemas that need not be compiled again
CHECK = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({CHECK_S}, {CHECK_S + 1}))
resource.setrlimit(resource.RLIMIT_AS, ({CHECK_BYTES}, {CHECK_BYTES}))
from llguidance import LLMatcher, LLTokenizer
LLMatcher(LLTokenizer("byte"), sys.stdin.read(), log_level=0).compute_logit_bias()
"""


def schema_of(request: ChatRequest, preamble: Preamble) -> tuple[str, dict[str, Any] | None]:
    """Which field asks for a schema, and the schema; None where the answer is free. Raises RequestError."""
    chosen = request.tool_choice
    if chosen in ("none", "auto"):
        if request.response_format is None or request.response_format.type == "text":
            return "", None
        asked = request.response_format.json_schema
        return "response_format", asked.schema_ if asked else {"type": "object"}
    wanted = [
        tool.function for tool in request.tools if not isinstance(chosen, ToolChoice) or tool.function.name == chosen.function.name
    ]
    if not wanted:
        names = ", ".join(tool.function.name for tool in request.tools)
        param = "tool_choice.function.name"
        raise RequestError(400, f"{param} = {chosen.function.name[:80]!r}; allowed: {names}", param)  # type: ignore[union-attr]
    if preamble.tool_format != "json":
        raise RequestError(400, "tool_choice; allowed: none or auto where the tool format is not json", "tool_choice")
    calls = [
        {
            "type": "object",
            "properties": {
                "type": {"const": "function"},
                "name": {"const": function.name},
                "parameters": {"$ref": f"#/$defs/{i}"},
            },
            "required": ["type", "name", "parameters"],
            "additionalProperties": False,
        }
        for i, function in enumerate(wanted)
    ]
    definitions = {str(i): {"type": "object", **moved(one.parameters, f"#/$defs/{i}")} for i, one in enumerate(wanted)}
    return "tool_choice", {"$defs": definitions, "anyOf": calls}


def moved(schema: Any, to: str) -> Any:
    """A schema that stands at `to` inside another: what refers to its own parts refers to them there."""
    if isinstance(schema, list):
        return [moved(item, to) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: to + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else value if key in ("const", "enum") else moved(value, to)
        for key, value in schema.items()
    }  # fmt: skip


@lru_cache(maxsize=KEPT)
def compiled(grammar: str, tokenizer: Tokenizer) -> Constraint:
    """The constraint of a grammar, at its beginning. Raises InputError."""
    try:
        # Its own interpreter and no fork of this one; -P: no module of the working directory's.
        done = subprocess.run(
            [sys.executable, "-P", "-c", CHECK], input=grammar.encode(), capture_output=True, timeout=WAIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode:
        raise InputError(
            "JSON schema", f"takes over {CHECK_S} s or {CHECK_BYTES >> 30} GiB to compile", do="ask for less in patterns"
        )
    return Constraint.compiled("JSON schema", grammar, tokenizer)


class Schemas:
    """Threads that schemas are compiled on, so that no other request waits for one."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, "schemas")

    def close(self) -> None:
        """End them."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def constraint(self, param: str, schema: dict[str, Any], tokenizer: Tokenizer) -> Constraint:
        """What keeps an answer to a schema. Raises RequestError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._constraint, schema, tokenizer)
        except (OpenherdError, RecursionError, UnicodeError) as error:
            raise RequestError(400, f"{param}: {error}", param) from None

    def _constraint(self, schema: dict[str, Any], tokenizer: Tokenizer) -> Constraint:
        text = json.dumps(schema, ensure_ascii=False)
        if (n := len(text.encode())) > MOST_BYTES:
            raise InputError("JSON schema", f"{n:,} bytes", allowed=f"{MOST_BYTES:,}")
        return compiled(json_grammar(text), tokenizer).copy()
