"""The stream that a layer adds its output to, by which an error of it is large or small."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...ir.graph import is_constant, rank, single_consumer
from ..api import Observed
from .consumers import Consumer

_THROUGH = frozenset({"Dropout", "Cast", "Identity", "Reshape"})


def residual_of(consumers: Sequence[Consumer]) -> list[Observed]:
    """The sums that the outputs of layers become part of, along their last axis."""
    sums = (_sum(use.output) for each in consumers for use in each.site.uses)
    return [(str(v.name), known - 1) for v in sums if v is not None and (known := rank(v))]


def _sum(value: ir.Value) -> ir.Value | None:
    node = single_consumer(value)
    while node is not None and node.op_type in _THROUGH:
        node = single_consumer(node.outputs[0])
    if node is None or node.op_type != "Add" or any(is_constant(v) for v in node.inputs):
        return None
    return node.outputs[0]
