"""A bound on the time that a call may take, kept by an alarm."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 1.0
"""Seconds after which code that swallowed the alarm hears it once more."""


class TimeUpError(BaseException):
    """The time is up. Not an Exception: ``except Exception`` in the code must not swallow it."""


class TimeLimit:
    """An alarm after some seconds of work; the clock stands still while it is paused.

    In the main thread it is a signal, which also ends a sleep; in another thread it takes effect
    at the next line of Python. Neither ends a call into compiled code before that returns.
    """

    def __init__(self, seconds: float) -> None:
        self._left, self._since, self._running = seconds, 0.0, False
        signals = threading.current_thread() is threading.main_thread()
        self._alarm: _Signal | _Watchdog = _Signal() if signals else _Watchdog()

    @contextmanager
    def running(self) -> Iterator[None]:
        """While open, the clock runs. Raises ``TimeUpError`` inside when time is up."""
        with self._alarm.ready():
            self._start()
            try:
                yield
            finally:
                self._stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While open, the clock stands still, if it runs at all."""
        if not self._running:
            yield
            return
        self._stop()
        try:
            yield
        finally:
            self._start()

    def _start(self) -> None:
        self._since, self._running = time.monotonic(), True
        self._alarm.start(max(self._left, 1e-3))

    def _stop(self) -> None:
        self._alarm.stop()
        self._running = False
        self._left -= time.monotonic() - self._since


class _Signal:
    """SIGALRM, which arrives in the main thread."""

    @contextmanager
    def ready(self) -> Iterator[None]:
        self._active = False
        before = signal.signal(signal.SIGALRM, self._ring)
        try:
            yield
        finally:
            signal.signal(signal.SIGALRM, before)

    def start(self, seconds: float) -> None:
        self._active = True
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)

    def stop(self) -> None:
        self._active = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._active:
            raise TimeUpError
        return


class _Watchdog:
    """A timer that raises in the thread that made it."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._timer: threading.Timer | None = None

    @contextmanager
    def ready(self) -> Iterator[None]:
        yield

    def start(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._bark)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            timer.join()

    def _bark(self) -> None:
        raise_in: Callable[..., int] = ctypes.pythonapi.PyThreadState_SetAsyncExc
        raise_in(ctypes.c_ulong(self._thread), ctypes.py_object(TimeUpError))
