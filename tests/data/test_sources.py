"""What a crawl holds is read or dropped with a reason; damage of any kind is found, and loses nothing else."""

import gzip
import hashlib
import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openherd.core.errors import ConfigError, InputError
from openherd.core.rundir import Outside
from openherd.data.documents import DROPPED
from openherd.data.encodings import decode
from openherd.data.extraction import tidy
from openherd.data.sources import SourcesConfig, sources
from source_files import BOOK, PAPER, POSTS, TEXTS, WIKI_PAGES, committed, epub, posts_dump, tar, wiki_dump
from warc_records import DATE, gzipped, page, record, response, starts

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SKIP = SourcesConfig(on_damage="skip")


@pytest.fixture
def read(run_stage, rows_of, tmp_path):
    """A function that runs the stage on bytes, or on a location, and returns kept and dropped rows."""

    def run(content, config=SKIP, name="a.warc"):
        location = str(content)
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
            location = str(tmp_path / name)
        found = run_stage(sources, config, pages=(Outside(location),))
        return rows_of(found), rows_of(found, DROPPED), found.metrics

    return run


def test_records_become_pages_or_are_dropped_with_a_reason(read):
    html = "<p>grüße</p>".encode()
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (gzip.compress(html)[:9], gzip.compress(html)[9:], b""))
    given = {
        "plain": response(html, Content_Type="text/html; charset=ISO-8859-1"),
        "xhtml": response(html, Content_Type="application/xhtml+xml"),
        "upper": response(html, Content_Type="TEXT/HTML"),
        "encoded": response(chunked, Content_Encoding="gzip", Transfer_Encoding="chunked"),
        "lie": response(html, Content_Encoding="gzip"),
        "unix": response(html, newline=b"\n"),
        "bare": response(b"<!DOCTYPE html>" + html, Content_Type=None),
        "bare text": response(b"no tags", Content_Type=None),
        "resource": record("resource", html, content_type="text/markdown"),
        "wet": record("conversion", html, content_type="text/plain"),
        "image": response(b"\x89PNG\r\n", Content_Type="image/png"),
        "bare image": response(b"\x89PNG\r\n\0\0", Content_Type=None),
        "broken": response(gzip.compress(html)[:10] + b"\xff\0" * 50, Content_Encoding="gzip"),
        "gone": response(html, status="404 Not Found"),
        "moved": response(b"", status="301 Moved"),
        "blank": response(b" \n"),
        "part": record("response", b"HTTP/1.1 200 OK\r\n\r\n" + html, **{"WARC-Segment-Number": 1}),
        "no page": record("request", b"GET / HTTP/1.1\r\n\r\n") + record("metadata", b"a: b"),
        "again": record("revisit", b""),
        "more": record("continuation", b"half a page"),
        "cut chunks": response(b"3e8\r\n<html>", **{"Transfer-Encoding": "chunked"}),
    }
    records = [r.replace(b"https://example.org/", f"https://example.org/{name}".encode()) for name, r in given.items()]
    kept, dropped, metrics = read(b"".join(records))
    by_name = {row["url"].removeprefix("https://example.org/"): row for row in kept}
    assert {name: row["content_type"] for name, row in by_name.items()} == {
        "plain": "text/html; charset=iso-8859-1",
        "xhtml": "text/html",
        "upper": "text/html",
        "encoded": "text/html",
        "lie": "text/html",
        "unix": "text/html",
        "bare": "text/html",
        "bare text": "text/plain",
        "resource": "text/markdown",
        "wet": "text/plain; charset=utf-8",
    }
    assert {row["content"] for name, row in by_name.items() if "bare" not in name} == {html}
    assert {row["url"].removeprefix("https://example.org/"): (row["reason"], row["detail"]) for row in dropped} == {
        "image": ("content type", "image/png"),
        "bare image": ("content type", "none, and not text"),
        "broken": ("content encoding", "gzip: Error -3 while decompressing data: invalid block type"),
        "gone": ("http status", "404"),
        "moved": ("http status", "301"),
        "blank": ("empty", ""),
        "part": ("segment", "one part of a record that is spread over several"),
        "again": ("revisit", "what it goes on from stands elsewhere"),
        "more": ("segment", "what it goes on from stands elsewhere"),
        "cut chunks": ("chunks", "unexpected end of file"),
    }
    assert {row["date"] for row in kept} == {DATE}
    assert by_name["plain"]["id"] == hashlib.sha256(b"https://example.org/plain\0" + html).hexdigest()[:32]
    assert metrics["documents_in"] == len(kept) + len(dropped) == len(given) - 1


def test_the_offset_finds_the_record(read):
    records = [page(i) for i in range(4)]
    for content, find in ((b"".join(records), bytes), (gzipped(records), gzip.decompress)):
        kept, _, _ = read(content)
        assert len(kept) == 4
        for row in kept:
            assert row["url"].encode() + b"\r\n" in find(content[row["offset"] :])[:250]


def test_damage_stops_with_file_and_byte_or_is_dropped(read):
    pieces = [gzip.compress(page(n, 5000), mtime=0) for n in range(3)]
    cut = b"".join(pieces)[:-50]
    with pytest.raises(InputError, match=rf"a\.warc\.gz, byte {len(pieces[0] + pieces[1]):,}: damaged: the file ends within"):
        read(cut, SourcesConfig(), "a.warc.gz")
    kept, dropped, metrics = read(cut, SKIP, "a.warc.gz")
    assert len(kept) == 2
    assert [(row["reason"], row["offset"]) for row in dropped] == [("damaged", len(pieces[0] + pieces[1]))]
    assert metrics["dropped"] == {"damaged": {"documents": 1, "bytes": 0}}


def test_a_file_zipped_as_a_whole(read):
    records = [page(n) for n in range(50)]
    kept, _, _ = read(gzip.compress(b"".join(records)), SourcesConfig(), "a.warc.gz")
    assert [row["offset"] for row in kept] == starts(records)[:-1]


def test_an_arc_file_is_no_warc_file(read):
    with pytest.raises(InputError, match="no record begins here"):
        read(b"filedesc://a.arc.gz 0.0.0.0 20110101000000 text/plain 9\n1 0 Alexa\n", SourcesConfig())


def test_empty_inputs_are_refused(read, tmp_path):
    for content in (b"", record("warcinfo", b"a: b")):
        with pytest.raises(InputError, match="no page in 1 files"):
            read(content)
    with pytest.raises(InputError, match=r"no page in 1 files.*dropped: 2 http status"):
        read(2 * response(b"gone", status="404 Not Found"))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"no file of a kind that is read, \S+a\.png for one; allowed: \.warc"):
        read(tmp_path / "pictures")
    (tmp_path / "none.paths").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"none\.paths: no file is named; allowed"):
        read(tmp_path / "none.paths")


@pytest.fixture(scope="module")
def crawls():
    """Real WARC files that are whole."""
    if not SHARED.exists():
        pytest.skip("../shared/data is not here")
    names = [
        "warc/warcfile.warc.gz",
        "warc/clueweb-quirk.warc.gz",
        "warcio/example.warc.gz",
        "warcio/example-iana.org-chunked.warc",
    ]
    return [SHARED / name for name in names]


def test_real_files_through_the_stage(crawls, read):
    for path in crawls:
        kept, dropped, _ = read(path, SourcesConfig())
        assert kept
        assert {row["reason"] for row in dropped} <= {"revisit"}
        assert all(b"<html" in row["content"].lower() or b"<!doctype" in row["content"].lower() for row in kept)
        assert {row["file"] for row in kept} == {str(path)}
        assert all(b"HTTP/1" not in row["content"][:20] for row in kept)


def test_real_damage(crawls, read):
    with pytest.raises(InputError, match="byte 0: damaged: the file ends within a gzip member"):
        read(SHARED / "warc" / "clipped.warc.gz", SourcesConfig())
    with pytest.raises(InputError, match=r"byte 1,197: damaged: a record longer or shorter than its Content-Length, 973"):
        read(SHARED / "warcio" / "example-trunc.warc", SourcesConfig())
    with pytest.raises(InputError, match="dropped: 1 content type"):
        read(SHARED / "warcio" / "example-space-in-target-uri.warc.gz")


def test_rows_of_json_lines(read):
    rows = [
        {"text": "one", "url": "https://a.example/1", "date": "2026-01-01"},
        {"content": "two", "id": 7},
        {"body": "three"},
        ["four"],
        {"text": None, "content": "five"},
        {"text": " "},
    ]
    content = "\n".join(map(json.dumps, rows)) + "\n\n{broken\n" + json.dumps({"text": "é"}) + "\n"
    for name, data in (("a.jsonl", content.encode()), ("a#1?.jsonl.gz", gzip.compress(content.encode()))):
        kept, dropped, _ = read(data, SKIP, name)
        assert [(r["offset"], r["url"], r["date"], r["content"].decode()) for r in kept] == [
            (1, "https://a.example/1", "2026-01-01", "one"),
            (2, "7", "", "two"),
            (5, "", "", "five"),
            (9, "", "", "é"),
        ]
        assert [(r["offset"], r["reason"]) for r in dropped] == [(3, "no text"), (4, "no text"), (6, "empty"), (8, "damaged")]
        with pytest.raises(InputError, match="line 8: damaged: invalid JSON"):
            read(data, SourcesConfig(), name)
    kept, _, _ = read(content.encode(), SourcesConfig(text_fields=("body",), on_damage="skip"), "a.jsonl")
    assert [row["content"] for row in kept] == [b"three"]
    cut = gzip.compress(content.encode())[:-20]
    with pytest.raises(InputError, match="damaged: invalid compressed data"):
        read(cut, SourcesConfig(on_damage="stop", text_fields=("text",)), "b.jsonl.gz")


def test_the_source_that_a_row_names(read):
    names = {"Wikipedia": "wikipedia", "Common Crawl": "common-crawl", "pes2o": "pes2o", "https://a.example/1": "web", "": "web"}
    rows = "\n".join(json.dumps({"text": name or "none", "source": name}) for name in names)
    assert [row["source"] for row in read(rows.encode(), SourcesConfig(), "a.jsonl")[0]] == list(names.values())


def test_half_a_pair_of_escapes_in_a_row_is_replaced(read):
    names = ("url", "title", "license", "attribution", "source", "programming_language", "content_type")
    for content in ("ok", None):
        row = json.dumps({"text": content, **{name: f"a{chr(0xD800)}" for name in names}, chr(0xDC00): 1})
        for form in ("pages", "documents"):
            kept, dropped, _ = read((row + '\n{"text": "other"}\n').encode(), SourcesConfig(form=form), "a.jsonl")
            found = [*dropped, *kept]
            assert (len(found), found[0]["url"], found[0]["license"]) == (2, "a?", "a?")


def test_rows_of_parquet(read, tmp_path):
    import datetime

    dates = pa.array([datetime.datetime(2026, 1, 1, 12), None], pa.timestamp("us"))
    table = pa.table({"text": ["one", "two"], "url": ["https://a.example/1", None], "date": dates, "other": [1, 2]})
    pq.write_table(table, tmp_path / "a.parquet")
    kept, _, _ = read(tmp_path / "a.parquet")
    assert [(r["offset"], r["url"], r["date"], r["content"]) for r in kept] == [
        (1, "https://a.example/1", "2026-01-01T12:00:00Z", b"one"),
        (2, "", "", b"two"),
    ]
    with pytest.raises(InputError, match="row 1: damaged: not a readable Parquet file"):
        read((tmp_path / "a.parquet").read_bytes()[:-9], SourcesConfig(), "b.parquet")


def test_a_damaged_row_group_alone_is_lost(read, tmp_path):
    path = tmp_path / "a.parquet"
    random = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(300)]
    pq.write_table(pa.table({"text": random}), path, row_group_size=100, compression="zstd", use_dictionary=False)
    group = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = group.data_page_offset + group.total_compressed_size // 2
    data[start : start + 200] = bytes(200)
    kept, dropped, _ = read(bytes(data), SKIP, "b.parquet")
    assert [row["offset"] for row in kept] == [*range(1, 101), *range(201, 301)]
    assert [row["content"].decode() for row in kept] == random[:100] + random[200:]
    assert [(row["offset"], row["reason"]) for row in dropped] == [(101, "damaged")]
    assert "rows up to 200 cannot be read" in dropped[0]["detail"]


def test_text_that_is_decoded_already_is_read_as_it_stands(read):
    rows = [
        {"text": "<meta charset=windows-1251>Привет", "content_type": "text/html"},
        {"text": "Müller žije", "content_type": "text/plain; charset=iso-8859-2"},
    ]
    kept, _, _ = read("\n".join(map(json.dumps, rows)).encode(), SKIP, "a.jsonl")
    assert [row["content_type"] for row in kept] == ["text/html; charset=utf-8", "text/plain; charset=utf-8"]
    assert [decode(row["content"], row["content_type"]) for row in kept] == [row["text"] for row in rows]


def test_a_folder_of_files(read, tmp_path):
    folder = tmp_path / "my folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.HTML").write_bytes(b"<p>a")
    (folder / "b.txt.gz").write_bytes(gzip.compress(b"b"))
    (folder / "sub" / "c.md").write_bytes(b"# c")
    (folder / "d.png").write_bytes(b"d")
    kept, _, metrics = read(folder, SourcesConfig(source_patterns={"nested": "/sub/", "all": "/my%20folder/"}))
    assert [(Path(r["file"]).name, r["content_type"], r["content"], r["source"]) for r in kept] == [
        ("a.HTML", "text/html", b"<p>a", "all"),
        ("b.txt.gz", "text/plain", b"b", "all"),
        ("c.md", "text/markdown", b"# c", "nested"),
    ]
    assert kept[0]["url"] == (folder / "a.HTML").as_uri()
    assert (metrics["files"], metrics["files_ignored"]) == (3, 1)


def test_a_remote_file(read):
    with fsspec.open("memory://crawl/a.warc.gz", "wb") as file:
        file.write(gzipped([page(n) for n in range(3)]))
    kept, _, _ = read("memory://crawl/a.warc.gz", SourcesConfig())
    assert [row["url"] for row in kept] == [f"https://example.org/{n}" for n in range(3)]
    assert {row["file"] for row in kept} == {"memory://crawl/a.warc.gz"}
    with pytest.raises(InputError, match="cannot be read"):
        read("memory://crawl/none.warc.gz", SourcesConfig())


def test_the_outputs_of_a_run(run_stage, rows_of, documents_run):
    def crawl(config, *, out):
        with out.write("part/a.warc.gz") as path:
            path.write_bytes(gzipped([page(1)]))
        return {}

    run = run_stage(sources, SourcesConfig(source="books"), pages=(run_stage(crawl, None),))
    assert [(row["file"], row["source"]) for row in rows_of(run)] == [("part/a.warc.gz", "books")]
    again = run_stage(sources, SourcesConfig(), pages=(documents_run(["some text"]),))
    assert [(row["file"], row["content"]) for row in rows_of(again)] == [("documents.parquet", b"some text")]

    def split(config, *, out):
        for name in ("heldout", "train"):
            with out.write(f"{name}.parquet") as path:
                pq.write_table(pa.table({"text": [name]}), path)
        return {}

    trained = run_stage(sources, SourcesConfig(), pages=(run_stage(split, None),))
    assert [row["content"] for row in rows_of(trained)] == [b"train"]


def test_wrong_patterns_are_refused():
    with pytest.raises(ConfigError, match=r"source_patterns: '\('"):
        SourcesConfig(source_patterns={"a": "("})
    with pytest.raises(ConfigError, match="source 'A b'"):
        SourcesConfig(source_patterns={"A b": "a"})


@pytest.fixture
def corpus(tmp_path):
    """A folder with every source of the tutorial's mix."""
    folder = tmp_path / "corpus"
    committed(folder / "code", {"LICENSE": TEXTS["ISC"], "a.py": "x = 1\n", "b.csv": "a,b\n"}).close()
    (folder / "web.wet").write_bytes(record("conversion", b"Text of a page.", content_type="text/plain") + record("request", b""))
    (folder / "page.html").write_bytes(b"<p>A page.")
    (folder / "2301.00001.tar").write_bytes(tar(PAPER))
    (folder / "enwiki.xml").write_bytes(wiki_dump(*WIKI_PAGES[:2]))
    (folder / "book.epub").write_bytes(epub(BOOK).getvalue())
    (folder / "Posts.xml").write_bytes(posts_dump(*POSTS))
    (folder / "notes.docx").write_bytes(b"PK")
    return folder


def test_every_kind_has_its_source(corpus, read):
    kept, dropped, metrics = read(corpus, SourcesConfig())
    named = {(Path(row["file"]).name, row["source"]) for row in kept}
    assert named == {
        ("code", "code"),
        ("web.wet", "web"),
        ("page.html", "web"),
        ("2301.00001.tar", "academic"),
        ("enwiki.xml", "wikipedia"),
        ("book.epub", "books"),
        ("Posts.xml", "stackexchange"),
    }
    code = next(row for row in kept if row["source"] == "code")
    assert (code["license"], code["attribution"], code["programming_language"]) == ("ISC", "code", "python")
    reasons = {(Path(row["file"]).name, row["reason"], row["detail"]) for row in dropped}
    assert {("notes.docx", "file kind", ".docx"), ("code", "data file", ".csv")} < reasons
    assert metrics["other_records"] == {"request": 1}
    assert metrics["documents_in"] == len(kept) + len(dropped)
    named, _, _ = read(corpus, SourcesConfig(source="all", source_patterns={"wiki": "wikipedia"}))
    assert {row["source"] for row in named} == {"all", "wiki"}


def test_text_goes_straight_to_documents(corpus, read):
    kept, dropped, _ = read(corpus, SourcesConfig(form="documents"))
    by_source = {row["source"]: row for row in kept}
    assert by_source["web"]["text"] == "Text of a page."
    assert by_source["wikipedia"]["title"].startswith("T")
    assert by_source["books"]["title"] == "Of Herds"
    assert "content" not in by_source["code"]
    assert [row["text"] for row in dropped if row["reason"] == "needs extraction"] == ["<p>A page."]
    pages, _, _ = read(corpus, SourcesConfig())
    ids = {row["id"]: row["content"].decode() for row in pages}
    assert all(row["text"] == tidy(ids[row["id"]]) for row in kept)


def test_several_locations(corpus, run_stage, rows_of):
    given = tuple(Outside(str(corpus / name)) for name in ("page.html", "book.epub"))
    found = rows_of(run_stage(sources, SourcesConfig(), pages=given))
    assert [Path(row["file"]).name for row in found] == ["page.html", "book.epub"]


def test_what_rows_say_of_themselves_stays(read, corpus, run_stage):
    again = run_stage(sources, SourcesConfig(form="documents"), pages=(Outside(str(corpus)),))
    kept, _, _ = read(again.file("documents.parquet"), SourcesConfig())
    assert {row["source"] for row in kept} == {"code", "web", "academic", "wikipedia", "books", "stackexchange"}
    assert {row["license"] for row in kept} >= {"ISC", "CC-BY-SA-4.0"}
