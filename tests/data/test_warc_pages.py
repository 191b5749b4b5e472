"""Responses become pages as warcio decodes them, or are dropped with a reason; each real file is told in full."""

import gzip
import io
from collections import Counter

import pytest
from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed

from openherd.data.encodings import decode
from openherd.data.pages import DamageError, Page, Passed, all_found
from openherd.data.warc import zstd
from openherd.data.warc_pages import read_records
from warc_records import brotli, raw_deflate, record, response

HTML = "<p>grüße</p>".encode()


def pages_of(*records):
    return list(all_found(read_records(io.BytesIO(b"".join(records)))))


def only(*records):
    (page,) = pages_of(*records)
    return page


def chunks(body, size=7, end=b"0\r\n\r\n"):
    return b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + size]), body[i : i + size]) for i in range(0, len(body), size)) + end


CODED = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": raw_deflate, "br": brotli, "zstd": zstd.compress}


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("chunked", [False, True])
def test_codings_and_chunks(coding, chunked):
    body = CODED[coding](HTML * 20)
    headers = {"Transfer_Encoding": "chunked"} if chunked else {}
    page = only(response(chunks(body) if chunked else body, Content_Encoding=coding, **headers))
    assert (page.content, page.drop) == (HTML * 20, None)
    half = only(response(chunks(body[:-5]) if chunked else body[:-5], Content_Encoding=coding, **headers))
    assert half.drop.reason == "content encoding"
    assert half.drop.detail.startswith(coding)
    plain = only(response(chunks(HTML) if chunked else HTML, Content_Encoding=coding, **headers))
    assert (plain.content, plain.drop) == (HTML, None)


def test_chunks_that_are_cut_or_wrong_and_such_as_are_none():
    for body in (chunks(HTML)[:-9], b"3e8\r\n<html>", b"5;x=y\r\n<html>\r\n0\r\n\r\n"):
        assert only(response(body, Transfer_Encoding="chunked")).drop.reason == "chunks"
    assert only(response(HTML, Transfer_Encoding="chunked")).content == HTML
    assert only(response(chunks(HTML, end=b"0\r\nX-Sum: 1\r\n\r\n"), Transfer_Encoding="chunked")).content == HTML


def test_empty_bodies():
    for body, headers in (
        (b"", {}),
        (b"", {"Content_Encoding": "gzip"}),
        (b"0\r\n\r\n", {"Transfer_Encoding": "chunked"}),
        (b" \n", {}),
    ):
        assert only(response(body, **headers)).drop.reason == "empty"
    assert only(record("response", b"")).drop.reason in ("no http response", "http status")


@pytest.mark.parametrize(
    ("text", "written", "declared"),
    [
        ("grüße", "utf-8", "iso-8859-1"),
        ("Привет, мир! Как дела сегодня?", "utf-8", "windows-1251"),
        ("Привет, мир! Как дела сегодня?", "koi8-r", "koi8-r"),
        ("grüße", "utf-8", "no-such-charset"),
        ("grüße", "utf-16", "utf-8"),
    ],
)
def test_wrong_character_sets(text, written, declared):
    page = only(response(f"<p>{text}</p>".encode(written), Content_Type=f"text/html; charset={declared}"))
    assert decode(page.content, page.content_type) == f"<p>{text}</p>"


def test_requests_and_such_are_passed_and_counted():
    found = pages_of(
        record("warcinfo", b"a: b"), record("request", b"GET / HTTP/1.1\r\n\r\n"), record("metadata", b"a: b"), response(HTML)
    )
    assert [x.kind for x in found if isinstance(x, Passed)] == ["warcinfo", "request", "metadata"]
    assert [x.content for x in found if isinstance(x, Page)] == [HTML]


def test_text_of_wet_files_needs_no_extraction():
    page = only(record("conversion", b"two\n  lines", content_type="text/plain"))
    assert (page.content_type, page.content) == ("text/plain; charset=utf-8", b"two\n  lines")


# Of each real file: kept, passed, dropped as (byte, reason), damaged bytes.
REAL = {
    "warc/warcfile.warc.gz": (16, {"warcinfo": 1, "request": 17, "metadata": 16}, [], []),
    "warc/clueweb-quirk.warc.gz": (29, {"warcinfo": 1}, [], []),
    "warc/clipped.warc.gz": (0, {}, [], [0]),  # one record, which is cut off
    "warcio/example.warc.gz": (1, {"warcinfo": 2, "request": 2}, [(2621, "revisit")], []),
    "warcio/example-iana.org-chunked.warc": (1, {"warcinfo": 1, "request": 1}, [], []),
    "warcio/example-space-in-target-uri.warc.gz": (0, {"warcinfo": 1}, [(241, "content type")], []),  # a picture
    "warcio/example-bad.warc.gz.bad": (1, {"warcinfo": 1, "request": 2}, [(3161, "revisit"), (4771, "http status")], []),
    "warcio/example-trunc.warc": (0, {"warcinfo": 2, "request": 1}, [], [1197]),  # its second record is longer than it says
    "warcio/example-wrong-chunks.warc.gz": (0, {"request": 1}, [], [0, 516]),  # one record in two members
    "warcio/bad.arc": (0, {}, [], [0]),  # ARC is no WARC
    "warcio/example.arc.gz": (0, {}, [], [0, 171]),
}
# Files that warcio reads no further than the first records, or as what they are not.
NOT_WARCIO = {
    "warc/clipped.warc.gz": "reads the part without a word",
    "warcio/example-bad.warc.gz.bad": "wants a member a record",
    "warcio/example-trunc.warc": "reads the record that is too long as far as its length says",
    "warcio/example-wrong-chunks.warc.gz": "gives up",
    "warcio/bad.arc": "reads ARC",
    "warcio/example.arc.gz": "reads ARC",
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(name, shared_data):
    folder, _, file = name.partition("/")
    with (shared_data(folder) / file).open("rb") as content:
        found = list(all_found(read_records(content)))
    pages = [x for x in found if isinstance(x, Page)]
    told = (
        sum(not page.drop for page in pages),
        dict(Counter(x.kind for x in found if isinstance(x, Passed))),
        [(page.offset, page.drop.reason) for page in pages if page.drop],
        [x.offset for x in found if isinstance(x, DamageError)],
    )
    assert told == REAL[name]


@pytest.mark.parametrize("name", sorted(REAL.keys() - NOT_WARCIO.keys()))
def test_real_files_as_warcio_decodes_them(name, shared_data):
    folder, _, file = name.partition("/")
    path = shared_data(folder) / file
    with path.open("rb") as content:
        expected = []
        for one in ArchiveIterator(content):
            if one.rec_type in ("response", "resource") and one.rec_headers.get_header("WARC-Target-URI"):
                expected.append((one.rec_headers.get_header("WARC-Target-URI").replace("%20", " "), one.content_stream().read()))
    with path.open("rb") as content:
        pages = [x for x in all_found(read_records(content)) if isinstance(x, Page) and not (x.drop and x.drop.reason == "revisit")]
    assert [(page.url.replace("%20", " "), page.content) for page in pages] == expected


@pytest.mark.parametrize("name", ["warcio/example-bad.warc.gz.bad", "warcio/example-wrong-chunks.warc.gz"])
def test_real_files_that_warcio_gives_up(name, shared_data):
    folder, _, file = name.partition("/")
    with (shared_data(folder) / file).open("rb") as content, pytest.raises(ArchiveLoadFailed):
        [one.raw_stream.read() for one in ArchiveIterator(content)]
