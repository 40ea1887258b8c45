"""Normalisations behind layers: what their scale lets through of each output."""

from __future__ import annotations

import onnx_ir as ir

from .graph import attribute, dims, given, is_constant, single_consumer

NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
_THROUGH = frozenset({"Dropout", "Cast", "Identity"})


def scale_behind(value: ir.Value, outputs: int) -> ir.Value | None:
    """The constant scale [outputs] of a norm over the last axis, which alone reads a value or the
    sum of two activations that it becomes part of; None where anything else reads it.
    """
    norm = _behind(value)
    if norm is not None and norm.op_type == "Add" and not any(map(is_constant, norm.inputs)):
        norm = _behind(norm.outputs[0])
    if norm is None or norm.op_type not in NORMS or norm.inputs[0] is None:
        return None
    scale, rank = given(norm, 1), len(norm.inputs[0].shape or ())
    last = attribute(norm, "axis", -1) in (-1, rank - 1)
    return scale if last and is_constant(scale) and dims(scale) == (outputs,) else None


def _behind(value: ir.Value) -> ir.Node | None:
    """The only node that reads a value, past those that hand it on."""
    node = single_consumer(value)
    while node is not None and node.op_type in _THROUGH:
        node = single_consumer(node.outputs[0])
    return node
