"""What stands between a connection and the endpoints: hosts, keys, sizes, headers, counts, and who has left.

A request's body is read here as a whole, within a size and a time, so that what comes behind it never waits for a client.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from typing import Any, TypeVar

import h11
from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from openherd.serving.metrics import Counters
from openherd.serving.protocol import RequestError, error_object

T = TypeVar("T")
logger = logging.getLogger(__name__)
HEAD_S = 20.0  # for a request's head to arrive in
BODY_S = 60.0  # for its body
MOST_CONNECTIONS = 512  # beyond, they are closed at once
SMALL_BYTES = 64 << 10  # of bodies that are read always
LARGE_BYTES = 64 << 20  # of larger ones that are being read, together
CLOSED = 499  # a status that nobody reads: the client has left
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The outcome of some work, which is cancelled where the client leaves before. Raises ClientLeftError."""

    async def leaves() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(leaves())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeftError
        return task.result()
    finally:
        for other in (task, watch):
            other.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


def bug(error: Exception) -> RequestError:
    """What a client is told of an error of ours."""
    return RequestError(500, f"a bug of the server's ({type(error).__name__}); its log says more")


def error_response(error: HTTPException) -> Response:
    """An error as OpenAI's clients read it."""
    refused = error if isinstance(error, RequestError) else RequestError(error.status_code, str(error.detail))
    content = json.dumps(error_object(refused.status_code, refused.message, refused.param, refused.code))
    return Response(content, refused.status_code, dict(error.headers or {}), "application/json")


class EventStream(Response):
    """Server-sent events, each as soon as it is there."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], end: Callable[[], None]) -> None:
        """`end` is called when nothing more is sent, for whatever reason."""
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._end = events, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them until the client leaves."""

        async def write() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in self._events:
                await send({"type": "http.response.body", "body": b"data: " + event + b"\n\n", "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await while_connected(receive, write())
        finally:
            self._end()


class Connection(H11Protocol):
    """uvicorn's, with an end to waiting: it has none for heads, nor for the rest of a body that is refused."""

    _awaited_s = 0.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, where there are not too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in a part of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        self._watch()

    def cut(self) -> None:
        """End at once where an answer is not sent to its end."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()

    def _watch(self) -> None:
        state = None if self.transport.is_closing() else self.conn.their_state
        # Longer than the Gate waits for a body: it answers.
        awaited_s = HEAD_S if state is h11.IDLE else BODY_S + 5 if state is h11.SEND_BODY else 0.0
        if awaited_s != self._awaited_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_later(awaited_s, self.transport.abort) if awaited_s else None
            self._awaited_s = awaited_s


class Gate:
    """The outermost part of the application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        requests: Counters,
        keys: Collection[str],
        hosts: Collection[str],
        paths: Collection[str],
        posts: Collection[str],
        max_body: int,
    ) -> None:
        """`keys`: one of which a request to /v1 must have, none where there are none. `hosts`: by which names the server may be
        called, any where there are none. `paths`: that are counted by name. `posts`: that take a body, of `max_body` bytes."""
        self.app, self.requests, self.hosts = app, requests, hosts
        self.paths, self.posts, self.max_body = paths, posts, max_body
        self.n_large = 0  # bytes of large bodies that are being read
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks websocket
            await send({"type": "websocket.close", "code": 1000})
            return
        scope = in_origin_form(scope)
        path = scope["path"] if scope["path"] in self.paths else "other"
        counted = False

        def count(status: int) -> None:
            nonlocal counted
            if not counted:
                self.requests.add(path=path, status=str(status))
            counted = True

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers[name] = value
                if path == "other":
                    headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        try:
            self._check(Headers(scope=scope), scope)
            has_body = scope["method"] == "POST" and path in self.posts
            body = await self._read(Headers(scope=scope), receive) if has_body else None
            await self.app(scope, receive if body is None else once(body, receive), answer)
        except RequestError as error:
            await error_response(error)(scope, receive, answer)
        except ClientLeftError:
            count(CLOSED)
        except Exception as error:  # a bug of ours
            logger.exception("%s %s", scope["method"], path)
            if counted:  # the answer has begun: all that is left is to cut it
                raise
            await error_response(bug(error))(scope, receive, answer)

    def _check(self, headers: Headers, scope: Scope) -> None:
        """Raises RequestError where a request may not come in."""
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if self.hosts and name.strip("[]").lower() not in self.hosts:
            raise RequestError(403, f"host: {host[:80]!r}; allowed: {', '.join(self.hosts)}; --allowed-host adds a name", "host")
        if "content-length" in headers and "transfer-encoding" in headers:
            # Two lengths smuggle a request past a proxy (RFC 9112 6.1).
            said = "content-length; allowed: without transfer-encoding"
            raise RequestError(400, said, "content-length", headers={"Connection": "close"})
        if self.digests and scope["path"].startswith("/v1/") and scope["method"] != "OPTIONS":
            scheme, _, key = headers.get("authorization", "").partition(" ")
            digest = hashlib.sha256(key.strip().encode("latin-1")).digest()  # as its bytes came
            known = [hmac.compare_digest(digest, one) for one in self.digests]  # all of them, so that time says nothing
            if not any(known) or scheme.lower() != "bearer":
                raise RequestError(
                    401, "authorization: no valid key; send Authorization: Bearer KEY", "authorization", "invalid_api_key",
                    {"WWW-Authenticate": "Bearer"},
                )  # fmt: skip

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        """The body. Raises RequestError where it is too long, too slow, or no JSON by its own account."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestError(415, f"content-type: {kind[:80]!r}; allowed: application/json", "content-type")
        if (coding := headers.get("content-encoding", "identity").lower()) != "identity":
            raise RequestError(415, f"content-encoding: {coding[:80]!r}; allowed: none", "content-encoding")
        # The connection stays: one that is closed while the client still writes is reset, and the answer is lost with it.
        too_long = RequestError(413, f"body: over {self.max_body:,} bytes, the most that is read", "body", "request_too_large")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self.max_body:
            raise too_long
        body = bytearray()
        n_large = 0
        try:
            async with asyncio.timeout(BODY_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeftError
                    body += message.get("body", b"")
                    if len(body) > self.max_body:
                        raise too_long
                    if len(body) > SMALL_BYTES:
                        self.n_large += len(body) - n_large
                        n_large = len(body)
                        if self.n_large > max(LARGE_BYTES, self.max_body):
                            full = f"body: over {LARGE_BYTES >> 20} MiB of requests are being read; ask again later"
                            raise RequestError(503, full, headers={"Retry-After": "5"})
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise RequestError(408, f"body: not here after {BODY_S:g} s", "body", headers={"Connection": "close"}) from None
        finally:
            self.n_large -= n_large


def in_origin_form(scope: Scope) -> Scope:
    """A request whose target is a whole address, as for a proxy: the address says host and path (RFC 9112 3.2.2)."""
    scheme, is_absolute, rest = scope["path"].partition("://")
    if not is_absolute or scheme.lower() not in ("http", "https"):
        return scope
    authority, _, path = rest.partition("/")
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    return {**scope, "path": f"/{path}", "raw_path": f"/{path}".encode(), "headers": [*headers, (b"host", authority.encode())]}


def once(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, and then what else comes."""
    given = False

    def again() -> Awaitable[Message]:
        nonlocal given
        if given:
            return receive()
        given = True
        return asyncio.sleep(0, {"type": "http.request", "body": body, "more_body": False})

    return again
