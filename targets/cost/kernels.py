"""What a node asks of a machine: which table it is read from, with which sizes, how many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

import onnx_ir as ir

from ...ir.counting.flops import flops
from ...ir.graph import attribute, constant_tensor, consumers, given, operator, producer
from ...ir.types.bound import Shapes

Sizes = tuple[int, ...]


class UnknownSizeError(Exception):
    """A size is not a number, or the operator is not known."""


@dataclass(frozen=True)
class Part:
    """``times`` kernels of one table at one size. table: "products.float32", or "node"."""

    table: str
    key: Sizes
    times: float = 1.0


@dataclass(frozen=True)
class Work:
    """One node that the runtime runs.

    parts: kernels it is made of, as the tables hold them. like: the tables hold something alike,
    not the operator itself. flops: of the arithmetic. numbers: what it computes with, by the name
    of a rate. weights: bytes of constants it reads. moved: bytes of all it reads and writes.
    """

    parts: tuple[Part, ...]
    like: bool
    flops: int
    numbers: str
    weights: int
    moved: int


def _ops(text: str) -> dict[str, str]:
    rows = (line.split() for line in text.strip().splitlines())
    return {name: table for table, *names in rows for name in names}


_STREAM = _ops("""
unary Relu LeakyRelu Clip Abs Neg Sqrt Reciprocal Floor Ceil Round Sign Not Cast CastLike IsNaN
unary IsInf ThresholdedRelu HardSigmoid HardSwish BitwiseNot
exponential Sigmoid Tanh Exp Log Sin Cos Softplus Elu Selu Celu Softsign QuickGelu Mish Tan Swish
gelu Gelu Erf FastGelu BiasGelu
softmax Softmax LogSoftmax Hardmax BiasSoftmax
norm LayerNormalization RMSNormalization SimplifiedLayerNormalization SkipLayerNormalization
norm InstanceNormalization GroupNormalization MeanVarianceNormalization LpNormalization LRN
norm SkipSimplifiedLayerNormalization EmbedLayerNormalization
broadcast BatchNormalization PRelu RotaryEmbedding
turn DepthToSpace SpaceToDepth
gather Gather GatherElements GatherND GatherBlockQuantized OneHot Compress
move Concat Slice Pad Split Expand Tile Trilu ScatterND ScatterElements ReverseSequence
move Range ConstantOfShape EyeLike CumSum Unique NonZero TensorScatter
quantize QuantizeLinear
dequantize DequantizeLinear
dynamic DynamicQuantizeLinear
integer QLinearAdd QLinearMul QLinearSigmoid QLinearConcat QLinearSoftmax QLinearLeakyRelu
compare Where Equal Less Greater LessOrEqual GreaterOrEqual And Or Xor
""")
_BINARY = frozenset("Add Sub Mul Div Min Max Sum Mean Mod Pow BitShift BitwiseAnd".split())
_REDUCE = frozenset(
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare "
    "ReduceLogSum ReduceLogSumExp ArgMax ArgMin GlobalAveragePool GlobalMaxPool TopK".split()
)
_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
_VIEWS = frozenset("Reshape Squeeze Unsqueeze Flatten Shape Size Constant Identity Dropout".split())
_LIKE = frozenset(
    "Pow Resize Upsample CumSum Unique NonZero OneHot Compress TopK LRN InstanceNormalization "
    "Mod ScatterND ScatterElements BatchNormalization PRelu Hardmax Mish Tan Selu Celu".split()
)
"""Read from the table of another operator that only resembles them."""

_PRODUCT_NAMES = {
    "MatMul": "float32", "Gemm": "float32", "FusedMatMul": "float32", "FusedGemm": "float32",
    "MatMulInteger": "u8s8", "MatMulIntegerToFloat": "u8s8", "QLinearMatMul": "u8s8",
    "QGemm": "u8s8", "DynamicQuantizeMatMul": "dynamic", "MatMulNBits": "nbits4",
}  # fmt: skip
_NUMBERS = {"u8s8": "int8", "dynamic": "int8", "nbits8": "int8", "nbits4": "int8"}
_CONV_WEIGHT = {"QLinearConv": 3}
_BLOCK = 16  # channels
_LANES = 8  # elements that a pool over blocked channels reads in the time of one
_IN_BLOCKS = frozenset(
    "Conv MaxPool AveragePool GlobalAveragePool GlobalMaxPool Add Sum Mul Concat Relu Sigmoid Tanh "
    "BatchNormalization".split()
)
_ABSORBED = frozenset({"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid"})
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_TAPS_OF_POOL = 4  # of the pool that was measured


def work_of(node: ir.Node, shapes: Shapes, kernel: str | None = None, copies: int = 1) -> Work:
    """What one node does. kernel, copies: what it runs as and how often, from ``Fusion``.

    Raises UnknownSizeError where a size or the operator is not known.
    """
    name = operator(node)[1]
    counted = flops(node, shapes)
    parts, like = _parts(node, name, shapes, kernel)
    if copies > 1:
        parts = tuple(replace(part, times=copies * part.times) for part in parts)
    weights = sum(t.nbytes for v in node.inputs if (t := _weight(v, kernel)) is not None)
    moved = weights + sum(_bytes(v, shapes) for v in (*node.inputs, *node.outputs))
    like = like or name in _LIKE
    return Work(parts, like, copies * (counted or 0), _numbers(parts), weights, copies * moved)


def _parts(
    node: ir.Node, name: str, shapes: Shapes, kernel: str | None
) -> tuple[tuple[Part, ...], bool]:
    if kernel == "integer":
        return (Part("streams.integer", (_count(node.outputs[0], shapes),)),), False
    if name in _PRODUCT_NAMES:
        return _product(node, name, shapes, kernel), False
    if kernel == "layer-norm":
        return (_lines("norm", _sizes(node.outputs[0], shapes), -1),), False
    maker = _MAKERS.get(name)
    if maker is not None:
        return maker(node, shapes, kernel)
    return (_stream(node, name, shapes),), False


def _product(node: ir.Node, name: str, shapes: Shapes, kernel: str | None) -> tuple[Part, ...]:
    table = kernel or _PRODUCT_NAMES[name]
    if name == "MatMulNBits":
        n, k = int(attribute(node, "N")), int(attribute(node, "K"))
        bits = int(attribute(node, "bits", 4))
        rows = _count(node.outputs[0], shapes) // n
        return (Part(f"products.nbits{8 if bits == 8 else 4}", (rows, k, n)),)
    w = node.inputs[3 if name in ("QLinearMatMul", "QGemm") else 1]
    left, right = _sizes(node.inputs[0], shapes), _sizes(w, shapes)
    output = _count(node.outputs[0], shapes)
    k = left[0 if attribute(node, "transA", 0) and name.endswith("Gemm") else -1]
    n = right[0] if attribute(node, "transB", 0) and len(right) == 2 else right[-1]
    n = n if len(right) > 1 else 1
    if _constant(w) and prod(right) == k * n:
        return (Part(f"products.{table}", (output // n, k, n)),)
    m = left[-2] if len(left) > 1 else 1
    batch = max(1, output // (m * n))
    known = table if table in ("u8s8", "dynamic") else "activations"
    return (Part(f"products.{known}", (m, k, n), batch),)


def _convolution(
    node: ir.Node, shapes: Shapes, kernel: str | None
) -> tuple[tuple[Part, ...], bool]:
    """A convolution as a product of its pixels by its taps."""
    weight = _sizes(node.inputs[_CONV_WEIGHT.get(node.op_type, 1)], shapes)
    integer = kernel == "conv-u8s8" or node.op_type in ("QLinearConv", "ConvInteger")
    group, (n, inner, *taps) = int(attribute(node, "group", 1)), weight
    pixels = _count(node.outputs[0], shapes) // n
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
    fed = made is not None and made.op_type in _IN_BLOCKS
    if x is not None and not fed and _sizes(x, shapes)[1] >= _BLOCK and consumers(x)[0] is node:
        found.append(Part("streams.turn", (_count(x, shapes),)))
    readers = consumers(node.outputs[0])
    if len(readers) == 1 and readers[0].op_type in _ABSORBED:
        readers = consumers(readers[0].outputs[0])
    if not readers or any(reader.op_type not in _IN_BLOCKS for reader in readers):
        found.append(Part("streams.turn", (_count(node.outputs[0], shapes),)))
    return tuple(found)


def _kind(taps: list[int]) -> str:
    if len(taps) == 1 or (len(taps) > 2 and prod(taps) > 1):
        return "line"
    return "pointwise" if prod(taps) == 1 else "spatial"


def _transposed(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    """A product with the taps, then the overlapping results added up."""
    x, weight = _sizes(node.inputs[0], shapes), _sizes(node.inputs[1], shapes)
    group = int(attribute(node, "group", 1))
    pixels = x[0] * prod(x[2:])
    product = Part("products.float32", (pixels, x[1] // group, prod(weight[1:])), group)
    return (product, Part("streams.binary", (pixels * prod(weight[1:]) * group,))), True


def _recurrent(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    """The inputs of all steps in one product, then a product and the gates for each step."""
    length, batch, depth = _sizes(node.inputs[0], shapes)
    if attribute(node, "layout", 0):
        length, batch = batch, length
    directions, _, hidden = _sizes(node.inputs[2], shapes)
    wide, steps = _GATES[node.op_type] * hidden, length * directions
    return (
        Part("products.float32", (length * batch, depth, wide), directions),
        Part("products.float32", (batch, hidden, wide), steps),
        Part("streams.exponential", (batch * wide,), steps),
    ), True


def _attention(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    """Scores, softmax and mix of each head; com.microsoft.Attention also projects."""
    domain = operator(node)[0]
    query = _sizes(node.inputs[0], shapes)
    heads = int(attribute(node, "q_num_heads", attribute(node, "num_heads", 0)))
    first: tuple[Part, ...] = ()
    if domain and node.op_type in ("Attention", "QAttention"):
        weight = _sizes(node.inputs[1], shapes)
        width, length = weight[1] // 3, query[1]
        table = "u8s8" if node.op_type == "QAttention" else "float32"
        first = (Part(f"products.{table}", (query[0] * length, weight[0], weight[1])),)
    else:
        length = _sizes(node.inputs[1], shapes)[-2]
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


def _einsum(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    """As a product of the same operations, its operands laid out anew."""
    count, output = flops(node, shapes), _count(node.outputs[0], shapes)
    last = _sizes(node.outputs[0], shapes)[-1:] or (1,)
    if count is None:
        raise UnknownSizeError
    key = (max(1, output // last[0]), max(1, count // (2 * max(1, output))), last[0])
    moved = sum(_count(v, shapes) for v in node.inputs)
    return (Part("products.float32", key), Part("streams.turn", (max(1, moved),))), True


def _pool(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    window: Sizes = attribute(node, "kernel_shape", ())
    read = _count(node.outputs[0], shapes) * prod(window)
    made = producer(node.inputs[0])
    if made is not None and made.op_type in _IN_BLOCKS and kernel is None:
        return (Part("streams.unary", (max(1, read // _LANES),)),), True
    return (Part("streams.pool", (max(1, read),)),), prod(window) != _TAPS_OF_POOL


def _stream(node: ir.Node, name: str, shapes: Shapes) -> Part:
    if name in _VIEWS:
        return Part("node", ())
    if name in _REDUCE:
        made = max(1, _count(node.outputs[0], shapes))
        return Part("streams.reduce", (made, max(1, _count(node.inputs[0], shapes) // made)))
    elements = sum(_count(v, shapes) for v in node.outputs if v.name and _used(v))
    if name in _BINARY:
        return Part(f"streams.{_spread(node, shapes)}", (max(1, elements),))
    table = _STREAM.get(name)
    if table is None:
        raise UnknownSizeError
    if table in ("softmax", "norm"):
        return _lines(table, _sizes(node.inputs[0], shapes), attribute(node, "axis", -1))
    if table == "move":
        return _moved(node, shapes)
    if table == "dynamic":
        elements = _count(node.outputs[0], shapes)
    return Part(f"streams.{table}", (max(1, elements),))


def _lines(table: str, sizes: Sizes, axis: int) -> Part:
    """Rows along one axis; of a normalisation along all axes from that one on."""
    if not sizes:
        return Part("node", ())
    axis %= len(sizes)
    length = prod(sizes[axis:]) if table == "norm" else sizes[axis]
    return Part(f"streams.{table}", (max(1, prod(sizes) // max(1, length)), max(1, length)))


def _transpose(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    sizes = _sizes(node.outputs[0], shapes)
    order: Sizes = attribute(node, "perm", tuple(reversed(range(len(sizes)))))
    kept = [axis for axis in order if sizes[order.index(axis)] > 1]
    if kept == sorted(kept):  # only axes of one element move: nothing does
        return (Part("node", ()),), False
    length = 1
    for axis in reversed(range(len(order))):
        if order[axis] != axis:
            break
        length *= sizes[axis]
    if length == 1:
        return (Part("streams.turn", (max(1, prod(sizes)),)),), False
    return (Part("streams.transpose", (max(1, prod(sizes) // length), length)),), False


def _moved(node: ir.Node, shapes: Shapes) -> Part:
    """Rows that keep together: up to the last axis along which input and output differ."""
    after = _sizes(node.outputs[0], shapes)
    elements = sum(_count(v, shapes) for v in node.outputs if v.name and _used(v))
    before = _sizes(node.inputs[0], shapes) if node.inputs else ()
    length = 1
    for a, b in zip(reversed(after), reversed(before), strict=False):
        length *= min(a, b)
        if a != b:
            break
    else:
        length = max(1, elements)
    length = max(1, length)
    return Part("streams.move", (max(1, elements // length), length))


def _resize(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    taps = {"nearest": 1, "linear": 4, "cubic": 16}.get(str(attribute(node, "mode", "nearest")), 4)
    return (Part("streams.gather", (max(1, taps * _count(node.outputs[0], shapes)),)),), True


def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _spread(node: ir.Node, shapes: Shapes) -> str:
    counts = [_count(v, shapes) for v in node.inputs if v is not None]
    if len(counts) < 2 or min(counts) == max(counts):
        return "binary"
    return "unary" if min(counts) == 1 else "broadcast"


def _numbers(parts: tuple[Part, ...]) -> str:
    table = parts[0].table.partition(".")[2]
    return "int8" if table.endswith("_u8s8") else _NUMBERS.get(table, "fp32")


def _weight(value: ir.Value | None, kernel: str | None) -> ir.TensorProtocol | None:
    tensor = constant_tensor(value)
    if tensor is None and value is not None and kernel is not None:
        made = value.producer()
        if made is not None and made.op_type == "DequantizeLinear":
            return constant_tensor(made.inputs[0])
    return tensor


def _constant(value: ir.Value | None) -> bool:
    if constant_tensor(value) is not None:
        return True
    made = None if value is None else value.producer()
    if made is None or made.op_type not in ("DequantizeLinear", "Transpose", "QuantizeLinear"):
        return False
    return _constant(given(made, 0))


def _sizes(value: ir.Value | None, shapes: Shapes) -> Sizes:
    tensor = constant_tensor(value)
    if tensor is not None:
        return tuple(tensor.shape.numpy())
    shape = None if value is None else shapes.get(str(value.name))
    known = tuple(size for size in shape or () if isinstance(size, int))
    if shape is None or len(known) != len(shape):
        raise UnknownSizeError
    return known


def _count(value: ir.Value | None, shapes: Shapes) -> int:
    return prod(_sizes(value, shapes))


def _bytes(value: ir.Value | None, shapes: Shapes) -> int:
    if value is None or constant_tensor(value) is not None:
        return 0
    width = 4.0 if value.dtype is None else value.dtype.bitwidth / 8
    try:
        return int(_count(value, shapes) * width)
    except UnknownSizeError:
        return 0


_MAKERS: Mapping[
    str, Callable[[ir.Node, Shapes, str | None], tuple[tuple[Part, ...], bool]]
] = {
    "Conv": _convolution, "FusedConv": _convolution, "QLinearConv": _convolution,
    "ConvInteger": _convolution, "ConvTranspose": _transposed, "LSTM": _recurrent,
    "GRU": _recurrent, "RNN": _recurrent, "Attention": _attention, "QAttention": _attention,
    "MultiHeadAttention": _attention, "GroupQueryAttention": _attention, "Einsum": _einsum,
    "MaxPool": _pool, "AveragePool": _pool, "LpPool": _pool, "Transpose": _transpose,
    "Resize": _resize, "Upsample": _resize,
}  # fmt: skip
