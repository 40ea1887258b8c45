"""What has to change at nodes around a cut besides tensors: targets, sizes, bounds, attributes.

Nothing is changed here: a repair is worked out on the graph as it is and says what to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ..graph import attribute, constant_array, given, operator, producer
from .groups import Index
from .labels import CannotCutError
from .movement import pads, slices
from .relations import DATA
from .sizes import Entry, SizeTable, number

Axis = tuple[ir.Value, int]


@dataclass(frozen=True)
class Setting:
    """An attribute of a node gets a new value."""

    node: ir.Node
    name: str
    value: Any


@dataclass(frozen=True)
class Constant:
    """A node reads a new constant."""

    node: ir.Node
    index: int
    data: np.ndarray


@dataclass(frozen=True)
class Joined:
    """A node reads a Concat like the one it reads, with constants at some of its inputs."""

    node: ir.Node
    index: int
    parts: Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Uneven:
    """A Split into equal parts becomes one into parts of these sizes."""

    node: ir.Node
    sizes: Sequence[int]


Repair = Setting | Constant | Joined | Uneven


@dataclass(frozen=True)
class Cut:
    """What stays: by axis of a value, the positions kept, and the size that the axis had."""

    kept: Mapping[Axis, Index]
    sizes: Mapping[Axis, int]
    table: SizeTable

    def has(self, value: ir.Value | None, axis: int) -> bool:
        """Whether the axis gets shorter."""
        return value is not None and (value, axis) in self.kept

    def after(self, value: ir.Value | None, axis: int) -> int:
        """The size of an axis after the cut."""
        assert value is not None
        kept = self.kept.get((value, axis))
        if kept is not None:
            return len(kept)
        size = self.table.length(value, axis)
        if size is None:
            raise CannotCutError(DATA, f"an axis of {value.name!r} has no known size")
        return size


def repairs_of(node: ir.Node, cut: Cut) -> list[Repair]:
    """What has to change at one node; CannotCutError where that is not possible."""
    handler = _REPAIRS.get(operator(node)[1])
    return [] if handler is None else list(handler(node, cut))


def _reshape(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """The target's numbers for axes that were cut."""
    y, x = node.outputs[0], node.inputs[0]
    sizes = cut.table.reshaped(node) or cut.table.of(y) or ()
    entries = cut.table.entries(given(node, 1))
    zero = bool(attribute(node, "allowzero", 0))
    changed: dict[int, int] = {}
    for axis in (a for a in range(len(sizes)) if cut.has(y, a)):
        entry = None if entries is None else entries[axis]
        size = cut.after(y, axis) if number(sizes[axis]) is not None else -1
        copies = entry is not None and entry.constant and entry.size == (0, ()) and not zero
        if copies and cut.has(x, axis) and cut.after(x, axis) == cut.after(y, axis):
            continue
        if not _right(entry, size, cut):
            changed[axis] = size
    left = [e for i, e in enumerate(entries or ()) if i not in changed]
    inferred = sum(e.constant and e.size == (-1, ()) for e in left)
    if inferred + list(changed.values()).count(-1) > 1:
        raise CannotCutError(DATA, f"the target of {node.name!r} is computed from data")
    return _target(node, 1, changed)


def _right(entry: Entry | None, size: int, cut: Cut) -> bool:
    """Whether an entry of a target holds the new size by itself."""
    if entry is None:
        return False
    if entry.constant:
        return entry.size in ((-1, ()), (size, ()))
    return entry.source in cut.kept and cut.after(*entry.source) == size  # type: ignore[misc]


def _expand(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    y, x = node.outputs[0], node.inputs[0]
    entries = cut.table.entries(given(node, 1))
    rank = len(cut.table.of(y) or ())
    changed: dict[int, int] = {}
    for axis in (a for a in range(rank) if cut.has(y, a)):
        place = axis - rank + len(entries or ())
        if entries is None:
            raise CannotCutError(DATA, f"the target of {node.name!r} is computed from data")
        own = axis - rank + len(cut.table.of(x) or ())
        given_by_input = own >= 0 and cut.has(x, own)
        if place < 0 or (given_by_input and entries[place] == Entry((1, ()), constant=True)):
            continue
        if number(cut.table.of(y)[axis]) is None:  # type: ignore[index]
            raise CannotCutError(DATA, f"the target of {node.name!r} is computed from data")
        if not _right(entries[place], cut.after(y, axis), cut):
            changed[place] = cut.after(y, axis)
    return _target(node, 1, changed)


def _resize(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    if given(node, 3) is None:
        return ()
    entries = cut.table.entries(given(node, 3))
    if entries is None or attribute(node, "axes") is not None:
        raise CannotCutError(DATA, f"the sizes of {node.name!r} are computed from data")
    y = node.outputs[0]
    cut_axes = [axis for axis in range(len(entries)) if cut.has(y, axis)]
    sizes = {axis: cut.after(y, axis) for axis in cut_axes}
    return _target(node, 3, {a: n for a, n in sizes.items() if not _right(entries[a], n, cut)})


def _target(node: ir.Node, index: int, changed: Mapping[int, int]) -> Iterable[Repair]:
    """Put numbers into a vector that a node reads, be it a constant or joined from parts."""
    if not changed:
        return
    value = given(node, index)
    array = constant_array(value)
    if array is not None:
        data = array.copy()
        data[list(changed)] = list(changed.values())
        yield Constant(node, index, data)
        return
    join = producer(value, "Concat")
    if join is None:
        raise CannotCutError(DATA, f"the target of {node.name!r} is computed from data")
    yield Joined(node, index, _parts(join, changed))


def _parts(join: ir.Node, changed: Mapping[int, int]) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    start, left = 0, dict(changed)
    for place, value in enumerate(join.inputs):
        length = value.shape[0] if value is not None and value.shape is not None else None
        array = constant_array(value)
        if not isinstance(length, int):
            break
        own = {i - start: left.pop(i) for i in list(left) if start <= i < start + length}
        if own and array is None and length > 1:
            break
        if own:
            data = np.zeros(length, np.int64) if array is None else array.copy()
            data[list(own)] = list(own.values())
            found[place] = data
        start += length
    if left or not found:
        raise CannotCutError(DATA, f"parts of the shape {join.name!r} are computed from data")
    return found


def _split(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    x = node.inputs[0]
    axis = int(attribute(node, "axis", 0)) % len(cut.table.of(x) or (0,))
    if not cut.has(x, axis):
        return
    sizes = [cut.after(y, axis) for y in node.outputs]
    if attribute(node, "split") is not None:
        yield Setting(node, "split", sizes)
    elif given(node, 1) is not None:
        if constant_array(given(node, 1)) is None:
            raise CannotCutError(DATA, f"the sizes of {node.name!r} are computed from data")
        yield Constant(node, 1, np.array(sizes, np.int64))
    elif len(set(sizes)) > 1:
        yield Uneven(node, sizes)


def _slice(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    x = node.inputs[0]
    sizes = cut.table.of(x)
    bounds = None if sizes is None else slices(node, sizes)
    moved = {axis: part for axis, part in (bounds or {}).items() if cut.has(x, axis)}
    if not moved:
        return
    assert x is not None
    listed = len(node.inputs) == 1
    names = attribute(node, "axes") if listed else constant_array(given(node, 3))
    starts, ends = (
        np.array(attribute(node, name) if listed else constant_array(node.inputs[i]))
        for i, name in ((1, "starts"), (2, "ends"))
    )
    axes = [int(a) % len(sizes or ()) for a in (range(len(starts)) if names is None else names)]
    for i, axis in enumerate(axes):
        part = moved.get(axis)
        if part is not None:
            begin, end, _ = part.indices(cut.sizes[x, axis])
            starts[i] = np.searchsorted(cut.kept[x, axis], begin)
            ends[i] = np.searchsorted(cut.kept[x, axis], end)
    if listed:
        yield Setting(node, "starts", starts.tolist())
        yield Setting(node, "ends", ends.tolist())
    else:
        yield Constant(node, 1, starts)
        yield Constant(node, 2, ends)


def _gather(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    data, indices = node.inputs[0], constant_array(node.inputs[1])
    axis = int(attribute(node, "axis", 0)) % len(cut.table.of(data) or (0,))
    if not cut.has(data, axis) or indices is None:
        return
    assert data is not None
    kept = cut.kept[data, axis]
    wanted = indices % cut.sizes[data, axis]
    left = wanted[np.isin(wanted, kept)]
    yield Constant(node, 1, np.searchsorted(kept, left).astype(indices.dtype))


def _pad(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    x, y = node.inputs[0], node.outputs[0]
    rank = len(cut.table.of(x) or ())
    bounds = pads(node, rank)
    moved = [axis for axis in range(rank) if cut.has(y, axis)]
    if bounds is None or not any(bounds[axis] != (0, 0) for axis in moved):
        return
    new = dict(bounds)
    for axis in moved:
        before, size = bounds[axis][0], cut.sizes[y, axis]
        kept = cut.kept[y, axis]
        end = size - bounds[axis][1]
        new[axis] = (int((kept < before).sum()), int((kept >= end).sum()))
    yield from _padded(node, new, rank)


def _padded(node: ir.Node, new: Mapping[int, tuple[int, int]], rank: int) -> Iterable[Repair]:
    named = constant_array(given(node, 3))
    axes: Sequence[int] = range(rank) if named is None else [int(a) % rank for a in named]
    data = [new[a][0] for a in axes] + [new[a][1] for a in axes]
    if len(node.inputs) == 1:
        yield Setting(node, "pads", data)
    else:
        yield Constant(node, 1, np.array(data, np.int64))


def _conv(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """Groups that are left: channels of one side over channels of one group."""
    groups, weight = int(attribute(node, "group", 1)), node.inputs[1]
    if groups == 1:
        return
    side = node.inputs[0] if node.op_type == "Conv" else node.outputs[0]
    if not cut.has(side, 1) and not cut.has(weight, 1):
        return
    left = cut.after(side, 1) // cut.after(weight, 1)
    if left != groups:
        yield Setting(node, "group", left)


_REPAIRS: Mapping[str, Callable[[ir.Node, Cut], Iterable[Repair]]] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "Resize": _resize,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Conv": _conv,
    "ConvTranspose": _conv,
}
