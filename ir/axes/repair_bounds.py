"""Sizes, bounds, indices and paddings that name places of an axis that was cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ..graph import Array, attribute, constant_array, given
from .labels import CannotCutError
from .movement import pads, slices
from .relations import DATA
from .repair import Constant, Cut, Repair, Setting, Uneven
from .size_table import SizeTable


def split(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """The sizes of the parts; unequal ones have to be written down."""
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


def slice_(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """Where the parts that are kept begin and end now."""
    x = node.inputs[0]
    sizes = cut.table.of(x)
    bounds = None if sizes is None else slices(node, sizes, cut.table)
    moved = {axis: part for axis, part in (bounds or {}).items() if cut.has(x, axis)}
    if not moved:
        return
    assert x is not None
    listed = len(node.inputs) == 1
    names = attribute(node, "axes") if listed else constant_array(given(node, 3))
    starts, ends = (
        np.array(attribute(node, name)) if listed else _bounds(node.inputs[i], cut.table)
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


def _bounds(value: ir.Value | None, table: SizeTable) -> Array:
    """Bounds of a Slice that are constant or follow from sizes, of the dtype they have."""
    array = constant_array(value)
    if array is not None:
        return array.copy()
    dtype = np.int64 if value is None or value.dtype is None else value.dtype.numpy()
    return np.array(table.numbers(value), dtype)


def gather(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """Where the elements lie now that are gathered."""
    data, indices = node.inputs[0], constant_array(node.inputs[1])
    axis = int(attribute(node, "axis", 0)) % len(cut.table.of(data) or (0,))
    if not cut.has(data, axis) or indices is None:
        return
    assert data is not None
    kept = cut.kept[data, axis]
    wanted = indices % cut.sizes[data, axis]
    left = wanted[np.isin(wanted, kept)]
    yield Constant(node, 1, np.searchsorted(kept, left).astype(indices.dtype))


def pad(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """How much of each padding stays."""
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
