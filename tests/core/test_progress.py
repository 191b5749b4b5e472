"""Progress as it is printed, on a clock of our own."""

import pytest

from openherd.core import progress
from openherd.core.progress import Progress, format_duration, track


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (4.24, "4.2 s"), (60, "1 min 00 s"), (185, "3 min 05 s"), (3600, "1 h 00 min"), (7805, "2 h 10 min")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_a_line_now_and_then_with_rate_and_time_left(clock, capsys):
    with Progress("reading", 100, "pages") as bar:
        clock.now += 10
        bar.advance(20)
        assert capsys.readouterr().err == ""  # sooner than a line is due
        clock.now += 10
        bar.advance(20, note="loss 2.5")
    assert capsys.readouterr().err == "  reading: ████████░░░░░░░░░░░░  40% · 2 pages/s · 30.0 s left · loss 2.5\n"


def test_what_an_earlier_process_did_is_not_in_the_rate(clock, capsys):
    with Progress("training", 100, "steps") as bar:
        bar.resume_at(50)
        clock.now += 20
        bar.advance(10)
    assert "60% · 0.5 steps/s · 1 min 20 s left" in capsys.readouterr().err


def test_without_a_total_there_is_no_time_left(clock, capsys):
    def slowly():
        for i in range(3):
            clock.now += 16
            yield i

    assert list(track(slowly(), "reading", "pages")) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  reading: 1 · 0.062 pages/s"
    assert len(lines) == 3
