"""Cut groups of a model, and compare with the whole model in which their consumers read zeros."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from planish.compiler.execution import running, weight_bytes
from planish.ir.axes.cut import cut_group
from planish.ir.axes.groups import AxisGroup
from planish.ir.rewriter import Rewriter
from planish.ir.save import to_bytes
from planish.ir.verify import violations

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
Choice = Mapping[AxisGroup, Sequence[int]]
"""The units that stay, by group."""
MOVERS = frozenset({"Slice", "Gather", "GatherElements", "GatherND", "Compress", "ScatterND"})
CHECKED_BYTES = 1 << 28
"""ONNX's checker wants a copy of its own; larger models only get this compiler's checks."""


@dataclass(frozen=True)
class Trial:
    """difference: the largest, over the largest output. problems: what else was wrong."""

    difference: float
    problems: tuple[str, ...] = ()


def half(group: AxisGroup, random: np.random.Generator) -> list[int] | None:
    """A seeded half of the units that leaves something everywhere; None where none was found."""
    for _ in range(20):
        count = max(1, group.units // 2)
        keep: list[int] = np.sort(random.choice(group.units, count, replace=False)).tolist()
        if not group.emptied(keep):
            return keep
    return None


def tried(model: ir.Model, choice: Choice, feeds: Feeds) -> Trial:
    """Cut all groups of a choice at once; the model is as it was afterwards."""
    expected = outputs(zeroed(model, choice), feeds)
    before = Counter(node.op_type for node in model.graph)
    sizes = {name: tuple(t.shape.numpy()) for name, t in _tensors(model)}
    rewriter = Rewriter(model)
    mark = rewriter.checkpoint()
    try:
        for group, keep in choice.items():
            with rewriter.edit(group.name):
                cut_group(rewriter, group, keep)
        found = outputs(model, feeds)
        after = Counter(node.op_type for node in model.graph)
        wrong = [*_checked(model), *_left(before, after), *_unshortened(model, choice, sizes)]
    finally:
        rewriter.rollback(mark)
    return Trial(_difference(expected, found), tuple(wrong))


def zeroed(model: ir.Model, choice: Choice) -> ir.Model:
    """A copy in which all that reads the dropped units multiplies them by zero."""
    full, changed = model.clone(), dict[str, Array]()
    for group, keep in choice.items():
        for member in group.of_role("consumes"):
            if member.value not in changed:
                changed[member.value] = _array(full, member.value).copy()
            dropped = np.setdiff1d(np.arange(group.units), keep)
            rows = np.moveaxis(changed[member.value], member.axis, 0)
            rows[member.positions(dropped)] = 0
    for name, data in changed.items():
        full.graph.initializers[name].const_value = ir.tensor(data, name=name)
    return full


def outputs(model: ir.Model, feeds: Feeds) -> list[Array]:
    """Of ONNX Runtime on one core, without its optimisations."""
    with running(model, optimize="none", threads=1) as session:
        return list(session.run(feeds))


def _difference(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """NaN where outputs are zero or not finite: comparing them would prove nothing."""
    pairs = zip(expected, found, strict=True)
    with np.errstate(invalid="ignore"):
        ratios = [np.abs(a - b).max() / np.abs(a).max() for a, b in pairs]
    return float(np.max(ratios))


def _tensors(model: ir.Model) -> list[tuple[str, Any]]:
    values = model.graph.initializers.items()
    return [(name, v.const_value) for name, v in values if v.const_value is not None]


def _array(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def _checked(model: ir.Model) -> list[str]:
    wrong = [str(v) for v in violations(model)]
    if weight_bytes(model) <= CHECKED_BYTES:
        try:
            onnx.checker.check_model(onnx.load_from_string(to_bytes(model)), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            wrong.append(f"onnx.checker: {error}")
    return wrong


def _left(before: Counter[str], after: Counter[str]) -> list[str]:
    """Operators that a cut added to move data."""
    return [f"{n} {op} added" for op, n in (after - before).items() if op in MOVERS]


def _unshortened(
    model: ir.Model, choice: Choice, sizes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Stored tensors whose shapes are not what is left of them."""
    gone: dict[tuple[str, int], set[int]] = {}
    for group, keep in choice.items():
        dropped = np.setdiff1d(np.arange(group.units), keep)
        for member in group.members:
            if member.stored and not member.uses:
                places = gone.setdefault((member.value, member.axis), set())
                places |= set(member.positions(dropped).tolist())
    wanted = {name: list(sizes[name]) for name, _ in gone}
    for (name, axis), places in gone.items():
        wanted[name][axis] -= len(places)
    found = {name: list(_array(model, name).shape) for name in wanted}
    return [f"{n!r} is {found[n]}, not {wanted[n]}" for n in wanted if found[n] != wanted[n]]
