"""Layers as products: matrices, convolutions, recurrences, attention."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from ...ir.counting.flops import flops
from ...ir.graph import attribute, consumers, operator, producer
from ...ir.types.bound import Shapes
from .passing import IN_BLOCKS
from .sizes import Part, UnknownSizeError, count, is_weight, sizes_of

PRODUCT_NAMES = {
    "MatMul": "float32", "Gemm": "float32", "FusedMatMul": "float32", "FusedGemm": "float32",
    "MatMulInteger": "u8s8", "MatMulIntegerToFloat": "u8s8", "QLinearMatMul": "u8s8",
    "QGemm": "u8s8", "DynamicQuantizeMatMul": "dynamic", "MatMulNBits": "nbits4",
}  # fmt: skip
_CONV_WEIGHT = {"QLinearConv": 3}
_BLOCK = 16  # channels
_ABSORBED = frozenset({"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid"})
_GATES = {"LSTM": 4, "DynamicQuantizeLSTM": 4, "GRU": 3, "RNN": 1}


def product(node: ir.Node, name: str, shapes: Shapes, kernel: str | None) -> tuple[Part, ...]:
    """A matrix product; of two computed operands one for each matrix of the batch."""
    table = kernel or PRODUCT_NAMES[name]
    if name == "MatMulNBits":
        n, k = int(attribute(node, "N")), int(attribute(node, "K"))
        bits = int(attribute(node, "bits", 4))
        rows = count(node.outputs[0], shapes) // n
        return (Part(f"products.nbits{8 if bits == 8 else 4}", (rows, k, n)),)
    w = node.inputs[3 if name in ("QLinearMatMul", "QGemm") else 1]
    left, right = sizes_of(node.inputs[0], shapes), sizes_of(w, shapes)
    output = count(node.outputs[0], shapes)
    k = left[0 if attribute(node, "transA", 0) and name.endswith("Gemm") else -1]
    n = right[0] if attribute(node, "transB", 0) and len(right) == 2 else right[-1]
    n = n if len(right) > 1 else 1
    if is_weight(w) and prod(right) == k * n:
        return (Part(f"products.{table}", (output // n, k, n)),)
    m = left[-2] if len(left) > 1 else 1
    batch = max(1, output // (m * n))
    known = table if table in ("u8s8", "dynamic") else "activations"
    return (Part(f"products.{known}", (m, k, n), batch),)


def convolution(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    """A convolution as a product of its pixels by its taps."""
    weight = sizes_of(node.inputs[_CONV_WEIGHT.get(node.op_type, 1)], shapes)
    integer = kernel == "conv-u8s8" or node.op_type in ("QLinearConv", "ConvInteger")
    group, (n, inner, *taps) = int(attribute(node, "group", 1)), weight
    pixels = count(node.outputs[0], shapes) // n
    depthwise = group > 1 and inner == 1
    kind = "depthwise" if depthwise else _kind(taps)
    table = f"convolutions.{kind}{'_u8s8' if integer else ''}"
    like = kind == "spatial" and taps != [3, 3]
    if depthwise:
        return (Part(table, (pixels, prod(taps), n)),), tuple(taps) not in ((3, 3), (3,))
    key = (pixels, inner * prod(taps), n // group)
    blocks = () if integer or len(taps) != 2 else _reorders(node, shapes)
    return (Part(table, key, group), *blocks), like or group > 1


def _reorders(node: ir.Node, shapes: Shapes) -> tuple[Part, ...]:
    """Float convolutions keep channels in blocks: others read and write plain layouts."""
    found, x = [], node.inputs[0]
    made = producer(x)
    fed = made is not None and made.op_type in IN_BLOCKS
    if x is not None and not fed and sizes_of(x, shapes)[1] >= _BLOCK and consumers(x)[0] is node:
        found.append(Part("streams.turn", (count(x, shapes),)))
    readers = consumers(node.outputs[0])
    if len(readers) == 1 and readers[0].op_type in _ABSORBED:
        readers = consumers(readers[0].outputs[0])
    if not readers or any(reader.op_type not in IN_BLOCKS for reader in readers):
        found.append(Part("streams.turn", (count(node.outputs[0], shapes),)))
    return tuple(found)


def _kind(taps: list[int]) -> str:
    if len(taps) == 1 or (len(taps) > 2 and prod(taps) > 1):
        return "line"
    return "pointwise" if prod(taps) == 1 else "spatial"


def transposed(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    """A product with the taps, then the overlapping results added up."""
    x, weight = sizes_of(node.inputs[0], shapes), sizes_of(node.inputs[1], shapes)
    group = int(attribute(node, "group", 1))
    pixels = x[0] * prod(x[2:])
    product = Part("products.float32", (pixels, x[1] // group, prod(weight[1:])), group)
    return (product, Part("streams.binary", (pixels * prod(weight[1:]) * group,))), True


def recurrent(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    """The inputs of all steps in one product, then a product and the gates for each step."""
    length, batch, depth = sizes_of(node.inputs[0], shapes)
    if attribute(node, "layout", 0):
        length, batch = batch, length
    directions, _, last = sizes_of(node.inputs[2], shapes)
    hidden = int(attribute(node, "hidden_size", last))
    wide, steps = _GATES[node.op_type] * hidden, length * directions
    table = "dynamic" if node.op_type == "DynamicQuantizeLSTM" else "float32"
    return (
        Part(f"products.{table}", (length * batch, depth, wide), directions),
        Part(f"products.{table}", (batch, hidden, wide), steps),
        Part("streams.exponential", (batch * wide,), steps),
    ), True


def attention(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    """Scores, softmax and mix of each head; com.microsoft.Attention also projects."""
    domain = operator(node)[0]
    query = sizes_of(node.inputs[0], shapes)
    heads = int(attribute(node, "q_num_heads", attribute(node, "num_heads", 0)))
    first: tuple[Part, ...] = ()
    if domain and node.op_type in ("Attention", "QAttention"):
        weight = sizes_of(node.inputs[1], shapes)
        width, length = weight[1] // 3, query[1]
        table = "u8s8" if node.op_type == "QAttention" else "float32"
        first = (Part(f"products.{table}", (query[0] * length, weight[0], weight[1])),)
    else:
        length = sizes_of(node.inputs[1], shapes)[-2]
        width = query[1] * query[3] if len(query) == 4 else query[-1]
        heads = query[1] if len(query) == 4 else heads
    if not heads:
        raise UnknownSizeError
    own, each, pairs = query[-2], width // heads, query[0] * heads
    return (
        *first,
        Part("products.activations", (own, each, length), pairs),
        Part("streams.softmax", (pairs * own, length)),
        Part("products.activations", (own, length, each), pairs),
    ), True


def einsum(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    """As a product of the same operations, its operands laid out anew."""
    counted, output = flops(node, shapes), count(node.outputs[0], shapes)
    last = sizes_of(node.outputs[0], shapes)[-1:] or (1,)
    if counted is None:
        raise UnknownSizeError
    key = (max(1, output // last[0]), max(1, counted // (2 * max(1, output))), last[0])
    moved = sum(count(v, shapes) for v in node.inputs)
    return (Part("products.float32", key), Part("streams.turn", (max(1, moved),))), True
