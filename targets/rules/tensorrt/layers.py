"""Rules on where Q/DQ pairs stand: in front of layers that have integer kernels, on both sides."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ....ir.graph import (
    consumers,
    is_constant,
    operator,
    producer,
    single_consumer,
)
from ...tensorrt.table import DOMAIN
from ..layers import PRODUCTS, integer
from ..rule import Finding, Rule, View
from .codes import heads, rounds_constant
from .limits import built
from .operators import INTEGER
from .scope import on_tensorrt
from .types import QUANTIZERS

FILTERS = frozenset({"Conv", "ConvTranspose"})
_COMPUTING = PRODUCTS | frozenset(
    "Add AveragePool BatchNormalization GlobalAveragePool GlobalMaxPool MaxPool".split()
)
"""Standard operators that TensorRT computes on codes (NVIDIA Model Optimizer's list)."""
_MOVING = frozenset(
    "Concat Expand Flatten Gather Identity Pad Reshape Resize Slice Split Squeeze Transpose "
    "Unsqueeze".split()
)
"""Operators that only move numbers: a pair passes through them."""
_EIGHT = frozenset({ir.DataType.INT8, ir.DataType.FLOAT8E4M3FN})


def output_axis(node: ir.Node) -> int:
    """The axis of a layer's weight, its second operand, that holds output channels."""
    if node.op_type == "MatMul":
        return -1
    if node.op_type == "Gemm":
        return 0 if integer(node, "transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def summed_axis(node: ir.Node, *, left: bool = False) -> int:
    """The axis of a layer's weight that is summed over; left: the weight is the first operand."""
    if left:
        return -2 if integer(node, "transA", 0) else -1
    if node.op_type == "MatMul":
        return -2
    if node.op_type == "Gemm":
        return 1 if integer(node, "transB", 0) else 0
    return 0 if node.op_type == "ConvTranspose" else 1


def _weight_axis(view: View) -> Iterator[Finding]:
    for layer in view.layers:
        grid = layer.right
        if grid is None or not grid.constant or grid.per_tensor or grid.block:
            continue
        if len(grid.sizes) != 1:
            continue
        axis = grid.axis_of(output_axis(layer.node))
        if axis is not None and axis != grid.axis:
            yield Finding(layer.node, f"axis {grid.axis}, {axis} is the output channels'")


def _operands_differ(view: View) -> Iterator[Finding]:
    for layer in view.static:
        found = [g.dtype for g in (layer.left, layer.right) if g is not None]
        if found[0] != found[1] and set(found) <= _EIGHT:
            yield Finding(layer.node, " and ".join(dtype.name.lower() for dtype in found))


def _one_sided(view: View) -> Iterator[Finding]:
    for layer in view.layers:
        if layer.activations and (layer.left is None or layer.right is None):
            side = "left" if layer.right is None else "right"
            yield Finding(layer.node, f"only the {side} operand is quantized")


def _weight_only(view: View) -> Iterator[Finding]:
    bits = view.target.weight_only.bits
    for layer in view.weight_only:
        grid = layer.weight
        if grid is None or (grid.dtype.bitwidth in bits and grid.dtype == ir.DataType.INT4):
            continue
        yield Finding(layer.node, f"weight of {grid.dtype.name.lower()}, float activation")


def _pair_for_nothing(view: View) -> Iterator[Finding]:
    for node in heads(view):
        if node.op_type == "QuantizeLinear" and not rounds_constant(node):
            found = _readers(node.outputs[0])
            if not any(_computes(reader) for reader in found):
                kinds = ", ".join(sorted({reader.op_type for reader in found}))
                yield Finding(node, f"read by {kinds or 'an output of the model'}")


def _computes(node: ir.Node) -> bool:
    domain, op = operator(node)
    if op == "Add" and any(map(built, node.inputs)):
        return False  # a bias: it is added in float, with the product in front
    return op in _COMPUTING | INTEGER if not domain else domain == DOMAIN


def _readers(value: ir.Value) -> list[ir.Node]:
    """What reads a value behind Q/DQ nodes and operators that only move numbers."""
    found: list[ir.Node] = []
    pending, seen = consumers(value), set[ir.Node]()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if not operator(node)[0] and node.op_type in _MOVING | QUANTIZERS:
            pending += [reader for out in node.outputs for reader in consumers(out)]
        else:
            found.append(node)
    return found


def _straight(value: ir.Value | None) -> tuple[ir.Node | None, bool]:
    """The convolution that gives a value to nobody else, and whether a pair stands between."""
    made, paired = producer(value), False
    if made is not None and operator(made) == ("", "DequantizeLinear"):
        quantize = producer(made.inputs[0], "QuantizeLinear")
        if quantize is None or single_consumer(made.outputs[0]) is None:
            return None, False  # a layer reads it, too: the pair is that layer's
        value = quantize.inputs[0]
        made, paired = producer(value), True
    if made is not None and made.op_type == "BatchNormalization":
        value = made.inputs[0]
        made = producer(value)
    if made is None or made.op_type not in FILTERS or value is None:
        return None, False
    return (made, paired) if single_consumer(value) is not None else (None, False)


def _residual_pair(view: View) -> Iterator[Finding]:
    for node in view.of("Add"):
        found = [_straight(value) for value in node.inputs]
        convs = [(conv, paired) for conv, paired in found if conv is not None]
        if convs and all(paired for _, paired in convs):
            yield Finding(node, f"a pair behind {convs[0][0].name}")


def _residual_float(view: View) -> Iterator[Finding]:
    quantized = {id(layer.node) for layer in view.static}
    for node in view.of("Add"):
        if len(node.inputs) != 2:
            continue
        found = [_straight(value) for value in node.inputs]
        fused = [conv for conv, paired in found if conv is not None and not paired]
        others = [v for v in node.inputs if producer(v, "DequantizeLinear") is None]
        residual = len(others) == 2 and not any(map(is_constant, node.inputs))
        if residual and fused and id(fused[0]) in quantized:
            yield Finding(node, f"added to {fused[0].name}, in float")


RULES = (
    Rule(
        "trt-weight-axis",
        "The axis along which weights of layers have their scales.",
        _weight_axis,
        "kernels want a scale for each output channel: along another axis the engine is not built, "
        "or the weight is widened and the layer runs in float",
        "MatMul [K, N]: axis 1; Gemm with transB=1 and Conv: axis 0; ConvTranspose: axis 1",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-operands-differ",
        "Codes of the two operands of a layer.",
        _operands_differ,
        "no kernel multiplies codes of different types",
        "quantize both operands to int8, or both to FP8",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-operand-in-float",
        "Layers of which an activation is quantized and the other operand is not.",
        _one_sided,
        "the layer runs in float, and the pair costs time and accuracy for nothing",
        "quantize both operands right in front of the layer, or none",
        "slow",
        on_tensorrt,
    ),
    Rule(
        "trt-weight-only",
        "Layers of which only the weight is quantized.",
        _weight_only,
        "weights alone may be int4 in blocks only, and only where the target has such kernels: "
        "this one is widened, and the layer runs in float",
        "quantize the activation as well, or use int4 in blocks where the target takes it",
        "slow",
        on_tensorrt,
    ),
    Rule(
        "trt-pair-without-layer",
        "Q/DQ pairs of activations, and what reads them.",
        _pair_for_nothing,
        "nothing behind the pair computes on codes: it costs time and accuracy for nothing",
        "put pairs in front of Conv, MatMul and Gemm only, not behind layers and not in front of "
        "Softmax, LayerNormalization, activations or outputs",
        "slow",
        on_tensorrt,
    ),
    Rule(
        "trt-residual-pair",
        "Q/DQ pairs between a convolution and the Add behind it.",
        _residual_pair,
        "the pair keeps TensorRT from merging the Add into the convolution",
        "quantize the other operand of the Add, the one that skips the convolution",
        "slow",
        on_tensorrt,
    ),
    Rule(
        "trt-residual-float",
        "Add nodes that would be merged into a quantized convolution.",
        _residual_float,
        "the other operand is float, so the merged layer writes float and what reads it quantizes "
        "again",
        "quantize the operand that skips the convolution",
        "note",
        on_tensorrt,
    ),
)
