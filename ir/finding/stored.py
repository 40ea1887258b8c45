"""Stored tensors: the constants behind weights, seen through transposes and dequantization."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..graph import attribute, constant_array, dims, given, is_constant, producer

WEIGHT_OPS = frozenset(
    [
        "DequantizeLinear",
        "QuantizeLinear",
        "Cast",
        "Transpose",
        "Reshape",
        "Identity",
        "Squeeze",
        "Unsqueeze",
    ]
)
"""What may stand between a stored tensor and the operator that applies it."""


@dataclass(frozen=True)
class Stored:
    """A constant and the nodes that it passes through before use, first to last."""

    value: ir.Value
    path: tuple[ir.Node, ...] = ()


def stored(value: ir.Value | None) -> Stored | None:
    """The constant that a value is computed from by data movement and dequantization alone."""
    path: list[ir.Node] = []
    while value is not None and not is_constant(value):
        node = value.producer()
        if node is None or node.op_type not in WEIGHT_OPS or not node.inputs:
            return None
        if not all(v is None or is_constant(v) or _dequantized(v) for v in node.inputs[1:]):
            return None
        path.append(node)
        value = node.inputs[0]
    return None if value is None else Stored(value, tuple(reversed(path)))


def _dequantized(value: ir.Value) -> bool:
    """Whether a scale is itself stored as codes: scales of two levels."""
    node = producer(value, "DequantizeLinear")
    return node is not None and all(v is None or is_constant(v) for v in node.inputs)


def effective_dims(weight: Stored) -> tuple[int | str | None, ...] | None:
    """The shape of a stored tensor as its operator sees it, None when unknown."""
    shape = dims(weight.value)
    for node in weight.path:
        if shape is None:
            return None
        shape = _dims_after(node, shape)
    return shape


def _dims_after(
    node: ir.Node, shape: tuple[int | str | None, ...]
) -> tuple[int | str | None, ...] | None:
    if node.op_type == "Transpose":
        order = attribute(node, "perm", tuple(reversed(range(len(shape)))))
        return tuple(shape[axis] for axis in order)
    if node.op_type in ("Reshape", "Squeeze", "Unsqueeze"):
        target = constant_array(given(node, 1)) if node.op_type == "Reshape" else None
        if target is None or (target <= 0).any():
            return dims(node.outputs[0])
        return tuple(target.tolist())
    return shape
