"""Operators of ONNX Runtime alone, written in those of ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from ....ir.graph import attribute, given, operator, opset
from ....ir.rewriter import Rewriter
from ..backend import Legalised

CONTRIB, FLOAT = "com.microsoft", ir.DataType.FLOAT
Writer = Callable[[Rewriter, ir.Node], list[ir.Value] | None]


def written_in_standard(rewriter: Rewriter) -> Iterator[Legalised]:
    """Replace what has a standard spelling; the others stay."""
    for node in list(rewriter.graph):
        write = _WRITERS.get(node.op_type) if operator(node)[0] == CONTRIB else None
        outputs = None if write is None else write(rewriter, node)
        if outputs is None:
            continue
        name = str(node.outputs[0].name)
        read = list(node.inputs)
        for old, new in zip(node.outputs, outputs, strict=False):
            rewriter.take_over(old, new)
        rewriter.remove(node)
        rewriter.sweep(read)
        sentence = f"{CONTRIB}:{node.op_type} is written in standard operators"
        yield Legalised(name, "standard-spelling", sentence)


def _gelu(rewriter: Rewriter, node: ir.Node) -> list[ir.Value]:
    """x (1 + erf(x / sqrt 2)) / 2"""
    x = node.inputs[0]
    inner = _put(rewriter, node, "Mul", x, _number(rewriter, node, math.sqrt(0.5)))
    return [_gated(rewriter, node, x, _put(rewriter, node, "Erf", inner))]


def _fast_gelu(rewriter: Rewriter, node: ir.Node) -> list[ir.Value]:
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, of x plus a bias where one is given."""
    x, bias = node.inputs[0], given(node, 1)
    if bias is not None:
        x = _put(rewriter, node, "Add", x, bias)
    cube = _put(rewriter, node, "Mul", _put(rewriter, node, "Mul", x, x), x)
    inner = _put(rewriter, node, "Add", x,
                 _put(rewriter, node, "Mul", cube, _number(rewriter, node, 0.044715)))  # fmt: skip
    scaled = _put(rewriter, node, "Mul", inner, _number(rewriter, node, math.sqrt(2 / math.pi)))
    return [_gated(rewriter, node, x, _put(rewriter, node, "Tanh", scaled))]


def _gated(rewriter: Rewriter, node: ir.Node, x: ir.Value | None, t: ir.Value) -> ir.Value:
    one = _put(rewriter, node, "Add", t, _number(rewriter, node, 1.0))
    half = _put(rewriter, node, "Mul", x, _number(rewriter, node, 0.5))
    return _put(rewriter, node, "Mul", half, one)


def _quick_gelu(rewriter: Rewriter, node: ir.Node) -> list[ir.Value]:
    """x sigmoid(alpha x)"""
    x, alpha = node.inputs[0], float(attribute(node, "alpha", 1.702))
    inner = _put(rewriter, node, "Mul", x, _number(rewriter, node, alpha))
    return [_put(rewriter, node, "Mul", x, _put(rewriter, node, "Sigmoid", inner))]


def _skip_layer_norm(rewriter: Rewriter, node: ir.Node) -> list[ir.Value] | None:
    """LayerNormalization(x + skip + bias); only where nobody reads mean and variance."""
    if opset(rewriter.model) < 17 or any(
        v.uses() or v.is_graph_output() for v in node.outputs[1:3]
    ):
        return None
    x, skip, gamma, beta, bias = (given(node, i) for i in range(5))
    total = _put(rewriter, node, "Add", x, skip)
    if bias is not None:
        total = _put(rewriter, node, "Add", total, bias)
    made = rewriter.insert(
        "LayerNormalization",
        [total, gamma] + ([] if beta is None else [beta]),
        before=node,
        attributes={"axis": -1, "epsilon": float(attribute(node, "epsilon", 1e-12))},
        name=f"{node.name}_norm",
        origins=[node],
    )
    outputs = [made.outputs[0]]
    if len(node.outputs) > 3 and (node.outputs[3].uses() or node.outputs[3].is_graph_output()):
        rewriter.take_over(node.outputs[3], total)
    return outputs


def _fused_matmul(rewriter: Rewriter, node: ir.Node) -> list[ir.Value] | None:
    """alpha a' b', where a' is a with its last two axes turned if asked for."""
    if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
        return None
    sides: list[ir.Value | None] = []
    for i, name in enumerate(("transA", "transB")):
        value = node.inputs[i]
        if attribute(node, name, 0):
            if value is None or value.shape is None or len(value.shape) < 2:
                return None
            axes = list(range(len(value.shape)))
            turned = [*axes[:-2], axes[-1], axes[-2]]
            value = _put(rewriter, node, "Transpose", value, perm=turned)
        sides.append(value)
    product = _put(rewriter, node, "MatMul", *sides)
    alpha = float(attribute(node, "alpha", 1.0))
    if alpha != 1.0:
        product = _put(rewriter, node, "Mul", product, _number(rewriter, node, alpha))
    return [product]


def _number(rewriter: Rewriter, node: ir.Node, number: float) -> ir.Value:
    """A constant of the type of what the node reads."""
    dtype = None if node.inputs[0] is None else node.inputs[0].dtype
    return rewriter.initializer("number", np.asarray(number, (dtype or FLOAT).numpy()))


def _put(
    rewriter: Rewriter, node: ir.Node, op: str, *inputs: ir.Value | None, **attributes: object
) -> ir.Value:
    """The output of a new node in front of the one that it helps to replace."""
    name = f"{node.name}_{op.lower()}"
    made = rewriter.insert(
        op, inputs, before=node, attributes=attributes, name=name, origins=[node]
    )
    return made.outputs[0]


_WRITERS: Mapping[str, Writer] = {
    "Gelu": _gelu,
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer_norm,
    "FusedMatMul": _fused_matmul,
}
