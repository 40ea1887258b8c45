"""Put together what a compile found out."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.counting.count import parameters
from ..ir.digest import contents_digest, file_digest, structure_digest
from ..ir.load import load_model
from ..ir.provenance import Remark
from ..ir.signature import Signature
from ..passes.api import Semantics, pass_class
from ..passes.registry import is_own
from ..targets.host import read_machine
from ..targets.schema import Target
from .backends.pairsums import integer_layers
from .backends.tensorrt.presence import how_to_build, typed_runs
from .backends.tensorrt.versions import least_version
from .calibration.coverage import coverage, static_ranges
from .choose import Choice
from .context import head
from .elsewhere import reference_runtime, sums_of
from .giving_back import dear, disproportionate
from .manager import FAILED
from .pipeline import parse
from .planning.times import run_time
from .policy import has_figures
from .prepare import Prepared
from .quality.states import one_step_note
from .reporting.unreached import unreached
from .result import CompileResult, Engine, Kernels, Plan, Provider, Sample, Speed
from .stages import Stage, emitted
from .userpasses import source_digest
from .workshop import MODEL, REFERENCE, Build, Judged

OWN_BOUND = (
    "; a looser bound (--max-drift cosine=0.9) or a metric of your own (--evaluate) may allow more"
)
SAMPLES = 3
SAMPLE_ROWS = 2
PACKAGES = ("planish", "onnxruntime", "onnx", "onnx-ir", "numpy", "torch")


@dataclass(frozen=True)
class Finished:
    """The model that is handed over, and the choices that led to it.

    why_float: where one reason holds for all layers that no pass spoke of. refused: what the
    quantized models that were not chosen left float, and why.
    """

    judged: Judged
    choice: Choice | None
    spellings: tuple[str, ...]
    speed: Speed
    notes: tuple[str, ...] = ()
    why_float: str = ""
    refused: tuple[Remark, ...] = ()


def describe(
    finished: Finished, prepared: Prepared, kernels: Kernels, folder: Path, seconds: float
) -> CompileResult:
    """The result of a compile, from what was measured on the way."""
    build, request = finished.judged.build, prepared.request
    target = request.target
    samples = _samples(finished.judged, prepared)
    provider = _provider(build, samples, target)
    sums = sums_of(build.model, target)
    return CompileResult(
        source=prepared.source.label,
        target=target.name,
        resolved_target=target.resolved or target.name,
        goal=request.goal,
        speed=finished.speed,
        quality=replace(finished.judged.quality, coverage=_coverage(finished, prepared)),
        kernels=kernels,
        plan=Plan(build.pipeline, build.given_back, finished.spellings),
        bytes_before=prepared.bytes_before,
        bytes_after=_bytes_of(folder),
        parameters_before=prepared.parameters_before,
        parameters_after=parameters(build.model),
        edits=build.edits,
        remarks=(*prepared.remarks, *build.remarks, *sums.remarks),
        trials=() if finished.choice is None else finished.choice.trials,
        digests=_digests(finished, prepared),
        environment=_environment(),
        seconds={
            **{k: round(v, 3) for k, v in prepared.timing.seconds.items()},
            "total": round(seconds, 3),
        },
        peak_rss_bytes=_peak_rss(),
        run_on_target=prepared.timing_feeds is not None,
        not_on_target=prepared.elsewhere,
        reference_runtime=_reference(prepared),
        shortfall=_shortfall(build, request.pipeline is not None),
        session_options=_session_options(build, target),
        notes=_notes(finished, prepared, sums.sentence),
        command=request.command,
        samples=samples,
        tolerance=_tolerance(samples),
        settings={"threads": request.threads, "seed": request.seed, "goal": request.goal},
        memory=_memory(prepared),
        engine=_engine(finished.judged, prepared, provider),
        provider=provider,
        reference_model="" if build.twin is None else REFERENCE,
        stages=_stages(build, prepared, folder),
    )


def _stages(build: Build, prepared: Prepared, folder: Path) -> tuple[Stage, ...]:
    """Those of the build with their predicted time, what is handed over last."""
    whole, times = prepared.estimate.fits, dict[str, float | None]()
    stages = emitted(build.stages, build.model, MODEL, build.edits, whole=whole)
    for stage in stages if has_figures(prepared.request.target) else ():
        if stage.file not in times:
            last = stage.file == MODEL
            model = build.model if last else load_model(folder / stage.file, lenient=True).model
            request = prepared.request
            run = run_time(model, request.target, prepared.workloads, request.threads)
            times[stage.file] = run.ms
    return tuple(replace(stage, predicted_ms=times.get(stage.file)) for stage in stages)


def _provider(build: Build, samples: Sequence[Sample], target: Target) -> Provider | None:
    """What was found of a model that something else stands for here; the backend adds the rest."""
    if build.twin is None:
        return None
    found = Provider(tolerance=_engine_tolerance(build, samples), checks=build.checks)
    own = target.runtime.name == "onnxruntime"
    return replace(found, min_version=target.runtime.min_version) if own else found


def _engine(judged: Judged, prepared: Prepared, provider: Provider | None) -> Engine | None:
    build, target = judged.build, prepared.request.target
    if provider is None or not prepared.workshop.backend.profiled:
        return None
    inputs = Signature.of(build.model).inputs
    return Engine(
        {name: vars(shapes) for name, shapes in prepared.profile.items()},
        "2:4" in (target.sparse.patterns or ()),
        least_version(build.path, target),
        build.checks,
        provider.tolerance,
        how_to_build(target),
        sum(not isinstance(size, int) for spec in inputs for size in spec.shape or ()),
        {name: vars(values) for name, values in prepared.values.items()},
    )


def _engine_tolerance(build: Build, samples: Sequence[Sample]) -> dict[str, float]:
    """How far an engine may be off: the distance of the compiled from the original model.

    Behind quantizers the least difference in half precision moves whole steps. Where ONNX Runtime
    runs the typed model, at least twice what was seen there; never below 1e-2 of the largest.
    """
    tolerance: dict[str, float] = {}
    runs = typed_runs(build.path)
    for sample in samples:
        own = runs(sample.feeds) if runs is not None else sample.outputs
        for name, after in sample.outputs.items():
            if after.dtype.kind != "f" or not after.size:
                continue
            apart = float(np.nanmax(np.abs(after - sample.original[name]), initial=0.0))
            seen = 2 * float(np.nanmax(np.abs(after - own[name]), initial=0.0))
            largest = float(np.nanmax(np.abs(after), initial=0.0))
            tolerance[name] = max(tolerance.get(name, 0.0), apart, seen, 1e-2 * largest)
    return tolerance


def _bytes_of(folder: Path) -> int:
    """Of the model with its weights; what only stands in for it here does not count."""
    files = (f for f in folder.iterdir() if f.is_file())
    return sum(f.stat().st_size for f in files if not f.name.startswith(REFERENCE))


def _memory(prepared: Prepared) -> dict[str, Any]:
    """The estimate, and what was checked on regions where no whole model was run."""
    found: dict[str, Any] = dict(prepared.estimate.to_json())
    regions = prepared.regions
    if regions is not None:
        found["regions"] = {
            "equal": regions.checked,
            "forms": len(regions.forms),
            "not_checked": dict(sorted(regions.left.items())),
        }
    return found


def _coverage(finished: Finished, prepared: Prepared) -> dict[str, float]:
    """Share of held-out values outside each calibrated range, beyond that of the calibration data
    itself (a range may clip on purpose); empty without static ranges."""
    floating, context = finished.judged.build.floating, prepared.workshop.context
    if floating is None or prepared.holdout.synthetic:
        return {}
    ranges = static_ranges(finished.judged.build.model)
    same = islice(context.feeds, len(prepared.holdout))
    held, known = (
        coverage(floating, ranges, feeds, context.masking, context.threads)
        for feeds in (prepared.holdout, same)
    )
    return {name: max(share - known.get(name, 0.0), 0.0) for name, share in held.items()}


def _shortfall(build: Build, asked: bool) -> str:
    """Which passes of a pipeline that the user gave did nothing, or had to give edits back."""
    parts = []
    for step in parse(build.pipeline) if asked and build.pipeline else ():
        if pass_class(step.name).semantics is not Semantics.LOSSY:
            continue
        made = sum(edit.pass_name == step.name for edit in build.edits)
        back = len(build.given_back.get(step.name, ()))
        if back:
            parts.append(f"{step.name} gave back {back} of {made + back}")
        elif not made:
            parts.append(f"{step.name} did nothing")
    return "; ".join(dict.fromkeys(parts))


def _reference(prepared: Prepared) -> str:
    ran_elsewhere = prepared.elsewhere and prepared.estimate.fits
    return reference_runtime() if ran_elsewhere else ""


def _session_options(build: Build, target: Target) -> tuple[str, ...]:
    """Those that the target's integer kernels want, where the model has any integer layer."""
    options = target.int8.session_options
    return options if options and any(True for _ in integer_layers(build.model)) else ()


def _notes(finished: Finished, prepared: Prepared, sums: str) -> tuple[str, ...]:
    build = finished.judged.build
    costly = disproportionate(build.remarks)
    given_back = sum(map(len, build.given_back.values())) - costly
    notes = [*finished.notes, *finished.judged.quality.apart]
    if costly:
        notes.append(dear(costly))
    if finished.judged.quality.warning:
        notes.append(finished.judged.quality.warning)
    for failed in (r for r in finished.judged.build.remarks if r.code == FAILED):
        notes.append(f"{failed.pass_name} failed and was left out: {failed.sentence}")
    if given_back:
        quality = finished.judged.quality
        own = "" if quality.rows else OWN_BOUND
        sites = f"{given_back} site{'s were' if given_back > 1 else ' was'} given back to float"
        notes.append(f"{sites} to hold the quality bound, {quality.gate}{own}")
    if prepared.timing_feeds is None:
        notes.append(f"not run on the target: {prepared.not_timed}")
    if sums:
        notes.append(sums)
    lossy = any(edit.loss is not None for edit in build.edits)
    if lossy and (single := one_step_note(Signature.of(build.model))):
        notes.append(single)
    if beyond := unreached(build.model, {remark.site for remark in build.remarks}):
        notes.append(beyond)
    return tuple(notes)


def _digests(finished: Finished, prepared: Prepared) -> dict[str, str]:
    target = json.dumps(prepared.request.target.to_json(), sort_keys=True, default=str)
    found = {
        "source": prepared.source.imported.file_digest or file_digest(prepared.source.baseline),
        **_model_digest(finished, prepared),
        "holdout": prepared.holdout.digest,
        "target": hashlib.blake2b(target.encode(), digest_size=16).hexdigest(),
    }
    if prepared.calibration is not None:
        found["calibration"] = prepared.calibration.digest
    return found | _pass_digests(finished.judged.build)


def _pass_digests(build: Build) -> dict[str, str]:
    """SHA-256 of the files in which passes are written that do not come with planish."""
    steps = parse(build.pipeline) if build.pipeline else ()
    others = [cls for step in steps if not is_own(cls := pass_class(step.name))]
    return {f"pass {cls.name}": source_digest(cls) for cls in others}


def _model_digest(finished: Finished, prepared: Prepared) -> dict[str, str]:
    """Of the structure alone where weights were only passed through: their files have digests."""
    model = finished.judged.build.model
    if prepared.estimate.fits:
        return {"model": contents_digest(model)}
    return {"model structure": structure_digest(model)}


def _environment() -> dict[str, str]:
    machine = read_machine()
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": machine.cpu or platform.machine(),
        **{name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _peak_rss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _samples(judged: Judged, prepared: Prepared) -> tuple[Sample, ...]:
    """A few held-out feeds, cut small, with both models' answers where these can be run."""
    if not prepared.estimate.fits:
        count = min(SAMPLES, len(prepared.holdout))
        return tuple(Sample(head(prepared.holdout, i, SAMPLE_ROWS), {}, {}) for i in range(count))
    original = prepared.workshop.judge.original
    made = []
    for index in range(min(SAMPLES, len(prepared.holdout))):
        feed = head(prepared.holdout, index, SAMPLE_ROWS)
        after = dict(zip(judged.session.output_names, judged.session.run(feed), strict=True))
        before = dict(zip(original.output_names, original.run(feed), strict=True))
        made.append(Sample(feed, after, before))
    return tuple(made)


def _tolerance(samples: Sequence[Sample]) -> dict[str, float]:
    """How far another machine may be off: half the distance to the original, at least 1e-3
    of the largest output."""
    tolerance: dict[str, float] = {}
    for sample in samples:
        for name, after in sample.outputs.items():
            if after.dtype.kind != "f" or not after.size:
                continue
            apart = float(np.nanmax(np.abs(after - sample.original[name]), initial=0.0))
            bound = max(0.5 * apart, 1e-3 * float(np.nanmax(np.abs(after), initial=0.0)))
            tolerance[name] = max(tolerance.get(name, 0.0), bound)
    return tolerance
