"""What ONNX Runtime's graph optimiser merges, absorbs and quantizes on its own (1.31, CPU).

Both who checks a graph and who writes one ask here. All of it was tried with the runtime
(``tests/conformance``, ``tests/targets/rules``).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...ir.graph import (
    attribute,
    constant_array,
    constant_tensor,
    consumers,
    dims,
    given,
    is_constant,
    operator,
    producer,
    scalar,
    single_consumer,
)

ABSORBED = frozenset({"Relu", "Clip"})
"""Activations that a QuantizeLinear behind them can stand for."""
TRANSPARENT = frozenset(
    "Expand Identity MaxPool Pad Reshape Slice Squeeze Transpose Unsqueeze".split()
)
"""Ops through which the runtime moves a quantizer, or that it removes before it looks."""
QUANTIZED_UNASKED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
FUSED_ACTIVATIONS = frozenset(
    "Elu HardSigmoid LeakyRelu Relu Selu Sigmoid Softplus Softsign Tanh ThresholdedRelu".split()
)
"""Activations that the runtime merges into a Gemm before it looks for integer kernels."""


def merges(add: ir.Node, product: ir.Node) -> bool:
    """Whether the runtime would merge a MatMul and the Add behind it into a Gemm.

    It does for two axes and a row of one number per column, be it constant or not, and for a
    constant vector also where every size is known. What is not known counts as fitting.
    """
    x = product.inputs[0]
    if not _is_add(add) or x is None or x.shape is None:
        return False
    bias = other_operand(add, product.outputs[0])
    if len(x.shape) == 2:
        return _is_row(bias, product)
    return is_constant(bias) and _is_vector(bias, product) and _all_known(x)


def merged_add(product: ir.Node) -> ir.Node | None:
    """The Add that the runtime merges with a MatMul, None where it does not."""
    if product.op_type != "MatMul":
        return None
    add = single_consumer(product.outputs[0])
    return add if add is not None and merges(add, product) else None


def other_operand(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """What a node of two operands combines with the value."""
    left, right = node.inputs
    return right if left is value else left


def activation_fuses(value: ir.Value) -> bool:
    """Whether a float Gemm with activation would be made, instead of an integer one."""
    reader = single_consumer(value)
    if reader is None or reader.op_type not in FUSED_ACTIVATIONS:
        return False
    return not quantized_behind(value)


def dequantized_in_front(value: ir.Value | None) -> bool:
    """Whether the value comes out of a DequantizeLinear, or moves what does."""
    node = producer(value)
    while node is not None and node.op_type in TRANSPARENT and node.inputs:
        node = producer(node.inputs[0])
    return node is not None and node.op_type == "DequantizeLinear"


def quantized_behind(value: ir.Value) -> bool:
    """Whether nothing but a QuantizeLinear reads the value, behind what it may absorb or move."""
    return quantizer_behind(value) is not None


def quantizer_behind(value: ir.Value) -> ir.Node | None:
    """The only reader of a value, where it is a QuantizeLinear; activations may stand between."""
    node = single_consumer(value)
    while node is not None and node.op_type in ABSORBED | TRANSPARENT:
        node = single_consumer(node.outputs[0])
    return node if node is not None and node.op_type == "QuantizeLinear" else None


def activation_behind(value: ir.Value) -> ir.Node | None:
    """The Relu or Clip between a value and the QuantizeLinear that alone reads it."""
    node = single_consumer(value)
    while node is not None and node.op_type in TRANSPARENT:
        node = single_consumer(node.outputs[0])
    return node if node is not None and node.op_type in ABSORBED else None


def absorbs(quantize: ir.Node, activation: ir.Node) -> bool:
    """Whether rounding does what the activation does: its grid lies within the activation's range.

    For a Relu the zero point must be the smallest code.
    """
    low, high = _range(quantize)
    if low is None or high is None:
        return False
    if activation.op_type == "Relu":
        return low == 0
    least, most = _bound(activation, 1, float("-inf")), _bound(activation, 2, float("inf"))
    return least is not None and most is not None and least <= low and high <= most


def quantized_unasked(node: ir.Node) -> bool:
    """Whether the runtime would give a float layer an int8 weight that nobody asked for.

    It does between a DequantizeLinear and a QuantizeLinear, for a MatMul only with the Add that
    it merges.
    """
    if node.op_type not in QUANTIZED_UNASKED or node.domain:
        return False
    if not dequantized_in_front(node.inputs[0]) or not is_constant(given(node, 1)):
        return False
    last = merged_add(node) if node.op_type == "MatMul" else node
    return last is not None and quantized_behind(last.outputs[0])


def read_unrounded(value: ir.Value) -> bool:
    """Whether a QuantizeLinear reads the value and something else does, too."""
    kinds = [reader.op_type for reader in consumers(value)]
    return "QuantizeLinear" in kinds and (len(kinds) > 1 or value.is_graph_output())


def read_by_several(value: ir.Value | None) -> bool:
    """Whether several nodes read a dequantized value, or the codes behind it.

    Of int8 codes of such a value the runtime keeps the sign; it turns others to uint8 on x86.
    """
    while value is not None:
        if readers(value) > 1:
            return True
        node = value.producer()
        if node is None or node.op_type == "QuantizeLinear" or not node.inputs:
            return False
        value = node.inputs[0]
    return False


def rounded_for_several(quantize: ir.Node) -> bool:
    """Whether several nodes read what a QuantizeLinear gives, or its dequantized value."""
    codes = quantize.outputs[0]
    dequantize = single_consumer(codes)
    return readers(codes) > 1 or (dequantize is not None and readers(dequantize.outputs[0]) > 1)


def readers(value: ir.Value) -> int:
    """How often a value is read, as an output of the graph once more."""
    return sum(1 for _ in value.uses()) + value.is_graph_output()


def int32_bias(value: ir.Value | None) -> bool:
    """Whether a bias is dequantized, as the runtime wants it for an integer Gemm."""
    return producer(value, "DequantizeLinear") is not None


def added_constant(add: ir.Node, value: ir.Value) -> ir.TensorProtocol | None:
    """The constant that an Add adds to the value, on either side; its bytes are not read."""
    if not _is_add(add):
        return None
    return constant_tensor(other_operand(add, value))


def _is_add(node: ir.Node) -> bool:
    return operator(node) == ("", "Add") and len(node.inputs) == 2


def _is_row(bias: ir.Value | None, product: ir.Node) -> bool:
    """Whether a bias is [N], [1, N] or [M, N] for a product [M, N]."""
    shape = dims(bias)
    if shape is None:
        return True
    if len(shape) not in (1, 2) or not _same(shape[-1], _columns(product)):
        return False
    rows = (dims(product.inputs[0]) or (None,))[0]
    return len(shape) == 1 or shape[0] == 1 or _same(shape[0], rows)


def _is_vector(bias: ir.Value | None, product: ir.Node) -> bool:
    shape = dims(bias)
    return shape is None or (len(shape) == 1 and _same(shape[0], _columns(product)))


def _columns(product: ir.Node) -> int | str | None:
    shape = dims(product.inputs[1])
    return shape[-1] if shape else None


def _same(one: int | str | None, other: int | str | None) -> bool:
    return one is None or other is None or one == other


def _all_known(x: ir.Value) -> bool:
    return all(isinstance(n, int) for n in x.shape or ())


def _range(quantize: ir.Node) -> tuple[float | None, float | None]:
    """The least and the greatest number on the grid of a QuantizeLinear with one scale."""
    scale, zero = scalar(given(quantize, 1)), given(quantize, 2)
    dtype = ir.DataType.UINT8 if zero is None else zero.dtype
    point = 0.0 if zero is None else scalar(zero)
    if scale is None or point is None or dtype not in (ir.DataType.UINT8, ir.DataType.INT8):
        return None, None
    least = 0 if dtype == ir.DataType.UINT8 else -128
    step = np.float32(scale)  # as the runtime computes it
    return float(step * np.float32(least - point)), float(step * np.float32(least + 255 - point))


def _bound(clip: ir.Node, index: int, otherwise: float) -> float | None:
    """A bound of a Clip, None where it is computed; as an attribute before opset 11."""
    value = given(clip, index)
    if value is None:
        found = attribute(clip, ("min", "max")[index - 1])
        return otherwise if not isinstance(found, float) else found
    array = constant_array(value)
    return None if array is None or array.size != 1 else float(array.reshape(-1)[0])
