"""What tests of the chat page do and read there."""

import json
import re
from pathlib import Path

SOME_TEXT = re.compile(r"[\s\S]{20}")
LONG = {"sampling": {"temperature": "0", "max_tokens": "1500"}}


def rows_of(page, button: str) -> list[dict]:
    """What a button of the sidebar saves."""
    page.locator("#data").evaluate("details => details.open = true")
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return [json.loads(line) for line in Path(download.value.path()).read_text(encoding="utf-8").splitlines()]


def text_of(answer) -> str:
    """An answer as the page keeps it, whatever is drawn."""
    return answer.page.evaluate(
        "id => JSON.parse(localStorage[`openherd.conversation.${id}`]).exchanges.at(-1).sides[0].answers.at(-1).text",
        current(answer.page),
    )


def current(page) -> str:
    """Id of the conversation that is open, written out."""
    page.evaluate("dispatchEvent(new Event('pagehide'))")
    return page.evaluate("location.hash.slice(1)")


def answered_by(page, status: int = 200, body: str = "", **headers: str) -> None:
    """Have the next chat completions answered with this."""
    kind = "application/json" if body.startswith("{") else "text/event-stream"
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=status, body=body, headers={"Content-Type": kind, **headers})
    )


def stream_of(text: str, end: str = "data: [DONE]\n\n", reason: str = "stop") -> str:
    """A stream that says this."""
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}, 'finish_reason': reason}]})}\n\n{end}"
