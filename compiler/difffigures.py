"""What two models compute and how long it takes: operations, predicted and measured time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..ir.counting.flops import flops
from ..ir.diff.changes import GraphDiff
from ..ir.diff.pool import Pool
from ..ir.errors import PlanishError, UsageError
from ..ir.types.bound import Shapes, bound_shapes, symbols
from ..targets.cost.predict import predict
from ..targets.schema import Target
from .policy import has_figures
from .sides import Side
from .stages import EMITTED, IMPORTED
from .workload import Workload, parse_workloads

AS_IT_IS = 10_000
"""Nodes of both graphs up to which operations are counted without being asked for."""


@dataclass(frozen=True)
class SideFigures:
    """flops: of one run; None where a size or an operator is not known, or nobody asked.
    uncounted: operators without a count. ms: predicted, None where unknown; basis, note: of it.
    measured_ms: of the compile's own timing. node_flops, node_ms: by number of the node."""

    flops: int | None = None
    uncounted: tuple[str, ...] = ()
    ms: float | None = None
    basis: str = ""
    note: str = ""
    measured_ms: float | None = None
    node_flops: Mapping[int, int] = field(default_factory=dict)
    node_ms: Mapping[int, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values, without those of nodes."""
        return {
            "flops": self.flops, "not_counted": list(self.uncounted), "predicted_ms": self.ms,
            "basis": self.basis, "note": self.note, "measured_ms": self.measured_ms,
        }  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """Of both sides. workload, target: what they are for, "" where nobody said."""

    before: SideFigures = field(default_factory=SideFigures)
    after: SideFigures = field(default_factory=SideFigures)
    workload: str = ""
    target: str = ""

    def of(self, before: Sequence[int], after: Sequence[int]) -> dict[str, list[Any]]:
        """Sums over the nodes of a hunk, before and after; None where one of them is unknown."""
        sides = ((self.before, before), (self.after, after))
        return {
            "flops": [_sum(side.node_flops, numbers) for side, numbers in sides],
            "predicted_ms": [_sum(side.node_ms, numbers) for side, numbers in sides],
        }


def figures(
    graph: GraphDiff, sides: tuple[Side, Side], target: Target | None, workload: str, threads: int
) -> Figures:
    """Operations and times of both sides for one workload.

    Without a workload sizes are as the models have them. Raises UsageError for a workload that
    names an axis which neither model has, or states several.
    """
    pools = (graph.before, graph.after)
    bindings = _bindings(workload, pools)
    asked = bool(workload) or target is not None
    if not asked and (len(pools[0]) + len(pools[1]) > AS_IT_IS or _open(pools)):
        timed = [SideFigures(measured_ms=_measured(*sides, i)) for i in (0, 1)]
        return Figures(timed[0], timed[1])
    found = [
        _figures(pool, bindings, target, threads, _measured(*sides, i))
        for i, pool in enumerate(pools)
    ]
    return Figures(found[0], found[1], workload, "" if target is None else target.name)


def _bindings(workload: str, pools: tuple[Pool, Pool]) -> Mapping[str, int]:
    known = dict.fromkeys([*symbols(pools[0].model), *symbols(pools[1].model)])
    found = parse_workloads([workload] if workload else [], list(known))
    if len(found) > 1:
        raise UsageError("two models are compared for one workload", hint="give one")
    return (found[0] if found else Workload({})).bindings


def _open(pools: tuple[Pool, Pool]) -> bool:
    return any(symbols(pool.model) for pool in pools)


def _figures(
    pool: Pool,
    bindings: Mapping[str, int],
    target: Target | None,
    threads: int,
    timed: float | None,
) -> SideFigures:
    try:
        shapes = bound_shapes(pool.model, bindings)
    except PlanishError as error:  # sizes that the graph cannot have
        return SideFigures(note=error.what, measured_ms=timed)
    counted = {n: flops(node, shapes) for n, node in enumerate(pool.nodes)}
    missing = sorted({pool.nodes[n].op_type for n, count in counted.items() if count is None})
    known = {n: count for n, count in counted.items() if count is not None}
    total = None if missing else sum(known.values())
    if target is None:
        return SideFigures(total, tuple(missing), measured_ms=timed, node_flops=known)
    return _predicted(pool, shapes, target, threads, SideFigures(
        total, tuple(missing), measured_ms=timed, node_flops=known
    ))  # fmt: skip


def _predicted(
    pool: Pool, shapes: Shapes, target: Target, threads: int, counted: SideFigures
) -> SideFigures:
    if not has_figures(target):
        note = f"{target.name} has no rates to predict a time from"
        return SideFigures(**{**vars(counted), "basis": "unknown", "note": note})
    found = predict(pool.model, target, shapes, threads)
    main = [n for n, owner in enumerate(pool.owners) if owner < 0]
    each = zip(main, found.nodes, strict=True)
    times = {n: node.ms for n, node in each if node.ms is not None}
    more = {"ms": found.ms, "basis": found.basis, "note": found.note, "node_ms": times}
    return SideFigures(**{**vars(counted), **more})


def _measured(before: Side, after: Side, index: int) -> float | None:
    """Milliseconds that the compile of ``after`` took of its model and of the original."""
    speed = after.manifest.get("speed")
    if after.stage != EMITTED or not isinstance(speed, Mapping):
        return None
    original = before.stage == "" or before.stage.endswith(IMPORTED)
    if index == 0 and not (original and after.came_from(before)):
        return None
    found = speed.get("after" if index else "before")
    return float(found) if isinstance(found, int | float) else None


def _sum(values: Mapping[int, Any], numbers: Sequence[int]) -> Any:
    if not values or any(n not in values for n in numbers):
        return None
    return sum(values[n] for n in numbers)
