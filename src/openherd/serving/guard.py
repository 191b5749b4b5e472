"""Where a guard stands: before the prompt, and on the answer before anybody sees it (paper 5.4.7).

An answer is judged in parts: nothing of it leaves the server before the part that holds it has passed. What does not pass is
dropped, the engine stops writing, and the client reads `finish_reason = "content_filter"`.
"""

from collections.abc import Sequence
from typing import Protocol

from openherd.tokenizer.dialog import Message


class Guard(Protocol):
    """Judges prompts and answers. Both methods run on the event loop: what takes long must be awaited."""

    part: int
    """Characters of an answer that are judged at once; more is slower to show and quicker to compute."""

    async def judge_prompt(self, messages: Sequence[Message]) -> str:
        """Why a dialog is refused; empty where it is not. A text to continue comes as one message of the user."""

    async def judge_answer(self, messages: Sequence[Message], answer: str, finished: bool) -> str:
        """Why an answer is refused, from its first character on; empty where it is not. `finished`: nothing more comes."""
