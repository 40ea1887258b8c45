"""Write a statically quantized linear layer as one kernel that adds its bias, too."""

from __future__ import annotations

import onnx_ir as ir

from ...ir.graph import attribute, constant_array, dims, producer, single_consumer
from ...ir.rewriter import Rewriter


def fuse_integer_bias(rewriter: Rewriter) -> int:
    """MatMul(DQ(x), DQ(w)) + bias -> com.microsoft.MatMulIntegerToFloat; how many were.

    ONNX Runtime (to 1.31) makes the same kernel of the product by itself but leaves the
    addition apart, as a pass over the whole output.
    """
    count = 0
    for node in list(rewriter.graph):
        if node.graph is None or node.op_type != "MatMul" or node.domain:
            continue
        add = _bias_add(node)
        if add is not None and _fuse(node, add, rewriter):
            count += 1
    return count


def _fuse(node: ir.Node, add: ir.Node, rewriter: Rewriter) -> bool:
    x, w = (producer(v, "DequantizeLinear") for v in node.inputs)
    if x is None or w is None or len(x.inputs) < 3 or len(w.inputs) < 3:
        return False
    columns = _columns(w)
    if columns is None or dims(add.inputs[1]) != (columns,) or dims(x.inputs[1]) not in ((), (1,)):
        return False
    rewriter.require_opset("com.microsoft", 1)
    inputs = [
        x.inputs[0],
        w.inputs[0],
        x.inputs[1],
        w.inputs[1],
        x.inputs[2],
        w.inputs[2],
        add.inputs[1],
    ]
    output, dead = add.outputs[0], [*node.inputs]
    fused = rewriter.insert(
        "MatMulIntegerToFloat",
        inputs,
        before=add,
        domain="com.microsoft",
        name=f"{node.name}_integer",
        origins=[node, add],
    )
    rewriter.set_type(fused.outputs[0], ir.DataType.FLOAT, output.shape)
    rewriter.take_over(output, fused.outputs[0])
    rewriter.remove([node, add])
    rewriter.sweep(dead)
    return True


def _columns(weight: ir.Node) -> int | None:
    """Columns of a dequantized constant matrix whose scales, if several, belong to columns."""
    codes, scale = constant_array(weight.inputs[0]), dims(weight.inputs[1])
    if codes is None or codes.ndim != 2:
        return None
    by_column = scale == codes.shape[1:] and attribute(weight, "axis", 1) in (1, -1)
    return codes.shape[1] if by_column or scale in ((), (1,)) else None


def _bias_add(node: ir.Node) -> ir.Node | None:
    """The addition (Add, or Sum where legalisation wrote one) of a constant vector."""
    add = single_consumer(node.outputs[0])
    if add is None or add.op_type not in ("Add", "Sum") or len(add.inputs) != 2:
        return None
    bias = constant_array(add.inputs[1])
    return add if add.inputs[0] is node.outputs[0] and bias is not None and bias.ndim == 1 else None
