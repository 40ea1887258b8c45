"""The region that a cut edits: from what its producers read to what its consumers compute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from ...ir.axes.groups import AxisGroup, Member
from ...ir.graph import captured_values, constant_tensor, consumers, is_constant, subgraphs
from .consumers import Consumer, UnfitError

_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_SIZES = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class CutRegion:
    """Names of the values that bound it, and its longest sum of products."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    contraction: int


def cut_region(
    model: ir.Model, groups: Sequence[AxisGroup], readers: Sequence[Consumer]
) -> CutRegion:
    """The smallest region outside of which nothing changes when ``groups`` are cut.

    readers: the consumers of all groups. Raises UnfitError where it cannot be cut out.
    """
    cut = {m.value for group in groups for m in group.members if not m.stored}
    uses = [use for reader in readers for use in reader.site.uses]
    outputs = list(dict.fromkeys(u.output for u in uses if str(u.output.name) not in cut))
    inside = _between(_seeds(model, groups), outputs)
    if any(True for node in inside for _ in subgraphs(node)):
        raise UnfitError("subgraph", "a branch or a loop stands between its layers")
    inputs = [v for v in _entering(inside) if v not in outputs]
    if any(str(v.name) in cut for v in inputs) or not outputs:
        raise UnfitError("not-closed", "what is cut does not end at its layers")
    return CutRegion(
        tuple(str(v.name) for v in inputs),
        tuple(str(v.name) for v in outputs),
        _depth(model, groups),
    )


def _seeds(model: ir.Model, groups: Sequence[AxisGroup]) -> list[ir.Node]:
    """The nodes that make what is cut: from layers, from constants along the axis, from none."""
    stored = model.graph.initializers
    names = {m.value for g in groups for m in g.members if m.stored and m.role != "consumes"}
    read = [stored[name] for name in names if name in stored]
    # Who reads a tensor and makes nothing that is cut keeps it whole: it gets its own copy.
    used = {n for value in read for n in consumers(value) if all(map(_is_still, n.inputs))}
    named = {name for g in groups for m in g.members for name, _ in m.uses}
    made = {m.value for g in groups for m in g.members if not m.stored}
    return [
        node
        for node in model.graph
        if node in used or node.name in named or any(o.name in made for o in node.outputs)
    ]


def _is_still(value: ir.Value | None) -> bool:
    return value is None or is_constant(value)


def _between(seeds: Iterable[ir.Node], outputs: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes on the ways from ``seeds`` to ``outputs``, the last first."""
    ahead, todo, ends = set[ir.Node](), list(seeds), set(outputs)
    while todo:
        node = todo.pop()
        if node not in ahead:
            ahead.add(node)
            todo += [n for o in node.outputs if o not in ends for n in consumers(o)]
    found = dict[ir.Node, None]()
    pending = [value.producer() for value in outputs]
    while pending:
        made = pending.pop()
        if made is not None and made in ahead and made not in found:
            found[made] = None
            pending += [value.producer() for value in made.inputs if value is not None]
    return list(found)


def _entering(inside: Sequence[ir.Node]) -> list[ir.Value]:
    """What comes from outside, in a stable order.

    Sizes that are computed next to the region belong to it: a cut changes constants among them.
    """
    known, pending = set(inside), list(inside)
    found = dict[ir.Value, None]()
    while pending:
        node = pending.pop()
        for value in (*(v for v in node.inputs if v is not None), *captured_values(node)):
            maker = value.producer()
            if is_constant(value) or maker in known:
                continue
            if maker is not None and _is_arithmetic(value, maker):
                known.add(maker)
                pending.append(maker)
            else:
                found[value] = None
    return sorted(found, key=lambda value: str(value.name))


def _is_arithmetic(value: ir.Value, maker: ir.Node) -> bool:
    """Whether it computes a size from others, or from constants alone."""
    if not any(v is not None and not is_constant(v) for v in maker.inputs):
        return not any(True for _ in subgraphs(maker))
    return value.dtype in _INTEGERS and maker.op_type not in _SIZES


def _depth(model: ir.Model, groups: Iterable[AxisGroup]) -> int:
    """Products that are summed for one element on the way through the region."""
    return max(1, sum(_summed(model, m) for g in groups for m in g.members if m.stored))


def _summed(model: ir.Model, member: Member) -> int:
    """Of the product with a stored tensor; 0 where it is a vector."""
    tensor = constant_tensor(model.graph.initializers.get(member.value))
    shape = () if tensor is None else tensor.shape.numpy()
    if len(shape) < 2:
        return 0
    return shape[member.axis] if member.role == "consumes" else prod(shape) // shape[member.axis]
