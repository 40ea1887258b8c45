"""The graph with integers in the place of a layer or a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from ...ir.qdq import dynamic_view, redirect_elementwise, static_view, weight_view
from ...ir.rewriter import Rewriter
from ...ir.sites import Site
from ..api import FakeQuant
from ..biases import set_bias
from .layers import activated_output


@dataclass(frozen=True)
class LayerCodes:
    """What lowering builds from: int8 codes, float32 scales per output channel, new bias."""

    codes: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | None
    activation: FakeQuant
    output: FakeQuant | None = None


def lower_static(site: Site, codes: LayerCodes, rewriter: Rewriter) -> None:
    """Q/DQ in front of both factors, and behind the output where the kernel needs it."""
    node = site.nodes[0]
    x, quant = _present(node.inputs[0]), codes.activation
    assert quant.scale is not None and quant.zero_point is not None
    view = static_view(rewriter, x, quant.scale, quant.zero_point, quant.dtype)
    axis = 1 if site.kind == "linear" else 0
    weight = weight_view(rewriter, node, _weight_hint(site), codes.codes, codes.scale, axis)
    old = node.inputs[1]
    rewriter.set_input(node, 0, view)
    rewriter.set_input(node, 1, weight)
    rewriter.sweep([old])
    set_bias(site, codes.bias, rewriter)
    if codes.output is not None:
        _quantize_output(site, codes.output, rewriter)


def _quantize_output(site: Site, quant: FakeQuant, rewriter: Rewriter) -> None:
    y = activated_output(site)
    assert quant.scale is not None and quant.zero_point is not None
    if y.is_graph_output() and not y.uses():
        return
    view = static_view(rewriter, y, quant.scale, quant.zero_point, quant.dtype)
    redirect_elementwise(rewriter, y, view)


def lower_dynamic(site: Site, codes: LayerCodes, rewriter: Rewriter) -> None:
    """DynamicQuantizeLinear, MatMulInteger, Cast, Mul by both scales: one fused kernel."""
    node, hint = site.nodes[0], _weight_hint(site)
    x = _present(node.inputs[0])
    q, x_scale, x_zero = dynamic_view(rewriter, x)
    weight = rewriter.initializer(f"{hint}_quantized", codes.codes)
    zero = rewriter.initializer(f"{hint}_zero_point", np.zeros(codes.scale.shape, np.int8))
    scale = rewriter.initializer(f"{hint}_scale", codes.scale)
    insert = partial(_in_front, rewriter, node)
    product = insert("MatMulInteger", [q, weight, x_zero, zero])
    scales = insert("Mul", [x_scale, scale])
    real = insert("Cast", [product], to=int(ir.DataType.FLOAT))
    result = insert("Mul", [real, scales])
    _give_way(rewriter, node, result)
    set_bias(site, codes.bias, rewriter)


def lower_table(site: Site, codes: LayerCodes, rewriter: Rewriter) -> None:
    """Gather codes and scales, then multiply: only the rows asked for are widened."""
    node, hint = site.nodes[0], _weight_hint(site)
    index = node.inputs[1]
    table = rewriter.initializer(f"{hint}_quantized", codes.codes)
    scales = rewriter.initializer(f"{hint}_scale", codes.scale[:, None])
    insert = partial(_in_front, rewriter, node)
    rows = insert("Cast", [insert("Gather", [table, index], axis=0)], to=int(ir.DataType.FLOAT))
    result = insert("Mul", [rows, insert("Gather", [scales, index], axis=0)])
    _give_way(rewriter, node, result)


def _in_front(
    rewriter: Rewriter,
    node: ir.Node,
    op: str,
    inputs: Sequence[ir.Value | None],
    **attributes: int,
) -> ir.Value:
    """The output of a new node in front of the layer that it helps to replace."""
    name = f"{node.name}_{op.lower()}"
    made = rewriter.insert(
        op, inputs, before=node, attributes=attributes, name=name, origins=[node]
    )
    return made.outputs[0]


def _give_way(rewriter: Rewriter, node: ir.Node, result: ir.Value) -> None:
    """Let ``result`` stand for the node's output; the node goes, with what it alone read."""
    read = list(node.inputs)
    rewriter.take_over(node.outputs[0], result)
    rewriter.remove(node)
    rewriter.sweep(read)


def _present(value: ir.Value | None) -> ir.Value:
    """The input as it is now: an edit of the layer in front may have replaced it."""
    assert value is not None
    return value


def _weight_hint(site: Site) -> str:
    return f"{site.name}.weight"
