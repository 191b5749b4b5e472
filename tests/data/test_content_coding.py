"""Codings are undone as a browser undoes them; what a browser would pass over in silence is told."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.data import content_coding
from openherd.data.content_coding import CodingError, codings_of, decoded
from openherd.data.warc import zstd
from warc_records import brotli, raw_deflate

TEXT = b"<html><body>" + b"hello world " * 50


CODERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "br": brotli, "zstd": zstd.compress}


@pytest.mark.parametrize("name", CODERS)
@given(st.binary(max_size=2000))
def test_what_was_coded_is_decoded(name, body):
    assert decoded(CODERS[name](body), codings_of(f" {name.upper()} ")) == body


@pytest.mark.parametrize(("name", "code"), [*CODERS.items(), ("deflate", raw_deflate)])
def test_a_body_that_is_cut_short_or_damaged_is_told(name, code):
    body = code(TEXT)
    assert decoded(body, [name]) == TEXT
    for cut in (1, 3, len(body) // 2, len(body) - 1):
        with pytest.raises(CodingError):
            decoded(body[:-cut], [name])
    with pytest.raises(CodingError):
        decoded(b"<html>hello", [name])
    assert decoded(b"", [name]) == b""


def test_codings_one_over_the_other_and_those_that_are_none():
    assert decoded(brotli(gzip.compress(TEXT)), codings_of("gzip, br")) == TEXT
    assert codings_of("identity") == codings_of("UTF-8") == codings_of("") == []


def test_members_one_after_the_other_and_bytes_behind_them():
    body = gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])
    assert decoded(body, ["gzip"]) == decoded(body + b"\0\0more", ["gzip"]) == TEXT
    damaged = bytearray(gzip.compress(bytes(range(256)) * 30_000))
    damaged[-2_000] ^= 1  # far behind the first MiB
    with pytest.raises(CodingError):
        decoded(bytes(damaged), ["gzip"])


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd", "br"])
def test_a_small_body_may_not_decode_to_any_size(name, monkeypatch):
    monkeypatch.setattr(content_coding, "LONGEST_CONTENT", 3 << 20)
    assert len(decoded(CODERS[name](bytes(3 << 20)), [name])) == 3 << 20
    with pytest.raises(CodingError, match="MiB decoded"):
        decoded(CODERS[name](bytes((3 << 20) + 1)), [name])
