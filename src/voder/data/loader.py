"""Batches made ahead of time, by one background thread.

The thread only calls `make_batch(step)`, which is a pure function: whether a batch was prefetched never shows in it.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Make the batches of steps `start`, `start + 1`, … in a thread, at most `depth` ahead.

    `get(step)` hands them out; asking for another step than the next one restarts the thread's work there. What
    `make_batch` raises is raised by the `get` of its step. Use as a context manager, or call `close`.
    """

    def __init__(self, make_batch: Callable[[int], T], start: int = 0, depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, but is {depth}")
        self._make_batch = make_batch
        self._depth = depth
        self._next = start
        self._ready: dict[int, tuple[T | None, BaseException | None]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="voder-prefetch", daemon=True)
        self._thread.start()

    def get(self, step: int) -> T:
        """Return the batch of `step`, waiting for it if need be. Raises RuntimeError after `close`."""
        with self._changed:
            if self._closed:
                raise RuntimeError("get() was called on a closed Prefetcher")
            if step != self._next:
                self._ready.clear()
            self._next = step
            self._changed.notify_all()
            while step not in self._ready:
                self._changed.wait()
            batch, error = self._ready.pop(step)
            self._next = step + 1
            self._changed.notify_all()
        if error is not None:
            raise error
        return batch  # type: ignore[return-value]

    def close(self) -> None:
        """Stop the thread after the batch it is making and forget what is ready; calling it twice is fine."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> "Prefetcher[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wanted(self) -> int | None:
        """Return the first step within reach that is not ready, or None."""
        window = range(self._next, self._next + self._depth)
        return next((step for step in window if step not in self._ready), None)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and self._wanted() is None:
                    self._changed.wait()
                step = self._wanted()
                if self._closed or step is None:
                    return
            try:
                result: tuple[T | None, BaseException | None] = (self._make_batch(step), None)
            except BaseException as error:  # handed to the caller of get(), whatever it is
                result = (None, error)
            with self._changed:
                if self._next <= step < self._next + self._depth and not self._closed:
                    self._ready[step] = result
                    self._changed.notify_all()
