"""Llama 3's chat format (paper 4.1.1; Meta's released format): messages to token ids and a loss mask, and back.

`<|begin_of_text|>`, then for each message a header with its role, two line ends, the content without surrounding space, and
`<|eot_id|>`. The loss of finetuning is on the assistant's content and its end-of-turn token only. Content is always ordinary
text.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from openherd.core.errors import InputError
from openherd.tokenizer.special import BEGIN_OF_TEXT, END_HEADER, END_OF_TURN, START_HEADER
from openherd.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from rich.text import Text

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "ipython": "ipython", "tool": "ipython"}

# One template for transformers, vLLM and llama.cpp; tests hold it equal to `encode_dialog`.
CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- set role = 'ipython' if message.role == 'tool' else message.role %}"
    "{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)


# Control characters as pictures: a terminal must not obey a dialog.
VISIBLE: dict[int, int | str] = {**{c: 0x2400 + c for c in range(32)}, **dict.fromkeys(range(0x7F, 0xA0), "\ufffd"), ord("\n"): "⏎"}


class Message(TypedDict):
    """One message of a dialog."""

    role: str
    content: str


@dataclass(frozen=True)
class Encoded:
    """A dialog as token ids; `has_loss` marks the tokens that finetuning learns to say."""

    ids: list[int]
    has_loss: list[bool]


def _header(tokenizer: Tokenizer, role: str) -> list[int]:
    return [tokenizer.id(START_HEADER), *tokenizer.encode(role), tokenizer.id(END_HEADER), *tokenizer.encode("\n\n")]


def encode_dialog(tokenizer: Tokenizer, messages: Sequence[Message], *, generation_prompt: bool = False) -> Encoded:
    """Token ids and loss mask; `generation_prompt` opens the assistant's next turn. Raises InputError for an unknown role."""
    ids, has_loss = [tokenizer.bos_id], [False]
    for i, message in enumerate(messages):
        if message["role"] not in ROLES:
            raise InputError(f"message {i}", f"role {message['role']!r}", allowed=", ".join(ROLES))
        header = _header(tokenizer, ROLES[message["role"]])
        body = [*tokenizer.encode(message["content"].strip()), tokenizer.id(END_OF_TURN)]
        ids += header + body
        has_loss += [False] * len(header) + [message["role"] == "assistant"] * len(body)
    if generation_prompt:
        header = _header(tokenizer, "assistant")
        ids += header
        has_loss += [False] * len(header)
    return Encoded(ids, has_loss)


def decode_dialog(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Message]:
    """The messages of a dialog's token ids, content stripped, tools as 'ipython'. Raises InputError where they are no dialog."""
    start, end, turn = (tokenizer.id(t) for t in (START_HEADER, END_HEADER, END_OF_TURN))
    if not ids or ids[0] != tokenizer.bos_id:
        raise InputError("dialog", f"does not begin with {BEGIN_OF_TEXT}")
    messages: list[Message] = []
    at = 1
    while at < len(ids):
        try:
            header_end = ids.index(end, at)
            turn_end = ids.index(turn, header_end)
        except ValueError:
            raise InputError("dialog", f"message {len(messages)} has no end") from None
        if ids[at] != start:
            raise InputError("dialog", f"message {len(messages)} has no header")
        role, content = tokenizer.decode(ids[at + 1 : header_end]), ids[header_end + 1 : turn_end]
        if role not in ROLES:
            raise InputError("dialog", f"message {len(messages)} has role {role!r}", allowed=", ".join(ROLES))
        if special := [i for i in content if i in tokenizer.special_ids]:
            raise InputError("dialog", f"message {len(messages)} holds {tokenizer.decode(special[:1])}", allowed="text")
        messages.append({"role": role, "content": tokenizer.decode(content).removeprefix("\n\n")})
        at = turn_end + 1
    return messages


def render_mask(tokenizer: Tokenizer, dialog: Encoded, *, brackets: bool = False) -> "Text":
    """A dialog's tokens; those with loss are green and underlined, or in ‹ › with `brackets`; special tokens dim, line ends as ⏎.

    A character that several tokens spell stands with the last of them.
    """
    from rich.text import Text

    text = Text()
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for i, has_loss in zip(dialog.ids, dialog.has_loss, strict=True):
        style = "bold green underline" if has_loss else "dim" if i in tokenizer.special_ids else ""
        shown = decoder.decode(tokenizer.decode_bytes([i])).translate(VISIBLE)
        text.append(f"‹{shown}›" if has_loss and brackets and shown else shown, style=style)
        if i == tokenizer.id(END_OF_TURN):
            text.append("\n")
    return text
