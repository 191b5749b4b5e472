"""A web server on loopback that gives ranges of a folder's files, and misbehaves when asked to."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class RangeServer(ThreadingHTTPServer):
    """Serves a folder; `fail` answers come first, each an HTTP status, or 0 for a connection that is closed half-way."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.fail: list[int] = []
        self.gives_ranges = True
        self.asked: list[str] = []  # path and range of each request

    @property
    def address(self) -> str:
        """Of the folder."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """GET with a range."""

    protocol_version = "HTTP/1.1"
    server: RangeServer

    def do_GET(self) -> None:
        """Part of a file."""
        asked = self.headers.get("Range", "") if self.server.gives_ranges else ""
        self.server.asked.append(f"{self.path} {asked}")
        status = self.server.fail.pop(0) if self.server.fail else 206
        file = self.server.folder / self.path.lstrip("/")
        if status >= 400 or not file.is_file():
            self.send_response(status if status >= 400 else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", asked):
            data = data[int(match[1]) : int(match[2]) + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data if status else data[: len(data) // 2])
        if not status:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[RangeServer]:
    """A server of a folder while the block runs."""
    server = RangeServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
