"""The sizes of all axes of a graph, also of those that shape inference leaves open.

Exporters compute shapes (``Shape``, ``Slice``, ``Concat`` in front of a ``Reshape``). What such
graphs hold is worked out here, exactly or not at all, and never written to the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..graph import attribute, constant_array, dims, given, operator
from .computed_shapes import COMPUTED, Entries, Entry
from .open_sizes import FORWARD
from .sizes import Size, Sizes, divided, is_open, number, product, stated

MOST = 64
"""Elements of a constant that may be a shape."""


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
        handler = FORWARD.get(operator(node)[1])
        first = node.outputs[0]
        found = None if handler is None else handler(self, node)
        if found is None:
            return
        before = stated(first) or tuple((1, (f"?{first.name}.{i}",)) for i in range(len(found)))
        if len(before) == len(found):
            pairs = zip(before, found, strict=True)
            self._found[first] = tuple(b if f is None or not is_open(b) else f for b, f in pairs)

    def _evaluate(self, value: ir.Value) -> Entries | None:
        node = value.producer()
        array = constant_array(value) if _small(value) else None
        if array is not None:
            return tuple(Entry((int(n), ()), constant=True) for n in array.reshape(-1))
        handler = None if node is None else COMPUTED.get(operator(node)[1])
        if node is None or handler is None or operator(node)[0]:
            return None
        return handler(self, node)


def _open(value: ir.Value) -> bool:
    shape = dims(value)
    return shape is None or any(d is None for d in shape)


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
