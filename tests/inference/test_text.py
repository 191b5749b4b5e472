"""Text out of bytes, however these are cut."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openherd.inference.text import TextStream

# Few letters, so that stop strings are found, overlap and almost match; with characters of two and four bytes.
LETTERS = st.text("abé😀", max_size=24)
STOPS = st.lists(st.text("abé😀", min_size=1, max_size=4), max_size=3)


def run(pieces: list[bytes], stops: list[str]) -> tuple[str, str | None]:
    stream = TextStream(stops)
    text = "".join(map(stream.push, pieces)) + stream.finish()
    assert stream.push(b"more") == "" or stream.stopped is None
    return text, stream.stopped


def cut(data: bytes, places: list[int]) -> list[bytes]:
    places = sorted(p % (len(data) + 1) for p in places)
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def expected(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Every place from the left, every stop string from the shortest."""
    for place in range(len(text)):
        for stop in sorted(stops, key=len):
            if text.startswith(stop, place):
                return text[:place], stop
    return text, None


@given(LETTERS, STOPS, st.lists(st.integers(0), max_size=30))
@example("abcd", ["abcx", "bc"], [1, 2, 3])
def test_the_text_is_that_before_the_first_stop_string(text, stops, places):
    assert run(cut(text.encode(), places), stops) == expected(text, stops)


@given(st.binary(max_size=30), st.lists(st.text("ab�", min_size=1, max_size=3), max_size=2), st.lists(st.integers(0), max_size=30))
def test_bytes_that_are_no_text(data, stops, places):
    assert run(cut(data, places), stops) == expected(data.decode("utf-8", errors="replace"), stops)


@given(LETTERS, STOPS, st.lists(st.integers(0), max_size=30))
def test_no_more_is_held_back_than_a_stop_string_asks(text, stops, places):
    stream, seen, out = TextStream(stops), b"", ""
    for piece in cut(text.encode(), places):
        seen, out = seen + piece, out + stream.push(piece)
        whole = seen.decode("utf-8", errors="ignore")
        if stream.stopped is None:
            held = whole[len(out) :]
            assert held == "" or any(len(held) < len(stop) and stop.startswith(held) for stop in stops)


def test_stop_strings_across_tokens():
    stream = TextStream(["\n\nUser:", "\n\nEnd"])
    assert [stream.push(b) for b in (b"Hi", b".\n", b"\n", b"Us", b"ing it", b"\n\nUs", b"er", b": x", b"y")] == [
        "Hi", ".", "", "", "\n\nUsing it", "", "", "", "",
    ]  # fmt: skip
    assert stream.stopped == "\n\nUser:"
    assert stream.finish() == ""


def test_what_was_held_back_comes_at_the_end():
    stream = TextStream(["END"])
    assert (stream.push(b"the EN"), stream.finish(), stream.stopped) == ("the ", "EN", None)
    stream = TextStream(["abcd", "bc"])  # the first may still come whole, and would begin first
    assert (stream.push(b"xabc"), stream.stopped) == ("x", None)
    assert (stream.finish(), stream.stopped) == ("a", "bc")
    half = TextStream()
    assert (half.push("é".encode()[:1]), half.finish()) == ("", "�")


@pytest.mark.parametrize("stops", [[], ["zz"]])
def test_without_a_stop_string_characters_come_at_once(stops):
    stream = TextStream(stops)
    assert [stream.push(bytes([b])) for b in "aé😀b".encode()] == ["a", "", "é", "", "", "", "😀", "b"]
