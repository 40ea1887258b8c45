from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from planish.compiler.memo import Memory, array_bytes


@dataclass
class Held:
    array: np.ndarray
    other: np.ndarray | None = None


def counting(size: int, calls: list[int]) -> Callable[[], Held]:
    def function() -> Held:
        calls.append(size)
        return Held(np.zeros(size, np.uint8))

    return function


def test_what_is_kept_is_computed_once() -> None:
    memory, calls = Memory(100), list[int]()
    first = memory.recall("a", counting(40, calls))
    assert memory.recall("a", counting(40, calls)) is first
    assert calls == [40]


def test_the_oldest_make_room() -> None:
    memory, calls = Memory(100), list[int]()
    for key, size in (("a", 40), ("b", 50), ("a", 40), ("c", 60)):
        memory.recall(key, counting(size, calls))
    assert calls == [40, 50, 60]
    memory.recall("a", counting(40, calls))
    memory.recall("b", counting(50, calls))
    assert calls == [40, 50, 60, 50]


def test_without_room_nothing_is_kept() -> None:
    memory, calls = Memory(0), list[int]()
    for _ in range(2):
        memory.recall("a", counting(1, calls))
    assert calls == [1, 1]


def test_arrays_are_counted_wherever_they_stand() -> None:
    assert array_bytes(Held(np.zeros(3), np.zeros(2, np.int8))) == 26
    assert array_bytes("text") == 0
