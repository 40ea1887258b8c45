"""Shapes of the first outputs of ONNX Runtime's own operators, for which ONNX has no schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from ..graph import attribute, dims, given

Dims: TypeAlias = tuple[int | str | None, ...]


def contrib_dims(node: ir.Node) -> Dims | None:
    """The shape of the first output, None where the operator or its inputs are not known."""
    rule = _RULES.get(node.op_type)
    return None if rule is None else rule(node)


def _same(node: ir.Node) -> Dims | None:
    return dims(node.inputs[0])


def _product(node: ir.Node) -> Dims | None:
    """``MatMul`` of the first two inputs, batch axes broadcast, either side transposed."""
    left, right = dims(node.inputs[0]), dims(node.inputs[1])
    if left is None or right is None or min(len(left), len(right)) < 2:
        return None
    rows = left[-1] if attribute(node, "transA", 0) else left[-2]
    columns = right[-2] if attribute(node, "transB", 0) else right[-1]
    batch = _broadcast(left[:-2], right[:-2])
    return None if batch is None else (*batch, rows, columns)


def _broadcast(left: Dims, right: Dims) -> Dims | None:
    if not right:
        return left
    sizes = [tuple(s for s in side if isinstance(s, int)) for side in (left, right)]
    if len(sizes[0]) < len(left) or len(sizes[1]) < len(right):
        return None
    return np.broadcast_shapes(*sizes)


def _to_features(node: ir.Node) -> Dims | None:
    """``MatMulNBits`` and ``MatMulBnb4``: [..., K] to [..., N]."""
    left = dims(node.inputs[0])
    return None if left is None else (*left[:-1], int(attribute(node, "N")))


def _projected(node: ir.Node) -> Dims | None:
    """``Attention``: [B, T, D] to the width of the values."""
    left, weight = dims(node.inputs[0]), dims(node.inputs[1])
    if left is None or weight is None:
        return None
    sizes = attribute(node, "qkv_hidden_sizes")
    width = weight[-1]
    if sizes is None and not isinstance(width, int):
        return None
    return (*left[:-1], sizes[2] if sizes else int(width or 0) // 3)


def _mixed(node: ir.Node) -> Dims | None:
    """``MultiHeadAttention``: [B, T, D] as the query, wide as the values."""
    query, value = dims(node.inputs[0]), dims(given(node, 2))
    if query is None or value is None or len(query) != 3 or len(value) != 3:
        return None
    held = attribute(node, "kv_num_heads")
    width = query[-1] if held is not None else value[-1]
    return (*query[:-1], width)


def _embedded(node: ir.Node) -> Dims | None:
    ids, table = dims(node.inputs[0]), dims(node.inputs[2])
    return None if ids is None or table is None else (*ids, table[-1])


def _rows(node: ir.Node) -> Dims | None:
    """``GatherBlockQuantized`` along axis 0; bytes hold 8 / bits numbers each."""
    table, indices = dims(node.inputs[0]), dims(node.inputs[1])
    if table is None or indices is None or attribute(node, "gather_axis", 0) != 0:
        return None
    packed = node.inputs[0] is not None and node.inputs[0].dtype == ir.DataType.UINT8
    each = 8 // int(attribute(node, "bits", 4)) if packed else 1
    tail = tuple(s * each if isinstance(s, int) else None for s in table[-1:])
    return (*indices, *table[1:-1], *tail)


def _sequence(node: ir.Node) -> Dims | None:
    """``DynamicQuantizeLSTM``: [T, B, K] to [T, directions, B, hidden]."""
    x, weight = dims(node.inputs[0]), dims(node.inputs[2])
    if x is None or weight is None or len(x) != 3:
        return None
    return (x[0], weight[0], x[1], int(attribute(node, "hidden_size")))


_RULES: dict[str, Callable[[ir.Node], Dims | None]] = {
    **dict.fromkeys(["BiasGelu", "FastGelu", "Gelu", "QuickGelu", "BiasSoftmax"], _same),
    **dict.fromkeys(["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"], _same),
    **dict.fromkeys(["SimplifiedLayerNormalization", "RotaryEmbedding"], _same),
    **dict.fromkeys(["QuantizeLinear", "DequantizeLinear"], _same),
    **dict.fromkeys(["FusedMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"], _product),
    **dict.fromkeys(["Attention", "QAttention"], _projected),
    **dict.fromkeys(["MultiHeadAttention", "GroupQueryAttention"], _mixed),
    **dict.fromkeys(["MatMulNBits", "MatMulBnb4"], _to_features),
    "EmbedLayerNormalization": _embedded,
    "GatherBlockQuantized": _rows,
    "DynamicQuantizeLSTM": _sequence,
}
