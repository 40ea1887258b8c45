"""Targets of Reshape, Expand and Resize: the numbers in them that stand for axes that were cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from ..graph import Array, attribute, constant_array, given, producer
from .computed_shapes import Entry
from .labels import CannotCutError
from .relations import DATA
from .repair import Axis, Constant, Cut, Joined, Repair, Scaled
from .sizes import number


def reshape(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """The target's numbers for axes that were cut."""
    y, x = node.outputs[0], node.inputs[0]
    sizes = cut.table.reshaped(node) or cut.table.of(y) or ()
    entries = cut.table.entries(given(node, 1))
    zero = bool(attribute(node, "allowzero", 0))
    changed: dict[int, int | Scaled] = {}
    for axis in (a for a in range(len(sizes)) if cut.has(y, a)):
        entry = None if entries is None else entries[axis]
        copies = entry is not None and entry.constant and entry.size == (0, ()) and not zero
        if copies and cut.has(x, axis) and cut.after(x, axis) == cut.after(y, axis):
            continue
        if entry is None or not (_inferred(entry) or _right(entry, (y, axis), cut)):
            changed[axis] = _number(entry, (y, axis), number(sizes[axis]) is not None, cut)
    left = [e for i, e in enumerate(entries or ()) if i not in changed]
    if sum(map(_inferred, left)) + list(changed.values()).count(-1) > 1:
        raise CannotCutError(DATA, f"the target of {node.name!r} is computed from data")
    return _target(node, 1, changed)


def _inferred(entry: Entry) -> bool:
    return entry.constant and entry.size == (-1, ())


def _right(entry: Entry, axis: Axis, cut: Cut) -> bool:
    """Whether an entry of a target holds the size of a cut axis by itself."""
    if entry.constant:
        return entry.size == (cut.after(*axis), ())
    if entry.source is None or entry.source not in cut.kept:
        return False
    periods = cut.sizes[entry.source], cut.sizes[axis]
    return periods[0] == periods[1] and cut.after(*entry.source) == cut.after(*axis)


def _number(entry: Entry | None, axis: Axis, plain: bool, cut: Cut) -> int | Scaled:
    """What a target has to hold for a cut axis; -1 of one whose size is computed otherwise."""
    if plain:
        return cut.after(*axis)
    scale = None if entry is None else entry.scale
    factor = None if scale is None else constant_array(scale[0].inputs[scale[1]])
    if scale is None or factor is None or int(factor.reshape(-1)[0]) % cut.sizes[axis]:
        return -1
    new = int(factor.reshape(-1)[0]) // cut.sizes[axis] * cut.after(*axis)
    return Scaled(*scale, np.full_like(factor, new))


def expand(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """The target's numbers for axes that were cut, where its input does not give them."""
    y, x = node.outputs[0], node.inputs[0]
    entries, out = cut.table.entries(given(node, 1)), cut.table.of(y) or ()
    changed: dict[int, int | Scaled] = {}
    for axis in (a for a in range(len(out)) if cut.has(y, a)):
        if entries is None:
            raise CannotCutError(DATA, f"the target of {node.name!r} is computed from data")
        place, own = axis - len(out) + len(entries), axis - len(out) + len(cut.table.of(x) or ())
        from_input = own >= 0 and cut.has(x, own)
        if place < 0 or (from_input and entries[place].size == (1, ())):
            continue
        if not _right(entries[place], (y, axis), cut):
            plain = number(out[axis]) is not None
            changed[place] = _number(entries[place], (y, axis), plain, cut)
    if -1 in changed.values():
        raise CannotCutError(DATA, f"the target of {node.name!r} is computed from data")
    return _target(node, 1, changed)


def resize(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """The sizes asked for on axes that were cut; scales hold for any size."""
    if given(node, 3) is None:
        return ()
    entries = cut.table.entries(given(node, 3))
    if entries is None or attribute(node, "axes") is not None:
        raise CannotCutError(DATA, f"the sizes of {node.name!r} are computed from data")
    y = node.outputs[0]
    moved = [a for a in range(len(entries)) if cut.has(y, a)]
    wrong = [a for a in moved if not _right(entries[a], (y, a), cut)]
    return _target(node, 3, {a: cut.after(y, a) for a in wrong})


def _target(node: ir.Node, index: int, changed: Mapping[int, int | Scaled]) -> Iterable[Repair]:
    """Put numbers into a vector that a node reads, be it a constant or joined from parts."""
    if not changed:
        return
    value = given(node, index)
    array = constant_array(value)
    plain = {place: n for place, n in changed.items() if isinstance(n, int)}
    if array is not None and len(plain) == len(changed):
        data = array.copy()
        data[list(plain)] = list(plain.values())
        yield Constant(node, index, data)
        return
    join = producer(value, "Concat")
    if join is None:
        raise CannotCutError(DATA, f"the target of {node.name!r} is computed from data")
    yield Joined(node, index, _parts(join, changed))


def _parts(join: ir.Node, changed: Mapping[int, int | Scaled]) -> dict[int, np.ndarray | Scaled]:
    found: dict[int, np.ndarray | Scaled] = {}
    start, left = 0, dict(changed)
    for place, value in enumerate(join.inputs):
        length = value.shape[0] if value is not None and value.shape is not None else None
        if not isinstance(length, int):
            break
        own = {i - start: left.pop(i) for i in list(left) if start <= i < start + length}
        part = _part(constant_array(value), length, own) if own else None
        if own and part is None:
            break
        if part is not None:
            found[place] = part
        start += length
    if left or not found:
        raise CannotCutError(DATA, f"parts of the shape {join.name!r} are computed from data")
    return found


def _part(
    array: Array | None, length: int, own: Mapping[int, int | Scaled]
) -> np.ndarray | Scaled | None:
    """One part of a joined vector with new numbers; None where that is not possible."""
    plain = {place: n for place, n in own.items() if isinstance(n, int)}
    if array is None and length > 1:
        return None
    if len(plain) < len(own):
        return next(iter(own.values())) if length == 1 else None  # type: ignore[return-value]
    data = np.zeros(length, np.int64) if array is None else array.copy()
    data[list(plain)] = list(plain.values())
    return data
