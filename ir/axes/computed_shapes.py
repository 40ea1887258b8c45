"""What the vectors hold that a graph computes to serve as shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir

from ..graph import Array, attribute, constant_array, dims, given
from .sizes import Size, divided, times

if TYPE_CHECKING:
    from .size_table import SizeTable


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


Computed: TypeAlias = "Callable[[SizeTable, ir.Node], Entries | None]"
COMPUTED: Mapping[str, Computed] = {
    **dict.fromkeys(("Squeeze", "Unsqueeze", "Cast", "Identity", "Reshape"), _moved),
    "Shape": _shape,
    "Gather": _gathered,
    "Slice": _sliced,
    "Concat": _joined,
    "Mul": _multiplied,
    "Div": _quotient,
    "Add": _summed,
}
