"""Prefetching changes when batches are made, never what they are."""

import threading
import time

import pytest

from voder.data.loader import Prefetcher


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "voder-prefetch"]


def test_batches_come_in_order_from_any_start_and_after_jumps():
    with Prefetcher(lambda step: step * 10, start=5) as loader:
        assert [loader.get(step) for step in (5, 6, 7, 2, 3, 40, 40, 41)] == [50, 60, 70, 20, 30, 400, 400, 410]


def test_at_most_depth_batches_are_made_ahead():
    made = []
    with Prefetcher(made.append, depth=3) as loader:
        loader.get(0)
        deadline = time.monotonic() + 10
        while made != [0, 1, 2, 3] and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3]


def test_batches_are_made_while_the_caller_works():
    ready = threading.Event()

    def make(step):
        if step == 1:
            ready.set()
        return step

    with Prefetcher(make) as loader:
        loader.get(0)
        assert ready.wait(10)  # step 1 was made without being asked for


def test_an_exception_reaches_the_caller_of_its_step_only():
    def make(step):
        if step == 1:
            raise ValueError("no batch 1")
        return step

    with Prefetcher(make) as loader:
        assert loader.get(0) == 0
        with pytest.raises(ValueError, match="no batch 1"):
            loader.get(1)
        assert loader.get(2) == 2


def test_closing_ends_the_thread_also_after_an_interrupt():
    with pytest.raises(KeyboardInterrupt), Prefetcher(lambda step: step):
        raise KeyboardInterrupt
    assert threads() == []
    loader = Prefetcher(lambda step: step)
    loader.close()
    loader.close()
    assert threads() == []
    with pytest.raises(RuntimeError, match="closed"):
        loader.get(0)


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="depth must be at least 1, but is 0"):
        Prefetcher(lambda step: step, depth=0)
