"""What has to change at nodes around a cut besides tensors: targets, sizes, bounds, attributes.

Nothing is changed here: a repair is worked out on the graph as it is and says what to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ..graph import Array, attribute, constant_array, given, operator, producer
from .attention import Heads, heads_of
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


@dataclass(frozen=True, eq=False)
class Scaled:
    """One number: what a Mul computes, with another constant at one of its inputs."""

    node: ir.Node
    index: int
    factor: np.ndarray


@dataclass(frozen=True)
class Joined:
    """A node reads a Concat like the one it reads, with something else at some of its inputs."""

    node: ir.Node
    index: int
    parts: Mapping[int, np.ndarray | Scaled]


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


def _expand(node: ir.Node, cut: Cut) -> Iterable[Repair]:
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


def _resize(node: ir.Node, cut: Cut) -> Iterable[Repair]:
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


def _group_norm(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """As many groups as are left, of the width that they have."""
    x, groups = node.inputs[0], int(attribute(node, "num_groups", 1))
    if x is not None and cut.has(x, 1):
        yield Setting(node, "num_groups", cut.after(x, 1) * groups // cut.sizes[x, 1])


def _attention(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    """The numbers of heads that are left, from the axes of queries and keys."""
    heads = heads_of(node, cut.table)
    if heads is None:
        return
    if operator(node) == ("com.microsoft", "Attention"):
        yield from _packed(node, cut, heads)
        return
    queries = _heads_left(node.inputs[0], heads.queries, cut)
    key = given(node, 1)
    if key is None:  # packed: as many of each as before
        queries = pairs = _heads_left(node.inputs[0], heads.queries + 2 * heads.pairs, cut)
        queries, pairs = pairs * heads.queries, pairs * heads.pairs
        whole = heads.queries + 2 * heads.pairs
        queries, pairs = queries // whole, pairs // whole
    else:
        pairs = _heads_left(key, heads.pairs, cut)
    names = ("num_heads" if node.domain else "q_num_heads", "kv_num_heads")
    for name, old, new in zip(names, (heads.queries, heads.pairs), (queries, pairs), strict=True):
        if attribute(node, name) and new != old:
            yield Setting(node, name, new)


def _heads_left(value: ir.Value | None, heads: int, cut: Cut) -> int:
    """How many of the heads that a tensor holds stay."""
    assert value is not None
    axis = 2 if len(cut.table.of(value) or ()) == 3 else 1
    before = cut.table.length(value, axis)
    if before is None:
        raise CannotCutError(DATA, f"an axis of {value.name!r} has no known size")
    return cut.after(value, axis) * heads // before


def _packed(node: ir.Node, cut: Cut, heads: Heads) -> Iterable[Repair]:
    weight = node.inputs[1]
    assert weight is not None
    if not cut.has(weight, 1):
        return
    columns = cut.sizes[weight, 1]
    sizes = list(attribute(node, "qkv_hidden_sizes", (columns // 3,) * 3))
    kept, ends = cut.kept[weight, 1], np.cumsum([0, *sizes])
    new = np.diff(np.searchsorted(kept, ends)).tolist()
    left = new[0] * heads.queries // sizes[0]
    if left != heads.queries:
        yield Setting(node, "num_heads", left)
    if attribute(node, "qkv_hidden_sizes") is not None or len(set(new)) > 1:
        yield Setting(node, "qkv_hidden_sizes", new)


def _rotary(node: ir.Node, cut: Cut) -> Iterable[Repair]:
    heads, x = int(attribute(node, "num_heads", 0) or 0), node.inputs[0]
    if heads and cut.has(x, 2) and len(cut.table.of(x) or ()) == 3:
        yield Setting(node, "num_heads", _heads_left(x, heads, cut))
    elif heads and cut.has(x, 1) and len(cut.table.of(x) or ()) == 4:
        yield Setting(node, "num_heads", cut.after(x, 1))


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
    "GroupNormalization": _group_norm,
    "Attention": _attention,
    "MultiHeadAttention": _attention,
    "GroupQueryAttention": _attention,
    "RotaryEmbedding": _rotary,
}
