"""Sizes of axes as products: a number times names, ``(12, ("batch",))`` for batch * 12.

Shape inference leaves sizes open that exporters compute (``Shape``, ``Slice``, ``Concat`` in front
of a ``Reshape``). They are worked out here, exactly or not at all, and never written to the graph.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import onnx_ir as ir

from ..graph import Array, attribute, constant_array, dims, given, operator

Size: TypeAlias = tuple[int, tuple[str, ...]]
Sizes: TypeAlias = tuple[Size, ...]
Partial: TypeAlias = tuple[Size | None, ...]
ONE: Size = (1, ())
MOST = 64
"""Elements of a constant that may be a shape."""


@dataclass(frozen=True)
class Entry:
    """One number of a shape that a graph computes.

    size: None where it is not known. constant: written down. source: the value and axis whose
    size it is, where ``Shape`` gave it. scale: the Mul that gave it and its constant input.
    """

    size: Size | None
    constant: bool = False
    source: tuple[ir.Value, int] | None = None
    scale: tuple[ir.Node, int] | None = None


Entries: TypeAlias = tuple[Entry, ...]
_UNKNOWN = Entry(None)


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


class SizeTable:
    """Sizes of the values of one graph, and what its computed shapes hold."""

    def __init__(self, model: ir.Model) -> None:
        self._found: dict[ir.Value, Sizes | None] = {}
        self._entries: dict[ir.Value, Entries | None] = {}
        for node in model.graph:
            if any(_open(output) for output in node.outputs):
                self._complete(node)

    def of(self, value: ir.Value | None) -> Sizes | None:
        """The sizes of a value's axes, None where not even their number is known."""
        if value is None:
            return None
        if value not in self._found:
            self._found[value] = stated(value)
        return self._found[value]

    def length(self, value: ir.Value, axis: int) -> int | None:
        """The size of an axis where it is a plain number."""
        sizes = self.of(value)
        return None if sizes is None else number(sizes[axis])

    def entries(self, value: ir.Value | None) -> Entries | None:
        """What a vector (or a number) holds that serves as a shape; None where nothing is known."""
        if value is None:
            return None
        if value not in self._entries:
            self._entries[value] = None  # ends a circle, which a sound graph has not
            self._entries[value] = self._evaluate(value)
        return self._entries[value]

    def numbers(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """What such a vector holds where all of it are plain numbers."""
        found = tuple(number(entry.size) for entry in self.entries(value) or ())
        return tuple(n for n in found if n is not None) if found and None not in found else None

    def reshaped(self, node: ir.Node) -> Sizes | None:
        """The sizes that a Reshape gives, from its target; None where that is not known."""
        source, target = self.of(node.inputs[0]), self.entries(given(node, 1))
        if source is None or target is None:
            return None
        zero = bool(attribute(node, "allowzero", 0))
        found: list[Size | None] = []
        for axis, entry in enumerate(target):
            copies = entry.constant and entry.size == (0, ()) and not zero
            found.append(source[axis] if copies and axis < len(source) else entry.size)
        return _inferred(source, found)

    def _complete(self, node: ir.Node) -> None:
        handler = _FORWARD.get(operator(node)[1])
        first = node.outputs[0]
        found = None if handler is None else handler(self, node)
        if found is None:
            return
        before = stated(first) or tuple((1, (f"?{first.name}.{i}",)) for i in range(len(found)))
        if len(before) == len(found):
            pairs = zip(before, found, strict=True)
            self._found[first] = tuple(b if f is None or not _is_open(b) else f for b, f in pairs)

    def _evaluate(self, value: ir.Value) -> Entries | None:
        node = value.producer()
        array = constant_array(value) if _small(value) else None
        if array is not None:
            return tuple(Entry((int(n), ()), constant=True) for n in array.reshape(-1))
        handler = None if node is None else _SHAPES.get(operator(node)[1])
        if node is None or handler is None or operator(node)[0]:
            return None
        return handler(self, node)


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


def _open(value: ir.Value) -> bool:
    shape = dims(value)
    return shape is None or any(d is None for d in shape)


def _is_open(size: Size) -> bool:
    return bool(size[1]) and size[1][0].startswith("?")


def _small(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None:
        return value.producer() is not None and value.producer().op_type == "Constant"  # type: ignore[union-attr]
    return tensor.size <= MOST and tensor.dtype in (ir.DataType.INT64, ir.DataType.INT32)


def _inferred(source: Sizes, found: Sequence[Size | None]) -> Sizes | None:
    """``found`` with its -1 replaced by what is left of the source."""
    known = [size for size in found if size is not None]
    if len(known) != len(found):
        return None
    if (-1, ()) not in known:
        return tuple(known)
    rest = divided(product(source), product(s for s in known if s != (-1, ())))
    return None if rest is None else tuple(rest if s == (-1, ()) else s for s in known)


# -- forward, where inference left sizes open --------------------------------------------


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


_FORWARD: dict[str, Callable[[SizeTable, ir.Node], Partial | None]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Where", "Pow", "Max", "Min"), _broadcast),
    **dict.fromkeys(("Softmax", "Cast", "Identity", "Neg", "IsNaN", "Tanh", "Dropout"), _same),
    **dict.fromkeys(("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish"), _same),
    **dict.fromkeys(("Elu", "Gelu", "Softplus", "Exp", "Sqrt", "Abs"), _same),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "PRelu"), _same),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pooled),
    "Reshape": SizeTable.reshaped,
    "Transpose": _transposed,
    "Pad": _padded,
    **dict.fromkeys(_values_of, _attended),
    "Tile": _repeated,
    "Slice": _part,
    "Concat": _side_by_side,
    "MatMul": _product,
}


# -- vectors that are shapes -------------------------------------------------------------


def _shape(table: SizeTable, node: ir.Node) -> Entries | None:
    value = node.inputs[0]
    sizes = table.of(value)
    if value is None or sizes is None:
        return None
    found = tuple(Entry(size, source=(value, axis)) for axis, size in enumerate(sizes))
    return found[attribute(node, "start", 0) : attribute(node, "end", len(sizes))]


def _gathered(table: SizeTable, node: ir.Node) -> Entries | None:
    data, indices = table.entries(node.inputs[0]), constant_array(node.inputs[1])
    if data is None or indices is None or attribute(node, "axis", 0) not in (0, -1):
        return None
    places = [int(i) for i in indices.reshape(-1)]
    return (
        tuple(data[i] for i in places) if all(-len(data) <= i < len(data) for i in places) else None
    )


def _sliced(table: SizeTable, node: ir.Node) -> Entries | None:
    data = table.entries(node.inputs[0])
    bounds = [_plain(constant_array(given(node, i))) for i in (1, 2, 3, 4)]
    named = [i for i in (3, 4) if given(node, i) is not None and bounds[i - 1] is None]
    if data is None or bounds[0] is None or bounds[1] is None or named:
        return None
    return data[slice(bounds[0], bounds[1], bounds[3])]


def _plain(array: Array | None) -> int | None:
    return int(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _joined(table: SizeTable, node: ir.Node) -> Entries | None:
    parts = [table.entries(v) for v in node.inputs]
    if any(part is None and not _is_number(v) for part, v in zip(parts, node.inputs, strict=True)):
        return None
    return tuple(e for part in parts for e in ((_UNKNOWN,) if part is None else part))


def _is_number(value: ir.Value | None) -> bool:
    """A vector of one element, whatever it holds."""
    return dims(value) == (1,)


def _moved(table: SizeTable, node: ir.Node) -> Entries | None:
    return table.entries(node.inputs[0])


def _multiplied(table: SizeTable, node: ir.Node) -> Entries | None:
    return _computed(table, node, times)


def _quotient(table: SizeTable, node: ir.Node) -> Entries | None:
    return _computed(table, node, _floored)


def _summed(table: SizeTable, node: ir.Node) -> Entries | None:
    return _computed(table, node, lambda a, b: None if a[1] or b[1] else (a[0] + b[0], ()))


def _floored(a: Size, b: Size) -> Size | None:
    """As integers are divided."""
    return divided(a, b) if a[1] or b[1] or not b[0] else (a[0] // b[0], ())


def _computed(
    table: SizeTable, node: ir.Node, compute: Callable[[Size, Size], Size | None]
) -> Entries | None:
    left, right = table.entries(node.inputs[0]), table.entries(node.inputs[1])
    if left is None or right is None or len(left) != 1 or len(right) != 1:
        return None
    a, b = left[0].size, right[0].size
    if a is None or b is None or a[0] < 0 or b[0] < 0:
        return None
    found = compute(a, b)
    place = next((i for i, e in enumerate((left[0], right[0])) if e.constant), None)
    scaled = place is not None and node.op_type == "Mul"
    return None if found is None else (Entry(found, scale=(node, place or 0) if scaled else None),)


_SHAPES: dict[str, Callable[[SizeTable, ir.Node], Entries | None]] = {
    **dict.fromkeys(("Squeeze", "Unsqueeze", "Cast", "Identity", "Reshape"), _moved),
    "Shape": _shape,
    "Gather": _gathered,
    "Slice": _sliced,
    "Concat": _joined,
    "Mul": _multiplied,
    "Div": _quotient,
    "Add": _summed,
}
