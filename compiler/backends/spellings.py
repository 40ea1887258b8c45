"""Ways to write the same function that a runtime turns into different kernels.

Each is tried on the finished model and kept only if it measures faster, under default
session options: the artifact is then fast wherever it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from ...ir.graph import consumers, is_constant
from ...ir.rewriter import Rewriter
from .activations import INNER, fuse_activations
from .attention import fuse_attention
from .integer_linear import fuse_integer_bias

Spelling = Callable[[Rewriter], int]


def sum_before_norm(rewriter: Rewriter) -> int:
    """Write the addition in front of a LayerNormalization as Sum; how many were.

    ONNX Runtime (1.20 to 1.31) fuses Add and LayerNormalization into one kernel that is
    slower on CPUs than the two; it does not look at Sum.
    """
    count = 0
    for node in list(rewriter.graph):
        if node.op_type != "Add" or node.domain or any(is_constant(v) for v in node.inputs):
            continue
        readers = consumers(node.outputs[0])
        if not any(n.op_type == "LayerNormalization" for n in readers):
            continue
        made = rewriter.insert(
            "Sum", list(node.inputs), before=node, name=f"{node.name}_sum", origins=[node]
        )
        rewriter.take_over(node.outputs[0], made.outputs[0])
        rewriter.remove(node)
        count += 1
    return count


SPELLINGS: Mapping[str, Spelling] = {
    "sum-before-norm": sum_before_norm,
    "fused-attention": fuse_attention,
    "fused-activation": fuse_activations,
    "integer-bias": fuse_integer_bias,
}
APPROXIMATE = frozenset({"fused-activation"})
"""Kernels that round otherwise than the operators that they stand for (FastGelu: up to 1.5e-5 of
the largest output on Magika): not for builds that are called lossless."""
NEEDED: Mapping[str, tuple[frozenset[str], ...]] = {
    "sum-before-norm": (frozenset({"Add", "LayerNormalization"}),),
    "fused-attention": (frozenset({"Softmax", "MatMul", "Reshape", "Transpose"}),),
    "fused-activation": tuple(frozenset({function, "Mul"}) for function in INNER),
    "integer-bias": (frozenset({"DequantizeLinear", "MatMul"}),),
}
"""Sets of operators, one of which has to be there: else no copy is made to try a spelling on."""


def may_apply(name: str, graph: ir.Graph) -> bool:
    """Whether the graph has what a spelling rewrites."""
    present = {node.op_type for node in graph}
    return any(needed <= present for needed in NEEDED.get(name, (frozenset(),)))
