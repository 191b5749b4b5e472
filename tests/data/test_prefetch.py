"""Batches made ahead: the right ones, errors where they belong, and an end."""

import threading

import pytest

from openherd.data.prefetch import DEPTH, Prefetch


def test_steps_come_in_order_and_a_few_ahead():
    made = []

    def make(step):
        made.append(step)
        return step * step

    with Prefetch(make, 10) as ahead:
        for step in range(10):
            assert ahead.get(step)[0] == step * step
            assert max(made) <= step + DEPTH
    assert made == list(range(10))
    assert not ahead._thread.is_alive()


def test_any_step_may_be_asked_for():
    with Prefetch(lambda step: step, 100) as ahead:
        assert [ahead.get(step)[0] for step in (5, 6, 2, 3, 4, 50, 49, 99, 0)] == [5, 6, 2, 3, 4, 50, 49, 99, 0]


def test_an_error_is_raised_in_its_step():
    def make(step):
        if step == 3:
            raise ValueError("step 3")
        return step

    with Prefetch(make, 10) as ahead:
        assert [ahead.get(step)[0] for step in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="step 3"):
            ahead.get(3)
        assert ahead.get(4)[0] == 4  # who passes over it goes on


def test_work_is_done_while_the_step_computes():
    ready = threading.Event()

    def make(step):
        if step == 1:
            ready.set()
        return step

    with Prefetch(make, 3) as ahead:
        ahead.get(0)
        assert ready.wait(10)  # step 1 is made though nobody has asked for it


def test_leaving_does_not_wait_for_what_never_ends(monkeypatch):
    monkeypatch.setattr("openherd.data.prefetch.LEAVE_S", 0.01)
    never = threading.Event()
    with Prefetch(lambda step: never.wait() if step else step, 10) as ahead:
        assert ahead.get(0)[1] >= 0
    assert ahead._thread.daemon
    never.set()
