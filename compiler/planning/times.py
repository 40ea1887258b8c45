"""Predicted time of a run over the workloads, and what is said where nothing predicts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ...ir.errors import PlanishError
from ...ir.types.bound import bound_shapes
from ...targets.cost.predict import predict
from ...targets.schema import Target
from ..policy import has_figures
from ..workload import Workload
from .outlook import Time, TimeBasis

MOST_SHAPES = 3
"""Workloads, the heaviest, that are predicted: each takes an inference of the whole graph."""
_STRENGTH: tuple[TimeBasis, ...] = ("measured", "estimated", "unknown")


@dataclass(frozen=True)
class Run:
    """Milliseconds of one run, by the weights of the workloads; None where unknown.

    ranks: see ``Time``.
    """

    ms: float | None
    basis: TimeBasis
    note: str
    ranks: bool = False


def run_time(model: ir.Model, target: Target, workloads: Sequence[Workload], threads: int) -> Run:
    """The predicted time of a model as it stands.

    Of more workloads than three the heaviest stand for all.
    """
    if not has_figures(target):
        return Run(None, "unknown", without_figures(target))
    heavy = sorted(workloads, key=lambda w: -w.weight)[:MOST_SHAPES] or [Workload({})]
    try:
        each = [predict(model, target, bound_shapes(model, w.bindings), threads) for w in heavy]
    except PlanishError as error:  # sizes that the graph cannot have
        return Run(None, "unknown", error.what)
    basis = max((p.basis for p in each), key=_STRENGTH.index)
    note = next((p.note for p in each if p.basis == basis), "")
    times = [p.ms for p in each if p.ms is not None]
    if len(times) < len(each):
        return Run(None, "unknown", note)
    total = sum(w.weight for w in heavy)
    mean = sum(w.weight * t for w, t in zip(heavy, times, strict=True)) / total
    return Run(mean, basis, note, target.measured is not None)


def before_and_after(before: Run, after: Run) -> Time:
    """Both figures, with the weaker basis and its note."""
    weaker = max(before, after, key=lambda run: _STRENGTH.index(run.basis))
    return Time(before.ms, after.ms, weaker.basis, weaker.note, before.ranks and after.ranks)


def without_figures(target: Target) -> str:
    """What is known of a target without rates: what its class breaks even at."""
    known = []
    if target.int8.supported and target.int8.speed_ratio is not None:
        ratio = target.int8.speed_ratio
        known.append(f"large products of 8-bit integers run {ratio:g}x as fast as float ones")
    if target.weight_only.bits and target.weight_only.most_rows is not None:
        rows = target.weight_only.most_rows
        known.append(f"4-bit weights win up to {rows} row{'s' if rows > 1 else ''} of activations")
    told = f"; what it breaks even at: {', '.join(known)}" if known else ""
    return f"{target.name} has no rates to predict a time from{told}"
