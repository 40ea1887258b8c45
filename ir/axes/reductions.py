"""Operators that compute over some axes: norms, Softmax, sums, pooling. The other axes stay."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from ..graph import attribute, given, opset
from .movement import given_axes
from .relations import REDUCTION, Inner, Relations, operand, reason
from .size_table import SizeTable
from .sizes import ONE, number

Axes = Iterable[int]


def keep_others(found: Relations, table: SizeTable, over: Axes, output: int = 0) -> None:
    """The node computes over axes ``over`` of its first input; all others stay where they are."""
    x, y = found.node.inputs[0], found.node.outputs[output]
    sizes = table.of(x)
    if x is None or sizes is None or _gives_more(found.node, output):
        return
    found.otherwise = reason(REDUCTION, found.node, "computes over the axis")
    for axis in set(range(len(sizes))) - set(over):
        found.same((x, axis), (y, axis))


def _gives_more(node: ir.Node, output: int) -> bool:
    """Whether another output is read: places of maxima in a MaxPool count all channels."""
    others = [y for place, y in enumerate(node.outputs) if place != output]
    return any(y.uses() or y.is_graph_output() for y in others)


def rank_of(found: Relations, table: SizeTable) -> int:
    """Axes of the first input, 0 where not known."""
    return len(table.of(found.node.inputs[0]) or ())


def along(found: Relations, table: SizeTable) -> None:
    """Over one axis: Softmax and its like (before opset 13 over all axes from it on)."""
    node, rank = found.node, rank_of(found, table)
    graph = node.graph
    if not rank or not isinstance(graph, ir.Graph):
        return
    old = opset(graph) < 13 and node.op_type != "LpNormalization"
    axis = int(attribute(node, "axis", 1 if old else -1)) % rank
    keep_others(found, table, range(axis, rank) if old else [axis])


def from_axis(found: Relations, table: SizeTable) -> None:
    """Over all axes from one on: LayerNormalization and its like."""
    rank = rank_of(found, table)
    if rank:
        start = int(attribute(found.node, "axis", -1)) % rank
        keep_others(found, table, range(start, rank))


def skip_norm(found: Relations, table: SizeTable) -> None:
    """A residual Add and a norm over the last axis in one."""
    rank, node = rank_of(found, table), found.node
    if not rank:
        return
    keep_others(found, table, [rank - 1])
    other = node.inputs[1]
    if other is not None and table.of(other) == table.of(node.inputs[0]):
        for axis in range(rank - 1):
            found.same((other, axis), (node.outputs[0], axis))


def batch_norm(found: Relations, table: SizeTable) -> None:
    """Per channel, axis 1; in inference position by position."""
    node, rank = found.node, rank_of(found, table)
    if attribute(node, "training_mode", 0) or not attribute(node, "spatial", 1) or not rank:
        return
    keep_others(found, table, [])
    _per_channel(found, range(1, 5))


def instance_norm(found: Relations, table: SizeTable) -> None:
    """Per sample and channel, over the axes behind."""
    keep_others(found, table, range(2, rank_of(found, table)))
    _per_channel(found, (1, 2))


def _per_channel(found: Relations, places: Axes) -> None:
    for place in places:
        if given(found.node, place) is not None:
            found.same((operand(found.node, place), 0), (found.node.outputs[0], 1))


def pool(found: Relations, table: SizeTable) -> None:
    """Samples and channels stay."""
    keep_others(found, table, range(2, rank_of(found, table)))


def group_norm(found: Relations, table: SizeTable) -> None:
    """Over the channels of each group and what is behind; whole groups stay what they are.

    Before opset 21 scale and bias had one number a group: that form is left alone.
    """
    over_channels(found, table)
    node, graph = found.node, found.node.graph
    x, y, groups = node.inputs[0], node.outputs[0], int(attribute(node, "num_groups", 0))
    size = None if x is None or not rank_of(found, table) else table.length(x, 1)
    known = isinstance(graph, ir.Graph) and opset(graph) >= 21
    if x is None or size is None or not known or not groups or size % groups:
        return
    part = Inner(node, "part"), 0
    found.same((x, 1), (y, 1))
    found.fold((x, 1), [((Inner(node, "group"), 0), groups), (part, size // groups)])
    found.stop(found.otherwise, part)
    _per_channel(found, (1, 2))


def over_channels(found: Relations, table: SizeTable) -> None:
    """Over channels and what is behind: LRN."""
    keep_others(found, table, range(1, rank_of(found, table)))


def reduce(found: Relations, table: SizeTable) -> None:
    """ReduceSum, ReduceMean, ArgMax …: the axes reduced stay with size 1, or go."""
    node, rank = found.node, rank_of(found, table)
    axes = _reduced(node, rank)
    x, y = node.inputs[0], node.outputs[0]
    found.otherwise = reason(REDUCTION, node, "computes over the axis")
    if axes is None or x is None or not rank:
        return
    keeps = bool(attribute(node, "keepdims", 1))
    left = [axis for axis in range(rank) if axis not in axes]
    for place, axis in enumerate(left):
        found.same((x, axis), (y, axis if keeps else place))


def _reduced(node: ir.Node, rank: int) -> frozenset[int] | None:
    if not rank:
        return None
    if node.op_type in ("ArgMax", "ArgMin"):
        return frozenset({int(attribute(node, "axis", 0)) % rank})
    named = given_axes(node, rank)
    if named:
        return named
    known = given(node, 1) is None or named is not None
    if not known:
        return None
    return frozenset() if attribute(node, "noop_with_empty_axes", 0) else frozenset(range(rank))


def resize(found: Relations, table: SizeTable) -> None:
    """Axes whose size does not change stay; samples and channels by their sizes."""
    x, y = found.node.inputs[0], found.node.outputs[0]
    before, after = table.of(x), table.of(y)
    found.otherwise = reason(REDUCTION, found.node, "resizes the axis")
    if x is None or before is None or after is None or len(before) != len(after):
        return
    for axis in (0, 1):
        same = before[axis] == after[axis] and (number(before[axis]) or before[axis] == ONE)
        if same and axis < len(before):
            found.same((x, axis), (y, axis))
