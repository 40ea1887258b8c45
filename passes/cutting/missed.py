"""Blocks in which a user would look for units, and none can be cut: with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import onnx_ir as ir

from ...ir.axes.groups import AxisGroups, Kind
from ...ir.finding.block import BlockKind
from ...ir.graph import consumers, is_constant, rank
from ...ir.sites import Sites
from ..api import Refusal

_BLOCKS: Mapping[Kind, BlockKind] = MappingProxyType({"neurons": "ffn", "heads": "attention"})
_LAST = ("down", "o")
"""Roles of layers that read the units."""
_PICKS, _PRODUCTS = frozenset({"Gather", "GatherND"}), frozenset({"MatMul", "Einsum"})


def missed_blocks(kind: Kind, sites: Sites, groups: AxisGroups) -> Iterator[Refusal]:
    """A refusal for each block that has no group of the kind, not even a refused one."""
    for block in (site for site in sites if site.kind == _BLOCKS.get(kind)):
        makers = {name for role, name in block.roles.items() if role not in _LAST}
        found = [group for group in groups.values() if not makers.isdisjoint(group.sites)]
        if any(group.kind == kind for group in found):
            continue
        refused = next((group for group in found if not group.cuttable), None)
        if refused is None:
            yield Refusal(
                block.name, "no-axis", f"no {kind} were found that can be cut by themselves"
            )
        else:
            yield Refusal(block.name, refused.code, refused.sentence)


def stacked_layers(kind: Kind, model: ir.Model) -> Iterator[Refusal]:
    """A refusal for each stack of weights of which the input picks: a mixture of experts."""
    for node in model.graph if kind == "neurons" else ():
        weight = node.inputs[0] if node.op_type in _PICKS and node.inputs else None
        if weight is None or not weight.is_initializer() or rank(weight) != 3:
            continue
        picks = not is_constant(node.inputs[1])
        if picks and any(n.op_type in _PRODUCTS for n in consumers(node.outputs[0])):
            layers = "x".join(str(size) for size in weight.shape or ())
            why = f"{weight.name!r} [{layers}] holds several layers, of which the input picks"
            yield Refusal(str(node.name), "stacked-layers", f"{why}: none of them is cut")
