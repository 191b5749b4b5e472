"""Whatever the kind of file, reading goes on from the place of anything that was found, and gives the same."""

import bz2
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openherd.data.pages import DamageError, Page
from openherd.data.reading import ENDINGS, Reading, is_readable, read_file
from source_files import BOOK, CODE, PAPER, POSTS, WIKI_PAGES, committed, epub, posts_dump, tar, wiki_dump
from warc_records import gzipped, page

DAMAGED = {
    "a.warc.gz", "a.jsonl.gz", "cut.jsonl.gz", "group.parquet", "cut.parquet", "dictionary.warc.zst", "papers.tar",
    "wiki.xml.bz2", "Posts.xml",
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each kind, some of them damaged."""
    folder = tmp_path_factory.mktemp("kinds")
    rows = [json.dumps({"text": f"row {i}"}) for i in range(6)]
    table = pa.table({"text": [f"row {i}" for i in range(6)]})
    pq.write_table(table, folder / "a.parquet", row_group_size=2, compression="zstd", use_dictionary=False)
    parquet = bytearray((folder / "a.parquet").read_bytes())
    group = pq.read_metadata(folder / "a.parquet").row_group(1).column(0)
    parquet[group.data_page_offset : group.data_page_offset + 8] = b"\xff" * 8
    warc = bytearray(gzipped([page(i, 200) for i in range(6)]))
    warc[len(warc) // 2] ^= 255
    paper = gzip.compress(tar(PAPER))
    contents = {
        "a.warc.gz": bytes(warc),
        "a.warc": b"".join(page(i) for i in range(5)),
        "a.jsonl.gz": gzip.compress("\n".join([*rows[:3], "{broken", "", *rows[3:]]).encode()),
        "cut.jsonl.gz": gzip.compress("\n".join(rows).encode())[:-12],
        "group.parquet": bytes(parquet),
        "cut.parquet": bytes(parquet[:-9]),
        "dictionary.warc.zst": b"\x5d\x2a\x4d\x18" + bytes(90),
        "a.html": b"<p>a",
        "papers.tar": tar({f"2301.0000{i}.gz": paper if i != 1 else paper[:-9] for i in range(3)}),
        "main.tex": b"\\begin{document}a\\end{document}",
        "a.epub": epub(BOOK).getvalue(),
        "wiki.xml.bz2": bz2.compress(wiki_dump(*WIKI_PAGES[:2], "noise", *WIKI_PAGES[2:])),
        "Posts.xml": posts_dump(*POSTS, "noise\n"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    committed(folder / "code", CODE).close()
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "a.warc.gz",
        "a.warc",
        "a.jsonl.gz",
        "cut.jsonl.gz",
        "a.parquet",
        "group.parquet",
        "cut.parquet",
        "dictionary.warc.zst",
        "a.html",
        "papers.tar",
        "main.tex",
        "a.epub",
        "wiki.xml.bz2",
        "Posts.xml",
        "code",
    ],
)
def test_reading_goes_on_from_any_place(files, name):
    whole = list(read_file(str(files / name), Reading()))
    assert whole
    assert any(isinstance(found, Page) and not found.drop for found in whole) != name.startswith(("cut.p", "dict"))
    assert any(isinstance(found, DamageError) for found in whole) == (name in DAMAGED)
    for i, found in enumerate(whole):
        again = list(read_file(str(files / name), Reading(), found.place))
        assert [told(x) for x in again] == [told(x) for x in whole[i:]]
        behind = list(read_file(str(files / name), Reading(), found.place.behind()))
        assert [told(x) for x in behind] == [told(x) for x in whole[i + 1 :]]


def told(found):
    return found if not isinstance(found, DamageError) else (found.offset, found.found, found.place)


def test_what_is_read_is_told_by_the_name():
    assert all(is_readable(f"a{ending}") for ending in ENDINGS)
    assert all(
        is_readable(name)
        for name in ("a.WARC.GZ", "a.warc.zst", "a.xml.bz2", "a.tex.xz", "2301.00001.gz", "https://x.org/a.html?b=c")
    )
    assert not any(
        is_readable(name) for name in ("a", "a.png", "a.parquet.gz", "a.epub.gz", "a.gz", "a.arc.gz", "https://x.org/a?b=c.html")
    )
