"""WARC records as crawlers write them, and damaged ones."""

import gzip
import hashlib
import io
import zlib

from fastwarc.stream_io import BrotliWriter

from openherd.data.pages import DamageError

DATE = "2026-01-02T03:04:05Z"


def record(kind, body, url="https://example.org/", content_type="application/http; msgtype=response", newline=b"\r\n", **more):
    fields = {"WARC-Type": kind, "WARC-Record-ID": "<urn:uuid:00000000-0000-4000-8000-000000000000>", "WARC-Date": DATE}
    fields |= {"WARC-Target-URI": url, "Content-Type": content_type, "Content-Length": len(body), **more}
    head = newline.join([b"WARC/1.0", *(f"{name}: {value}".encode() for name, value in fields.items())])
    return head + 2 * newline + body + b"\r\n\r\n"


def response(content, url="https://example.org/", status="200 OK", newline=b"\r\n", **headers):
    headers = {"Content-Type": "text/html"} | {name.replace("_", "-"): value for name, value in headers.items()}
    head = newline.join([f"HTTP/1.1 {status}".encode(), *(f"{n}: {v}".encode() for n, v in headers.items() if v is not None)])
    return record("response", head + 2 * newline + content, url, newline=newline)


def page(i, size=40):
    return response(hashlib.shake_128(bytes([i])).hexdigest(size).encode(), f"https://example.org/{i}")


def gzipped(records):
    return b"".join(gzip.compress(r, mtime=0) for r in records)


def plain(found):
    return [x[:2] for x in found if not isinstance(x, DamageError)]


def starts(pieces):
    return [sum(map(len, pieces[:i])) for i in range(len(pieces) + 1)]


def brotli(body):
    out = io.BytesIO()
    writer = BrotliWriter(out)
    writer.write(body)
    writer.close()
    return out.getvalue()


def raw_deflate(body):
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(body) + compressor.flush()
