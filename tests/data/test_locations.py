"""What a location names is found, wherever it lies; lists of paths are followed; reading elsewhere goes on after a failure."""

import bz2
import gzip
import io
import lzma

import fsspec
import pytest

from openherd.core import remote
from openherd.core.errors import InputError
from openherd.core.rundir import Outside
from openherd.data.locations import ending_of, files_of, opened, packing_of, unpacked
from openherd.data.pages import Page
from openherd.data.reading import Reading, read_file
from openherd.data.warc import zstd
from range_server import served
from s3_server import storage
from warc_records import gzipped, page

CRAWL = "https://data.commoncrawl.org/"


def paths(location):
    return [file.path for file in files_of(Outside(str(location)), CRAWL)]


def pages_of(name):
    return [(found.offset, found.url, found.content) for found in read_file(name, Reading()) if isinstance(found, Page)]


@pytest.fixture
def crawl(tmp_path):
    """A folder with two WARC files and their list, as Common Crawl lays them out."""
    folder = tmp_path / "crawl-data" / "CC-MAIN-2026-01" / "warc"
    folder.mkdir(parents=True)
    for i in range(2):
        (folder / f"{i}.warc.gz").write_bytes(gzipped([page(10 * i + n, 20_000) for n in range(3)]))
    lines = "".join(f"crawl-data/CC-MAIN-2026-01/warc/{i}.warc.gz\n" for i in range(2))
    (tmp_path / "warc.paths.gz").write_bytes(gzip.compress(lines.encode()))
    return tmp_path


def test_a_list_of_common_crawl(crawl):
    base = f"{crawl}/crawl-data/CC-MAIN-2026-01/warc"
    assert paths(crawl / "warc.paths.gz") == [f"{CRAWL}crawl-data/CC-MAIN-2026-01/warc/{i}.warc.gz" for i in range(2)]
    found = files_of(Outside(str(crawl / "warc.paths.gz")), str(crawl))
    assert [file.path for file in found] == [f"{base}/{i}.warc.gz" for i in range(2)]


def test_a_list_of_ones_own(tmp_path):
    (tmp_path / "mine.paths").write_text("# what I want\nsub/a.html\n\n/data/b.txt\ns3://bucket/c.warc.gz\n", encoding="utf-8")
    assert paths(tmp_path / "mine.paths") == [f"{tmp_path}/sub/a.html", "/data/b.txt", "s3://bucket/c.warc.gz"]
    (tmp_path / "broken.paths.gz").write_bytes(gzip.compress(b"a\n" * 900)[:-9])
    with pytest.raises(InputError, match="no list of paths"):
        paths(tmp_path / "broken.paths.gz")


def test_a_list_is_the_same_input_wherever_it_was_saved_again(tmp_path):
    name = tmp_path / "mine.paths"
    name.write_text("a.html\n", encoding="utf-8")
    before = Outside(str(name)).digest
    name.write_text("a.html\n", encoding="utf-8")
    assert Outside(str(name)).digest == before
    name.write_text("b.html\n", encoding="utf-8")
    assert Outside(str(name)).digest != before


def test_globs_and_folders(crawl):
    base = f"{crawl}/crawl-data/CC-MAIN-2026-01/warc"
    expected = [f"{base}/0.warc.gz", f"{base}/1.warc.gz"]
    assert paths(base) == paths(f"{base}/*.warc.gz") == paths(f"{crawl}/**/?.warc.gz") == expected


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd.compress}


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_files(tmp_path, ending):
    pack = PACKERS[ending]
    (tmp_path / f"a.txt.{ending}").write_bytes(pack(b"some text") + pack(b", and more"))
    assert [content for _, _, content in pages_of(str(tmp_path / f"a.txt.{ending}"))] == [b"some text, and more"]
    assert (ending_of(f"A.TXT.{ending.upper()}"), packing_of(f"a.{ending}")) == (".txt", f".{ending}")
    assert unpacked(io.BytesIO(b"x"), "a.txt").read() == b"x"


def test_https(crawl, monkeypatch):
    monkeypatch.setattr("openherd.data.locations.READING_WAITS_S", (0.0, 0.0))
    monkeypatch.setattr("openherd.data.locations.REMOTE_BLOCK", 10_000)
    monkeypatch.setattr(remote.sys.stderr, "write", lambda text: len(text))
    name = "crawl-data/CC-MAIN-2026-01/warc/0.warc.gz"
    with served(crawl) as server:
        here, there = pages_of(f"{crawl}/{name}"), f"{server.address}/{name}"
        assert pages_of(there) == here
        assert len(here) == 3
        with opened(there) as file:
            server.fail = [503, 0]  # an answer that says no, and one that breaks off: each is asked for again
            assert file.read() == (crawl / name).read_bytes()
        with pytest.raises(InputError, match=r"none\.warc\.gz: cannot be read"):
            pages_of(f"{server.address}/none.warc.gz")
        listed = files_of(Outside(f"{server.address}/warc.paths.gz"), server.address)
        assert [file.path for file in listed] == [f"{server.address}/crawl-data/CC-MAIN-2026-01/warc/{i}.warc.gz" for i in range(2)]
        assert pages_of(listed[1].path) == pages_of(f"{crawl}/crawl-data/CC-MAIN-2026-01/warc/1.warc.gz")


def test_a_server_without_ranges_and_a_glob_of_nothing(crawl, monkeypatch):
    monkeypatch.setattr("openherd.data.locations.REMOTE_BLOCK", 10_000)
    name = "crawl-data/CC-MAIN-2026-01/warc/0.warc.gz"
    with served(crawl) as server:
        server.gives_ranges = False
        with pytest.raises(InputError, match=r"0\.warc\.gz: the server sends [\d,]+ bytes where 10,000 are asked for"):
            pages_of(f"{server.address}/{name}")
        with pytest.raises(InputError, match=r"/none/\*\.warc\.gz: "):
            paths(f"{server.address}/none/*.warc.gz")
    with pytest.raises(InputError, match=r"nothing://x/\*: cannot be opened \(Protocol not known"):
        paths("nothing://x/*")


@pytest.fixture
def bucket(crawl, monkeypatch):
    """A storage on loopback where `s3://crawl-data` is the folder of that name."""
    s3fs = pytest.importorskip("s3fs")
    with storage(crawl) as server:
        monkeypatch.setitem(fsspec.config.conf, "s3", {"key": "a", "secret": "b", "endpoint_url": server.address})
        s3fs.S3FileSystem.clear_instance_cache()
        yield server
        s3fs.S3FileSystem.clear_instance_cache()


def test_s3(crawl, bucket):
    for i, name in enumerate(paths("s3://crawl-data/*/warc/*.warc.gz")):
        assert name == f"s3://crawl-data/CC-MAIN-2026-01/warc/{i}.warc.gz"
        assert pages_of(name) == pages_of(f"{crawl}/{name.removeprefix('s3://')}")
        assert any(asked.startswith(f"GET {name.removeprefix('s3://')} bytes=0-") for asked in bucket.asked)
    assert Outside("s3://crawl-data/*/warc/*.warc.gz").digest
    with pytest.raises(InputError, match="cannot be read"):
        pages_of("s3://crawl-data/none.warc.gz")
