"""What ``planish targets probe`` measured on a machine: data that lives in its target file.

Every table is a tuple of rows of numbers; the first number of a row is the count of threads it
was measured with. Times are microseconds of one node inside a graph, its share of the runtime's
overhead included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TypeAlias

Rows: TypeAlias = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Products:
    """Matrix products ``[M, K] x [K, N]`` by kernel. Rows: threads, M, K, N, microseconds.

    float32: MatMul with constant weights. activations: MatMul of two computed operands, one
    matrix of a batch. u8s8: MatMulIntegerToFloat, its input quantized already. dynamic:
    DynamicQuantizeMatMul. nbits8, nbits4: MatMulNBits, blocks of 32, accuracy level 4.
    """

    float32: Rows = ()
    activations: Rows = ()
    u8s8: Rows = ()
    dynamic: Rows = ()
    nbits8: Rows = ()
    nbits4: Rows = ()


@dataclass(frozen=True)
class Convolutions:
    """Convolutions by kernel. Rows: threads, output pixels, K, N, microseconds.

    K is the product of input channels and taps, N the output channels. pointwise: 1x1; spatial:
    3x3 of 2-D; depthwise: K is the taps; line: 1-D, 3 taps. The u8s8 ones are QLinearConv.
    """

    pointwise: Rows = ()
    spatial: Rows = ()
    depthwise: Rows = ()
    line: Rows = ()
    pointwise_u8s8: Rows = ()
    spatial_u8s8: Rows = ()
    depthwise_u8s8: Rows = ()
    line_u8s8: Rows = ()


@dataclass(frozen=True)
class Streams:
    """Operators that pass over their elements. Rows: threads, elements, microseconds; of softmax,
    norm, reduce, transpose and move: threads, rows, length of a row, microseconds.

    binary: Add of two equal shapes. broadcast: Mul by a row. unary: Relu. exponential: Sigmoid.
    gelu: Gelu. softmax, norm, reduce: Softmax, LayerNormalization, ReduceMean over rows.
    transpose: Transpose whose rows keep together. turn: the last axis changes place. gather: rows
    of 64. move: Slice and Concat, rows that keep together. quantize, dequantize: float32 from and
    to uint8. dynamic: DynamicQuantizeLinear. integer: QLinearAdd. compare: Where. pool: 2x2
    windows, elements read.
    """

    binary: Rows = ()
    broadcast: Rows = ()
    unary: Rows = ()
    exponential: Rows = ()
    gelu: Rows = ()
    softmax: Rows = ()
    norm: Rows = ()
    reduce: Rows = ()
    transpose: Rows = ()
    turn: Rows = ()
    gather: Rows = ()
    move: Rows = ()
    quantize: Rows = ()
    dequantize: Rows = ()
    dynamic: Rows = ()
    integer: Rows = ()
    compare: Rows = ()
    pool: Rows = ()


@dataclass(frozen=True)
class Measured:
    """One measurement of one machine.

    date: ISO 8601. runtime: name and version. cpu: model name. busy: why the figures are not to
    be trusted, "" where the machine was quiet. disagreement: median relative difference between
    repeats. call: rows (threads, microseconds) of an empty run. node: rows (threads,
    microseconds) of a node that does next to nothing. bandwidth: rows (threads, bytes of working
    set, GB/s read by a matrix-vector product). correction: rows (threads, a, b); a whole model
    takes a + b times the sum of its nodes, microseconds.
    """

    date: str
    runtime: str
    cpu: str
    busy: str = ""
    disagreement: float = 0.0
    call: Rows = ()
    node: Rows = ()
    bandwidth: Rows = ()
    correction: Rows = ()
    products: Products = field(default_factory=Products)
    convolutions: Convolutions = field(default_factory=Convolutions)
    streams: Streams = field(default_factory=Streams)


_BY_ROW = frozenset({"softmax", "norm", "reduce", "transpose", "move"})
WIDTHS: Mapping[str, int] = {
    "call": 2,
    "node": 2,
    "bandwidth": 3,
    **{f"products.{item.name}": 5 for item in fields(Products)},
    **{f"convolutions.{item.name}": 5 for item in fields(Convolutions)},
    **{f"streams.{i.name}": 4 if i.name in _BY_ROW else 3 for i in fields(Streams)},
}
"""How many numbers, all above zero, a row of each table has; the correction has a limit apart."""
