"""Reading times out of measured grids: linear in logarithms between points, never silently beyond.

Above a grid time grows with the size at the rate of its edge; below it stays as at the edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import exp, log

from .measured import Rows

Key = tuple[float, ...]


@dataclass(frozen=True)
class Reading:
    """A number from a table. inside: it lies between measured points."""

    value: float
    inside: bool


@dataclass(frozen=True)
class Grid:
    """Measured values above zero on a grid of sizes, points of which may be missing.

    axes: the sizes along each axis, ascending. values: by a size of each axis.
    """

    axes: tuple[tuple[float, ...], ...]
    values: Mapping[Key, float]

    def at(self, key: Sequence[float]) -> Reading:
        """The value at any sizes above zero."""
        nearest = [min(max(k, axis[0]), axis[-1]) for k, axis in zip(key, self.axes, strict=True)]
        inside = tuple(key) == tuple(nearest)
        beyond = 1.0
        for size, edge in zip(key, nearest, strict=True):
            beyond *= max(1.0, size / edge)
        total = 0.0
        sides = [_bracket(axis, k) for axis, k in zip(self.axes, nearest, strict=True)]
        for corner in product(*sides):
            weight = 1.0
            for _, share in corner:
                weight *= share
            if weight == 0.0:
                continue
            found = self._point(tuple(size for size, _ in corner))
            inside &= found.inside
            total += weight * log(found.value)
        return Reading(exp(total) * beyond, inside)

    def _point(self, key: Key) -> Reading:
        """A point of the grid; a missing one in proportion to the largest below it."""
        if key in self.values:
            return Reading(self.values[key], True)
        known = [k for k in self.values if all(a <= b for a, b in zip(k, key, strict=True))]
        if not known:
            known = list(self.values)
        near = max(known, key=_volume)
        return Reading(self.values[near] * max(1.0, _volume(key) / _volume(near)), False)


def grid(rows: Rows) -> Grid | None:
    """The grid of rows whose last number is the value; None for no rows."""
    if not rows:
        return None
    values = {tuple(row[:-1]): row[-1] for row in rows}
    axes = tuple(tuple(sorted(set(axis))) for axis in zip(*values, strict=True))
    return Grid(axes, values)


def of_threads(rows: Rows, threads: int) -> tuple[Rows, bool]:
    """The rows measured with that count of threads, without it, else with the nearest below.

    The second is whether the count itself was measured.
    """
    counts = sorted({row[0] for row in rows})
    if not counts:
        return (), False
    chosen = max((c for c in counts if c <= threads), default=counts[0])
    return tuple(tuple(row[1:]) for row in rows if row[0] == chosen), chosen == threads


def _volume(key: Key) -> float:
    size = 1.0
    for k in key:
        size *= k
    return size


def _bracket(axis: Sequence[float], size: float) -> tuple[tuple[float, float], ...]:
    """The sizes of an axis around one, with their weights."""
    for low, high in pairwise(axis):
        if low <= size <= high:
            share = log(size / low) / log(high / low)
            return ((low, 1.0 - share), (high, share))
    return ((size, 1.0),)
