"""Tools in Llama 3's chat format (paper 4.3.5; Meta's released formats): what a dialog is told of them, and calls to text and back.

A call of one's own function is written in one of three ways: `json` (Llama 3.1), `function` (tags, 3.1) and `python` (a list, from
3.2 on). Built-in tools are methods, `brave_search.call(query="...")`, and code is Python itself; both stand after
`<|python_tag|>`. The words that introduce the definitions are ours.
"""

import ast
import json
import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NotRequired, TypedDict, get_args

from openherd.core.errors import InputError

ToolFormat = Literal["json", "function", "python"]
CODE = "code_interpreter"  # the built-in tool that runs Python
IDENTIFIER = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
TAG = re.compile(r"<function=([^<>\s]+)>(.*)</function>", re.DOTALL)

INSTRUCTIONS: dict[str, str] = {
    "json": "You can call the functions below. To call one, answer with nothing but a JSON object:\n"
    '{"type": "function", "name": the name, "parameters": {an argument: its value}}',
    "function": "You can call the functions below. To call one, end your answer with its name and a JSON object of arguments:\n"
    '<function=the name>{an argument: its value}</function>',
    "python": "You can call the functions below. To call some of them, answer with nothing but a Python list:\n"
    "[a_name(an_argument=value), another_name()]",
}  # fmt: skip


class Function(TypedDict):
    """The function that a call names, and its arguments."""

    name: str
    arguments: dict[str, Any]


class ToolCall(TypedDict):
    """One call, as in OpenAI's and transformers' messages."""

    type: Literal["function"]
    function: Function
    id: NotRequired[str]


def is_list_of(value: object, kind: type) -> bool:
    """Whether a value is a list of things of one kind; None is an empty one, a text is none."""
    return value is None or (isinstance(value, list | tuple) and all(isinstance(item, kind) for item in value))


@dataclass(frozen=True, kw_only=True)
class Preamble:
    """What a dialog is told before it begins, beside its own messages. The fields are the chat template's variables too."""

    tools: Sequence[Mapping[str, Any]] | None = None
    """Definitions of functions, as JSON schema."""
    tool_format: ToolFormat = "json"
    tools_in_user_message: bool = True
    """Whether definitions stand before the first user's message or in the system's."""
    tool_instructions: str = ""
    """Words before the definitions, instead of ours."""
    builtin_tools: Sequence[str] | None = None
    """Names; given, though empty, the environment runs code, and a call ends with `<|eom_id|>`."""
    knowledge_date: str = ""
    """As in "December 2023"."""
    date_string: str = ""
    """Today's, as in "23 July 2024"."""

    def __post_init__(self) -> None:
        if self.tool_format not in get_args(ToolFormat):
            raise InputError("tool_format", f"{self.tool_format!r}", allowed=", ".join(get_args(ToolFormat)))
        if not is_list_of(self.tools, Mapping):
            raise InputError("tools", f"{type(self.tools).__name__}", allowed="a list of definitions, each an object")
        if not is_list_of(self.builtin_tools, str):
            raise InputError("builtin_tools", f"{self.builtin_tools!r}", allowed="a list of names")

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Preamble":
        """That of a row of dialogs: `tools`, and the rest in `chat_template_kwargs`, as TRL has them. Raises InputError."""
        given = {"tools": row.get("tools"), **(row.get("chat_template_kwargs") or {})}
        known = [field.name for field in fields(cls)]
        if unknown := sorted(given.keys() - set(known)):
            raise InputError("chat_template_kwargs", f"unknown {unknown[0]!r}", allowed=", ".join(known))
        return cls(**given)

    @property
    def definitions(self) -> str:
        """The words about tools and each definition, indented JSON, an empty line between; empty without tools."""
        if not self.tools:
            return ""
        words = self.tool_instructions or INSTRUCTIONS[self.tool_format]
        return "\n\n".join([words, *(json.dumps(tool, ensure_ascii=False, indent=4) for tool in self.tools)])

    @property
    def system_lines(self) -> str:
        """What the system's message begins with."""
        blocks = []
        if self.builtin_tools is not None:
            named = ", ".join(name for name in self.builtin_tools if name != CODE)
            blocks.append("Environment: ipython" + (f"\nTools: {named}" if named else ""))
        cutting = f"Cutting Knowledge Date: {self.knowledge_date}" if self.knowledge_date else ""
        today = f"Today Date: {self.date_string}" if self.date_string else ""
        blocks.append("\n".join(line for line in (cutting, today) if line))
        blocks.append("" if self.tools_in_user_message else self.definitions)
        return "\n\n".join(block for block in blocks if block)


@dataclass(frozen=True)
class CallText:
    """Calls as text; `tagged`: after `<|python_tag|>`; `more`: the turn goes on, as the environment answers."""

    text: str
    tagged: bool
    more: bool


def literal(value: Any) -> str:
    """A JSON value as Python spells it."""
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return as_json(value)


def as_json(value: Any) -> str:
    """A value as JSON that UTF-8 can hold: half of a surrogate pair, which JSON's escapes can spell, stays escaped. Raises
    ValueError for numbers that are none."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return json.dumps(value) if any("\ud800" <= c <= "\udfff" for c in text) else text


def from_json(text: str) -> Any:
    """A JSON text's value. Raises ValueError, also for NaN and numbers that overflow, which Python reads and no other client."""
    value = json.loads(text)
    json.dumps(value, allow_nan=False)
    return value


def write_calls(where: str, calls: Sequence[ToolCall], preamble: Preamble) -> CallText:
    """The calls of one message. Raises InputError where the format cannot hold them."""
    wanted = [function_of(where, call) for call in calls]
    python = preamble.tool_format == "python"
    built_in = [name for name, _ in wanted if preamble.builtin_tools is not None and name in (CODE, *preamble.builtin_tools)]
    if len(wanted) > 1 and (built_in or not python):
        do = "one message for each, or tool_format = python"
        raise InputError(
            where, f"{len(wanted)} calls", allowed="one call of a built-in tool, or in the formats json and function", do=do
        )
    name, arguments = wanted[0]
    if name == CODE and built_in:
        if list(arguments) != ["code"] or not isinstance(arguments["code"], str):
            raise InputError(where, f"{CODE} called with {', '.join(arguments) or 'nothing'}", allowed="code, a text")
        return CallText(arguments["code"], tagged=True, more=True)
    if built_in or python:
        for called, given in wanted:
            if wrong := [n for n in (called, *given) if not is_name(n)]:
                raise InputError(where, f"{wrong[0]!r} in a call", allowed="names as Python has them, in this format")
    if built_in:
        return CallText(f"{name}.call({keywords(arguments)})", tagged=True, more=True)
    if python:
        return CallText(f"[{', '.join(f'{called}({keywords(given)})' for called, given in wanted)}]", tagged=False, more=False)
    written = as_json(arguments)
    if preamble.tool_format == "function":
        if not re.fullmatch(r"[^<>\s]+", name):
            raise InputError(where, f"{name!r} in a call", allowed="a name without spaces, < and >, in this format")
        return CallText(f"<function={name}>{written}</function>", tagged=False, more=False)
    named = json.dumps(name, ensure_ascii=False)
    text = f'{{"type": "function", "name": {named}, "parameters": {written}}}'
    return CallText(text, tagged=True, more=preamble.builtin_tools is not None)


def is_name(text: str) -> bool:
    """Whether Python takes it for a name, dotted or not."""
    return IDENTIFIER.fullmatch(text) is not None and not any(map(keyword.iskeyword, text.split(".")))


def keywords(arguments: Mapping[str, Any]) -> str:
    """Arguments as in a call."""
    return ", ".join(f"{name}={literal(value)}" for name, value in arguments.items())


def function_of(where: str, call: ToolCall) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a call; arguments may be a JSON text, as OpenAI writes them. Raises InputError."""
    try:
        name, arguments = call["function"]["name"], call["function"].get("arguments") or {}
        found: Any = json.loads(arguments) if isinstance(arguments, str) else arguments
        json.dumps(found, allow_nan=False)
        if not isinstance(name, str) or not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise TypeError
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        allowed = '{"type": "function", "function": {"name": ..., "arguments": {...}}} of JSON values'
        raise InputError(where, "no tool call", allowed=allowed) from None
    return name, found


def call(name: str, arguments: dict[str, Any]) -> ToolCall:
    """A call as messages have it."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def read_tagged(text: str) -> ToolCall:
    """The call that stands after `<|python_tag|>`: JSON, a built-in tool, or else code."""
    try:
        found = from_json(text)
        if isinstance(found, dict) and isinstance(found.get("name"), str) and isinstance(found.get("parameters"), dict):
            return call(found["name"], found["parameters"])
    except (ValueError, RecursionError):
        pass
    match read_python(text):
        case [(name, arguments)] if name.endswith(".call"):
            return call(name.removesuffix(".call"), arguments)
    return call(CODE, {"code": text})


def read_calls(text: str, tool_format: ToolFormat) -> tuple[str, list[ToolCall]]:
    """What an answer says and the calls it makes in the formats `function` and `python`; what does not parse is said."""
    if tool_format == "python":
        return ("", [call(*found) for found in calls]) if (calls := read_python(text, many=True)) else (text, [])
    if tool_format == "function" and (match := TAG.search(text)) and match.end() == len(text):
        try:
            if isinstance(arguments := from_json(match[2]), dict):
                return text[: match.start()], [call(match[1], arguments)]
        except (ValueError, RecursionError):
            pass
    return text, []


def read_python(text: str, many: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of a call, or of a list of them; empty for anything else. Nothing is run."""
    try:
        body = ast.parse(text, mode="eval").body
        nodes = body.elts if many and isinstance(body, ast.List) else [] if many else [body]
        found = []
        for node in nodes:
            if not isinstance(node, ast.Call) or node.args or not is_name(name := ast.unparse(node.func)):
                return []
            values = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords if word.arg is not None}
            if len(values) != len(node.keywords):
                return []
            found.append((name, json.loads(json.dumps(values, allow_nan=False))))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return []
    return found
