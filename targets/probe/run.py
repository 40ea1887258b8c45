"""Probing this machine from start to end: measure, fit the correction, make a target file of it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from ...ir.errors import TargetError, UsageError
from ...ir.load import load_model
from ...ir.types.bound import bound_shapes
from ..cost.correction import fit_affine
from ..cost.measured import Measured
from ..cost.predict import predict
from ..host import probe_host, read_machine
from ..runtime import open_session, runtime_version
from ..schema import Target
from .clock import clock_for, time_together
from .graphs import Graph
from .measure import Found, measure
from .models import whole_models
from .points import Grid
from .result import measured
from .writing import file_name, target_text

Say = Callable[[str, int, int], None]

BUDGET = 135.0
"""Seconds for all tables; the rest of three minutes is for starting and for whole models."""


@dataclass(frozen=True)
class Probed:
    """name: of the target. text: its file. measured: what the file holds."""

    name: str
    text: str
    measured: Measured


def probe(
    threads: Sequence[int],
    name: str = "",
    *,
    grid: Grid | None = None,
    budget: float = BUDGET,
    say: Say = lambda what, done, of: None,
) -> Probed:
    """Measure this machine with each count of threads; a target file of the class found here.

    Raises UsageError for a count of threads the machine does not have.
    """
    machine, cores = read_machine(), usable_cores()
    for count in threads:
        if not 1 <= count <= cores:
            raise UsageError(f"cannot measure {count} threads here", hint=f"1 to {cores}")
    host = probe_host(machine)
    found = [_measure(grid or Grid(), n, budget / len(threads), say) for n in threads]
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    tables = measured(found, date=date, runtime=f"onnxruntime {runtime_version()}", cpu=machine.cpu)
    tables = corrected(tables, host, threads)
    name = name or file_name(machine.cpu, machine.arch)
    return Probed(name, target_text(name, host, tables, cores), tables)


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def corrected(tables: Measured, host: Target, threads: Sequence[int]) -> Measured:
    """With the correction fitted on whole models for each count of threads."""
    target = replace(host, measured=replace(tables, correction=()))
    rows = []
    for count in threads:
        pairs = [(_sum_of(graph, target, count), _time(graph, count)) for graph in whole_models()]
        a, b = fit_affine([s for s, _ in pairs], [t for _, t in pairs])
        rows.append((float(count), float(f"{a:.4g}"), float(f"{b:.4g}")))
    return replace(tables, correction=tuple(rows))


def _measure(grid: Grid, threads: int, budget: float, say: Say) -> Found:
    what = f"{threads} thread{'' if threads == 1 else 's'}"
    return measure(grid, threads, budget=budget, say=lambda done, of: say(what, done, of))


def _sum_of(graph: Graph, target: Target, threads: int) -> float:
    """Microseconds of the nodes of a model, predicted."""
    model = load_model(onnx.load_model_from_string(graph.model)).model
    for value in model.graph.inputs:
        value.shape = ir.Shape(graph.feeds[str(value.name)].shape)
    found = predict(model, target, bound_shapes(model), threads)
    if found.ms is None:
        raise TargetError("too little was measured to predict a whole model", hint=found.note)
    return 1e3 * found.known_ms


def _time(graph: Graph, threads: int) -> float:
    """Microseconds of a run."""
    session = open_session(graph.model, threads=threads)
    timings = time_together([lambda: session.run(graph.feeds)], clock=clock_for(threads))
    return 1e6 * timings[0].seconds
