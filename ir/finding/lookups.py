"""Embeddings: rows looked up in a stored table, in float or in integers with a scale."""

from __future__ import annotations

import onnx_ir as ir

from ..graph import attribute, constant_tensor, producer, single_consumer
from .layer import Layer
from .stored import effective_dims, stored

_TABLE_DTYPES = frozenset(
    d for d in ir.DataType if d.is_floating_point() or (d.is_integer() and d.bitwidth <= 8)
)


def find_embedding(node: ir.Node) -> Layer | None:
    """The embedding that a ``Gather`` is, None where it looks up something else."""
    table, indices = stored(node.inputs[0]), node.inputs[1]
    if table is None or indices is None or attribute(node, "axis", 0) != 0:
        return None
    tensor = constant_tensor(table.value)
    if tensor is None or tensor.dtype not in _TABLE_DTYPES or stored(indices) is not None:
        return None
    if len(effective_dims(table) or ()) != 2 or _is_row_scale(node):
        return None
    as_float = tensor.dtype.is_floating_point() or bool(table.path)
    tail = [] if as_float else _lookup_tail(node)
    if not (as_float or tail):
        return None  # integers looked up as such: no embedding
    nodes = (node, *tail)
    return Layer("embedding", nodes, table, None, indices, nodes[-1].outputs[0])


def _lookup_tail(node: ir.Node) -> list[ir.Node]:
    """``DequantizeLinear``, or ``Cast`` [``Sub``] ``Mul``, behind the rows of an integer table.

    The lookups of the row's scale and zero point stand before the nodes that use them.
    """
    first = single_consumer(node.outputs[0])
    if first is not None and first.op_type == "DequantizeLinear":
        return [*_row_lookups(first, node), first]
    if first is None or first.op_type != "Cast":
        return []
    tail = [first]
    after = single_consumer(first.outputs[0])
    if after is not None and after.op_type == "Sub":
        tail += [*_row_lookups(after, node), after]
        after = single_consumer(after.outputs[0])
    if after is None or after.op_type != "Mul":
        return []
    return [*tail, *_row_lookups(after, node), after]


def _row_lookups(reader: ir.Node, rows: ir.Node) -> list[ir.Node]:
    """What a node reads that is looked up with the same indices as the rows."""
    found = (producer(value, "Gather") for value in reader.inputs)
    return [n for n in found if n is not None and n is not rows and _same_indices(n, rows)]


def _is_row_scale(node: ir.Node) -> bool:
    """A lookup that only scales (or shifts) the rows of an integer table: no embedding."""
    reader = single_consumer(node.outputs[0])
    if reader is None or reader.op_type not in ("Mul", "Sub", "DequantizeLinear"):
        return False
    sources = [v for v in reader.inputs if v is not None and v is not node.outputs[0]]
    return any(_is_integer_rows(value, node) for value in sources)


def _is_integer_rows(value: ir.Value, like: ir.Node) -> bool:
    node = value.producer()
    while node is not None and node.op_type in ("Cast", "Sub"):
        node = producer(node.inputs[0])
    if node is None or node.op_type != "Gather" or not _same_indices(node, like):
        return False
    tensor = constant_tensor(node.inputs[0])
    return tensor is not None and tensor.dtype.is_integer()


def _same_indices(one: ir.Node, other: ir.Node) -> bool:
    return one.inputs[1] is other.inputs[1]
