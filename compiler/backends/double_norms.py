"""Keep ONNX Runtime from merging a cast from float64 into a LayerNormalization that it lacks.

Its fusion (1.31, from opset 9 on) takes ``Cast(float64 -> float32)`` in front of a spelled-out
normalisation for part of it, and then finds no kernel for float64 with a float32 scale: the model
does not load. It looks for an Add of the bias at the end; a Sum of two gives the same bits.
"""

from __future__ import annotations

import onnx_ir as ir

from ...ir.graph import producer
from ...ir.rewriter import Rewriter


def unfuse_double_norm(node: ir.Node, rewriter: Rewriter) -> ir.Value | None:
    """``Add(scaled, bias)`` -> ``Sum`` where a cast from float64 is normalised; its output."""
    if node.op_type != "Add" or node.domain or node.graph is None:
        return None
    if not any(_scales_cast_double(producer(value)) for value in node.inputs):
        return None
    summed = rewriter.insert(
        "Sum", list(node.inputs), before=node, name=str(node.name), origins=[node]
    )
    rewriter.take_over(node.outputs[0], summed.outputs[0])
    rewriter.remove(node)
    return summed.outputs[0]


def _scales_cast_double(node: ir.Node | None) -> bool:
    """Whether it is ``(x - mean(x)) / deviation * scale`` with such a cast as x."""
    if node is None or node.op_type != "Mul":
        return False
    return any(_normalises_cast_double(producer(value)) for value in node.inputs)


def _normalises_cast_double(node: ir.Node | None) -> bool:
    if node is None or node.op_type != "Div":
        return False
    centred = producer(node.inputs[0])
    if centred is None or centred.op_type != "Sub":
        return False
    cast = producer(centred.inputs[0])
    if cast is None or cast.op_type != "Cast":
        return False
    source = cast.inputs[0]
    return source is not None and source.dtype == ir.DataType.DOUBLE
