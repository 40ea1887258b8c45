"""Sizes of what an operator makes, from those of what it reads, where inference left them open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir

from ..graph import attribute, constant_array, given
from .sizes import ONE, Partial, Size, Sizes, divided, number, times

if TYPE_CHECKING:
    from .size_table import SizeTable

Forward: TypeAlias = "Callable[[SizeTable, ir.Node], Partial | None]"


def _broadcast(table: SizeTable, node: ir.Node) -> Partial | None:
    shapes = [table.of(v) for v in node.inputs if v is not None]
    known = [s for s in shapes if s is not None]
    return _aligned(known) if known and len(known) == len(shapes) else None


def _aligned(shapes: Sequence[Sizes]) -> Partial:
    rank = max(map(len, shapes))
    columns = [[s[i - rank] for s in shapes if i - rank >= -len(s)] for i in range(rank)]
    return tuple(map(_widest, columns))


def _widest(sizes: Sequence[Size]) -> Size | None:
    """The size that others are broadcast to: a number above 1, else the only name there is."""
    plain = [s for s in sizes if not s[1] and s[0] != 1]
    named = {s for s in sizes if s[1]}
    if plain or not named:
        return plain[0] if plain else ONE
    return named.pop() if len(named) == 1 else None


def _same(table: SizeTable, node: ir.Node) -> Partial | None:
    return table.of(node.inputs[0])


def _pooled(table: SizeTable, node: ir.Node) -> Partial | None:
    sizes = table.of(node.inputs[0])
    return None if sizes is None else (*sizes[:2], *[None] * len(sizes[2:]))


def _reshaped(table: SizeTable, node: ir.Node) -> Partial | None:
    return table.reshaped(node)


def _transposed(table: SizeTable, node: ir.Node) -> Partial | None:
    sizes = table.of(node.inputs[0])
    if sizes is None:
        return None
    order = attribute(node, "perm", tuple(reversed(range(len(sizes)))))
    return tuple(sizes[axis] for axis in order)


def _product(table: SizeTable, node: ir.Node) -> Partial | None:
    left, right = table.of(node.inputs[0]), table.of(node.inputs[1])
    if left is None or right is None or min(len(left), len(right)) < 2:
        return None
    batch = _aligned([left[:-2], right[:-2]]) if max(len(left), len(right)) > 2 else ()
    return (*batch, left[-2], right[-1])


def _padded(table: SizeTable, node: ir.Node) -> Partial | None:
    sizes, pads = table.of(node.inputs[0]), constant_array(given(node, 1))
    if sizes is None or pads is None or pads.size != 2 * len(sizes) or given(node, 3) is not None:
        return None
    ends = pads.reshape(2, -1).sum(axis=0).tolist()
    return tuple(_longer(size, end) for size, end in zip(sizes, ends, strict=True))


def _repeated(table: SizeTable, node: ir.Node) -> Partial | None:
    sizes, counts = table.of(node.inputs[0]), table.entries(given(node, 1))
    if sizes is None or counts is None or len(sizes) != len(counts):
        return None
    pairs = zip(sizes, counts, strict=True)
    return tuple(None if c.size is None else times(s, c.size) for s, c in pairs)


def _part(table: SizeTable, node: ir.Node) -> Partial | None:
    """What a Slice by bounds that follow from sizes leaves."""
    sizes = table.of(node.inputs[0])
    starts, ends, axes, steps = (table.numbers(given(node, i)) for i in (1, 2, 3, 4))
    open_ = (given(node, 3) is not None and not axes) or (given(node, 4) is not None and not steps)
    if sizes is None or starts is None or ends is None or open_:
        return None
    found: list[Size | None] = list(sizes)
    for i, axis in enumerate(range(len(starts)) if axes is None else axes):
        total, step = number(sizes[axis]), 1 if steps is None else steps[i]
        part = slice(starts[i], ends[i], step)
        found[axis] = None if total is None else (len(range(total)[part]), ())
    return tuple(found)


def _side_by_side(table: SizeTable, node: ir.Node) -> Partial | None:
    """The sum along the axis of a Concat; the others are those of the first input."""
    shapes = [table.of(v) for v in node.inputs]
    known = [shape for shape in shapes if shape]
    if len(known) != len(shapes) or len(set(map(len, known))) != 1:
        return None
    axis = int(attribute(node, "axis", 0)) % len(known[0])
    parts = [number(shape[axis]) for shape in known]
    total = None if None in parts else (sum(n for n in parts if n is not None), ())
    return tuple(total if i == axis else size for i, size in enumerate(known[0]))


def _attended(table: SizeTable, node: ir.Node) -> Partial | None:
    """Batch and length of the queries, all heads' values side by side (com.microsoft)."""
    query = table.of(node.inputs[0])
    if query is None or len(query) != 3 or not node.domain:
        return None
    return (*query[:2], _values_of[node.op_type](table, node))


def _heads_values(table: SizeTable, node: ir.Node) -> Size | None:
    value = table.of(given(node, 2))
    return value[2] if value is not None and len(value) == 3 else None


def _grouped_values(table: SizeTable, node: ir.Node) -> Size | None:
    query, heads = table.of(node.inputs[0]), int(attribute(node, "num_heads", 0))
    if query is None or given(node, 1) is not None:
        return None if query is None else query[2]
    pairs = int(attribute(node, "kv_num_heads", 0)) or heads
    width = divided(query[2], (heads + 2 * pairs, ()))
    return None if width is None else times(width, (heads, ()))


def _held_values(table: SizeTable, node: ir.Node) -> Size | None:
    named, weight = attribute(node, "qkv_hidden_sizes"), table.of(given(node, 1))
    if named is not None:
        return int(named[2]), ()
    return None if weight is None else divided(weight[-1], (3, ()))


_values_of: dict[str, Callable[[SizeTable, ir.Node], Size | None]] = {
    "MultiHeadAttention": _heads_values,
    "GroupQueryAttention": _grouped_values,
    "Attention": _held_values,
}


def _longer(size: Size, more: int) -> Size | None:
    if not more:
        return size
    return None if size[1] else (size[0] + int(more), ())


FORWARD: Mapping[str, Forward] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Where", "Pow", "Max", "Min"), _broadcast),
    **dict.fromkeys(("Softmax", "Cast", "Identity", "Neg", "IsNaN", "Tanh", "Dropout"), _same),
    **dict.fromkeys(("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish"), _same),
    **dict.fromkeys(("Elu", "Gelu", "Softplus", "Exp", "Sqrt", "Abs"), _same),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "PRelu"), _same),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pooled),
    "Reshape": _reshaped,
    "Transpose": _transposed,
    "Pad": _padded,
    **dict.fromkeys(_values_of, _attended),
    "Tile": _repeated,
    "Slice": _part,
    "Concat": _side_by_side,
    "MatMul": _product,
}
