"""Linear layers and convolutions in one form."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...ir.graph import attribute, constant_array, dims, is_constant, opset, single_consumer
from ...ir.rewriter import Rewriter
from .edits import has_input, replace
from .weights import oriented


def gemm_to_matmul(node: ir.Node, rewriter: Rewriter) -> bool:
    """Gemm with a constant weight -> MatMul(x, W[in, out]) + Add(bias)."""
    if node.op_type != "Gemm" or node.domain or not is_constant(node.inputs[1]):
        return False
    x, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    assert x is not None and weight is not None
    beta, dtype = attribute(node, "beta", 1.0), weight.dtype
    if attribute(node, "transA", 0) or dtype is None or not dtype.is_floating_point():
        return False
    if bias is not None and (not is_constant(bias) or len(dims(bias) or ()) > 2):
        return False
    weight = oriented(node, weight, rewriter)
    if weight is None:
        return False
    product = rewriter.insert(
        "MatMul", [x, weight], before=node, name=f"{node.name}_matmul", origins=[node]
    )
    result = product.outputs[0]
    if bias is not None:
        bias = _bias_vector(rewriter, bias, float(beta), node.graph)
        result = rewriter.insert(
            "Add", [result, bias], before=node, name=f"{node.name}_bias", origins=[node]
        ).outputs[0]
    replace(node, result, rewriter)
    return True


def fold_batch_norm(node: ir.Node, rewriter: Rewriter) -> bool:
    """Inference BatchNormalization behind a convolution -> into its weight and bias."""
    if node.op_type != "BatchNormalization" or node.domain or node.inputs[0] is None:
        return False
    conv = node.inputs[0].producer()
    if conv is None or conv.op_type != "Conv" or conv.domain or conv.graph is not node.graph:
        return False  # a convolution outside a loop would be computed in each iteration
    if single_consumer(node.inputs[0]) is not node or not _infers(node, opset(rewriter.model)):
        return False
    arrays = [constant_array(v) for v in (*node.inputs[1:5], conv.inputs[1])]
    bias = constant_array(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] else None
    if any(a is None for a in arrays) or (bias is None and has_input(conv, 2)):
        return False
    gamma, beta, mean, var, weight = (np.asarray(a, np.float64) for a in arrays)
    dtype = np.asarray(arrays[4]).dtype
    scale = gamma / np.sqrt(var + attribute(node, "epsilon", 1e-5))
    start = np.zeros_like(mean) if bias is None else bias.astype(np.float64)
    folded = (weight * scale.reshape((-1,) + (1,) * (weight.ndim - 1))).astype(dtype)
    shift = ((start - mean) * scale + beta).astype(dtype)
    name = str(conv.inputs[1].name if conv.inputs[1] else conv.name)
    inputs = [
        conv.inputs[0],
        rewriter.initializer(name + "_folded", folded, graph=node.graph),
        rewriter.initializer(f"{conv.name}_bias", shift, graph=node.graph),
    ]
    merged = rewriter.insert(
        "Conv",
        inputs,
        before=node,
        name=str(conv.name),
        attributes={k: a.value for k, a in conv.attributes.items()},
        origins=[conv, node],
    )
    dead = list(conv.inputs)
    replace(node, merged.outputs[0], rewriter)
    rewriter.sweep([conv.outputs[0], *dead])
    return True


def _bias_vector(
    rewriter: Rewriter, bias: ir.Value, beta: float, graph: ir.Graph | None
) -> ir.Value:
    array = constant_array(bias)
    assert array is not None
    flat = array.reshape(-1) if array.ndim == 2 and array.shape[0] == 1 else array
    if beta == 1.0 and flat is array:
        return bias
    scaled = (flat * beta).astype(array.dtype)
    return rewriter.initializer(f"{bias.name}_scaled", scaled, graph=graph)


def _infers(node: ir.Node, version: int) -> bool:
    """Whether a BatchNormalization uses its stored statistics, one number a channel."""
    if attribute(node, "training_mode", 0) or attribute(node, "spatial", 1) != 1:
        return False
    if version < 14:  # then more outputs than one meant training
        return not any(output.name for output in node.outputs[1:])
    return not any(o.uses() or o.is_graph_output() for o in node.outputs[1:])
