from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from planish.ir.storage.fan import DEPTH, Fan


def test_every_consumer_gets_every_item_in_order() -> None:
    first: list[int] = []
    second: list[int] = []

    def slowly(item: int) -> None:
        time.sleep(0.0005)
        second.append(item)

    with Fan[int](first.append, slowly) as fan:
        for item in range(100):
            fan.put(item)
            assert item + 1 - len(second) <= DEPTH + 2, "more waits than is bounded"
    assert first == second == list(range(100))


@pytest.mark.parametrize("items", [1, 100])
def test_the_error_of_a_consumer_is_raised(items: int) -> None:
    def fails(item: int) -> None:
        raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        _feed(items, fails, lambda _: None)
    assert not _waiting()


def test_an_interrupt_stops_the_consumers() -> None:
    def interrupts(item: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _feed(100, interrupts, lambda _: None)
    assert not _waiting()


def _feed(items: int, *consumers: Callable[[int], object]) -> None:
    with Fan[int](*consumers) as fan:
        for item in range(items):
            fan.put(item)


def _waiting() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if "_consume" in t.name and t.is_alive()]
