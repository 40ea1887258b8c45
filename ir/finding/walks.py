"""Walks between values: from one to the nearest that meets a goal, through allowed nodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ..graph import is_constant

FAR = 256
"""Values looked at before a walk gives up."""

MIXES = frozenset({"Mul", "Div", "Add", "Sub", "Concat"})
_SEVERAL = MIXES | {"Where", "Max", "Min", "Pow"}


@dataclass(frozen=True)
class Step:
    """A node passed through, and the output by which it was left or entered."""

    node: ir.Node
    output: ir.Value


def activations(node: ir.Node) -> list[ir.Value]:
    """The inputs a node computes on: no constants, no shapes or indices."""
    values = node.inputs if node.op_type in _SEVERAL else node.inputs[:1]
    return [v for v in values if v is not None and not is_constant(v)]


def walk(
    start: ir.Value | None,
    neighbours: Callable[[ir.Value], Iterable[tuple[Step, ir.Value]]],
    goal: Callable[[ir.Value], object | None],
) -> tuple[ir.Value, list[Step]] | None:
    """The nearest value that meets the goal, breadth first, and the steps to it."""
    if start is None:
        return None
    came: dict[ir.Value, tuple[Step, ir.Value] | None] = {start: None}
    queue = deque([start])
    while queue and len(came) <= FAR:
        value = queue.popleft()
        if goal(value) is not None:
            return value, _trace(came, value)
        for step, following in neighbours(value):
            if following not in came:
                came[following] = (step, value)
                queue.append(following)
    return None


def _trace(came: Mapping[ir.Value, tuple[Step, ir.Value] | None], value: ir.Value) -> list[Step]:
    steps: list[Step] = []
    link = came[value]
    while link is not None:
        steps.append(link[0])
        link = came[link[1]]
    return steps[::-1]
