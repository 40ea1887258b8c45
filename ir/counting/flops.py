"""Floating-point operations of nodes for known shapes.

A multiply-add counts as two, a transcendental function as one. Data movement is free. Operators
that fuse several count as their parts: softmax 5 an element (maximum, subtraction, exponential,
sum, division), layer normalisation 8. Attention counts the full square, masked or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod

import onnx_ir as ir

from ..graph import attribute, constant_tensor, given, operator
from ..types.bound import Shapes
from .elementwise import FREE, PER_ELEMENT, REDUCTIONS

_GATES = {"LSTM": 4, "DynamicQuantizeLSTM": 4, "GRU": 3, "RNN": 1}

Sizes = tuple[int, ...]


class _UnknownSizeError(Exception):
    """A size that the count needs is not a number."""


def flops(node: ir.Node, shapes: Shapes) -> int | None:
    """Operations of one node on one run; None where a size or the operator is not known.

    shapes: of the values, from ``bound_shapes``.
    """
    counter = _COUNTERS.get(node.op_type) if node.domain in _DOMAINS else None
    try:
        return _elementwise(node, shapes) if counter is None else counter(node, shapes)
    except (_UnknownSizeError, IndexError):
        return None


def total_flops(nodes: Iterable[ir.Node], shapes: Shapes) -> int | None:
    """The sum over nodes, None where one of them is not known."""
    counts = [flops(node, shapes) for node in nodes]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _sizes(value: ir.Value | None, shapes: Shapes) -> Sizes:
    tensor = constant_tensor(value)
    if tensor is not None:
        return tuple(tensor.shape.numpy())
    shape = None if value is None else shapes.get(str(value.name))
    if shape is None:
        raise _UnknownSizeError
    known = tuple(size for size in shape if isinstance(size, int))
    if len(known) != len(shape):
        raise _UnknownSizeError
    return known


def _output(node: ir.Node, shapes: Shapes) -> Sizes:
    return _sizes(node.outputs[0], shapes)


def _elementwise(node: ir.Node, shapes: Shapes) -> int | None:
    if node.domain not in _DOMAINS:
        return None
    if node.op_type in FREE:
        return 0
    if node.op_type in REDUCTIONS:
        return REDUCTIONS[node.op_type] * prod(_sizes(node.inputs[0], shapes))
    each = PER_ELEMENT.get(node.op_type)
    return None if each is None else each * prod(_output(node, shapes))


def _matmul(node: ir.Node, shapes: Shapes) -> int:
    left = _sizes(node.inputs[0], shapes)
    axis = -2 if attribute(node, "transA", 0) and len(left) > 1 else -1
    return 2 * prod(_output(node, shapes)) * left[axis]


def _gemm(node: ir.Node, shapes: Shapes) -> int:
    output = prod(_output(node, shapes))
    left = _sizes(node.inputs[0], shapes)
    depth = left[0 if attribute(node, "transA", 0) else -1]
    bias = given(node, 6 if node.op_type == "QGemm" else 2)
    return 2 * output * depth + (output if bias is not None else 0)


def _matmul_nbits(node: ir.Node, shapes: Shapes) -> int:
    return 2 * prod(_output(node, shapes)) * int(attribute(node, "K"))


def _conv(node: ir.Node, shapes: Shapes) -> int:
    quantized = node.op_type == "QLinearConv"
    weight = _sizes(node.inputs[3 if quantized else 1], shapes)
    output = prod(_output(node, shapes))
    biased = node.op_type != "ConvInteger" and given(node, 8 if quantized else 2) is not None
    return 2 * output * prod(weight[1:]) + biased * output


def _conv_transpose(node: ir.Node, shapes: Shapes) -> int:
    weight = _sizes(node.inputs[1], shapes)
    biased = given(node, 2) is not None
    pairs = prod(_sizes(node.inputs[0], shapes)) * prod(weight[1:])
    return 2 * pairs + biased * prod(_output(node, shapes))


def _einsum(node: ir.Node, shapes: Shapes) -> int:
    equation = str(attribute(node, "equation")).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if "." in equation or len(terms) > 2:
        raise _UnknownSizeError
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        sizes.update(zip(term, _sizes(value, shapes), strict=True))
    return len(terms) * prod(sizes.values())


def _attention(node: ir.Node, shapes: Shapes) -> int:
    """Scores, softmax and mix; q, k, v as [B, H, T, d] or [B, T, H d]."""
    query, key, value = (_sizes(node.inputs[i], shapes) for i in range(3))
    heads = int(attribute(node, "q_num_heads", attribute(node, "num_heads", 0)))
    if len(query) == 4:
        heads, width = query[1], query[1] * query[3]
        kept = value[3] * heads
    elif len(key) == 3 and heads:
        width, held = query[2], int(attribute(node, "kv_num_heads", heads))
        kept = value[2] * heads // held
    else:
        raise _UnknownSizeError
    past = given(node, _PAST.get(node.op_type))
    length = key[-2] + (0 if past is None else _sizes(past, shapes)[-2])
    pairs = query[0] * query[-2] * length
    return 2 * pairs * (width + kept) + 5 * heads * pairs


_PAST = {"Attention": 4, "GroupQueryAttention": 3, "MultiHeadAttention": 6}


def _projecting_attention(node: ir.Node, shapes: Shapes) -> int:
    """com.microsoft: input [B, T, D] times weight [D, 3 N], then attention over the past, too."""
    if operator(node)[0] != "com.microsoft":
        return _attention(node, shapes)
    batch, length, depth = _sizes(node.inputs[0], shapes)
    width = _sizes(node.inputs[1], shapes)[1]
    sizes: Sizes = attribute(node, "qkv_hidden_sizes", (width // 3,) * 3)
    past = given(node, 4 if node.op_type == "Attention" else 8)
    seen = length + (0 if past is None else _sizes(past, shapes)[-2])
    pairs = batch * length * seen
    heads = int(attribute(node, "num_heads"))
    projection = batch * length * width * (2 * depth + 1)
    return projection + 2 * pairs * (sizes[0] + sizes[2]) + 5 * heads * pairs


def _recurrent(node: ir.Node, shapes: Shapes) -> int:
    """The products only: gates times (input plus state) for each step and direction."""
    length, batch, depth = _sizes(node.inputs[0], shapes)
    if attribute(node, "layout", 0):
        length, batch = batch, length
    directions, _, last = _sizes(node.inputs[2], shapes)
    hidden = int(attribute(node, "hidden_size", last))
    gates = _GATES[node.op_type]
    return 2 * length * batch * directions * gates * hidden * (depth + hidden)


def _pool(node: ir.Node, shapes: Shapes) -> int:
    window: Sizes = attribute(node, "kernel_shape")
    return prod(_output(node, shapes)) * prod(window)


def _resize(node: ir.Node, shapes: Shapes) -> int:
    """Two multiply-adds an axis that is interpolated; nearest neighbour is free."""
    before, after = _sizes(node.inputs[0], shapes), _output(node, shapes)
    mode = str(attribute(node, "mode", "nearest"))
    taps = {"nearest": 0, "linear": 2, "cubic": 4}.get(mode)
    if taps is None:
        raise _UnknownSizeError
    moved = sum(a != b for a, b in zip(before, after, strict=True))
    return 2 * taps * moved * prod(after)


_DOMAINS = ("", "ai.onnx", "com.microsoft")
_COUNTERS: dict[str, Callable[[ir.Node, Shapes], int]] = {
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "MatMulNBits": _matmul_nbits,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "QGemm": _gemm,
    "Conv": _conv,
    "FusedConv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "MultiHeadAttention": _attention,
    "GroupQueryAttention": _attention,
    "Attention": _projecting_attention,
    "QAttention": _projecting_attention,
    "LSTM": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "LpPool": _pool,
    "Resize": _resize,
}
