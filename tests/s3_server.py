"""An object storage on loopback: so much of S3's protocol as listing and reading take. Each folder of a folder is a bucket."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class S3Server(ThreadingHTTPServer):
    """Serves a folder."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[str] = []  # method, path and range

    @property
    def address(self) -> str:
        """Of the server."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """HEAD, GET with a range, ListObjectsV2."""

    protocol_version = "HTTP/1.1"
    server: S3Server

    def do_HEAD(self) -> None:
        """What an object is."""
        self.do_GET()

    def do_GET(self) -> None:
        """An object, part of it, or a bucket's list."""
        parts = urlsplit(self.path)
        path = unquote(parts.path).strip("/")
        asked = self.headers.get("Range", "")
        self.server.asked.append(f"{self.command} {path} {asked}".strip())
        file = self.server.folder / path
        if "list-type" in parts.query:
            self._send(200, self._list(path, parse_qs(parts.query, keep_blank_values=True)), {"Content-Type": "application/xml"})
        elif not file.is_file():
            self._send(404, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>", {"Content-Type": "application/xml"})
        else:
            data, headers = (
                file.read_bytes(),
                {"ETag": f'"{file.stat().st_mtime_ns}"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"},
            )
            if match := re.fullmatch(r"bytes=(\d+)-(\d*)", asked):
                part = data[int(match[1]) : int(match[2]) + 1 if match[2] else None]
                headers["Content-Range"] = f"bytes {match[1]}-{int(match[1]) + len(part) - 1}/{len(data)}"
                data = part
            self._send(206 if asked else 200, data, headers)

    def _list(self, bucket: str, query: dict[str, list[str]]) -> bytes:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        folder = self.server.folder / bucket
        keys = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        keys = [key for key in keys if key.startswith(prefix)]
        folders = {
            prefix + key[len(prefix) :].split(delimiter)[0] + delimiter
            for key in keys
            if delimiter and delimiter in key[len(prefix) :]
        }
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{(folder / key).stat().st_size}</Size><ETag>&quot;x&quot;</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            for key in keys
            if not delimiter or delimiter not in key[len(prefix) :]
        )
        entries += "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders))
        head = f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>"
        return f'<?xml version="1.0"?><ListBucketResult>{head}{entries}</ListBucketResult>'.encode()

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def storage(folder: Path) -> Iterator[S3Server]:
    """A storage of a folder while the block runs."""
    server = S3Server(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
