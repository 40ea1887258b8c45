"""Plan a compile: ``plan_model`` says what would be done where, and changes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ...ir.errors import InputError, UsageError, near
from ...ir.importing.limits import check_sizes
from ...ir.provenance import Remark, without_implied_origins
from ...ir.rewriter import Rewriter
from ...ir.save import saved_bytes
from ...ir.signature import Signature
from ...ir.storage.filesize import model_bytes
from ...ir.types.bound import symbols
from ...targets.loader import load_target
from ...targets.schema import Target
from ...targets.techniques import compiles, runs_on_cpu
from ..backends.tensorrt.emission import foreseen
from ..context import CompileContext
from ..data.feeds import available_memory
from ..elsewhere import not_the_target
from ..intake import (
    SHAPES_SEEN,
    TIMING_FEEDS,
    feeds_for,
    masking_of,
    opsets_for,
    raised_for_integers,
)
from ..memory import Estimate, estimate
from ..pipeline import parse
from ..policy import GOALS, LOSSLESS, Aside, Goal, Proposal, Proposed, check_served, propose
from ..ports import check_ports
from ..progress import Progress, Silent
from ..source import Source, resolve_source
from ..workload import Workload, parse_workloads, workloads_of
from ..workshop import instantiate
from .order import ordered
from .outlook import Outlook, Planned, Size
from .rehearse import Rehearsal, rehearse
from .siteplans import kernels_of, site_plans
from .times import Run, before_and_after, run_time

MOST_WRITTEN = 1 << 30
"""Bytes of weights up to which a rehearsed model is shown to the runtime, for its kernels."""


@dataclass(frozen=True)
class _Stage:
    """Where pipelines are rehearsed."""

    source: Source
    rewriter: Rewriter
    context: CompileContext
    workloads: tuple[Workload, ...]
    generated: bool
    room: Estimate
    remarks: tuple[Remark, ...]
    bytes_before: int

    @property
    def target(self) -> Target:
        """What is planned for."""
        return self.context.target


def plan_model(
    source: Any,
    target: str | Path | Target = "host",
    *,
    example_inputs: Any = None,
    dynamic_shapes: Any = "auto",
    goal: Goal = "latency",
    workload: str | Sequence[str] | None = None,
    calibration: Any = None,
    holdout: Any = None,
    token_mask: str | None = None,
    pipeline: str | None = None,
    threads: int = 0,
    keep_overridable: bool = False,
    seed: int = 0,
    max_memory: str | int | float | None = None,
    progress: Progress | None = None,
) -> Planned:
    """What ``compile_model`` would try with the same arguments, predicted; see ``planish.plan``.

    Raises UsageError, InputError, TargetError (no technique can serve the goal) or PassError.
    """
    chosen = target if isinstance(target, Target) else load_target(target)
    _check(chosen, goal, pipeline, workload, threads)
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        progress = progress or Silent()
        progress.phase("importing")
        imported = resolve_source(
            source, example_inputs, dynamic_shapes, Path(folder) / "source",
            keep_overridable=keep_overridable,
        )  # fmt: skip
        data = (calibration, holdout, token_mask, workload)
        stage = _stage(imported, chosen, data, threads, seed, max_memory, progress)
        proposed = _proposed(stage, goal, pipeline)
        before = run_time(imported.imported.model, chosen, stage.workloads, threads)
        outlooks = ordered([_outlook(p, stage, before) for p in proposed.proposals], goal)
        return _planned(stage, proposed, outlooks, goal, pipeline is not None)


def _check(target: Target, goal: Goal, pipeline: str | None, workload: Any, threads: int) -> None:
    if goal not in GOALS:
        raise UsageError(f"there is no goal {goal!r}", hint=near(goal, GOALS))
    if threads < 0:
        raise UsageError(f"{threads} threads are too few", hint="0 means one per core")
    parse_workloads(workload or ())
    if pipeline is None:
        check_served(target, goal)
    else:
        instantiate(parse(pipeline))


def _stage(
    source: Source,
    target: Target,
    data: tuple[Any, Any, str | None, Any],
    threads: int,
    seed: int,
    max_memory: str | int | float | None,
    progress: Progress,
) -> _Stage:
    calibration, holdout, token_mask, workload = data
    model = source.imported.model
    check_sizes(model, available_memory(), source.label)
    signature = Signature.of(model)
    check_ports(signature, source.label)
    model, kept = raised_for_integers(model, opsets_for(target))
    stated = parse_workloads(workload or (), symbols(model))
    given, held = feeds_for(model, signature, calibration, holdout, stated, seed)
    room = estimate(model, max_memory, islice(held, TIMING_FEEDS))
    if not room.fits and not held.synthetic:
        what = f"data cannot be used: {room.reason}"
        raise InputError(what, hint="leave --calibration out, or give more with --max-memory")
    masking, found = masking_of(model, signature, given or held, token_mask)
    limit = None if room.fits else room.limit
    context = CompileContext(
        target, model, given or held, given is not None, masking, threads, progress, limit=limit
    )
    return _Stage(
        source,
        Rewriter(model),
        context,
        stated or workloads_of(islice(held, SHAPES_SEEN), signature),
        held.synthetic and not stated,
        room,
        (*source.imported.remarks, *kept, *found),
        model_bytes(source.baseline),
    )


def _proposed(stage: _Stage, goal: Goal, pipeline: str | None) -> Proposed:
    """What policy proposes, or the user; the lossless clean-up where nothing is."""
    if pipeline is not None:
        return Proposed((Proposal(pipeline, "as asked for"),))
    found = propose(
        stage.rewriter.model,
        stage.target,
        calibrated=stage.context.calibrated,
        goal=goal,
        workloads=stage.workloads,
    )
    if found.proposals:
        return found
    alone = Proposal(LOSSLESS, "no technique suits this model, its data and its workload")
    return replace(found, proposals=(alone,))


def _outlook(proposal: Proposal, stage: _Stage, before: Run) -> Outlook:
    stage.context.progress.phase(f"rehearsing {proposal.pipeline}")
    mark = stage.rewriter.checkpoint()
    try:
        done = rehearse(proposal.pipeline, stage.rewriter, stage.context, lower=stage.room.fits)
        shown = runs_on_cpu(stage.target) and stage.room.weights <= MOST_WRITTEN
        kernels = kernels_of(done, stage.context.threads) if shown else {}
        made, after = None, Run(None, "unknown", "the model is too large to be rehearsed here")
        if done.model is not None:
            with without_implied_origins(done.model):
                made = foreseen(done.model, stage.target, stage.context.calibrated)
            after = run_time(made, stage.target, stage.workloads, stage.context.threads)
        return Outlook(
            proposal.pipeline,
            proposal.technique,
            proposal.reason,
            site_plans(done, kernels),
            _size(made, done, stage),
            before_and_after(before, after),
            _notes(done),
        )
    finally:
        stage.rewriter.rollback(mark)
        stage.rewriter.tidy()


def _size(made: ir.Model | None, done: Rehearsal, stage: _Stage) -> Size:
    if made is not None:
        with without_implied_origins(made):
            return Size(stage.bytes_before, saved_bytes(made), "lowered")
    saved = sum(c.saving for held in done.skipped.values() for c in held)
    return Size(stage.bytes_before, stage.bytes_before - saved, "savings")


def _notes(done: Rehearsal) -> tuple[str, ...]:
    """Lossless steps at single sites, by pass, and what passes noted."""
    if done.model is None:
        return ()
    moves = [f"{name} at {len(held)} sites" for name, held in done.skipped.items() if held]
    notes = [r.sentence for r in done.remarks if r.kind == "note"]
    return tuple(dict.fromkeys([*moves, *notes]))


def _idle(outlook: Outlook) -> Aside:
    sentence = "it would take no site: see what the passes say of each with --passes"
    return Aside(outlook.technique, "model", "no-site-taken", sentence, outlook.pipeline)


def _planned(
    stage: _Stage,
    proposed: Proposed,
    outlooks: tuple[Outlook, ...],
    goal: Goal,
    given: bool,
) -> Planned:
    target, aside = stage.target, list(proposed.aside)
    useful = tuple(outlook for outlook in outlooks if outlook.taken)
    if useful:
        aside += [_idle(outlook) for outlook in outlooks if not outlook.taken]
    backend = compiles(target)
    why = not_the_target(target) if backend.supported else backend.sentence
    return Planned(
        model=stage.source.label,
        target=target.name,
        resolved=target.resolved or target.name,
        goal=goal,
        workloads=stage.workloads,
        generated=stage.generated,
        executable=not why and stage.room.fits,
        compilable=backend.supported,
        why_not="; ".join(filter(None, [why, "" if stage.room.fits else stage.room.shortage])),
        outlooks=useful or outlooks,
        aside=tuple(aside),
        remarks=stage.remarks,
        given=given,
        threads=stage.context.threads,
    )
