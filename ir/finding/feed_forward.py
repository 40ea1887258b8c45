"""Feed-forward blocks: a linear layer or a gated pair, something pointwise, a linear layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .block import Block
from .layer import Layer
from .walks import FAR, activations

_NONLINEAR = frozenset(
    {
        *("Relu", "Gelu", "Erf", "Tanh", "Sigmoid", "HardSwish", "HardSigmoid", "LeakyRelu"),
        *("PRelu", "Elu", "Selu", "Celu", "Softplus", "Softsign", "Mish", "Swish", "Clip"),
        *("QuickGelu", "FastGelu", "BiasGelu", "ThresholdedRelu"),
    }
)
_SQUASHING = frozenset({"Tanh", "Sigmoid", "HardSigmoid", "Softsign", "Erf"})
"""Alone they make a pooler or a gate; a feed-forward block multiplies by them (GELU, SiLU)."""
_POINTWISE = _NONLINEAR | {
    *("Mul", "Add", "Sub", "Div", "Pow", "Cast", "Identity", "Dropout", "Split", "Slice"),
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Reshape"),
}
PAIR = 2
"""Layers at most that a block's last one reads: a gated pair."""


@dataclass(frozen=True)
class _Region:
    """Pointwise nodes in front of a layer, and for each value in them the layers it needs."""

    nodes: tuple[ir.Node, ...]
    needs: Mapping[ir.Value, frozenset[int]]


def find_feed_forward(
    layers: Sequence[Layer], linear: Sequence[int], made: Mapping[ir.Value, int], taken: set[int]
) -> list[Block]:
    """The blocks that end in one of the layers ``linear``, in their order.

    made: the layers by output value. taken: layers that have a role elsewhere; grows.
    """
    blocks = []
    for down in linear:
        region = _region(layers[down].input, made)
        if down in taken or region is None:
            continue
        roles = _feed_forward_roles(region, layers, layers[down].input)
        if not roles or taken.intersection(roles.values()) or down in roles.values():
            continue
        roles["down"] = down
        taken.update(roles.values())
        main = next(node for node in region.nodes if node.op_type in _NONLINEAR)
        nodes = dict.fromkeys([main, *region.nodes])
        ends = layers[roles["up"]].input, layers[down].output
        blocks.append(Block("ffn", tuple(nodes), roles, *ends))
    return blocks


def _region(value: ir.Value, made: Mapping[ir.Value, int]) -> _Region | None:
    """The pointwise nodes between linear layers and a value.

    None where anything else feeds it, or more layers than make a block: streams of residuals do.
    """
    needs: dict[ir.Value, frozenset[int]] = {}
    nodes: dict[ir.Node, None] = {}
    layers: set[int] = set()
    stack = [value]
    while stack:
        current = stack[-1]
        node = current.producer()
        if current in made:
            layers.add(made[current])
            needs[current] = frozenset({made[current]})
        if current in needs:
            stack.pop()
            continue
        if node is None or node.op_type not in _POINTWISE or len(layers) > PAIR or len(needs) > FAR:
            return None
        sources = activations(node)
        missing = [v for v in sources if v not in needs]
        if missing:
            stack += missing
            continue
        nodes[node] = None
        needs[current] = frozenset().union(*(needs[v] for v in sources))
    return _Region(tuple(nodes), needs) if _activates(node.op_type for node in nodes) else None


def _activates(operators: Iterable[str]) -> bool:
    """Whether the operators together make an activation function of a feed-forward block."""
    present = set(operators)
    return bool(present & (_NONLINEAR - _SQUASHING)) or bool(
        present & _SQUASHING and "Mul" in present
    )


def _feed_forward_roles(
    region: _Region, layers: Sequence[Layer], value: ir.Value
) -> dict[str, int]:
    """``up``, and ``gate`` where a second layer passes the nonlinearity and multiplies."""
    needed = sorted(region.needs[value])
    if len(needed) == 1:
        return {"up": needed[0]}
    gated = {min(n) for n in _nonlinear_needs(region) if len(n) == 1}
    if len(needed) != 2 or len(gated) != 1 or not _multiplied(region):
        return {}
    gate = gated.pop()
    up = next(i for i in needed if i != gate)
    return {"up": up, "gate": gate} if layers[up].input is layers[gate].input else {}


def _nonlinear_needs(region: _Region) -> list[frozenset[int]]:
    return [region.needs[n.outputs[0]] for n in region.nodes if n.op_type in _NONLINEAR]


def _multiplied(region: _Region) -> bool:
    """Whether the layers meet in products of values that need different ones."""
    for node in region.nodes:
        sides = [region.needs[v] for v in activations(node)]
        if len(sides) == 2 and node.op_type == "Mul" and sides[0].isdisjoint(sides[1]):
            return True
    return False
