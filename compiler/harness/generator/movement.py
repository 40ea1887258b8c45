"""Operators that move, select and count, in the spelling of each opset."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .scope import Dim, Scope, Shape, Wire


def reshape(scope: Scope) -> None:
    """The last axis in two, or the last two in one; the rest kept by 0, -1 or by Shape."""
    wire = scope.find(lambda w: w.rank > 1 and scope.filled(w))
    if wire is None:
        return
    size, before = scope.sized(wire, -1), scope.sized(wire, -2)
    if size is not None and size > 1 and wire.rank < 4 and scope.draws.chance(60):
        parts = [p for p in (2, 4, 3, 8, 1) if size % p == 0]
        part = scope.draws.pick(parts)
        to(scope, wire, (*wire.shape[:-1], part, size // part))
    elif size is not None and before is not None:
        to(scope, wire, (*wire.shape[:-2], before * size))
    elif size is not None and wire.rank == 3:
        rows = scope.world.combine(lambda a, b: a * b, *wire.shape[:2])
        to(scope, wire, (rows, size))


def to(scope: Scope, wire: Wire, shape: Shape) -> Wire:
    """Reshape, the target computed from the input's own shape where it cannot be a constant."""
    target = [d if isinstance(d, int) else -1 for d in shape]
    for i, size in enumerate(shape[: wire.rank]):
        if size == wire.shape[i] and (isinstance(size, str) or scope.draws.chance(30)):
            target[i] = 0
        else:
            break
    if target.count(-1) > 1:
        return scope.one("Reshape", [wire, _dynamic(scope, wire, shape)], shape)
    if 0 not in target and -1 not in target and scope.draws.chance(30):
        target[scope.draws.integer(0, len(target) - 1)] = -1
    if scope.opset >= 9 and scope.draws.chance(12) and target[0] == 0:
        return scope.one("Reshape", [wire, _dynamic(scope, wire, shape)], shape)
    return scope.one("Reshape", [wire, scope.ints(target)], shape, peak=wire.peak, limit=wire.limit)


def _dynamic(scope: Scope, wire: Wire, shape: Shape) -> Wire:
    """Shape -> Gather -> Unsqueeze -> Concat, as exporters write it."""
    sizes = scope.one("Shape", [wire], (wire.rank,), "int64", exact=True, peak=1e3)
    parts: list[Wire] = []
    for size in shape:
        if isinstance(size, str) and size in wire.shape:
            one = scope.one("Gather", [sizes, scope.constant(wire.shape.index(size))], (), axis=0)
            parts.append(unsqueezed(scope, one, [0]))
        else:
            parts.append(scope.ints([size if isinstance(size, int) else -1]))
    return scope.one("Concat", parts, (len(parts),), axis=0)


def unsqueezed(scope: Scope, wire: Wire, axes: Sequence[int]) -> Wire:
    """With axes of size 1 at the front positions given."""
    shape = list(wire.shape)
    for axis in axes:
        shape.insert(axis, 1)
    if scope.opset < 13:
        return scope.one("Unsqueeze", [wire], tuple(shape), axes=list(axes))
    return scope.one("Unsqueeze", [wire, scope.ints(axes)], tuple(shape), peak=wire.peak)


def squeezed(scope: Scope, wire: Wire, axis: int) -> Wire:
    """Without an axis of size 1."""
    shape = wire.shape[:axis] + wire.shape[axis + 1 :]
    if scope.opset < 13:
        return scope.one("Squeeze", [wire], shape, axes=[axis])
    return scope.one("Squeeze", [wire, scope.ints([axis])], shape, peak=wire.peak)


def axes_of_one(scope: Scope) -> None:
    """Unsqueeze, and Squeeze what is 1 already."""
    wire = scope.find(lambda w: w.rank < 4)
    if wire is None:
        return
    ones = [i for i, d in enumerate(wire.shape) if d == 1]
    if ones and scope.draws.chance(50):
        squeezed(scope, wire, scope.draws.pick(ones))
        return
    made = unsqueezed(scope, wire, [scope.draws.integer(0, wire.rank)])
    if scope.draws.chance(40):
        squeezed(scope, made, made.shape.index(1))


def transpose(scope: Scope) -> None:
    """With an order or without one; twice gives the same again."""
    wire = scope.find(lambda w: w.rank > 1)
    if wire is None:
        return
    order = list(range(wire.rank))[::-1]
    if wire.rank > 2 or scope.draws.chance(50):
        order[-1], order[-2] = order[-2], order[-1]
    written = None if order == list(range(wire.rank))[::-1] and scope.draws.chance(50) else order
    made = scope.one("Transpose", [wire], tuple(wire.shape[i] for i in order), perm=written)
    if scope.draws.chance(40):
        back = np.argsort(order).tolist()
        scope.one("Transpose", [made], wire.shape, perm=back)


def concat(scope: Scope) -> None:
    """Values of one shape, one with itself, or an empty one beside a full one."""
    wire = scope.find(lambda w: w.rank > 0)
    if wire is None:
        return
    axis = scope.draws.integer(0, wire.rank - 1)
    other = scope.find(lambda w: (w.dtype, w.shape) == (wire.dtype, wire.shape)) or wire
    parts, extra = [wire, other], wire.shape[axis]
    if scope.draws.chance(50) and all(isinstance(d, int) for d in wire.shape):
        empty = [d for d in wire.shape if isinstance(d, int)]
        empty[axis] = 0
        parts, extra = [wire, scope.constant(np.zeros(empty), wire.dtype)], 0
    size = scope.world.combine(lambda a, b: a + b, wire.shape[axis], extra)
    shape = (*wire.shape[:axis], size, *wire.shape[axis + 1 :])
    written = axis - wire.rank if scope.opset >= 11 and scope.draws.chance(30) else axis
    peak = max(p.peak for p in parts)
    scope.one("Concat", parts, shape, axis=written, peak=peak)


def split(scope: Scope) -> None:
    """In equal or unequal parts; some of them read by nobody, or without a name."""
    wire = scope.find(lambda w: w.rank > 0 and (scope.sized(w, -1) or 0) > 1)
    if wire is None:
        return
    size = scope.sized(wire, -1) or 2
    count = scope.draws.pick([n for n in (2, 3) if size >= n])
    equal = size % count == 0
    sizes = [size // count] * (count - 1)
    sizes.append(size - sum(sizes))
    if scope.draws.chance(30) and size > count:
        sizes, equal = [size - count + 1, *[1] * (count - 1)], False
    parts = [Wire("", wire.dtype, (*wire.shape[:-1], s), wire.exact, wire.peak) for s in sizes]
    inputs, written, number = [wire], None, None
    if not equal or scope.draws.chance(50):
        written = sizes if scope.opset < 13 else None
        inputs = [wire] if scope.opset < 13 else [wire, scope.ints(sizes)]
    elif scope.opset >= 18:
        number = count
    scope.emit("Split", inputs, list(parts), axis=wire.rank - 1, split=written, num_outputs=number)


def slice_(scope: Scope) -> None:
    """Along one axis: attributes up to opset 9; axes and steps may be left out; backwards."""
    wire = scope.find(lambda w: w.rank > 0 and any(scope.sized(w, i) for i in range(w.rank)))
    if wire is None:
        return
    axis = next(i for i in range(wire.rank) if scope.sized(wire, i))
    axis = wire.rank - 1 if scope.sized(wire, -1) and scope.draws.chance(60) else axis
    size = scope.sized(wire, axis) or 1
    start = scope.draws.integer(0, size - 1)
    stop = scope.draws.pick([size, 2**31, start + 1, start, -1])
    step = 1
    if scope.opset >= 10 and scope.draws.chance(20):
        start, stop, step = size - 1, -(2**31), -1
    kept = len(range(size)[start:stop:step])
    shape = (*wire.shape[:axis], kept, *wire.shape[axis + 1 :])
    if scope.opset < 10:
        given = None if axis == 0 and scope.draws.chance(50) else [axis]
        scope.one("Slice", [wire], shape, starts=[start], ends=[stop], axes=given)
        return
    inputs: list[Wire | None] = [wire, scope.ints([start]), scope.ints([stop])]
    if axis or step != 1 or scope.draws.chance(50):
        inputs.append(scope.ints([axis]) if axis or scope.draws.chance(50) else None)
    if step != 1:
        inputs.append(scope.ints([step]))
    scope.one("Slice", inputs, shape, peak=wire.peak, limit=wire.limit)


def expand(scope: Scope) -> None:
    """Expand an axis of size 1, or Tile."""
    wire = scope.find(lambda w: w.rank > 0)
    if wire is None:
        return
    ones = [i for i, d in enumerate(wire.shape) if d == 1]
    axis, times = scope.draws.integer(0, wire.rank - 1), scope.draws.integer(1, 3)
    if ones and scope.opset >= 8:
        axis = scope.draws.pick(ones)
        shape = (*wire.shape[:axis], times, *wire.shape[axis + 1 :])
        target = [times if i == axis else 1 for i in range(wire.rank)]
        scope.one("Expand", [wire, scope.ints(target)], shape, peak=wire.peak)
        return
    size = scope.world.combine(lambda a: a * times, wire.shape[axis])
    repeats = scope.ints([times if i == axis else 1 for i in range(wire.rank)])
    shape = (*wire.shape[:axis], size, *wire.shape[axis + 1 :])
    scope.one("Tile", [wire, repeats], shape, peak=wire.peak)


def gather(scope: Scope) -> None:
    """Constant positions: one, several, none, the same twice, counted from the end."""
    wire = scope.find(lambda w: w.rank > 0 and any(scope.sized(w, i) for i in range(w.rank)))
    if wire is None:
        return
    axis = scope.draws.pick([i for i in range(wire.rank) if scope.sized(wire, i)][::-1])
    size = scope.sized(wire, axis) or 1
    lowest = -size if scope.opset >= 11 else 0
    count = scope.draws.pick([2, 1, 0])
    places: int | list[int] = [scope.draws.integer(lowest, size - 1) for _ in range(count)]
    if scope.draws.chance(30):
        places = scope.draws.integer(lowest, size - 1)
    index = scope.constant(np.asarray(places, np.int64))
    taken: tuple[Dim, ...] = () if isinstance(places, int) else (count,)
    shape = (*wire.shape[:axis], *taken, *wire.shape[axis + 1 :])
    scope.one("Gather", [wire, index], shape, axis=axis, peak=wire.peak, limit=wire.limit)


def flatten(scope: Scope) -> None:
    """To two axes."""
    wire = scope.find(
        lambda w: (
            (w.floating or scope.opset >= 9)
            and w.rank > 1
            and all(isinstance(d, int) for d in w.shape[1:])
        )
    )
    if wire is None:
        return
    size = math.prod(d for d in wire.shape[1:] if isinstance(d, int))
    axis = None if scope.draws.chance(50) else 1
    scope.one("Flatten", [wire], (wire.shape[0], size), axis=axis)


def pad(scope: Scope) -> None:
    """Zeros, a constant or the edge behind the last axis; the value may be left out."""
    wire = scope.activation(lambda w: w.dtype == "float32" and (scope.sized(w, -1) or 0) > 0)
    if wire is None:
        return
    size = (scope.sized(wire, -1) or 0) + 2
    shape = (*wire.shape[:-1], size)
    pads = [0] * (2 * wire.rank)
    pads[wire.rank - 1] = pads[-1] = 1
    mode = scope.draws.pick([None, "constant", "edge"])
    if mode == "edge" and wire.rank < 2:
        mode = None
    if scope.opset < 11:
        scope.one("Pad", [wire], shape, pads=pads, mode=mode)
        return
    value = scope.constant(0.5, wire.dtype) if mode != "edge" and scope.draws.chance(50) else None
    scope.one("Pad", [wire, scope.ints(pads), value], shape, mode=mode)


def counted(scope: Scope) -> None:
    """What depends on shapes alone: Shape, Size, ConstantOfShape, Range."""
    wire = scope.find(lambda w: w.rank > 0 and scope.filled(w))
    if wire is None:
        return
    if scope.opset >= 11 and scope.draws.chance(40):
        sizes = scope.one("Shape", [wire], (wire.rank,), "int64", exact=True, peak=1e3)
        end = scope.one("Gather", [sizes, scope.constant(0)], (), axis=0)
        steps = [scope.constant(0), end, scope.constant(1)]
        scope.one("Range", steps, (wire.shape[0],), "int64", peak=1e3)
    elif scope.opset >= 9 and wire.floating and scope.draws.chance(60):
        sizes = scope.one("Shape", [wire], (wire.rank,), "int64", exact=True, peak=1e3)
        zeros = scope.one("ConstantOfShape", [sizes], wire.shape, "float32", peak=0.0)
        if wire.dtype == "float32":
            scope.one("Add", [zeros, wire], wire.shape)
    else:
        scope.one("Size", [wire], (), "int64", exact=True, peak=1e4)


def vacant(scope: Scope) -> None:
    """A value without elements, and what is computed from it."""
    wire = scope.activation(lambda w: w.rank > 1 and isinstance(w.shape[-1], int))
    if wire is None:
        return
    shape = (0, *wire.shape[1:])
    if scope.opset < 10:
        none = scope.one("Slice", [wire], shape, starts=[0], ends=[0], axes=[0])
    else:
        inputs = [wire, scope.ints([0]), scope.ints([0]), scope.ints([0])]
        none = scope.one("Slice", inputs, shape)
    scope.one("Relu", [none])
    if scope.draws.chance(50):
        scope.one("Concat", [none, wire], wire.shape, axis=0)
