"""Damage of any kind is found, and loses nothing else; another reader finds the same records."""

import gzip
import io

import pytest
from fastwarc.stream_io import ZstdReader, ZstdWriter
from fastwarc.warc import ArchiveIterator, WarcRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator as WarcioIterator

from openherd.data.pages import DamageError
from openherd.data.warc import read_warc, zstd
from warc_records import page, plain, record, starts


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_cut_anywhere(zipped):
    records = [record("warcinfo", b"a: b"), page(1), page(2, 9), page(3, 99)]
    pieces = [gzip.compress(r, mtime=0) for r in records] if zipped else records
    begins = starts(pieces)
    # A plain record is whole without the blank lines that follow it.
    ends = [start + len(piece) - (0 if zipped else 4) for start, piece in zip(begins, pieces, strict=False)]
    for cut in range(begins[-1] + 1):
        found = list(read_warc(io.BytesIO(b"".join(pieces)[:cut])))
        whole = sum(cut >= end for end in ends)
        assert plain(found) == list(zip(begins[:whole], records, strict=False))
        damage = [x.offset for x in found if isinstance(x, DamageError)]
        assert damage == ([begins[whole]] if cut > begins[whole] else [])


@settings(max_examples=60)
@given(st.integers(0, 2), st.data())
def test_a_damaged_gzip_member_alone_is_lost(i, data):
    records = [page(n, 3000) for n in range(3)]
    pieces = [bytearray(gzip.compress(r, mtime=0)) for r in records]
    begins = starts(pieces)
    at = data.draw(st.integers(10, len(pieces[i]) - 5))  # after gzip's head, before the length at its end
    pieces[i][at] ^= data.draw(st.integers(1, 255))
    found = list(read_warc(io.BytesIO(b"".join(pieces))))
    assert plain(found) == [(begins[n], records[n]) for n in range(3) if n != i]
    assert {x.offset for x in found if isinstance(x, DamageError)} == {begins[i]}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("wrong", [b"7", b"70", b"700", b"7000000000", b"x", b"-1"])
def test_a_wrong_content_length_loses_its_record_alone(zipped, wrong):
    records = [page(n) for n in range(4)]
    broken = records[1].replace(b"Content-Length: %d" % len(records[1].split(b"\r\n\r\n", 1)[1][:-4]), b"Content-Length: " + wrong)
    assert broken != records[1]
    pieces = [records[0], broken, *records[2:]]
    pieces = [gzip.compress(r, mtime=0) for r in pieces] if zipped else pieces
    begins = starts(pieces)
    found = list(read_warc(io.BytesIO(b"".join(pieces))))
    assert plain(found) == [(begins[n], records[n]) for n in (0, 2, 3)]
    assert [x.offset for x in found if isinstance(x, DamageError)] == [begins[1]]


def in_frames(records, **options):
    return [zstd.compress(r, **options) for r in records]


@pytest.mark.parametrize("place", [0, 1, 3])
def test_zstd_is_read_as_gzip_is(place):
    records = [record("warcinfo", b"a: b"), page(1, 3000), page(2, 9), page(3, 200_000)]
    pieces = in_frames(records)
    begins = starts(pieces)
    assert list(read_warc(io.BytesIO(b"".join(pieces)))) == [(begins[i], records[i], (begins[i], 0)) for i in range(4)]
    pieces[place] = pieces[place][:-7] + bytes(7)
    found = list(read_warc(io.BytesIO(b"".join(pieces))))
    assert plain(found) == [(begins[i], records[i]) for i in range(4) if i != place]
    assert {x.offset for x in found if isinstance(x, DamageError)} == {begins[place]}
    cut = list(read_warc(io.BytesIO(b"".join(in_frames(records))[:-9])))
    assert plain(cut) == [(begins[i], records[i]) for i in range(3)]
    assert [x.found for x in cut if isinstance(x, DamageError)] == ["the file ends within a zstd member"]


def test_zstd_as_fastwarc_writes_it(tmp_path):
    records = [page(i, 500) for i in range(5)]
    path = tmp_path / "a.warc.zst"
    with ZstdWriter(str(path)) as writer:
        for one in records:
            WarcRecord.from_bytes(one).write(writer)
    with path.open("rb") as file:
        ours = [found.data.partition(b"\r\n\r\n")[2] for found in read_warc(file)]
    with path.open("rb") as file:
        theirs = [found.reader.read() + b"\r\n\r\n" for found in ArchiveIterator(ZstdReader(file), parse_http=False)]
    assert ours == theirs
    assert len(ours) == 5


@pytest.mark.parametrize("packed", [False, True])
def test_a_zstd_file_may_begin_with_its_dictionary(packed):
    records = [page(i, 60) for i in range(200)]
    words = zstd.train_dict(records, 2_000)
    frames = in_frames(records, zstd_dict=words)
    content = zstd.compress(words.dict_content) if packed else words.dict_content
    head = b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
    found = list(read_warc(io.BytesIO(head + b"".join(frames))))
    assert plain(found) == [(len(head) + begin, r) for begin, r in zip(starts(frames), records, strict=False)]
    broken = b"\x5d\x2a\x4d\x18" + (9).to_bytes(4, "little") + zstd.compress(b"x")[:9] + b"".join(frames)
    assert [type(x) for x in read_warc(io.BytesIO(broken))][:1] == [DamageError]


SHAPES = ("plain", "a member a record", "a frame a record", "two records a member", "one member")


@settings(max_examples=60)
@given(st.sampled_from(SHAPES), st.data())
def test_reading_goes_on_from_any_place(shape, data):
    records = [page(n, data.draw(st.sampled_from([9, 300]))) for n in range(6)]
    if shape == "plain":
        pieces = records
    elif shape == "one member":
        pieces = [gzip.compress(b"".join(records), mtime=0)]
    elif shape == "two records a member":
        pieces = [gzip.compress(a + b, mtime=0) for a, b in zip(records[::2], records[1::2], strict=True)]
    else:
        pieces = [zstd.compress(r) if shape == "a frame a record" else gzip.compress(r, mtime=0) for r in records]
    content = bytearray(b"".join(pieces))
    for _ in range(data.draw(st.integers(0, 2))):
        content[data.draw(st.integers(4, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    every = [told(x) for x in read_warc(io.BytesIO(content))]
    for i, (_, _, place) in enumerate(every):
        assert [told(x) for x in read_warc(io.BytesIO(content), place)] == every[i:]


def told(found):
    return (found.offset, found.found if isinstance(found, DamageError) else found.data, found.place)


WHOLE = {
    "warc": ("warcfile.warc.gz", "clueweb-quirk.warc.gz"),
    "warcio": ("example.warc.gz", "example-iana.org-chunked.warc", "example-space-in-target-uri.warc.gz"),
}


@pytest.fixture(scope="module")
def crawls(shared_data):
    """Real WARC files that are whole."""
    return [shared_data(folder) / name for folder, names in WHOLE.items() for name in names]


def test_real_files_as_fastwarc_reads_them(crawls):
    n = 0
    for path in crawls:
        with path.open("rb") as file:
            expected = [(r.stream_pos, r.reader.read()) for r in ArchiveIterator(file, parse_http=False, quirks_mode=True)]
        with path.open("rb") as file:
            found = list(read_warc(file))
        assert [r.offset for r in found] == [offset for offset, _ in expected]
        for (_, data, _), (_, block) in zip(found, expected, strict=True):
            assert data.endswith(block + b"\r\n\r\n")
        n += len(found)
    assert n > 80


def test_real_files_as_warcio_reads_them(crawls):
    for path in crawls:
        with path.open("rb") as file:
            expected = [
                (r.rec_headers.get_header("WARC-Record-ID"), r.raw_stream.read())
                for r in WarcioIterator(file, no_record_parse=True)
            ]
        with path.open("rb") as file:
            found = [WarcRecord.from_bytes(data) for _, data, _ in read_warc(file)]
            assert [(r.record_id, r.reader.read()) for r in found] == expected
