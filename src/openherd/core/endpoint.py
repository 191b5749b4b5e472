"""Any OpenAI-compatible endpoint, our own server too: one chat request, tried again where that can help. Standard library alone.

A request is tried again after a lost connection, a time-out, and the statuses that ask for it (408, 409, 425, 429, 5xx);
`Retry-After` is heeded. Anything else is an error at once: it would be one again.
"""

import contextlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from openherd.core.errors import InputError

AGAIN = (408, 409, 425, 429)
OF_ONE_REQUEST = (400, 413, 422)  # what is asked, and not who asks or where, is the matter: too long, above all
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """Where a language model answers."""

    url: Annotated[str, Field(description="address of the API, to /v1", min_length=1)] = "http://127.0.0.1:8000/v1"
    model: Annotated[str, Field(description="name of the model there", min_length=1)] = "default"
    api_key_file: Annotated[str, Field(description="file that holds the key alone; empty: none is sent")] = ""
    timeout_s: Annotated[float, Field(description="longest wait for one answer", gt=0)] = 120.0
    tries: Annotated[int, Field(description="tries of one request, the waits between doubling from 1 s", ge=1)] = 6
    concurrent: Annotated[int, Field(description="requests at once", ge=1)] = 8
    prompt_price: Annotated[float, Field(description="price of a million prompt tokens, in any currency", ge=0)] = 0.0
    completion_price: Annotated[float, Field(description="price of a million completion tokens", ge=0)] = 0.0


class RefusedError(InputError):
    """The endpoint refuses this one request; another may be answered."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class Endpoint:
    """A client of one endpoint; threads may share it."""

    def __init__(self, config: EndpointConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        """Reads the key. Raises InputError where its file is missing, or the address is none."""
        self.config, self.sleep = config, sleep
        if not config.url.startswith(("http://", "https://")):
            raise InputError("endpoint", f"url = {config.url!r}", allowed="an address that begins with http:// or https://")
        self.address = config.url.rstrip("/") + "/chat/completions"
        self.headers = {"Content-Type": "application/json"}
        if config.api_key_file:
            try:
                key = Path(config.api_key_file).expanduser().read_text(encoding="utf-8").strip()
            except OSError as error:
                raise InputError(config.api_key_file, f"no key can be read ({error.strerror})") from None
            self.headers["Authorization"] = f"Bearer {key}"

    def chat(self, messages: Sequence[Mapping[str, str]], **settings: Any) -> Answer:
        """The answer to a dialog; `settings` are fields of the request. Raises InputError where none can be had.

        RefusedError where the matter is this request.
        """
        body = json.dumps({"model": self.config.model, "messages": list(messages), **settings}).encode()
        wait_s = 1.0
        for left in reversed(range(self.config.tries)):
            request = urllib.request.Request(self.address, body, self.headers, method="POST")
            try:
                with urllib.request.urlopen(request, timeout=self.config.timeout_s) as response:
                    return self._answer(response.read())
            except urllib.error.HTTPError as error:
                with error:
                    found = f"status {error.code}: {said(error.read())}"
                if not (error.code in AGAIN or error.code >= 500):
                    kind = RefusedError if error.code in OF_ONE_REQUEST else InputError
                    raise kind(self.address, found, do="mend the settings of the endpoint") from None
                asked = error.headers.get("Retry-After", "")
                pause_s = float(asked) if asked.replace(".", "", 1).isdigit() else wait_s
            except (OSError, http.client.HTTPException) as error:  # a time-out and a refused connection among them
                found, pause_s = f"no answer ({getattr(error, 'reason', None) or error or type(error).__name__})", wait_s
            if left:
                self.sleep(min(pause_s, LONGEST_WAIT_S))
                wait_s *= 2
        raise InputError(self.address, f"{found}, tried {self.config.tries} times", do="the same command goes on from there")

    def _answer(self, data: bytes) -> Answer:
        try:
            found = json.loads(data)
            text = found["choices"][0]["message"].get("content") or ""
            usage = found.get("usage") or {}
            return Answer(str(text), int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise InputError(self.address, f"no chat completion ({error!r})", allowed="an OpenAI-compatible endpoint") from None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What tokens cost, in the currency of the prices."""
        return (prompt_tokens * self.config.prompt_price + completion_tokens * self.config.completion_price) / 1e6


def said(data: bytes) -> str:
    """What an error's body says, on one line."""
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["error"]["message"])
    return " ".join(text.split())[:200] or "nothing"
