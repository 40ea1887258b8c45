"""Operators that move data: transposes, joins, parts, copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..graph import Array, attribute, constant_array, given
from .elementwise import link_axis
from .relations import DATA, UNKNOWN, Key, Positions, Relations, Same, operand, reason
from .size_table import SizeTable
from .sizes import ONE, Sizes, number

ENDLESS = 1 << 30


def transpose(found: Relations, table: SizeTable) -> None:
    """Axis ``perm[i]`` becomes axis ``i``."""
    x, y, sizes = _ends(found, table)
    if sizes is None:
        return
    order = attribute(found.node, "perm", tuple(reversed(range(len(sizes)))))
    for axis, source in enumerate(order):
        found.same((x, source), (y, axis))


def squeeze(found: Relations, table: SizeTable) -> None:
    """Axes of size 1 go."""
    x, y, sizes = _ends(found, table)
    axes = None if sizes is None else given_axes(found.node, len(sizes))
    if sizes is None or axes is None:
        return
    found.stop(
        reason("single", found.node, "takes one position of the axis"), *((x, a) for a in axes)
    )
    for place, axis in enumerate(a for a in range(len(sizes)) if a not in axes):
        found.same((x, axis), (y, place))


def unsqueeze(found: Relations, table: SizeTable) -> None:
    """Axes of size 1 come."""
    x, y, sizes = _ends(found, table)
    if sizes is None or (given(found.node, 1) is None and "axes" not in found.node.attributes):
        return
    count = _count_axes(found.node)
    axes = None if count is None else given_axes(found.node, len(sizes) + count)
    if count is None or axes is None:
        return
    places = [a for a in range(len(sizes) + count) if a not in axes]
    for axis, place in enumerate(places):
        found.same((x, axis), (y, place))


def _count_axes(node: ir.Node) -> int | None:
    named = attribute(node, "axes")
    array = constant_array(given(node, 1))
    return len(named) if named is not None else None if array is None else array.size


def given_axes(node: ir.Node, rank: int, place: int = 1) -> frozenset[int] | None:
    """The axes that an attribute or a constant input names, from the front; None if unknown."""
    named = attribute(node, "axes")
    array = constant_array(given(node, place))
    if named is None and array is None:
        return None
    listed = named if named is not None else array.reshape(-1).tolist()  # type: ignore[union-attr]
    return frozenset(int(a) % rank for a in ([listed] if isinstance(listed, int) else listed))


def concat(found: Relations, table: SizeTable) -> None:
    """The inputs stand one after the other along one axis."""
    node, y = found.node, found.node.outputs[0]
    shapes = [table.of(v) for v in node.inputs]
    out = table.of(y)
    if out is None or any(shape is None or len(shape) != len(out) for shape in shapes):
        return
    axis, start = int(attribute(node, "axis", 0)) % len(out), 0
    whole = [number(shape[axis]) for shape in shapes if shape is not None]
    for place, size in enumerate(whole):
        holder = operand(node, place)
        for other in (a for a in range(len(out)) if a != axis):
            found.same((holder, other), (y, other))
        if None in whole or size is None:
            why = reason(DATA, node, "joins parts of sizes that are not known")
            found.stop(why, (holder, axis), (y, axis))
            continue
        found.add(Same((y, axis), (holder, axis), np.arange(start, start + size), _sum(whole)))
        start += size


def _sum(sizes: Sequence[int | None]) -> int:
    return sum(size for size in sizes if size is not None)


def split(found: Relations, table: SizeTable) -> None:
    """The outputs are parts of the input, one after the other along one axis."""
    node, x = found.node, found.node.inputs[0]
    sizes = table.of(x)
    if x is None or sizes is None:
        return
    axis, start = int(attribute(node, "axis", 0)) % len(sizes), 0
    total = number(sizes[axis])
    for y in node.outputs:
        for other in (a for a in range(len(sizes)) if a != axis):
            found.same((x, other), (y, other))
        size = table.length(y, axis) if table.of(y) is not None else None
        if total is None or size is None:
            found.stop(
                reason(DATA, node, "splits into parts of unknown size"), (x, axis), (y, axis)
            )
            continue
        found.add(Same((x, axis), (y, axis), np.arange(start, start + size), total))
        start += size


def slice_(found: Relations, table: SizeTable) -> None:
    """Parts of the input along some axes, by constant bounds or such as follow from sizes."""
    x, y, sizes = _ends(found, table)
    bounds = None if sizes is None else slices(found.node, sizes, table)
    if sizes is None or bounds is None:
        return
    for axis, size in enumerate(sizes):
        if axis not in bounds:
            found.same((x, axis), (y, axis))
            continue
        part, total = bounds[axis], number(size)
        if part is None or total is None or (part.step or 1) < 0:
            why = reason(DATA, found.node, "takes a part that is not known, or backwards")
            found.stop(why, (x, axis), (y, axis))
            continue
        index = np.arange(total)[part]
        if (part.step or 1) == 1:
            found.add(Same((x, axis), (y, axis), index, total))
        else:
            why = reason(UNKNOWN, found.node, "takes every few positions of the axis")
            found.stop(why, (x, axis), (y, axis))


def slices(
    node: ir.Node, sizes: Sizes, table: SizeTable | None = None
) -> dict[int, slice | None] | None:
    """By axis, what is taken; None for an axis where that is not known; axes in full left out.

    None where not even the axes are known. table: for bounds that are computed from sizes.
    """
    if len(node.inputs) == 1:
        starts, ends = attribute(node, "starts"), attribute(node, "ends")
        axes, steps = attribute(node, "axes"), None
    else:
        starts, ends, axes, steps = (_listed(node, i, table) for i in (1, 2, 3, 4))
    named = len(node.inputs) > 1
    if named and any(
        given(node, i) is not None and found is None for i, found in ((3, axes), (4, steps))
    ):
        return None
    count = next((len(part) for part in (starts, ends, axes) if part is not None), None)
    if count is None or (axes is None and count > len(sizes)):
        return None
    found: dict[int, slice | None] = {}
    for i, axis in enumerate(range(count) if axes is None else axes):
        part = None
        if starts is not None and ends is not None:
            part = slice(starts[i], ends[i], 1 if steps is None else steps[i])
        if part is None or part.start != 0 or part.stop < ENDLESS or part.step != 1:
            found[axis % len(sizes)] = part
    return found


def _listed(node: ir.Node, index: int, table: SizeTable | None = None) -> tuple[int, ...] | None:
    array = constant_array(given(node, index))
    if array is not None:
        return tuple(int(n) for n in array.reshape(-1))
    return None if table is None else table.numbers(given(node, index))


def gather(found: Relations, table: SizeTable) -> None:
    """Positions by indices: constant ones along the axis, any along others (a lookup)."""
    node = found.node
    data, indices, y = node.inputs[0], node.inputs[1], node.outputs[0]
    sizes, places = table.of(data), table.of(indices)
    if data is None or indices is None or sizes is None or places is None:
        return
    axis = int(attribute(node, "axis", 0)) % len(sizes)
    for other in range(len(sizes)):
        shift = 0 if other < axis else len(places) - 1
        if other != axis:
            found.same((data, other), (y, other + shift))
            found.roles[data, other] = "produces"
    if constant_array(indices) is None:
        for i in range(len(places)):
            found.same((indices, i), (y, axis + i))
    _gathered(found, table, (data, axis), (y, axis))


def gather_elements(found: Relations, table: SizeTable) -> None:
    """As many positions as there are indices; other axes stay where both have the same size."""
    node = found.node
    data, indices, y = node.inputs[0], node.inputs[1], node.outputs[0]
    sizes, places = table.of(data), table.of(indices)
    if data is None or indices is None or sizes is None or places is None:
        return
    axis = int(attribute(node, "axis", 0)) % len(sizes)
    for other in range(len(sizes)):
        if other != axis and sizes[other] == places[other]:
            found.same((data, other), (y, other))
            found.same((indices, other), (y, other))


def gather_nd(found: Relations, table: SizeTable) -> None:
    """The first axes are looked up by tuples of indices; those behind stay."""
    node = found.node
    data, indices, y = node.inputs[0], node.inputs[1], node.outputs[0]
    sizes, places = table.of(data), table.of(indices)
    depth = number(places[-1]) if places else None
    if data is None or indices is None or sizes is None or places is None or depth is None:
        return
    if attribute(node, "batch_dims", 0):
        return
    found.stop(
        reason(DATA, node, "picks positions along the axis"), *((data, i) for i in range(depth))
    )
    for axis in range(depth, len(sizes)):
        found.same((data, axis), (y, axis - depth + len(places) - 1))
        found.roles[data, axis] = "produces"
    for axis in range(len(places) - 1):
        if constant_array(indices) is None:
            found.same((indices, axis), (y, axis))


def _gathered(found: Relations, table: SizeTable, a: Key, b: Key) -> None:
    node, array = found.node, constant_array(found.node.inputs[1])
    total = table.length(found.node.inputs[0], a[1])  # type: ignore[arg-type]
    if array is None or total is None or array.ndim != 1:
        found.stop(reason(DATA, node, "picks positions along the axis"), a)
        return
    index: Positions = array.astype(np.int64) % total
    found.add(Same(a, b, index, total))


def expand(found: Relations, table: SizeTable) -> None:
    """Axes of size 1 are repeated; what is repeated is one thing, the copies another."""
    x, y, sizes = _ends(found, table)
    out = table.of(y)
    if sizes is None or out is None:
        return
    shift = len(out) - len(sizes)
    for axis, size in enumerate(out):
        inner = axis - shift
        if inner >= 0 and sizes[inner] != ONE:
            link_axis(found, ((x, inner), sizes[inner]), ((y, axis), size))
        else:
            _free(found, (y, axis))


def _free(found: Relations, key: Key) -> None:
    """An axis that depends on no other one."""
    found.by_key.setdefault(key, [])


def tile(found: Relations, table: SizeTable) -> None:
    """Each axis again and again; what is repeated a batch of times is so in every period."""
    x, y, sizes = _ends(found, table)
    counts = table.entries(given(found.node, 1))
    if sizes is None or counts is None or len(counts) != len(sizes):
        return
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        total, times = number(size), number(count.size)
        if times == 1 or (total is not None and times is None):
            found.same((x, axis), (y, axis))
        elif total is not None and times is not None and times > 1:
            index = np.arange(total * times) % total
            found.add(Same((x, axis), (y, axis), index, total))


def pad(found: Relations, table: SizeTable) -> None:
    """Positions come in front and behind."""
    x, y, sizes = _ends(found, table)
    bounds = None if sizes is None else pads(found.node, len(sizes))
    if sizes is None or bounds is None:
        return
    for axis, (before, after) in bounds.items():
        total = number(sizes[axis])
        if before == after == 0:
            found.same((x, axis), (y, axis))
        elif total is not None and min(before, after) >= 0 and _constant_mode(found.node):
            index = np.full(before + total + after, -1, np.int64)
            index[before : before + total] = np.arange(total)
            found.add(Same((x, axis), (y, axis), index, total))


def pads(node: ir.Node, rank: int) -> dict[int, tuple[int, int]] | None:
    """By axis, the positions that come in front and behind."""
    array: Array | None = constant_array(given(node, 1))
    listed = attribute(node, "pads") if len(node.inputs) == 1 else None
    listed = array.reshape(-1).tolist() if array is not None else listed
    axes = _listed(node, 3)
    if listed is None or (given(node, 3) is not None and axes is None):
        return None
    named = range(rank) if axes is None else [a % rank for a in axes]
    half = len(listed) // 2
    found = dict.fromkeys(range(rank), (0, 0))
    found.update({a: (int(listed[i]), int(listed[i + half])) for i, a in enumerate(named)})
    return found


def _constant_mode(node: ir.Node) -> bool:
    return str(attribute(node, "mode", "constant")) == "constant"


def _ends(found: Relations, table: SizeTable) -> tuple[ir.Value, ir.Value, Sizes | None]:
    x, y = found.node.inputs[0], found.node.outputs[0]
    assert x is not None
    return x, y, table.of(x) if table.of(y) is not None else None
