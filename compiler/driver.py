"""Compile a model for a target. ``compile_model`` reads top to bottom as what happens."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..ir.errors import TargetError, UsageError, near
from ..ir.load import load_model
from ..ir.provenance import Remark, without_implied_origins
from ..ir.save import one_file_up_to, save_model
from ..ir.storage.derived import holding
from ..ir.storage.stamp import check_unchanged
from ..targets.loader import load_target
from ..targets.runtime import open_session
from ..targets.schema import Target
from .available import parse_size
from .backends.kernels import UNEXPLAINED, count_kernels
from .backends.spellings import SPELLINGS
from .backends.table import backend_for, finished_by
from .choose import (
    ACCEPTABLE,
    Choice,
    beside_lossless,
    choose,
    choose_spellings,
    measure_speed,
    rejudged,
    write_as,
)
from .elsewhere import predicted_speed
from .garbage import rarely_collecting
from .giving_back import GIVEN_BACK
from .memory import Estimate
from .outcome import Finished, describe
from .pipeline import parse
from .planning.times import run_time
from .policy import GOALS, LOSSLESS, Goal, check_served, propose, untried
from .prepare import Prepared, Request, prepare
from .progress import Progress, Silent
from .reporting.artifact import write_artifact
from .reporting.html.writing import with_page
from .reporting.manifest import plan_from
from .reporting.summary import some
from .reporting.unrun import without_runs
from .result import UNCHANGED, Built, Kernels, Plan, Speed, Trial
from .stages import write_stages
from .staging import staging
from .workload import parse_workloads
from .workshop import MODEL, REFERENCE, Judged, Workshop, instantiate

STREAMED = 1 << 24
"""Bytes of weights above which a model is not saved as one file where memory is short."""
UNPAID: Mapping[Goal, tuple[str, ...]] = {
    "latency": ("no-gain", "slower"),
    "balanced": ("slower",),
    "size": (),
}
"""Verdicts on speed with which a quantized model is not handed over unless it was asked for."""

HARDLY = 1.05
"""A model smaller by less than this is not worth another goal."""


def compile_model(
    source: Any,
    target: str | Path | Target = "host",
    *,
    output: Path,
    example_inputs: Any = None,
    dynamic_shapes: Any = "auto",
    goal: Goal = "latency",
    pipeline: str | None = None,
    plan: Path | str | Mapping[str, Any] | None = None,
    calibration: Any = None,
    holdout: Any = None,
    token_mask: str | None = None,
    evaluate: Callable[..., Any] | str | None = None,
    max_drop: str | float | None = None,
    max_drift: str | None = None,
    threads: int = 0,
    force: bool = False,
    keep_overridable: bool = False,
    seed: int = 0,
    bisect_limit: int | None = None,
    snapshots: Path | None = None,
    progress: Progress | None = None,
    command: str = "",
    max_memory: str | int | float | None = None,
    workload: str | Sequence[str] | None = None,
    profile: str | None = None,
    keep_stages: bool = False,
) -> Built:
    """Compile ``source`` for ``target`` into the folder ``output``; see ``planish.compile``.

    Raises UsageError, InputError, TargetError or PassError; then nothing is left behind.
    """
    start = time.perf_counter()
    request = Request(
        source=source, target=_target(target), example_inputs=example_inputs,
        dynamic_shapes=dynamic_shapes, goal=goal, pipeline=pipeline, calibration=calibration,
        holdout=holdout, token_mask=token_mask, evaluate=evaluate, max_drop=max_drop,
        max_drift=max_drift, threads=threads, keep_overridable=keep_overridable, seed=seed,
        bisect_limit=bisect_limit, snapshots=snapshots, output=output, command=command,
        max_memory=max_memory, workload=workload, profile=profile, keep_stages=keep_stages,
    )  # fmt: skip
    replayed = _check(request, plan)
    with rarely_collecting(), staging(output, force) as folder, _scratch(folder) as scratch:
        prepared = prepare(request, scratch, progress or Silent())
        with _thrifty(prepared.estimate):
            finished = _built(prepared, replayed)
            finished, known = _emit(finished, prepared, folder)
            write_stages(finished.judged.build.stages, folder)
        kernels = _kernels(finished, prepared, folder)
        result = describe(finished, prepared, kernels, folder, time.perf_counter() - start)
        prepared.workshop.context.progress.phase("finishing the artifact")
        result = finished_by(prepared.workshop.backend, result, folder)
        write_artifact(result, folder, known)
        prepared.workshop.context.progress.phase("making the page")
        result = with_page(result, folder, prepared.source.baseline)
        check_unchanged(prepared.source.imported.stamps)
    return Built(result, output)


@contextlib.contextmanager
def _thrifty(room: Estimate) -> Iterator[None]:
    """Weights pass through memory in blocks, however the model is saved on the way."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(holding(room.block))
        if not room.fits:
            stack.enter_context(one_file_up_to(STREAMED))
        yield


def _built(prepared: Prepared, replayed: Plan | None) -> Finished:
    if not prepared.estimate.fits:
        return without_runs(prepared, replayed)
    return _search(prepared) if replayed is None else _replay(replayed, prepared)


def _search(prepared: Prepared) -> Finished:
    """Build what policy proposes (or the user's pipeline), choose, spell, and time."""
    workshop, request = prepared.workshop, prepared.request
    told: list[str] = []

    def make_lossless() -> Judged | None:
        return _taken(lambda: _lossless_build(workshop), LOSSLESS, told)

    if request.pipeline is not None:
        held = workshop.hold(request.pipeline)
        watched = request.snapshots is not None or request.bisect_limit is not None
        feeds = None if watched else prepared.timing_feeds  # who watches passes wants no others
        choice = beside_lossless(held, feeds, workshop, make_lossless)
        finished = _finish(held, choice, prepared)
        return replace(finished, notes=(*told, *finished.notes))
    lossless = make_lossless() or workshop.judged(workshop.build_untouched())
    proposed = propose(
        workshop.rewriter.model,
        request.target,
        calibrated=workshop.context.calibrated,
        goal=request.goal,
        workloads=prepared.workloads,
    )
    told.extend(untried(proposed))
    candidates = [lossless]
    for proposal in proposed.proposals:
        tried = _taken(partial(workshop.hold, proposal.pipeline), proposal.pipeline, told)
        if tried is not None and all(tried is not candidate for candidate in candidates):
            candidates.append(tried)
    workshop.context.progress.phase("timing the candidates")
    choice = choose(candidates, request.goal, prepared.timing_feeds, workshop, _predictor(prepared))
    finished = _finish(choice.judged, choice, prepared)
    if choice.judged is lossless or finished.speed.verdict in UNPAID[request.goal]:
        found = _lossless(lossless, choice, finished, prepared)
        finished = replace(found, refused=_refused(candidates[1:]))
    return replace(finished, notes=(*told, *finished.notes))


def _lossless_build(workshop: Workshop) -> Judged:
    """Without any lossy pass; where a backend narrows floats, they are given back if need be."""
    return (
        workshop.hold(LOSSLESS)
        if workshop.backend.narrows
        else workshop.judged(workshop.build(LOSSLESS))
    )


def _predictor(prepared: Prepared) -> Callable[[ir.Model], float | None]:
    """Milliseconds of a run of a model on the target, None where nothing fit to rank by tells."""
    target, threads = prepared.request.target, prepared.request.threads

    def milliseconds(model: ir.Model) -> float | None:
        run = run_time(model, target, prepared.workloads, threads)
        return run.ms if run.ranks else None

    return milliseconds


def _taken(make: Callable[[], Judged], text: str, told: list[str]) -> Judged | None:
    """A build that nobody but policy asked for; None, and why, where the runtime refuses it.

    The runtime's own rewrites fail on some valid graphs: that may cost the gain, not the compile.
    """
    try:
        return make()
    except TargetError as error:
        told.append(f"{text} was given up: {error.what}")
        return None


def _refused(lossy: Sequence[Judged]) -> tuple[Remark, ...]:
    """The last refusal of each site that no candidate made lossy."""
    made = {e.site for c in lossy for e in c.build.edits if e.loss is not None}
    remarks = (r for c in lossy for r in c.build.remarks if r.kind == "refused")
    return tuple({r.site: r for r in remarks if r.site not in made}.values())


def _replay(plan: Plan, prepared: Prepared) -> Finished:
    """Re-use every stored choice; only the measuring is done again."""
    workshop = prepared.workshop
    plain = workshop.judged(workshop.build(plan.pipeline, plan.given_back))
    written = write_as(plain, plan.spellings, workshop) if plan.spellings else None
    names = plan.spellings if written is not None else ()
    judged, spellings = rejudged(plain, written or plain, names, workshop)
    notes = []
    if spellings != plan.spellings:
        notes.append(f"the plan's spellings {', '.join(plan.spellings)} do not apply here")
    if unknown := _unknown_sites(plan, plain):
        notes.append(f"the plan gives back {some(unknown)}, which no pass asked for here")
    judged = workshop.handed_back(judged)
    return Finished(judged, None, spellings, _speed(judged, prepared), tuple(notes))


def _unknown_sites(plan: Plan, judged: Judged) -> list[str]:
    given_back = {r.site for r in judged.build.remarks if r.code == GIVEN_BACK}
    return sorted({site for sites in plan.given_back.values() for site in sites} - given_back)


def _finish(judged: Judged, choice: Choice, prepared: Prepared) -> Finished:
    spellings: tuple[str, ...] = ()
    if prepared.timing_feeds is not None:
        judged, spellings = choose_spellings(judged, prepared.timing_feeds, prepared.workshop)
    judged = prepared.workshop.handed_back(judged)
    return Finished(judged, choice, spellings, _speed(judged, prepared))


def _lossless(lossless: Judged, choice: Choice, finished: Finished, prepared: Prepared) -> Finished:
    """Quantization did not pay: hand over the model without it, and say what it would give."""
    notes: tuple[str, ...] = ()
    if choice.judged is not lossless:
        notes = (_forgone(finished.judged.build.bytes, finished.speed.ratio, prepared),)
        finished = _finish(lossless, choice, prepared)
    else:
        timed = [t for t in choice.trials[1:] if t.quality in ACCEPTABLE and t.speedup]
        best = max(timed, key=lambda trial: trial.speedup or 0.0, default=None)
        if best is not None:
            notes = (_forgone(best.bytes, best.speedup, prepared),)
    speed = finished.speed.verdict
    if speed == "slower" or (speed == "no-gain" and not finished.spellings):
        # Nothing pays, so nothing at all is done to the graph.
        plain = prepared.workshop.judged(prepared.workshop.build_untouched())
        finished = Finished(plain, choice, (), _speed(plain, prepared))
    pipeline = finished.judged.build.pipeline or LOSSLESS
    trials = tuple(replace(t, chosen=t.pipeline == pipeline) for t in choice.trials)
    return replace(
        finished,
        choice=Choice(finished.judged, trials),
        notes=notes,
        why_float=_why_float(trials[1:]),
    )


def _forgone(count: int, ratio: float | None, prepared: Prepared) -> str:
    """What the best quantized model would have given: its size in bytes, how fast it runs."""
    smaller = prepared.bytes_before / max(count, 1)
    speed = f"runs at {ratio:.2f}x" if ratio else "was not timed"
    if smaller < HARDLY:
        return f"the best quantized model {speed} and is hardly smaller"
    gain = f"and {speed}, no clear gain" if ratio and ratio > 1.0 else f"but {speed}"
    return (
        f"the best quantized model is {smaller:.1f}x smaller {gain}; --goal size would hand it over"
    )


def _why_float(lossy: Sequence[Trial]) -> str:
    if not lossy:
        return ""
    if any(trial.quality in ACCEPTABLE for trial in lossy):
        return "quantization did not pay on this model"
    return "no quantized model held the quality bound"


def _speed(judged: Judged, prepared: Prepared) -> Speed:
    request = prepared.request
    if prepared.timing_feeds is None:
        return _not_measured(judged.build.model, prepared)
    if judged.build.verbatim:
        return Speed("no-gain", threads=request.threads, reason=UNCHANGED)
    prepared.workshop.context.progress.phase("timing against the original")
    return measure_speed(judged, prepared.timing_feeds, prepared.workshop.judge, request.threads)


def _not_measured(model: ir.Model, prepared: Prepared) -> Speed:
    """Predicted where this machine is not the target: nothing measured here speaks for that."""
    request, predicted = prepared.request, None
    if prepared.elsewhere:
        before = load_model(prepared.source.baseline).model
        workloads, threads = prepared.workloads, request.threads
        predicted = predicted_speed(before, model, request.target, workloads, threads)
    return Speed(
        "not-measured", threads=request.threads, reason=prepared.not_timed, predicted=predicted
    )


def _emit(finished: Finished, prepared: Prepared, folder: Path) -> tuple[Finished, dict[Path, str]]:
    """Write the model, and load what was written: from here on that is what speaks.

    The files' SHA-256 comes with it. Nothing is loaded where the model is too large for that.
    """
    prepared.workshop.context.progress.phase("writing the model")
    if finished.judged.build.verbatim:
        shutil.copyfile(finished.judged.build.path, folder / MODEL)
        return _loaded(finished, prepared, folder), {}
    model = finished.judged.build.model
    limit = prepared.request.target.runtime.max_ir_version
    known: dict[Path, str] = {}
    fits = prepared.estimate.fits
    with without_implied_origins(model):
        save_model(
            model,
            folder / MODEL,
            ir_version=min(model.ir_version or limit, limit),
            record=known,
            hash_tensors=fits,
        )
    _emit_twin(finished, folder, known)
    return (_loaded(finished, prepared, folder) if fits else finished), known


def _emit_twin(finished: Finished, folder: Path, known: dict[Path, str]) -> None:
    """What is run in the place of the model, where no runtime here runs it."""
    twin = finished.judged.build.twin
    if twin is not None:
        with without_implied_origins(twin):
            save_model(twin, folder / REFERENCE, record=known)


def _loaded(finished: Finished, prepared: Prepared, folder: Path) -> Finished:
    name = MODEL if finished.judged.build.twin is None else REFERENCE
    session = open_session(folder / name, threads=prepared.request.threads)
    return replace(finished, judged=replace(finished.judged, loaded=session))


def _kernels(finished: Finished, prepared: Prepared, folder: Path) -> Kernels:
    if not prepared.estimate.fits or finished.judged.build.twin is not None:
        return Kernels()
    return count_kernels(
        folder / MODEL,
        finished.judged.build.model,
        (*finished.judged.build.remarks, *finished.refused),
        threads=prepared.request.threads,
        otherwise=finished.why_float or UNEXPLAINED,
        target=prepared.request.target,
    )


def _target(target: str | Path | Target) -> Target:
    found = target if isinstance(target, Target) else load_target(target)
    backend_for(found)
    return found


def _check(request: Request, given: Path | str | Mapping[str, Any] | None) -> Plan | None:
    """Everything that can be refused before any work; the plan, where one is given."""
    if request.goal not in GOALS:
        raise UsageError(f"there is no goal {request.goal!r}", hint=near(request.goal, GOALS))
    if request.pipeline is not None and given is not None:
        raise UsageError("a pipeline and a plan exclude each other", hint="give one of them")
    if request.pipeline is not None:
        instantiate(parse(request.pipeline))
    elif given is None and request.goal == "size":  # the lossless clean-up may still save time
        check_served(request.target, request.goal)
    if request.max_drop is not None and request.evaluate is None:
        raise UsageError(
            "a drop is asked for, but nothing measures it",
            hint="give --evaluate file.py:function, or --max-drift for the outputs' drift",
        )
    if request.snapshots is not None and request.snapshots.is_file():
        what = f"snapshots cannot go to {str(request.snapshots)!r}, which is a file"
        raise UsageError(what, hint="give a folder")
    parse_workloads(request.workload or ())
    if request.profile and not backend_for(request.target).profiled:
        what = f"--profile is for engines that TensorRT builds, not for {request.target.name}"
        raise UsageError(what, hint="leave it out, or state shapes with --workload")
    if request.max_memory is not None:
        parse_size(request.max_memory)
    if request.threads < 0:
        raise UsageError(f"{request.threads} threads are too few", hint="0 means one per core")
    if given is None:
        return None
    plan = plan_from(given)
    for name in plan.spellings:
        if name not in SPELLINGS:
            raise UsageError(f"there is no spelling {name!r}", hint=near(name, SPELLINGS))
    if plan.pipeline:
        instantiate(parse(plan.pipeline))
    return plan


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A place for builds on the same disk, gone before the artifact takes its name."""
    with tempfile.TemporaryDirectory(prefix=".planish-", dir=folder.parent) as scratch:
        yield Path(scratch)
