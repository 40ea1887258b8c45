"""NaN and infinite weights: a model that holds them was broken before it came here."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ..errors import InputError
from ..graph import all_graphs
from .tensors import nonfinite, survey

# An infinity among the operands of these makes NaN of the first zero it meets; elsewhere it may be
# meant (an attention mask that is added, the bound of a Clip).
_WEIGHTED = frozenset(
    (
        *("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LSTM", "GRU", "RNN"),
        *("BatchNormalization", "InstanceNormalization", "GroupNormalization"),
        *("LayerNormalization", "RMSNormalization", "QuantizeLinear", "DequantizeLinear"),
    )
)
_MOVED = frozenset(("Transpose", "Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Flatten"))


def check_finite(model: ir.Model, where: str = "") -> None:
    """Raise ``InputError`` naming the initializers that hold NaN, or infinity where it cannot be.

    Every float initializer is read once, and digested with it where it lies in a file. A single
    NaN on its own is let pass unless an operator takes it as a weight: it is a marker that
    somebody compares with.
    """
    values = (v for graph in all_graphs(model) for v in graph.initializers.values())
    survey(v.const_value for v in values if v.const_value is not None)
    found = [text for graph in all_graphs(model) for text in _broken(graph)]
    if not found:
        return
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    raise InputError(
        "weights are not finite: " + "; ".join(found[:3]) + more,
        where=where,
        hint="look at the checkpoint: its training diverged, or its export overflowed",
    )


def _broken(graph: ir.Graph) -> Iterator[str]:
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        nan, infinite = nonfinite(tensor)
        if not nan and not infinite:
            continue
        weight = _is_weight(value)
        if nan and (weight or tensor.size > 1):
            yield f"{name!r} holds {nan:,} NaN among {tensor.size:,} numbers"
        elif infinite and weight:
            yield f"{name!r} holds {infinite:,} infinities among {tensor.size:,} numbers"


def _is_weight(value: ir.Value) -> bool:
    for usage in value.uses():
        node = usage.node
        if node.op_type in _WEIGHTED:
            return True
        if node.op_type in _MOVED and usage.idx == 0 and _is_weight(node.outputs[0]):
            return True
    return False
