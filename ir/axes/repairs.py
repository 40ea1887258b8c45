"""What has to change at nodes around a cut besides tensors: targets, sizes, bounds, attributes.

Nothing is changed here: a repair is worked out on the graph as it is and says what to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import onnx_ir as ir

from ..graph import operator
from . import repair_bounds, repair_counts, repair_targets
from .repair import Cut, Repair

Handler: TypeAlias = Callable[[ir.Node, Cut], Iterable[Repair]]


def repairs_of(node: ir.Node, cut: Cut) -> list[Repair]:
    """What has to change at one node; CannotCutError where that is not possible."""
    handler = _REPAIRS.get(operator(node)[1])
    return [] if handler is None else list(handler(node, cut))


_REPAIRS: Mapping[str, Handler] = {
    "Reshape": repair_targets.reshape,
    "Expand": repair_targets.expand,
    "Resize": repair_targets.resize,
    "Split": repair_bounds.split,
    "Slice": repair_bounds.slice_,
    "Gather": repair_bounds.gather,
    "Pad": repair_bounds.pad,
    "Conv": repair_counts.conv,
    "ConvTranspose": repair_counts.conv,
    "GroupNormalization": repair_counts.group_norm,
    "Attention": repair_counts.attention,
    "MultiHeadAttention": repair_counts.attention,
    "GroupQueryAttention": repair_counts.attention,
    "RotaryEmbedding": repair_counts.rotary,
}
