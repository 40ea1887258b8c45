"""One group in the making: which unit each position of each axis belongs to.

A label is a number that stands for a class of a union-find: units that turn out to be cut only
together are joined. ``NONE`` marks positions that belong to no unit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from .groups import NONE, Index
from .relations import Fold, Inner, Key


class CannotCutError(Exception):
    """The units cannot be cut. ``args``: code and sentence. labels: what was reached till then."""

    labels: Labels | None = None

    @property
    def code(self) -> str:
        """The stable reason code."""
        return str(self.args[0])

    @property
    def sentence(self) -> str:
        """What stands in the way, and where."""
        return str(self.args[1])


class Labels:
    """Labels by axis, the classes that were joined, and what still has to be looked at."""

    def __init__(self, units: int) -> None:
        self.parent = np.arange(units)
        self.by_key: dict[Key, Index] = {}
        self.pending: deque[Key] = deque()
        self.folds: dict[Fold, None] = {}
        self.marks: set[str] = set()
        self.forked = False
        self.joined = False

    def copy(self) -> Labels:
        """An independent state to go on from."""
        other = Labels(0)
        other.parent = self.parent.copy()
        other.by_key = dict(self.by_key)
        other.pending = deque(self.pending)
        other.folds = dict(self.folds)
        other.marks = set(self.marks)
        other.joined = self.joined
        return other

    def find(self, labels: Index) -> Index:
        """The class of each label; ``NONE`` stays."""
        if not self.joined:
            return labels
        found = labels.copy()
        real = labels != NONE
        held = labels[real]
        roots = self.parent[held]
        while True:
            above = self.parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self.parent[held] = roots  # shorter ways for the next one
        found[real] = roots
        return found

    def join(self, a: Index, b: Index) -> None:
        """Put pairs of labels into one class each; the smallest number stands for it."""
        if np.array_equal(a, b):
            return
        self.joined = True
        while True:
            one, other = self.find(a), self.find(b)
            low, high = np.minimum(one, other), np.maximum(one, other)
            if np.array_equal(low, high):
                return
            np.minimum.at(self.parent, high, low)  # of several for one class the rest comes next

    def put(self, key: Key, labels: Index) -> None:
        """These labels stand at this axis, besides what stands there already."""
        held = self.by_key.get(key)
        if held is None:
            if (labels != NONE).any():
                self.by_key[key] = labels
                self.pending.append(key)
            return
        if held is labels or np.array_equal(held, labels):
            return
        if held.shape != labels.shape:
            raise CannotCutError("data-dependent", f"two sizes of one axis of {name_of(key)}")
        both = (held != NONE) & (labels != NONE)
        one, other = self.find(held[both]), self.find(labels[both])
        differ = one != other
        self.join(one[differ], other[differ])
        new = (held == NONE) & (labels != NONE)
        if new.any():
            self.by_key[key] = np.where(new, labels, held)
            self.pending.append(key)

    def join_rows(self, rows: Index) -> Index:
        """Join the labels in each row of [n, k]; the label of each row, NONE of an empty one."""
        found: Index = rows.max(axis=1, initial=NONE)
        held = rows != NONE
        self.join(np.broadcast_to(found[:, None], rows.shape)[held], rows[held])
        return found

    def units(self) -> int:
        """How many classes stand anywhere."""
        return int(present(map(self.find, self.by_key.values()), len(self.parent)).sum())


def present(vectors: Iterable[Index], count: int) -> npt.NDArray[np.bool_]:
    """bool [count]: which classes stand in any of the vectors."""
    found = np.zeros(count, np.bool_)
    for vector in vectors:
        found[vector[vector != NONE]] = True
    return found


def name_of(key: Key) -> str:
    """The name of the value, or of the node, that an axis belongs to, for messages."""
    holder = key[0]
    if isinstance(holder, Inner):
        return f"{holder.node.op_type} {holder.node.name!r}"
    value = getattr(holder, "value", holder)
    return repr(getattr(value, "name", "") or "")
