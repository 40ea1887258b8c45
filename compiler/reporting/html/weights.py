"""What a page shows of stored tensors: facts, a few figures, and a histogram of 48 bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ....ir.diff.pool import Pool
from ....ir.graph import constant_tensor
from ....ir.storage.absent import is_absent
from ....ir.storage.stream import array_of
from ....ir.storage.tensors import tensor_digest

Array = npt.NDArray[Any]

BARS = 48
LEAST, MOST = 8, 1 << 18
"""Elements from which on there is a histogram, and how many are looked at, evenly spread."""
READ = 1 << 30
"""Bytes of weights that are read for histograms; the rest of a larger model has none."""

_SCALES: Mapping[tuple[str, int], tuple[int, int]] = {
    ("DequantizeLinear", 0): (1, 2),
    ("QLinearMatMul", 3): (4, 5),
    ("QLinearConv", 3): (4, 5),
    ("MatMulIntegerToFloat", 1): (3, 5),
    ("DynamicQuantizeMatMul", 1): (2, 3),
    ("QGemm", 3): (4, 5),
}
"""Where an operator that reads quantized weights at an input has their scale and zero point."""


@dataclass
class _Row:
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    digest: str
    figures: dict[str, Any] | None = None


@dataclass
class Tensors:
    """Stored tensors by their digests: equal ones are one row."""

    rows: dict[str, _Row] = field(default_factory=dict)
    _order: dict[str, int] = field(default_factory=dict)
    _read: int = 0

    def add(self, value: ir.Value, tensor: ir.TensorProtocol) -> int:
        """The place of a tensor's row."""
        digest = tensor_digest(tensor)
        if digest not in self.rows:
            shape = tuple(int(size) for size in tensor.shape.numpy())
            self.rows[digest] = _Row(
                str(value.name), tensor.dtype.name, shape, tensor.nbytes, digest
            )
            self._order[digest] = len(self._order)
        return self._order[digest]

    def place(self, digest: str) -> int:
        """The place of a tensor by its digest, -1 where no node reads it."""
        return self._order.get(digest, -1)

    def look(self, pool: Pool) -> None:
        """Read the weights of a graph that are here, and take down their figures."""
        for number, slot, tensor in _stored(pool):
            row = self.rows.get(tensor_digest(tensor))
            if row is None or row.figures is not None or tensor.size < LEAST:
                continue
            scales = _scales(pool.nodes[number], slot)
            if self._read + tensor.nbytes > READ or (array := _array(tensor)) is None:
                continue
            self._read += tensor.nbytes
            row.figures = figures(array if scales is None else dequantized(array, *scales))

    def to_json(self) -> list[dict[str, Any]]:
        """The rows in order."""
        return [{**vars(row), "shape": list(row.shape)} for row in self.rows.values()]


def figures(array: Array) -> dict[str, Any] | None:
    """Of the values: least, largest, mean, deviation, share of zeros, and counts by bar.

    None for what are no numbers, or holds none that is finite. bars: 48 of equal width from low
    to high, as shares of the highest, 0 to 255. whole: whether the values are integers.
    """
    if array.dtype.kind not in "fiu" and array.dtype.name not in ("bfloat16",):
        return None
    flat = np.asarray(array).reshape(-1)
    seen = flat[:: max(1, flat.size // MOST)].astype(np.float64)
    known = seen[np.isfinite(seen)]
    if not known.size:
        return None
    low, high = float(known.min()), float(known.max())
    counts, _ = np.histogram(known, BARS, (low, high) if high > low else (low - 0.5, low + 0.5))
    return {
        "low": low,
        "high": high,
        "mean": float(known.mean()),
        "deviation": float(known.std()),
        "zeros": float(np.mean(known == 0)),
        "whole": array.dtype.kind in "iu",
        "bars": [int(count) for count in np.rint(255 * counts / counts.max())],
    }


def dequantized(codes: Array, scale: Array, zero_point: Array | None, axis: int) -> Array:
    """(codes - zero point) · scale, per tensor or along an axis; the codes where it is neither."""
    offset = np.zeros_like(scale, np.float32) if zero_point is None else zero_point
    along = codes.shape[axis] if -codes.ndim <= axis < codes.ndim else 0
    if scale.ndim > 1 or (scale.size > 1 and along != scale.size):
        return codes
    shape = [1] * codes.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    wide = codes.astype(np.float32) - offset.astype(np.float32).reshape(shape)
    return wide * scale.astype(np.float32).reshape(shape)


def _scales(node: ir.Node, slot: int) -> tuple[Array, Array | None, int] | None:
    """Scale, zero point and axis of the weight that a node reads there, None for a float one."""
    places = _SCALES.get((node.op_type, slot))
    if places is None:
        return None
    given = [node.inputs[i] if i < len(node.inputs) else None for i in places]
    scale, zero_point = (_array(constant_tensor(value)) for value in given)
    if scale is None or (given[1] is not None and zero_point is None):
        return None
    axis = {"QLinearConv": 0, "DequantizeLinear": 1}.get(node.op_type, -1)
    if node.op_type == "DequantizeLinear" and "axis" in node.attributes:
        axis = node.attributes["axis"].as_int()
    return scale, zero_point, axis


def _stored(pool: Pool) -> Iterator[tuple[int, int, ir.TensorProtocol]]:
    """Constants with the node and the input that read them, those that tell a scale first."""
    found = [
        (number, slot, tensor)
        for number, node in enumerate(pool.nodes)
        for slot, value in enumerate(node.inputs)
        if value is not None and (tensor := constant_tensor(value)) is not None
    ]
    return iter(sorted(found, key=lambda at: (pool.nodes[at[0]].op_type, at[1]) not in _SCALES))


def _array(tensor: ir.TensorProtocol | None) -> Array | None:
    """The elements of a tensor that is here."""
    return None if tensor is None or is_absent(tensor) else array_of(tensor)
