"""The server: OpenAI's endpoints over our engine, for one or more models, and the page.

`openherd serve DIR` begins here. Requests are checked and encoded on the event loop's side (`service`), answers are written on the
worker's thread; see `worker`, `answers` and `http`.
"""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from openherd import __version__
from openherd.core.errors import ConfigError
from openherd.serving.guard import Guard
from openherd.serving.http import LOOPBACK, Connection, Gate, error_response, is_loopback
from openherd.serving.metrics import Counters, exposition
from openherd.serving.protocol import Chat, ChatRequest, Completion, CompletionRequest, ErrorResponse, Model, ModelList, refusal_of
from openherd.serving.served import Served
from openherd.serving.service import ServerConfig, Service
from openherd.serving.worker import Ticket, Worker

PAGE = Path(__file__).with_name("page")
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/metrics", "/health", "/openapi.json", "/")
FLUSH_S = 1.0  # for what is written to be read, at the end


def create_app(models: Sequence[Served], config: ServerConfig, guard: Guard | None = None, page: Path = PAGE) -> FastAPI:
    """The application; its `state.service` has the worker."""
    worker = Worker({served.name: served.engine for served in models}, max_queue=config.max_queue)
    service = Service({served.name: served for served in models}, worker, config, guard)
    requests = Counters()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        service.schemas.close()
        await worker.stop()

    failed: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}}
    app = FastAPI(
        title="openherd",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=failed,
        redirect_slashes=False,
    )
    app.state.service = service

    @app.post("/v1/chat/completions", responses={200: {"model": Chat}})
    async def chat_completions(request: ChatRequest, http: Request) -> Response:
        """Answer a dialog."""
        return await service.answer(http, service.chat(request), request.stream)

    @app.post("/v1/completions", responses={200: {"model": Completion}})
    async def completions(request: CompletionRequest, http: Request) -> Response:
        """Continue texts."""
        return await service.answer(http, service.completion(request), request.stream)

    @app.get("/v1/models", responses={200: {"model": ModelList}})
    async def list_models() -> Response:
        """The models that can be asked for."""
        listed = ModelList(object="list", data=[served.listed() for served in models])
        return Response(listed.json_bytes(), media_type="application/json")

    @app.get("/v1/models/{model:path}", responses={200: {"model": Model}})
    async def retrieve_model(model: str) -> Response:
        """One of them."""
        return Response(service.served(model).listed().json_bytes(), media_type="application/json")

    @app.get("/health")
    async def health() -> PlainTextResponse:
        """200 while it takes requests, 503 while it shuts down."""
        is_well = worker.alive and not worker.draining
        return PlainTextResponse("ok\n" if is_well else "shutting down\n", 200 if is_well else 503)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Numbers for Prometheus."""
        text = exposition(requests, worker.metrics, worker.gauges())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    @app.exception_handler(RequestValidationError)
    async def invalid(http: Request, error: RequestValidationError) -> Response:
        asked = ChatRequest if http.url.path == "/v1/chat/completions" else CompletionRequest
        return error_response(refusal_of(error.errors(), error.body, asked.model_fields))

    @app.exception_handler(StarletteHTTPException)
    async def refused(http: Request, error: HTTPException) -> Response:
        return error_response(error)

    if page.is_dir():
        files = StaticFiles(directory=page, html=True)

        async def elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
            """What is no endpoint: a file of the page, or nothing."""
            is_read = scope["method"] in ("GET", "HEAD") or scope["path"] == "/"
            if not is_read:
                raise HTTPException(404)
            await files(scope, receive, send)

        app.router.default = elsewhere  # behind all endpoints, whose other methods are refused as such
    own = {*LOOPBACK, config.host} if is_loopback(config.host) else {*LOOPBACK}
    hosts = sorted(own | {*config.allowed_hosts}) if is_loopback(config.host) or config.allowed_hosts else ()
    app.add_middleware(
        Gate,
        requests=requests,
        keys=config.api_keys,
        hosts=hosts,
        paths=ENDPOINTS,
        posts=ENDPOINTS[:2],
        max_body=config.max_body_bytes,
    )
    if config.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client in a page sends a dozen of its own
            expose_headers=["Retry-After"],
        )
    return app


class Server(uvicorn.Server):
    """uvicorn, which ends in our way: first what is being written, then the connections."""

    def __init__(self, app: FastAPI, config: ServerConfig, say: Callable[[str], object]) -> None:
        # The requests' own end comes before uvicorn's, which cuts connections.
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=5,
                lifespan="on",
                ws="none",
            )
        )
        self._worker: Worker = app.state.service.worker
        self._grace_s, self._say = config.grace_s, say
        self._ending: asyncio.Task[None] | None = None
        self._failed: set[Ticket] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Ours: uvicorn's would raise them again at the end."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(RuntimeError, ValueError):  # in another than the main thread a test calls `end` itself
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.end)
        yield

    def end(self) -> None:
        """Finish what is being written, for some seconds, and end; asked a second time, drop it."""
        if self._ending and not self.should_exit:
            self._ending.cancel()
            self._grace_s = 0.0
        if not self.should_exit:
            self._ending = asyncio.get_running_loop().create_task(self._end(self._grace_s))

    async def _end(self, grace_s: float) -> None:
        n = len(self._worker.tickets)
        if n and grace_s:
            self._say(f"requests to finish: {n}, in {grace_s:g} s; Ctrl-C again drops them\n")
        self._failed |= await self._worker.drain(grace_s)
        end = time.perf_counter() + FLUSH_S
        while self.server_state.tasks and time.perf_counter() < end:  # for clients to read what is written
            await asyncio.sleep(0.02)
        dropped = len(self._failed | self._worker.tickets)  # what its client did not read in time is dropped too
        for connection in [*self.server_state.connections]:
            connection.cut()  # type: ignore[union-attr]
        self._say(f"stopped; requests dropped: {dropped}\n" if dropped else "stopped; nothing was dropped\n")
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve on. Raises ConfigError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024)
    except (OSError, OverflowError) as error:
        do = "--port 0 takes one that is free" if isinstance(error, OSError) and error.strerror else ""
        raise ConfigError(f"{host}:{port}", f"cannot listen ({error})", do=do) from None


def serve(models: Sequence[Served], config: ServerConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises ConfigError where the port cannot be had."""
    with listen(config.host, config.port) as listener:
        port = listener.getsockname()[1]
        name = f"[{config.host}]" if ":" in config.host else config.host
        names = ", ".join(served.name for served in models)
        sys.stdout.write(f"http://{name}:{port} serves {names}: a page, /v1 for OpenAI's clients, /metrics; Ctrl-C ends it\n")
        if not is_loopback(config.host) and not config.api_keys:
            sys.stdout.write("anybody who reaches this address can use it; --api-key asks for a key\n")
        sys.stdout.flush()
        server = Server(create_app(models, config), config, sys.stdout.write)
        asyncio.run(server.serve(sockets=[listener]))
