"""Hand pieces of data to several consumers at once, each in a thread of its own and in order."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
DEPTH = 6  # pieces that wait for one consumer; what bounds the memory


class Fan(Generic[T]):
    """``put`` gives an item to every consumer; leaving the block waits until all are done.

    The first error of a consumer is raised by the next ``put``, or at the end of the block. Where
    the block itself raises, the consumers stop as they are.
    """

    def __init__(self, *consumers: Callable[[T], object]) -> None:
        self._queues: list[queue.Queue[T | None]] = [queue.Queue(DEPTH) for _ in consumers]
        self._errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._consume, args=pair, daemon=True)
            for pair in zip(consumers, self._queues, strict=True)
        ]

    def __enter__(self) -> Fan[T]:
        for thread in self._threads:
            thread.start()
        return self

    def put(self, item: T) -> None:
        """Give ``item`` to all; waits where a consumer is behind."""
        for waiting in self._queues:
            self._put(waiting, item)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stop.set()
        else:
            # What stopped a consumer is raised below.
            with contextlib.suppress(BaseException):
                for waiting in self._queues:
                    self._put(waiting, None)
        for thread in self._threads:
            thread.join()
        if error is None and self._errors:
            raise self._errors[0]

    def _put(self, waiting: queue.Queue[T | None], item: T | None) -> None:
        while True:
            if self._errors:
                self._stop.set()
                raise self._errors[0]
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                return

    def _consume(self, consumer: Callable[[T], object], waiting: queue.Queue[T | None]) -> None:
        while not self._stop.is_set():
            try:
                item = waiting.get(timeout=0.1)
            except queue.Empty:
                continue
            if item is None:
                return
            try:
                consumer(item)
            except BaseException as error:  # raised again in the thread that puts
                self._errors.append(error)
                return
