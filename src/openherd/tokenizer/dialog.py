"""Llama 3's chat format (paper 4.1.1; Meta's released format): messages to token ids and a loss mask, and back.

`<|begin_of_text|>`, then for each message a header with its role, two line ends, the content without surrounding space, and
`<|eot_id|>`, or `<|eom_id|>` where the assistant goes on once its tool has answered. The loss of finetuning is on the assistant's
words, its calls, and the token that ends them. Content is always ordinary text; an image is a part of a content and one token.
`tools.py` has the formats of calls, `template.py` the same format for other programs.
"""

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict

from openherd.core.errors import InputError
from openherd.tokenizer.special import (
    BEGIN_OF_TEXT,
    END_HEADER,
    END_OF_MESSAGE,
    END_OF_TURN,
    IMAGE,
    PYTHON_TAG,
    START_HEADER,
)
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.tools import Preamble, ToolCall, ToolFormat, read_calls, read_tagged, write_calls

if TYPE_CHECKING:
    from rich.text import Text

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "ipython": "ipython", "tool": "ipython"}

# Control characters as pictures: a terminal must not obey a dialog.
VISIBLE: dict[int, int | str] = {**{c: 0x2400 + c for c in range(32)}, **dict.fromkeys(range(0x7F, 0xA0), "\ufffd"), ord("\n"): "⏎"}


class Part(TypedDict):
    """A part of a content: {"type": "text", "text": ...} or {"type": "image"}, whose pixels are another stage's."""

    type: str
    text: NotRequired[str]


class Message(TypedDict):
    """One message of a dialog, as in OpenAI's and transformers' messages; a tool may answer with a JSON object."""

    role: str
    content: str | Sequence[Part] | Mapping[str, Any] | None
    tool_calls: NotRequired[list[ToolCall]]


@dataclass(frozen=True)
class Encoded:
    """A dialog as token ids; `has_loss` marks the tokens that finetuning learns to say."""

    ids: list[int]
    has_loss: list[bool]


class Segment(NamedTuple):
    """Text, or the name of a special token."""

    text: str
    special: bool = False


def _ids(tokenizer: Tokenizer, segments: Sequence[Segment]) -> list[int]:
    """Token ids; neighbouring texts are encoded as one."""
    ids: list[int] = []
    for special, group in groupby(segments, lambda segment: segment.special):
        texts = [segment.text for segment in group]
        ids += map(tokenizer.id, texts) if special else tokenizer.encode("".join(texts))
    return ids


def _header(role: str) -> list[Segment]:
    return [Segment(START_HEADER, True), Segment(role), Segment(END_HEADER, True), Segment("\n\n")]


def _content(where: str, content: Any) -> list[Segment]:
    """A content without surrounding space. Raises InputError."""
    if isinstance(content, Mapping):
        try:
            content = json.dumps(content, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):
            raise InputError(where, "an object that is no JSON", allowed="a text, parts, or a JSON object") from None
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else [] if content is None else content
    segments = []
    try:
        for part in parts:
            if part["type"] not in ("text", "image"):
                raise InputError(where, f"a part of type {part['type']!r}", allowed="text, image")
            segments.append(Segment(IMAGE, True) if part["type"] == "image" else Segment(part["text"] + ""))
    except (KeyError, TypeError):
        allowed = 'a text, or a list of {"type": "text", "text": ...} and {"type": "image"}'
        raise InputError(where, "a content of neither text nor parts", allowed=allowed) from None
    return _stripped(segments)


def _stripped(segments: Sequence[Segment]) -> list[Segment]:
    first = next((i for i, s in enumerate(segments) if s.special or s.text.strip()), len(segments))
    kept = list(segments[first:])
    while kept and not kept[-1].special and not kept[-1].text.strip():
        kept.pop()
    if kept and not kept[0].special:
        kept[0] = Segment(kept[0].text.lstrip())
    if kept and not kept[-1].special:
        kept[-1] = Segment(kept[-1].text.rstrip())
    return kept


def _body(where: str, message: Message, preamble: Preamble, before: str) -> list[Segment]:
    """What follows a message's header, its end included."""
    said = _content(where, message.get("content"))
    segments = [Segment(before + ("\n\n" if said else "")), *said] if before else said
    calls = message.get("tool_calls")
    if not calls:
        return [*segments, Segment(END_OF_TURN, True)]
    if message["role"] != "assistant":
        raise InputError(where, f"calls by {message['role']!r}", allowed="calls by the assistant")
    written = write_calls(where, calls, preamble)
    if said and preamble.tool_format == "python" and not written.tagged:
        raise InputError(where, "words beside calls", allowed="calls alone, in the format python", do="two messages")
    if written.tagged:
        segments = [*segments, Segment(PYTHON_TAG, True)]
    return [*segments, Segment(written.text), Segment(END_OF_MESSAGE if written.more else END_OF_TURN, True)]


def encode_dialog(
    tokenizer: Tokenizer, messages: Sequence[Message], *, preamble: Preamble | None = None, generation_prompt: bool = False
) -> Encoded:
    """Token ids and loss mask; `generation_prompt` opens the assistant's next turn.

    Raises InputError for an unknown role, and for contents and calls that the format cannot hold.
    """
    preamble = preamble or Preamble()
    ids, has_loss = [tokenizer.bos_id], [False]

    def add(segments: Sequence[Segment], learned: bool = False) -> None:
        new = _ids(tokenizer, segments)
        ids.extend(new)
        has_loss.extend([learned] * len(new))

    system = preamble.system_lines
    waiting = preamble.definitions if preamble.tools_in_user_message else ""
    if system and not (messages and messages[0]["role"] == "system"):
        add([*_header("system"), Segment(system), Segment(END_OF_TURN, True)])
    for i, message in enumerate(messages):
        role = message["role"]
        if role not in ROLES:
            raise InputError(f"message {i}", f"role {role!r}", allowed=", ".join(ROLES))
        before = system if role == "system" and i == 0 else waiting if role == "user" else ""
        waiting = "" if role == "user" else waiting
        add(_header(ROLES[role]))
        add(_body(f"message {i}", message, preamble, before), role == "assistant")
    if waiting:
        raise InputError("dialog", "tools without a message of the user to put them in", do="tools_in_user_message = false")
    if generation_prompt:
        add(_header("assistant"))
    return Encoded(ids, has_loss)


def decode_dialog(tokenizer: Tokenizer, ids: Sequence[int], tool_format: ToolFormat = "json") -> list[Message]:
    """The messages of a dialog's token ids, content stripped, tools as 'ipython'. Raises InputError where they are no dialog.

    What a preamble put into a message stays there. Calls are read from `<|python_tag|>` on, and from text in the other formats
    where `tool_format` names one.
    """
    start, end = tokenizer.id(START_HEADER), tokenizer.id(END_HEADER)
    if not ids or ids[0] != tokenizer.bos_id:
        raise InputError("dialog", f"does not begin with {BEGIN_OF_TEXT}")
    messages: list[Message] = []
    at = 1
    while at < len(ids):
        where = f"message {len(messages)}"
        try:
            header_end = ids.index(end, at)
        except ValueError:
            raise InputError("dialog", f"{where} has no end") from None
        if ids[at] != start:
            raise InputError("dialog", f"{where} has no header")
        role = tokenizer.decode(ids[at + 1 : header_end])
        if role not in ROLES:
            raise InputError("dialog", f"{where} has role {role!r}", allowed=", ".join(ROLES))
        message_end = next((i for i in range(header_end, len(ids)) if ids[i] in tokenizer.message_ends), None)
        if message_end is None:
            raise InputError("dialog", f"{where} has no end")
        messages.append(read_message(tokenizer, ids[header_end + 1 : message_end], role, tool_format, where))
        at = message_end + 1
    return messages


def read_message(
    tokenizer: Tokenizer, ids: Sequence[int], role: str = "assistant", tool_format: ToolFormat = "json", where: str = "message"
) -> Message:
    """The message of the ids between a header and an end: what the assistant generated, for one. Raises InputError."""
    tagged: Sequence[int] | None = None
    tag = tokenizer.ids_of([PYTHON_TAG])
    if role == "assistant" and (at := next((i for i, token in enumerate(ids) if token in tag), None)) is not None:
        ids, tagged = ids[:at], ids[at + 1 :]
    image = tokenizer.ids_of([IMAGE])
    if other := [i for i in (*ids, *(tagged or ())) if i in tokenizer.special_ids and (i not in image or i in (tagged or ()))]:
        raise InputError("dialog", f"{where} holds {tokenizer.decode(other[:1])}", allowed="text")
    parts: list[Part] = []
    for is_image, group in groupby(ids, image.__contains__):
        some = list(group)
        parts += [{"type": "image"} for _ in some] if is_image else [{"type": "text", "text": tokenizer.decode(some)}]
    if parts and parts[0]["type"] == "text":
        parts[0]["text"] = parts[0]["text"].removeprefix("\n\n")
    parts = [part for part in parts if part["type"] == "image" or part["text"]]
    text = "".join(part.get("text", "") for part in parts)
    calls: list[ToolCall] = []
    if tagged is not None:
        calls = [read_tagged(tokenizer.decode(tagged))]
    elif role == "assistant":
        text, calls = read_calls(text, tool_format)
    has_image = any(part["type"] == "image" for part in parts)
    message: Message = {"role": role, "content": parts if has_image else text}
    if calls:
        message["tool_calls"] = calls
    return message


def render_mask(tokenizer: Tokenizer, dialog: Encoded, *, brackets: bool = False) -> "Text":
    """A dialog's tokens; those with loss are green and underlined, or in ‹ › with `brackets`; special tokens dim, line ends as ⏎.

    A character that several tokens spell stands with the last of them.
    """
    from rich.text import Text

    ends = tokenizer.message_ends
    text = Text()
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for i, has_loss in zip(dialog.ids, dialog.has_loss, strict=True):
        style = "bold green underline" if has_loss else "dim" if i in tokenizer.special_ids else ""
        shown = decoder.decode(tokenizer.decode_bytes([i])).translate(VISIBLE)
        text.append(f"‹{shown}›" if has_loss and brackets and shown else shown, style=style)
        if i in ends:
            text.append("\n")
    return text
