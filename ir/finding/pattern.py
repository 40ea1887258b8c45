"""Patterns of zeros in stored weights: at most n of every m in a row along what is summed over.

Weights without one are told apart by their first few groups; of the others every element is read,
once for each tensor.
"""

from __future__ import annotations

from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import attribute, constant_array, constant_tensor, given, operator
from ..storage.absent import is_absent
from ..storage.stream import array_of, little, pieces
from .layer import Layer

Array = npt.NDArray[np.generic]
PATTERNS = ((1, 4), (2, 4), (2, 8), (4, 8))
"""(n, m), the sparser ones first; where one holds, those that follow from it are not named."""
_PROBED, _PROBED_BYTES = 8, 1 << 14
"""Rows, at least, and bytes that are looked at before all of a weight is read."""
_known: WeakKeyDictionary[Any, dict[int, tuple[str, ...]]] = WeakKeyDictionary()
_INTEGER_ZEROS = {"MatMulInteger": 3, "ConvInteger": 3, "QLinearMatMul": 5, "QLinearConv": 5,
                  "DynamicQuantizeMatMul": 3, "MatMulIntegerToFloat": 5}  # fmt: skip
"""Where operators on integer weights read the zero point of the weight."""
_UNREADABLE = frozenset({"MatMulNBits", "MatMulBnb4", "QGemm"})
"""Weights packed in a layout of their own."""


def patterns(layer: Layer) -> tuple[str, ...]:
    """The patterns that the weight of a layer keeps ("2:4"), none that follows from another."""
    axis, tensor = _reduced(layer), constant_tensor(layer.weight.value)
    if axis is None or tensor is None or not _zero_is_zero(layer):
        return ()
    return along(tensor, axis)


def along(tensor: ir.TensorProtocol, axis: int) -> tuple[str, ...]:
    """The patterns that stored numbers keep along an axis, none that follows from another."""
    if is_absent(tensor):
        return ()
    try:
        known = _known.setdefault(tensor, {})
    except TypeError:  # a foreign tensor class without weak references
        known = {}
    if axis not in known:
        known[axis] = _found(tensor, axis)
    return known[axis]


def follows(pattern: str, given_pattern: str) -> bool:
    """Whether every weight with ``given_pattern`` also has ``pattern``: 4:8 follows from 2:4, and
    2:4 from 2:8."""
    (keep, group), (n, m) = (map(int, text.split(":")) for text in (pattern, given_pattern))
    if m % group == 0:
        return n <= keep
    return group % m == 0 and n * (group // m) <= keep


def _found(tensor: ir.TensorProtocol, axis: int) -> tuple[str, ...]:
    sizes = tensor.shape.numpy()
    fits = [(n, m) for n, m in PATTERNS if sizes[axis] % m == 0 and sizes[axis] > 0]
    if not fits or not tensor.size or tensor.dtype.bitwidth < 8:
        return ()
    probe = _first_rows(tensor)
    if not any(_keeps(probe, axis, *pattern) for pattern in fits):
        return ()
    array = array_of(tensor)
    if not array.any():  # nothing that could be kept
        return ()
    names = [f"{n}:{m}" for n, m in fits if _keeps(array, axis, n, m)]
    return tuple(x for x in names if not any(y != x and follows(x, y) for y in names))


def _first_rows(tensor: ir.TensorProtocol) -> Array:
    """Some rows from the front: as many as show a group or two, without reading the others."""
    dtype, sizes = little(tensor.dtype), tensor.shape.numpy()
    row = prod(sizes[1:]) * dtype.itemsize
    rows = min(sizes[0], max(_PROBED, _PROBED_BYTES // row))
    piece = next(iter(pieces(tensor, rows * row)))
    return np.frombuffer(piece, dtype).reshape(rows, *sizes[1:])


def _keeps(array: Array, axis: int, keep: int, group: int) -> bool:
    size = array.shape[axis] // group * group
    whole = np.moveaxis(array, axis, 0)[:size]
    counts = np.count_nonzero(whole.reshape(size // group, group, -1), axis=1)
    return bool(counts.max(initial=0) <= keep)


def _reduced(layer: Layer) -> int | None:
    """The axis of the stored tensor that is summed over; None where it is not a plain one."""
    op = layer.node.op_type
    if op in _UNREADABLE or any(node.op_type not in _KEPT for node in layer.weight.path):
        return None
    turned = sum(node.op_type == "Transpose" for node in layer.weight.path) % 2 == 1
    if layer.kind == "linear":
        return 1 if turned ^ bool(attribute(layer.node, "transB", 0)) else 0
    if layer.kind == "conv" and not turned:
        return 0 if op == "ConvTranspose" else 1
    return None


_KEPT = frozenset({"Transpose", "DequantizeLinear", "QuantizeLinear", "Cast", "Identity"})
"""Steps behind which an element is zero where the stored one is, given zero points of zero."""


def _zero_is_zero(layer: Layer) -> bool:
    """Whether stored zeros mean zeros: no zero point stands for another number."""
    rounding = ("QuantizeLinear", "DequantizeLinear")
    points = [given(node, 2) for node in layer.weight.path if node.op_type in rounding]
    where = _INTEGER_ZEROS.get(operator(layer.node)[1])
    points += [given(layer.node, where)] if where is not None else []
    if any(is_absent(constant_tensor(point)) for point in points):
        return False
    arrays = [constant_array(point) for point in points if point is not None]
    return all(array is not None and not np.any(array) for array in arrays)
