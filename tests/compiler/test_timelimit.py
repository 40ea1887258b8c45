"""A bound on time: in the main thread and in others, swallowed or not, paused."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest

from planish.compiler.timelimit import TimeLimit, TimeUpError


def in_a_thread(work: Callable[[], None]) -> list[BaseException]:
    """What the work raises in a thread of its own."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    return raised


def endless() -> None:
    with TimeLimit(0.05).running():
        while True:
            pass


def test_a_loop_ends() -> None:
    with pytest.raises(TimeUpError):
        endless()
    assert isinstance(in_a_thread(endless)[0], TimeUpError)


def test_a_sleep_ends() -> None:
    with pytest.raises(TimeUpError), TimeLimit(0.05).running():
        time.sleep(60)


def swallowing(heard: list[BaseException]) -> None:
    """Gives in to the second alarm only."""
    while len(heard) < 2:
        try:
            while True:
                pass
        except BaseException as error:
            heard.append(error)
    raise heard[-1]


def test_what_is_swallowed_comes_again() -> None:
    heard: list[BaseException] = []
    with pytest.raises(TimeUpError), TimeLimit(0.05).running():
        swallowing(heard)
    assert [type(error) for error in heard] == [TimeUpError, TimeUpError]


def test_nothing_is_left_behind() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with TimeLimit(60).running():
        assert signal.getsignal(signal.SIGALRM) is not before
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_clock_stands_still_while_paused(elsewhere: bool) -> None:
    def work() -> None:
        limit = TimeLimit(0.3)
        with limit.running(), limit.paused():
            time.sleep(0.6)
        with limit.paused():
            pass

    if elsewhere:
        assert in_a_thread(work) == []
    else:
        work()
