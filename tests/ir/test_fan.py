from __future__ import annotations

import threading
import time

import pytest

from planish.ir.fan import DEPTH, Fan


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

    with pytest.raises(OSError, match="full"), Fan[int](fails, lambda _: None) as fan:
        for item in range(items):
            fan.put(item)
    assert threading.active_count() == 1 or not _waiting()


def test_an_interrupt_stops_the_consumers() -> None:
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt), Fan[int](seen.append) as fan:
        fan.put(1)
        raise KeyboardInterrupt
    assert not _waiting()


def _waiting() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if "_consume" in t.name and t.is_alive()]
