"""Operators that pass over their elements: which table, and how many of what."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from ...ir.graph import attribute, producer
from ...ir.types.bound import Shapes
from .sizes import Part, Sizes, UnknownSizeError, count, sizes_of


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
POINTWISE = _BINARY | {
    name for name, table in _STREAM.items() if table in ("unary", "exponential", "gelu", "compare")
} | {"BatchNormalization", "PRelu"}  # fmt: skip
"""Make each element of one of every operand, so that they cost nothing behind another kernel."""
_REDUCE = frozenset(
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare "
    "ReduceLogSum ReduceLogSumExp ArgMax ArgMin GlobalAveragePool GlobalMaxPool TopK".split()
)
VIEWS = frozenset("Reshape Squeeze Unsqueeze Flatten Shape Size Constant Identity Dropout".split())
LIKE = frozenset(
    "Pow Resize Upsample CumSum Unique NonZero OneHot Compress TopK LRN InstanceNormalization "
    "Mod ScatterND ScatterElements BatchNormalization PRelu Hardmax Mish Tan Selu Celu".split()
)
"""Read from the table of another operator that only resembles them."""
IN_BLOCKS = frozenset(
    "Conv MaxPool AveragePool GlobalAveragePool GlobalMaxPool Add Sum Mul Concat Relu Sigmoid Tanh "
    "BatchNormalization".split()
)
_LANES = 8  # elements that a pool over blocked channels reads in the time of one
_TAPS_OF_POOL = 4  # of the pool that was measured


def stream(node: ir.Node, name: str, shapes: Shapes) -> Part:
    """One pass of a node that has no more than that to do. Raises UnknownSizeError."""
    if name in VIEWS:
        return Part("node", ())
    if name in _REDUCE:
        made = max(1, count(node.outputs[0], shapes))
        return Part("streams.reduce", (made, max(1, count(node.inputs[0], shapes) // made)))
    elements = sum(count(v, shapes) for v in node.outputs if v.name and _used(v))
    if name in _BINARY:
        return Part(f"streams.{_spread(node, shapes)}", (max(1, elements),))
    table = _STREAM.get(name)
    if table is None:
        raise UnknownSizeError
    if table in ("softmax", "norm"):
        return lines(table, sizes_of(node.inputs[0], shapes), attribute(node, "axis", -1))
    if table == "move":
        return _moved(node, shapes)
    if table == "dynamic":
        elements = count(node.outputs[0], shapes)
    return Part(f"streams.{table}", (max(1, elements),))


def lines(table: str, sizes: Sizes, axis: int) -> Part:
    """Rows along one axis; of a normalisation along all axes from that one on."""
    if not sizes:
        return Part("node", ())
    axis %= len(sizes)
    length = prod(sizes[axis:]) if table == "norm" else sizes[axis]
    return Part(f"streams.{table}", (max(1, prod(sizes) // max(1, length)), max(1, length)))


def transpose(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    """Rows that keep together, or one element at a time where the last axis moves."""
    sizes = sizes_of(node.outputs[0], shapes)
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
    after = sizes_of(node.outputs[0], shapes)
    elements = sum(count(v, shapes) for v in node.outputs if v.name and _used(v))
    before = sizes_of(node.inputs[0], shapes) if node.inputs else ()
    length = 1
    for a, b in zip(reversed(after), reversed(before), strict=False):
        length *= min(a, b)
        if a != b:
            break
    else:
        length = max(1, elements)
    length = max(1, length)
    return Part("streams.move", (max(1, elements // length), length))


def resize(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    """As many elements gathered as the interpolation reads."""
    taps = {"nearest": 1, "linear": 4, "cubic": 16}.get(str(attribute(node, "mode", "nearest")), 4)
    return (Part("streams.gather", (max(1, taps * count(node.outputs[0], shapes)),)),), True


def pool(node: ir.Node, shapes: Shapes, kernel: str | None) -> tuple[tuple[Part, ...], bool]:
    """The elements that its windows read."""
    window: Sizes = attribute(node, "kernel_shape", ())
    read = count(node.outputs[0], shapes) * prod(window)
    made = producer(node.inputs[0])
    if made is not None and made.op_type in IN_BLOCKS and kernel is None:
        return (Part("streams.unary", (max(1, read // _LANES),)),), True
    return (Part("streams.pool", (max(1, read),)),), prod(window) != _TAPS_OF_POOL


def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _spread(node: ir.Node, shapes: Shapes) -> str:
    counts = [count(v, shapes) for v in node.inputs if v is not None]
    if len(counts) < 2 or min(counts) == max(counts):
        return "binary"
    return "unary" if min(counts) == 1 else "broadcast"
