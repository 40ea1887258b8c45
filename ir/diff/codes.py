"""Integers that stand for weights: where their scales are, and what they say.

Operators of ONNX (DequantizeLinear 21, MatMulInteger 10, ConvInteger 10, QLinearMatMul 21,
QLinearConv 10) and of ONNX Runtime's com.microsoft domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import attribute, constant_array, constant_tensor, given
from ..storage.absent import is_absent
from .pool import DQ, Pool

Floats = npt.NDArray[np.float64]

_SLOTS: Mapping[tuple[str, int], tuple[int, int]] = {
    (DQ, 0): (1, 2),
    ("QLinearMatMul", 3): (4, 5),
    ("QLinearMatMul", 0): (1, 2),
    ("QLinearConv", 3): (4, 5),
    ("QGemm", 3): (4, 5),
    ("MatMulIntegerToFloat", 1): (3, 5),
    ("DynamicQuantizeMatMul", 1): (2, 3),
    ("MatMulNBits", 1): (2, 3),
    ("GatherBlockQuantized", 0): (2, 3),
}
"""Where an operator that reads codes at an input has their scale and zero point."""
_ZEROS: Mapping[str, int] = {"MatMulInteger": 3, "ConvInteger": 3}
_STEPS = 4
"""Nodes behind the codes among which their scale is looked for."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """array: what the codes stand for, in their shape. values: scale and zero point."""

    array: Floats
    values: tuple[ir.Value, ...]


def decoded(pool: Pool, number: int, slot: int) -> Decoded | None:
    """The numbers that integers stand for which a node reads; None where that is not known."""
    node = pool.nodes[number]
    scale, zero, axis = _scaling(pool, number, slot)
    values = tuple(v for v in (scale, zero) if v is not None)
    if scale is None or any(is_absent(constant_tensor(v)) for v in values):
        return None
    if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
        array = _of_few_bits(node, slot, scale, zero)
    else:
        array = _affine(node, slot, scale, zero, axis)
    return None if array is None else Decoded(array, values)


def _scaling(
    pool: Pool, number: int, slot: int
) -> tuple[ir.Value | None, ir.Value | None, int | None]:
    """Scale, zero point, and the axis that they go along where the operator says."""
    node = pool.nodes[number]
    known = _SLOTS.get((node.op_type, slot))
    if known is not None:
        axis = attribute(node, "axis", 1) if node.op_type == DQ else None
        return _constant(given(node, known[0])), _constant(given(node, known[1])), axis
    zero = _constant(given(node, _ZEROS.get(node.op_type)))
    found = _behind(pool, number)
    return (found[0], zero or found[1], None) if found else (None, None, None)


def _constant(value: ir.Value | None) -> ir.Value | None:
    return value if constant_tensor(value) is not None else None


def _behind(pool: Pool, number: int) -> tuple[ir.Value, ir.Value | None] | None:
    """Scale and zero point of what dequantizes an output: a DequantizeLinear, or a Mul."""
    for _ in range(_STEPS):
        readers = [r for r in pool.readers[number] if r.node >= 0]
        if len(readers) != 1:
            return None
        node, number = pool.nodes[readers[0].node], readers[0].node
        if node.op_type == DQ or node.op_type.startswith("QLinear"):
            first = readers[0].slot + 1
            scale = _constant(given(node, first))
            return None if scale is None else (scale, _constant(given(node, first + 1)))
        if node.op_type == "Mul":
            scale = _factor(node.inputs[1 - readers[0].slot])
            return None if scale is None else (scale, None)
        if node.op_type not in ("Cast", "Sub", "Add"):
            return None
    return None


def _factor(value: ir.Value | None) -> ir.Value | None:
    """A constant; that of a product with a scale found at run time; rows that are looked up."""
    if value is None or constant_tensor(value) is not None:
        return value
    node = value.producer()
    if node is None or node.op_type not in ("Mul", "Gather"):
        return None
    held = node.inputs if node.op_type == "Mul" else node.inputs[:1]
    return next((v for v in held if constant_tensor(v) is not None), None)


def _affine(
    node: ir.Node, slot: int, scale: ir.Value, zero: ir.Value | None, axis: int | None
) -> Floats | None:
    codes, steps = constant_array(node.inputs[slot]), constant_array(scale)
    if codes is None or steps is None:
        return None
    wide = codes.astype(np.float64)
    offset = np.zeros(()) if zero is None else constant_array(zero)
    assert offset is not None
    block = attribute(node, "block_size", 0) if node.op_type == DQ else 0
    try:
        if block:
            steps, offset = (_repeated(a, block, axis or 0, codes.shape) for a in (steps, offset))
        grid = [_along(np.asarray(a, np.float64), codes.shape, node, axis) for a in (steps, offset)]
        return np.asarray((wide - grid[1]) * grid[0], np.float64)
    except ValueError:  # shapes that do not go together: another meaning than was thought
        return None


def _repeated(array: Floats, block: int, axis: int, shape: tuple[int, ...]) -> Floats:
    if array.ndim != len(shape):
        return array
    return np.repeat(array, block, axis).take(range(shape[axis]), axis)


def _along(array: Floats, shape: tuple[int, ...], node: ir.Node, axis: int | None) -> Floats:
    """A scale or zero point in a shape that broadcasts to that of the codes."""
    if array.size == 1:
        return array.reshape(())
    if array.ndim == len(shape):
        return array
    if axis is None:
        axis = 0 if "Conv" in node.op_type else len(shape) - 1
    placed = [1] * len(shape)
    placed[axis] = array.size
    return array.reshape(placed)


def _of_few_bits(node: ir.Node, slot: int, scale: ir.Value, zero: ir.Value | None) -> Floats | None:
    """[inputs, outputs] of a MatMulNBits, [rows, columns] of a table in blocks along its rows:
    codes of 2, 4 or 8 bits, the lowest first."""
    bits, block = int(attribute(node, "bits", 4)), int(attribute(node, "block_size", 32))
    data, steps = constant_array(node.inputs[slot]), constant_array(scale)
    if data is None or steps is None or data.dtype != np.uint8 or bits not in (2, 4, 8):
        return None
    table = node.op_type != "MatMulNBits"
    outputs = len(data) if table else int(attribute(node, "N"))
    inputs = data[0].size * 8 // bits if table else int(attribute(node, "K"))
    blocks = -(-inputs // block)
    codes = _unpacked(data.reshape(outputs, -1), bits)[:, : blocks * block]
    offset = np.full((outputs, blocks), 2.0 ** (bits - 1))
    held = constant_array(zero) if zero is not None else None
    if held is not None and held.dtype == np.uint8:
        offset = _unpacked(held.reshape(outputs, -1), bits)[:, :blocks]
    elif held is not None:
        offset = held.reshape(outputs, blocks).astype(np.float64)
    apart = codes.reshape(outputs, blocks, block) - offset[..., None]
    wide = apart * steps.reshape(outputs, blocks, 1).astype(np.float64)
    whole = wide.reshape(outputs, -1)[:, :inputs]
    return whole if table else np.ascontiguousarray(whole.T)


def _unpacked(rows: npt.NDArray[np.uint8], bits: int) -> Floats:
    parts = [(rows >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(len(rows), -1).astype(np.float64)
