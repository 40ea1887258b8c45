"""What a node asks of a machine: which table it is read from, with which sizes, how many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from ...ir.counting.flops import flops
from ...ir.graph import constant_tensor, operator
from ...ir.types.bound import Shapes
from .layers import (
    PRODUCT_NAMES,
    attention,
    convolution,
    einsum,
    product,
    recurrent,
    transposed,
)
from .passing import LIKE, lines, pool, resize, stream, transpose
from .sizes import Part, byte_count, count, sizes_of

_NUMBERS = {"u8s8": "int8", "dynamic": "int8", "nbits8": "int8", "nbits4": "int8"}


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
    moved = weights + sum(_passed(v, kernel, shapes) for v in (*node.inputs, *node.outputs))
    like = like or name in LIKE
    return Work(parts, like, copies * (counted or 0), _numbers(parts), weights, copies * moved)


def _parts(
    node: ir.Node, name: str, shapes: Shapes, kernel: str | None
) -> tuple[tuple[Part, ...], bool]:
    if kernel == "integer":
        return (Part("streams.integer", (count(node.outputs[0], shapes),)),), False
    if name in PRODUCT_NAMES:
        return product(node, name, shapes, kernel), False
    if kernel == "layer-norm":
        return (lines("norm", sizes_of(node.outputs[0], shapes), -1),), False
    maker = _MAKERS.get(name)
    if maker is not None:
        return maker(node, shapes, kernel)
    return (stream(node, name, shapes),), False


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


def _passed(value: ir.Value | None, kernel: str | None, shapes: Shapes) -> int:
    """Bytes of an activation; of one that a fused kernel reads or writes as codes, of these."""
    if value is None or kernel is None:
        return byte_count(value, shapes)
    made, users = value.producer(), [use.node for use in value.uses()]
    if made is not None and made.op_type == "DequantizeLinear":
        codes = made.inputs[0]
        return 0 if constant_tensor(codes) is not None else byte_count(codes, shapes)
    if users and all(user.op_type == "QuantizeLinear" for user in users):
        return byte_count(users[0].outputs[0], shapes)
    return byte_count(value, shapes)


_MAKERS: Mapping[
    str, Callable[[ir.Node, Shapes, str | None], tuple[tuple[Part, ...], bool]]
] = {
    "Conv": convolution, "FusedConv": convolution, "QLinearConv": convolution,
    "ConvInteger": convolution, "ConvTranspose": transposed, "LSTM": recurrent,
    "DynamicQuantizeLSTM": recurrent,
    "GRU": recurrent, "RNN": recurrent, "Attention": attention, "QAttention": attention,
    "MultiHeadAttention": attention, "GroupQueryAttention": attention, "Einsum": einsum,
    "MaxPool": pool, "AveragePool": pool, "LpPool": pool, "Transpose": transpose,
    "Resize": resize, "Upsample": resize,
}  # fmt: skip
