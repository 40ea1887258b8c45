"""How large the result of an operator is, from its constant inputs alone: before it is computed."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from ..graph import attribute

Array = npt.NDArray[Any]

BROADCASTING = frozenset("Add Sub Mul Equal Less Greater And Or Where Min Max Expand".split())


def elements_after(node: ir.Node, arrays: Sequence[Array]) -> int:
    """Elements of the result of a node that moves, repeats or combines constants.

    arrays: its inputs that are given, in order. ``sys.maxsize`` where they do not fit together.
    """
    try:
        return _elements(node, arrays)
    except (ValueError, IndexError, ZeroDivisionError, OverflowError):
        return sys.maxsize


def _elements(node: ir.Node, arrays: Sequence[Array]) -> int:
    first, op_type = arrays[0], node.op_type
    if op_type == "ConstantOfShape":
        return _product(first)
    if op_type == "Range":
        start, limit, delta = (int(a.item()) for a in arrays)
        return max(0, -((start - limit) // delta))
    if op_type == "Tile":
        return first.size * _product(arrays[1])
    if op_type == "Gather":
        axis: int = attribute(node, "axis", 0)
        rows: int = first.shape[axis]
        return first.size * arrays[1].size // rows
    if op_type in BROADCASTING:
        last = tuple(arrays[1].tolist()) if op_type == "Expand" else arrays[-1].shape
        return _broadcast([*(a.shape for a in arrays[:-1]), last])
    return sum(a.size for a in arrays)


def _product(sizes: Array) -> int:
    """Of any magnitude: numpy's own product would overflow."""
    numbers: list[int] = sizes.tolist()
    return math.prod(numbers)


def _broadcast(shapes: Sequence[tuple[int, ...]]) -> int:
    """Elements of the common shape; numpy's own function refuses those beyond its arrays."""
    longest = max(map(len, shapes))
    padded = [(1,) * (longest - len(shape)) + shape for shape in shapes]
    return math.prod(max(s) if 0 not in s else 0 for s in zip(*padded, strict=True))
