"""Which operator relates its axes in which way. What is in no table must not be cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from ..graph import operator
from . import attention, einsum, elementwise, movement, products, reductions, reshapes
from .relations import UNKNOWN, Relations, reason
from .size_table import SizeTable

Handler = Callable[[Relations, SizeTable], None]
_REDUCERS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "ArgMax", "ArgMin"),
)
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool")
HANDLERS: Mapping[tuple[str, str], Handler] = {
    **{("", name): elementwise.unary for name in elementwise.UNARY | elementwise.SCALED},
    **{("", name): elementwise.nary for name in elementwise.NARY},
    **{("com.microsoft", name): elementwise.unary for name in elementwise.CONTRIB_UNARY},
    **{("com.microsoft", name): elementwise.nary for name in elementwise.CONTRIB_NARY},
    **{("", name): reductions.reduce for name in _REDUCERS},
    **{("", name): reductions.pool for name in _POOLS},
    **{("", name): reductions.along for name in ("Softmax", "LogSoftmax", "Hardmax")},
    ("", "LpNormalization"): reductions.along,
    ("", "LayerNormalization"): reductions.from_axis,
    ("", "RMSNormalization"): reductions.from_axis,
    ("", "SimplifiedLayerNormalization"): reductions.from_axis,
    ("com.microsoft", "SimplifiedLayerNormalization"): reductions.from_axis,
    ("com.microsoft", "SkipLayerNormalization"): reductions.skip_norm,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): reductions.skip_norm,
    ("", "GroupNormalization"): reductions.group_norm,
    ("", "LRN"): reductions.over_channels,
    ("", "BatchNormalization"): reductions.batch_norm,
    ("", "InstanceNormalization"): reductions.instance_norm,
    ("", "Resize"): reductions.resize,
    ("", "MatMul"): products.matmul,
    ("com.microsoft", "FusedMatMul"): products.fused_matmul,
    ("", "Einsum"): einsum.einsum,
    ("", "Gemm"): products.gemm,
    ("", "Conv"): products.conv,
    ("", "ConvTranspose"): products.conv_transpose,
    ("", "Transpose"): movement.transpose,
    ("", "Squeeze"): movement.squeeze,
    ("", "Unsqueeze"): movement.unsqueeze,
    ("", "Concat"): movement.concat,
    ("", "Split"): movement.split,
    ("", "Slice"): movement.slice_,
    ("", "Gather"): movement.gather,
    ("", "GatherElements"): movement.gather_elements,
    ("", "GatherND"): movement.gather_nd,
    ("", "Expand"): movement.expand,
    ("", "Tile"): movement.tile,
    ("", "Pad"): movement.pad,
    ("", "Attention"): attention.attention,
    ("com.microsoft", "MultiHeadAttention"): attention.multi_head,
    ("com.microsoft", "GroupQueryAttention"): attention.grouped_query,
    ("com.microsoft", "Attention"): attention.packed_attention,
    ("", "RotaryEmbedding"): attention.rotary,
    ("com.microsoft", "RotaryEmbedding"): attention.rotary,
    ("", "Reshape"): reshapes.reshape,
    ("", "Flatten"): reshapes.flatten,
}
SHAPE_ONLY = frozenset({("", "Shape"), ("", "Size")})
"""They read no element; what becomes of the sizes is looked at when a group is complete."""


def relations_of(node: ir.Node, table: SizeTable) -> Relations:
    """What the tables say of one node."""
    handler = HANDLERS.get(operator(node))
    found = Relations(node, reason(UNKNOWN, node, "is not understood"))
    if handler is None:
        return found
    found.otherwise = reason(UNKNOWN, node, "is used in a way that is not understood")
    handler(found, table)
    return found
