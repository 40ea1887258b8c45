"""Predicted against measured: every task in float and in few bits, each on two workloads.

Probes this machine first, so that the prediction rests on nothing older. Candidates are built by
planish's own passes and not judged: what counts here is how long they take. Speeds mean something
on an otherwise idle machine only; ``cost-model --task NAME`` takes a few models.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.data import Feeds, save_feeds
from benchmarks.figures import Figure, Outcome, at_least, at_most, skipped
from benchmarks.settings import Settings
from benchmarks.tasks import chosen
from benchmarks.taskworker import build_task
from planish.compiler.prepare import Prepared, Request, prepare
from planish.compiler.progress import Silent
from planish.ir.errors import PlanishError
from planish.ir.load import load_model
from planish.ir.types.bound import bound_shapes
from planish.targets.cost.correction import fit_affine, kendall_tau, relative_error
from planish.targets.cost.predict import Prediction, predict
from planish.targets.loader import load_target
from planish.targets.probe.clock import clock_for, time_together
from planish.targets.probe.run import probe
from planish.targets.runtime import open_session
from planish.targets.schema import Target

CANDIDATES: Mapping[str, str] = {
    "float": "",
    "dynamic": "canonicalize,quantize",
    "static": "canonicalize,quantize{scheme=static}",
    "weight-only": "canonicalize,weight-only{method=round}",
}
"""Pipelines by the name that the table gives them."""
COLUMNS = ("task", "workload", "candidate", "measured, ms", "predicted, ms", "off", "basis")
TAU, ERROR = 0.9, 20.0
TIE = 0.03
"""Measured times closer than this are one: the compiler ranks such candidates by size."""
SAMPLES = 16  # of calibration: ranges need not be good here
LARGER = 4  # times the first axis, the second workload
VISITS = 15  # of each candidate by turns, on each workload


@dataclass(frozen=True)
class Sample:
    """One candidate of one model on one workload. known_ms: the sum of its nodes, uncorrected."""

    task: str
    candidate: str
    workload: str
    measured_ms: float
    known_ms: float
    basis: str


@dataclass(frozen=True)
class Judged:
    """A sample with the correction that was fitted without its model."""

    sample: Sample
    predicted_ms: float

    @property
    def error(self) -> float:
        """Relative, per cent."""
        return 100 * relative_error(self.predicted_ms, self.sample.measured_ms)


def cost_model(settings: Settings) -> Outcome:
    """Predicted against measured milliseconds: rank correlation, error on models left out."""
    started = time.perf_counter()
    target = _target(settings)
    spent = time.perf_counter() - started
    assert target.measured is not None
    samples: list[Sample] = []
    notes = [f"busy: {target.measured.busy}"] if target.measured.busy else []
    for name in chosen(settings.tasks):
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            samples += measure_task(name, target, settings, notes)
        except PlanishError as error:
            notes.append(f"{name}: {error}")
    judged = leave_one_out(samples)
    return Outcome(
        f"Cost model on {target.measured.cpu}, {settings.threads} threads, probed in {spent:.0f} s",
        COLUMNS,
        tuple(row(one) for one in judged),
        (*figures(judged), at_most("probe", spent, 180.0, "s")),
        (*notes, own_correction(samples, target)),
    )


def measure_task(name: str, target: Target, settings: Settings, notes: list[str]) -> list[Sample]:
    """Every candidate of one task on both workloads."""
    with tempfile.TemporaryDirectory(prefix="planish-", dir=settings.workdir) as scratch:
        task = build_task(name, settings.workdir)
        feeds = list(islice(task.calibration(SAMPLES), SAMPLES))
        data = save_feeds(feeds, Path(scratch) / "feeds")
        prepared = prepare(_request(task, data, target, settings), Path(scratch), Silent())
        files = dict(_builds(prepared, notes, name))
        found: list[Sample] = []
        for text, feed in workloads(prepared, feeds[0]):
            times = _times(list(files.values()), feed, settings.threads)
            for (candidate, path), ms in zip(files.items(), times, strict=True):
                one = _predicted(path, target, feed, settings.threads)
                if one.ms is None:
                    notes.append(f"{name}, {candidate}, {text}: {one.note}")
                    continue
                found.append(Sample(name, candidate, text, ms, one.known_ms, one.basis))
    return found


def workloads(prepared: Prepared, feed: Feeds) -> list[tuple[str, Feeds]]:
    """Two workloads as text and a feed, made of a real one; one only where all axes are fixed.

    The first: one row of the first symbolic axis. The second: four, or where the model refuses
    that, all other axes doubled.
    """
    specs = prepared.source.imported.signature.inputs
    sizes: dict[str, int] = {}
    for spec in specs:
        for symbol, size in zip(spec.shape or (), np.shape(feed[spec.name]), strict=False):
            if isinstance(symbol, str):
                sizes.setdefault(symbol, int(size))
    if not sizes:
        return [("as it is", feed)]
    first, *others = sizes
    single = {**sizes, first: 1}
    tries = ({**sizes, first: LARGER}, {**single, **{name: 2 * sizes[name] for name in others}})
    found = [single, *islice((t for t in tries if _runs(prepared, feed, t)), 1)]
    return [(_text(b), _resized_feed(prepared, feed, b)) for b in found]


def leave_one_out(samples: Sequence[Sample]) -> list[Judged]:
    """Each sample predicted with a correction fitted on the other models."""
    judged = []
    for task in dict.fromkeys(sample.task for sample in samples):
        others = [s for s in samples if s.task != task] or samples
        a, b = fit_affine([s.known_ms for s in others], [s.measured_ms for s in others])
        judged += [Judged(s, a + b * s.known_ms) for s in samples if s.task == task]
    return judged


def figures(judged: Sequence[Judged]) -> list[Figure]:
    """Rank correlation and error against their bars."""
    bar = f"≥ {TAU}"
    if not judged:
        return [skipped("rank correlation", bar, "nothing was measured")]
    errors = {f"{j.sample.task}, {j.sample.candidate}, {j.sample.workload}": j for j in judged}
    worst = max(errors, key=lambda name: errors[name].error)
    median = statistics.median(j.error for j in judged)
    found = [
        at_most("median error of whole models, left out", median, ERROR, "%",
                f"worst {errors[worst].error:.1f} %: {worst}"),
    ]  # fmt: skip
    ranked = {
        "all variants of a model": _by(judged, "task"),
        "candidates on one workload": _by(judged, "task", "workload"),
    }
    for name, groups in ranked.items():
        taus = {key: tau for key, group in groups.items() if (tau := _tau(group)) is not None}
        if not taus:
            found.append(skipped(f"rank correlation, {name}", bar, "no two differ"))
            continue
        least = min(taus, key=lambda key: taus[key])
        note = f"mean over {len(taus)}; least {taus[least]:.2f}: {least}"
        mean = statistics.fmean(taus.values())
        found.append(at_least(f"rank correlation, {name}", mean, TAU, note=note))
    return found


def own_correction(samples: Sequence[Sample], target: Target) -> str:
    """How the correction of the probe alone does, which has seen none of the models."""
    assert target.measured is not None
    (_, a, b), *_ = target.measured.correction
    errors = [100 * relative_error(a / 1e3 + b * s.known_ms, s.measured_ms) for s in samples]
    if not errors:
        return "nothing was measured"
    return (
        f"with the probe's own correction ({a:.3g} us + {b:.3g} x the sum): median error "
        f"{statistics.median(errors):.1f} %, worst {max(errors):.1f} %"
    )


def row(judged: Judged) -> tuple[str, ...]:
    """One line of the table."""
    sample = judged.sample
    off = 100 * (judged.predicted_ms / sample.measured_ms - 1)
    return (
        sample.task, sample.workload, sample.candidate, f"{sample.measured_ms:.4g}",
        f"{judged.predicted_ms:.4g}", f"{off:+.0f} %", sample.basis,
    )  # fmt: skip


def _target(settings: Settings) -> Target:
    """This machine probed now, or a file that an earlier probe wrote (``--target FILE.toml``)."""
    if settings.target.endswith(".toml"):
        return load_target(settings.target)
    probed = probe([settings.threads])
    path = settings.workdir / f"{probed.name}.toml"
    path.write_text(probed.text, "utf8")
    return load_target(path)


def _request(task: Any, data: Path, target: Target, settings: Settings) -> Request:
    return Request(
        source=task.model, target=target, example_inputs=None, dynamic_shapes="auto",
        goal="latency", pipeline=None, calibration=data, holdout=data, token_mask=None,
        evaluate=None, max_drop=None, max_drift=None, threads=settings.threads,
        keep_overridable=False, seed=0, bisect_limit=None, snapshots=None,
        output=settings.workdir / "none", command="", max_memory=None, workload=None,
    )  # fmt: skip


def _builds(prepared: Prepared, notes: list[str], task: str) -> Iterator[tuple[str, Path]]:
    """Files of the candidates; one that changes nothing that the runtime computes is left out."""
    workshop = replace(prepared.workshop, instruments=())
    for name, pipeline in CANDIDATES.items():
        try:
            build = workshop.build(pipeline)
        except PlanishError as error:
            notes.append(f"{task}, {name}: {error.what}")
            continue
        if not pipeline or any(edit.pass_name != "canonicalize" for edit in build.edits):
            yield name, build.path


def _times(files: Sequence[Path], feed: Feeds, threads: int) -> list[float]:
    """Median milliseconds of each file over visits by turns, warmed up at each."""
    sessions = [open_session(path, threads=threads) for path in files]
    runs = [functools.partial(session.run, feed) for session in sessions]
    timings = time_together(runs, visits=VISITS, clock=clock_for(threads))
    return [1e3 * statistics.median(timing.visits) for timing in timings]


def _predicted(path: Path, target: Target, feed: Feeds, threads: int) -> Prediction:
    model = load_model(path).model
    for value in model.graph.inputs:
        if str(value.name) in feed:
            value.shape = ir.Shape(feed[str(value.name)].shape)
    return predict(model, target, bound_shapes(model), threads)


def _runs(prepared: Prepared, feed: Feeds, bindings: Mapping[str, int]) -> bool:
    try:
        prepared.workshop.judge.original.run(_resized_feed(prepared, feed, bindings))
    except PlanishError:
        return False
    return True


def _text(bindings: Mapping[str, int]) -> str:
    return ",".join(f"{name}={size}" for name, size in bindings.items())


def _resized_feed(prepared: Prepared, feed: Feeds, bindings: Mapping[str, int]) -> Feeds:
    specs = prepared.source.imported.signature.inputs
    return {spec.name: _resized(feed[spec.name], spec.shape, bindings) for spec in specs}


def _resized(array: Any, shape: Any, bindings: Mapping[str, int]) -> Any:
    """Symbolic axes cut, or repeated, to the sizes of the workload."""
    for axis, symbol in enumerate(shape or ()):
        if symbol in bindings and array.shape[axis] != bindings[symbol]:
            index = np.arange(bindings[symbol]) % array.shape[axis]
            array = np.take(array, index, axis)
    return array


def _by(judged: Sequence[Judged], *names: str) -> dict[str, list[Judged]]:
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        key = ", ".join(str(getattr(one.sample, name)) for name in names)
        groups.setdefault(key, []).append(one)
    return groups


def _tau(group: Sequence[Judged]) -> float | None:
    return kendall_tau(
        [one.predicted_ms for one in group], [one.sample.measured_ms for one in group], TIE
    )
