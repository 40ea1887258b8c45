"""Sizes of values for one workload, and the parts that a node's work is made of."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from ...ir.graph import constant_tensor, given
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


def sizes_of(value: ir.Value | None, shapes: Shapes) -> Sizes:
    """The shape of a value. Raises UnknownSizeError where an axis has no number."""
    tensor = constant_tensor(value)
    if tensor is not None:
        return tuple(tensor.shape.numpy())
    shape = None if value is None else shapes.get(str(value.name))
    known = tuple(size for size in shape or () if isinstance(size, int))
    if shape is None or len(known) != len(shape):
        raise UnknownSizeError
    return known


def count(value: ir.Value | None, shapes: Shapes) -> int:
    """Elements of a value. Raises UnknownSizeError."""
    return prod(sizes_of(value, shapes))


def byte_count(value: ir.Value | None, shapes: Shapes) -> int:
    """Bytes of a computed value, 0 where its size is not known."""
    if value is None or constant_tensor(value) is not None:
        return 0
    width = 4.0 if value.dtype is None else value.dtype.bitwidth / 8
    try:
        return int(count(value, shapes) * width)
    except UnknownSizeError:
        return 0


def is_weight(value: ir.Value | None) -> bool:
    """Whether a value is stored, in codes or in another layout."""
    if constant_tensor(value) is not None:
        return True
    made = None if value is None else value.producer()
    if made is None or made.op_type not in ("DequantizeLinear", "Transpose", "QuantizeLinear"):
        return False
    return is_weight(given(made, 0))
