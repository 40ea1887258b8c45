"""From a request to a workshop: the model, the data, the baseline, the instruments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..ir.counting.count import parameters
from ..ir.errors import InputError, TargetError
from ..ir.importing.limits import check_sizes
from ..ir.provenance import Remark
from ..ir.rewriter import Rewriter
from ..ir.signature import Signature
from ..ir.storage.filesize import model_bytes
from ..ir.types.bound import symbols
from ..targets.schema import Target
from .backends.table import backend_for
from .backends.tensorrt.profiles import Profile, axes_of, parse_profile, profile_of, remarks_on
from .backends.tensorrt.shapeinputs import shape_inputs, split_given, values_of
from .baseline import check_generated, open_baseline, own_file, undivided
from .checking.patterns import KeepsPatterns
from .checking.regionruns import RegionRuns
from .context import CompileContext
from .data.feeds import FeedSet, available_memory
from .data.usercode import load_function
from .elsewhere import not_the_target
from .instruments import (
    Bisect,
    Instrument,
    RegionCheck,
    Reproducer,
    Snapshots,
    Timing,
    VerifyEach,
)
from .intake import (
    SHAPES_SEEN,
    TIMING_FEEDS,
    feeds_for,
    masking_of,
    opsets_for,
    raised_for_integers,
)
from .memory import Estimate, estimate
from .policy import Goal
from .ports import check_ports
from .progress import Progress
from .quality.drift import DriftGate
from .quality.judge import Judge
from .quality.outputs import output_kinds
from .quality.scores import Budget
from .reporting.standing import standing
from .source import Source, resolve_source
from .spill import SpillingRewriter
from .stages import Recorder
from .workload import Workload, parse_workloads, workloads_of
from .workshop import Workshop


@dataclass(frozen=True)
class Request:
    """What the user asked for; see ``driver.compile_model``."""

    source: Any
    target: Target
    example_inputs: Any
    dynamic_shapes: Any
    goal: Goal
    pipeline: str | None
    calibration: Any
    holdout: Any
    token_mask: str | None
    evaluate: Callable[..., Any] | str | None
    max_drop: str | float | None
    max_drift: str | None
    threads: int
    keep_overridable: bool
    seed: int
    bisect_limit: int | None
    snapshots: Path | None
    output: Path
    command: str
    max_memory: str | int | float | None = None
    workload: str | Sequence[str] | None = None
    profile: str | None = None
    keep_stages: bool = False


@dataclass(frozen=True)
class Prepared:
    """Everything a compile works with. timing_feeds: None where nothing can be timed.

    estimate: of memory; where the whole model does not fit, none is run, and ``regions`` tells
    what was checked instead. workloads: as given, else the shapes of the held-out feeds.
    elsewhere: why this machine is not the target, "" where it is. profile: the shapes of inputs
    that an engine is built for, values: the numbers of those inputs that decide shapes, where the
    target's runtime builds one.
    """

    request: Request
    source: Source
    workshop: Workshop
    timing: Timing
    calibration: FeedSet | None
    holdout: FeedSet
    timing_feeds: list[dict[str, np.ndarray]] | None
    not_timed: str
    bytes_before: int
    parameters_before: int
    remarks: tuple[Remark, ...]
    estimate: Estimate
    regions: RegionRuns | None = None
    workloads: tuple[Workload, ...] = ()
    elsewhere: str = ""
    profile: Profile = field(default_factory=dict)
    values: Profile = field(default_factory=dict)


def prepare(request: Request, scratch: Path, progress: Progress) -> Prepared:
    """Import the model, check the data against it, open the baseline.

    Raises InputError for models and data that cannot be used, UsageError for options.
    """
    gate = None if request.max_drift is None else DriftGate.parse(request.max_drift)
    budget = None if request.max_drop is None else Budget.parse(request.max_drop)
    evaluate = request.evaluate
    if isinstance(evaluate, str):
        evaluate = load_function(evaluate)
    progress.phase("importing")
    source = resolve_source(
        request.source,
        request.example_inputs,
        request.dynamic_shapes,
        scratch / "source",
        keep_overridable=request.keep_overridable,
    )
    check_sizes(source.imported.model, available_memory(), source.label)
    signature = Signature.of(source.imported.model)
    check_ports(signature, source.label)
    model, kept = raised_for_integers(source.imported.model, opsets_for(request.target))
    workloads = parse_workloads(request.workload or (), symbols(model))
    calibration, holdout = feeds_for(
        model, signature, request.calibration, request.holdout, workloads, request.seed
    )
    room = estimate(model, request.max_memory, islice(holdout, TIMING_FEEDS))
    progress.note(room.sentence)
    _refuse_data(request, room)
    values = _shape_values(request, model, (calibration, holdout))
    profile, chosen = _profile(request, signature, (calibration, holdout), workloads, room, values)
    masking, found = masking_of(model, signature, calibration or holdout, request.token_mask)
    remarks = [*chosen, *source.imported.remarks, *standing(model), *kept, *found]
    mended: list[Remark] = []
    if room.fits:
        original, mended = open_baseline(source, request.threads, scratch)
        remarks += mended
        check_generated(original, holdout)
        holdout = undivided(original, holdout)
        calibration = None if calibration is None else undivided(original, calibration)
    context = CompileContext(
        request.target,
        model,
        calibration or holdout,
        calibration is not None,
        masking,
        request.threads,
        progress,
        limit=None if room.fits else room.limit,
    )
    timing = Timing()
    judge, regions = None, None
    if room.fits:
        judge = Judge(
            original,
            holdout,
            output_kinds(model.graph.outputs),
            masking.input if masking else None,
            evaluate,
            budget,
            gate,
            request.seed,
        )
    else:
        regions = RegionRuns(limit=room.limit, seed=request.seed)
    rewriter = Rewriter(model) if room.fits else SpillingRewriter(model, scratch / "weights")
    workshop = Workshop(
        rewriter,
        context,
        _instruments(request, signature, timing, regions or RegionCheck()),
        judge,
        scratch / "builds",
        None if mended else own_file(source, request.target),
        Recorder(request.keep_stages, room.fits),
    )
    elsewhere = not_the_target(request.target)
    feeds = None if elsewhere or not room.fits else _timing_feeds(holdout)
    return Prepared(
        request,
        source,
        workshop,
        timing,
        calibration,
        holdout,
        feeds,
        elsewhere if room.fits else room.shortage,
        model_bytes(source.baseline),
        parameters(source.imported.model),
        tuple(remarks),
        room,
        regions,
        workloads or workloads_of(islice(holdout, SHAPES_SEEN), signature),
        elsewhere,
        profile,
        values,
    )


def _profile(
    request: Request,
    signature: Signature,
    feeds: tuple[FeedSet | None, FeedSet],
    workloads: tuple[Workload, ...],
    room: Estimate,
    values: Profile,
) -> tuple[Profile, list[Remark]]:
    """What an engine is built for, and what is said of it. Raises UsageError where shapes are
    unknown, TargetError where the model cannot be run here and the backend checks what it makes
    on whole models."""
    backend = backend_for(request.target)
    axes, _ = split_given(request.profile, values)
    given = parse_profile(axes, axes_of(signature))
    if backend.whole and not room.fits:
        raise TargetError(
            f"artifacts for {backend.label} are checked by running the whole model: {room.reason}",
            where=f"target {request.target.name}",
            hint="give more with --max-memory, or use a larger machine",
        )
    if not backend.profiled:
        return {}, []
    sets = [f for f in feeds if f is not None]
    profile = profile_of(signature, sets, workloads, given)
    return profile, remarks_on(signature, sets, workloads, given)


def _shape_values(
    request: Request, model: ir.Model, feeds: tuple[FeedSet | None, FeedSet]
) -> Profile:
    """The numbers of inputs that decide shapes, where an engine is built for a range of them.

    Raises UsageError where nobody knows them, TargetError where they cannot decide shapes.
    """
    if not backend_for(request.target).profiled:
        return {}
    _, given = split_given(request.profile, shape_inputs(model))
    return values_of(model, [feed_set for feed_set in feeds if feed_set is not None], given)


def _refuse_data(request: Request, room: Estimate) -> None:
    """What is only good for running the whole model is refused where that does not fit."""
    given = {
        "--calibration": request.calibration,
        "--holdout": request.holdout,
        "--evaluate": request.evaluate,
        "--max-drop": request.max_drop,
        "--max-drift": request.max_drift,
    }
    names = [name for name, value in given.items() if value is not None]
    if names and not room.fits:
        raise InputError(
            f"{', '.join(names)} cannot be used: {room.reason}",
            hint=f"leave {'it' if len(names) == 1 else 'them'} out for a compile without runs, "
            "give more with --max-memory, or use a larger machine",
        )


def _instruments(
    request: Request, signature: Signature, timing: Timing, check: Instrument
) -> list[Instrument]:
    reproducer = Reproducer(
        request.output.with_name(request.output.name + "-repro"),
        request.command,
        str(request.source) if isinstance(request.source, (str, Path)) else "",
    )
    checks: list[Instrument] = [VerifyEach(signature), KeepsPatterns(), check]
    instruments = [*checks, timing, reproducer]
    if request.snapshots is not None:
        instruments.append(Snapshots(request.snapshots))
    if request.bisect_limit is not None:
        instruments.append(Bisect(request.bisect_limit))
    return instruments


def _timing_feeds(holdout: FeedSet) -> list[dict[str, np.ndarray]]:
    """The first held-out feeds; more would only repeat the same shapes. All generated ones."""
    count = len(holdout) if holdout.synthetic else min(len(holdout), TIMING_FEEDS)
    return [holdout[i] for i in range(count)]
