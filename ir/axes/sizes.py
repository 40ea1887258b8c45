"""Sizes of axes as products: a number times names, ``(12, ("batch",))`` for batch * 12."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import reduce
from typing import TypeAlias

import onnx_ir as ir

from ..graph import dims

Size: TypeAlias = tuple[int, tuple[str, ...]]
Sizes: TypeAlias = tuple[Size, ...]
Partial: TypeAlias = tuple[Size | None, ...]
ONE: Size = (1, ())


def times(a: Size, b: Size) -> Size:
    """The product."""
    return a[0] * b[0], tuple(sorted(a[1] + b[1]))


def product(sizes: Iterable[Size]) -> Size:
    """The product of all, 1 of none."""
    return reduce(times, sizes, ONE)


def divided(a: Size, b: Size) -> Size | None:
    """``a / b`` where it is whole for all values of the names, else None."""
    if b[0] == 0 or a[0] % b[0]:
        return None
    left = Counter(a[1])
    left.subtract(Counter(b[1]))
    if any(count < 0 for count in left.values()):
        return None
    return a[0] // b[0], tuple(sorted(left.elements()))


def number(size: Size | None) -> int | None:
    """The size where it is a plain number."""
    return size[0] if size is not None and not size[1] else None


def stated(value: ir.Value) -> Sizes | None:
    """What the graph itself says; an open size is a name of its own."""
    shape = dims(value)
    if shape is None:
        return None
    return tuple(
        (d, ()) if isinstance(d, int) else _named(d) if d else (1, (f"?{value.name}.{i}",))
        for i, d in enumerate(shape)
    )


def _named(name: str) -> Size:
    """``4*batch``, as exporters write it, is 4 times what ``batch`` is; other names are names."""
    parts = name.split("*")
    if len(parts) < 2 or not all(part.isidentifier() or part.isdecimal() for part in parts):
        return 1, (name,)
    numbers = [int(part) for part in parts if part.isdecimal()]
    return math.prod(numbers), tuple(sorted(part for part in parts if not part.isdecimal()))


def is_open(size: Size) -> bool:
    """Whether it is a name that ``stated`` made up."""
    return bool(size[1]) and size[1][0].startswith("?")
