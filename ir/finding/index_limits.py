"""How large the numbers in an integer input may be, read off the tables that it indexes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ..graph import attribute, consumers, dims, scalar
from .masks import MASK_DTYPES

# Operators whose first input keeps its values, or a selection of them.
_KEEPS_VALUES = frozenset(
    {
        *("Cast", "Concat", "Expand", "Flatten", "Identity", "ReduceMax", "ReduceMin", "Reshape"),
        *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)
# Fused embedding: position of the indices -> position of the table.
_FUSED_TABLES = {0: 2, 1: 4, 8: 3}


def index_limits(model: ir.Model) -> dict[str, int]:
    """Input name -> rows of the smallest table it indexes; values 0 … rows - 1 are safe.

    Integer inputs that index nothing are left out. Tables are the data of ``Gather`` along its
    axis, the depth of ``OneHot`` and the tables of the fused embedding operators.
    """
    limits = {}
    for value in model.graph.inputs:
        if value.is_initializer() or value.dtype not in MASK_DTYPES:
            continue
        rows = min(_rows(value), default=None)
        if rows is not None:
            limits[str(value.name)] = rows
    return limits


def _rows(source: ir.Value) -> Iterator[int]:
    todo, seen = [source], {source}
    while todo:
        value = todo.pop()
        for node in consumers(value):
            if node.op_type in _KEEPS_VALUES:
                new = [v for v in node.outputs if v not in seen]
                seen.update(new)
                todo.extend(new)
                continue
            rows = (_table_rows(node, i) for i, v in enumerate(node.inputs) if v is value)
            yield from (r for r in rows if r is not None)


def _table_rows(node: ir.Node, position: int) -> int | None:
    if node.op_type == "Gather" and position == 1:
        return _size(node.inputs[0], attribute(node, "axis", 0))
    if node.op_type == "OneHot" and position == 0:
        depth = scalar(node.inputs[1])
        return None if depth is None else int(depth)
    fused = node.op_type in ("EmbedLayerNormalization", "QEmbedLayerNormalization")
    if fused and position in _FUSED_TABLES:
        return _size(node.inputs[_FUSED_TABLES[position]], 0)
    return None


def _size(value: ir.Value | None, axis: int) -> int | None:
    shape = dims(value)
    if not shape or not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) and size > 0 else None
