"""Activations that rounding does: a Relu in front of a QuantizeLinear whose lowest code is 0."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from ..graph import constant_array, constant_tensor, given
from .changes import GraphDiff, Hunk
from .pool import Q

NEAR = 1.01
"""How far beyond the upper end of a Clip the highest code may stand: ranges are measured."""


def absorbed(diff: GraphDiff, hunk: Hunk) -> Counter[str]:
    """The activations of a hunk that are gone as rounding does them, by operator; none unless
    for each of them a new QuantizeLinear stands there that has no code below zero."""
    kept = {a for a, _ in hunk.changed}
    gone = [diff.before.nodes[n] for n in hunk.before if n not in kept]
    new = [diff.after.nodes[n] for n in hunk.after if n not in diff.matching.inverse]
    ends = [end for node in new if (end := _highest(node)) is not None]
    uppers = [upper for node in gone if (upper := _upper(node)) is not None]
    found = Counter(node.op_type for node in gone if _upper(node) is not None)
    done = len(uppers) <= len(ends) and not found.keys() & {node.op_type for node in new}
    bound = NEAR * min(uppers, default=0.0)
    return found if done and all(end <= bound for end in ends) else Counter()


def _upper(node: ir.Node) -> float | None:
    """Where an activation that cuts at zero cuts above, None of all others."""
    if node.op_type == "Relu":
        return float("inf")
    if node.op_type != "Clip":
        return None
    low, high = (constant_array(given(node, slot)) for slot in (1, 2))
    if low is None or low.size != 1 or low.item() != 0:
        return None
    return float("inf") if high is None else float(high.item())


def _highest(node: ir.Node) -> float | None:
    """What the highest code of a QuantizeLinear stands for, None where the lowest is not zero."""
    scale = constant_array(given(node, 1)) if node.op_type == Q else None
    zero = constant_tensor(given(node, 2))
    if scale is None or zero is None or not zero.dtype.is_integer():
        return None
    bits = zero.dtype.bitwidth
    lowest = -(1 << (bits - 1)) if zero.dtype.is_signed() else 0
    if not (zero.numpy() == lowest).all():
        return None
    return float(np.max(scale) * ((1 << bits) - 1))
