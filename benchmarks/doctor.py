"""Models that disappoint: the first cause that doctor names, its fix applied and measured.

Five models as users bring them, each with one true cause: static int8 MiniLM by onnxruntime's
defaults, the same as integer operators of two signed operands, int8 Gemm layers with float biases,
weights stored as torch stores them, and a ResNet saved at ORT_ENABLE_ALL. Doctor must name that
cause first; then its fix is applied, and accuracy or time must move as it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import planish
from benchmarks import doctor_models as made
from benchmarks.artifacts import session_run
from benchmarks.data import Feeds, calibration_feeds, minilm_task, sentence_feeds, tasks
from benchmarks.figures import Figure, Outcome, above, at_least, holds, interval
from benchmarks.minilm import Judge
from benchmarks.settings import Settings
from benchmarks.timing import Ratio, alternate
from planish.targets.census import runtime_census

ROWS, WIDTH = 16, 512
TIMED = 4
WANTED = {
    "static MiniLM, tool's defaults": "softmax-range-blown",
    "MiniLM, signed integer operators": "signed-products",
    "int8 Gemm, float biases": "bias-output-unquantized",
    "int8 weights stored [N, K]": "weight-only-transposed",
    "ResNet-56, saved at ORT_ENABLE_ALL": "machine-specific-file",
}
MIN_GAIN = 1.5
"""Times that a fix of something slow must speed the model up; the causes cost 2 to 100 times."""
LEAST_REGAINED = 30.0
"""Points of Spearman's correlation that come back with the mask's range."""


@dataclass(frozen=True)
class Patient:
    """A model with what it is profiled on. broken, mended: files."""

    name: str
    broken: Path
    feeds: Sequence[Feeds]
    mended: Path | None = None


def doctor(settings: Settings) -> Outcome:
    """Five disappointing models: the first cause named, and what its fix brings."""
    folder = settings.workdir / "doctor"
    folder.mkdir(parents=True, exist_ok=True)
    treated = [treat(patient, settings) for patient in patients(folder, settings)]
    return Outcome(
        f"doctor on five models that disappoint, {settings.threads} threads",
        ("model", "first cause", "share of the run", "ms before", "ms mended", "speed"),
        tuple(row for row, _ in treated),
        tuple(figure for _, figures in treated for figure in figures),
        ("mended by `planish doctor --fix`; the ResNet by going back to the model that was saved "
         "and quantizing that",),
    )  # fmt: skip


def treat(patient: Patient, settings: Settings) -> tuple[tuple[str, ...], list[Figure]]:
    """The row of one model, and its figures."""
    name, wanted = patient.name, WANTED[patient.name]
    mended = patient.mended or patient.broken.with_name(f"{patient.broken.stem}-fixed.onnx")
    fix = None if patient.mended else mended
    if fix is not None:
        fix.unlink(missing_ok=True)
    asked: dict[str, Any] = {
        "calibration": patient.feeds,
        "threads": settings.threads,
        "progress": False,
    }
    found = planish.doctor(patient.broken, fix=fix, **asked)
    after = planish.doctor(mended, **asked)
    first = found.causes[0]
    left = [cause.rule for cause in after.causes if cause.severity != "note"]
    before, now, ratio = timed(patient, mended, settings)
    share = "–" if first.share is None else f"{first.share:.0%}"
    row = (name, first.rule, share, f"{before:.3g}", f"{now:.3g}", f"{ratio.value:.2f}x")
    return row, [
        holds(f"{name}: first cause", first.rule == wanted, first.rule, wanted),
        holds(f"{name}: mended, the cause is gone", wanted not in left,
              ", ".join(left) or "healthy", f"no {wanted}"),
        *confirmed(patient, mended, ratio, settings),
    ]  # fmt: skip


def confirmed(patient: Patient, mended: Path, ratio: Ratio, settings: Settings) -> list[Figure]:
    """Whether the fix brought what the cause had cost."""
    name, cause = patient.name, WANTED[patient.name]
    if cause != "softmax-range-blown":
        said = interval(ratio.low, ratio.high)
        faster = [above(f"{name}: mended, faster", ratio.value, MIN_GAIN, "x", said)]
        return faster if cause != "machine-specific-file" else [*faster, not_quantized(patient)]
    judge = Judge(settings.split, minilm_task(settings.workdir).model, settings.threads)
    before, after = judge.score(patient.broken), judge.score(mended)
    regained = after.spearman - before.spearman
    note = f"{before.spearman:.2f} before, {after.spearman:.2f} mended"
    return [
        at_least(f"{patient.name}: mended, Spearman regained", regained, LEAST_REGAINED,
                 "points", note),
    ]  # fmt: skip


def not_quantized(patient: Patient) -> Figure:
    """That onnxruntime's own tool makes nothing of what its optimiser has saved."""
    output = patient.broken.with_name("resnet56-all-static.onnx")
    try:
        made.static(patient.broken, output, patient.feeds, **made.PAIRS)
        rows = runtime_census(output).kernels
        found = f"{sum(row.integer for row in rows)} of {len(rows)} layers"
    except ValueError as error:
        found = f"it fails: {error}"
    name = f"{patient.name}: quantize_static on what was saved"
    return holds(name, found.startswith(("0 of", "it fails")), found[:100], "no layer")


def timed(patient: Patient, mended: Path, settings: Settings) -> tuple[float, float, Ratio]:
    """Milliseconds a feed of both, by turns, and how many times faster the mended one is."""
    files = {"before": patient.broken, "mended": mended}
    runs = {name: session_run(path, settings.threads) for name, path in files.items()}
    feeds = list(patient.feeds)[:TIMED]
    taken = alternate(runs, feeds, rounds=settings.rounds)
    each = [1e3 * taken.median(name) / len(feeds) for name in files]
    return each[0], each[1], taken.speedup("before", "mended")


def patients(folder: Path, settings: Settings) -> list[Patient]:
    """The five, made anew."""
    minilm = minilm_task(settings.workdir).model
    draw = calibration_feeds(0)[:4]
    sentences = sentence_feeds(tasks().stsb("en", "dev")[0][:64], 16)
    rows = made.row_feeds(ROWS, WIDTH)
    around = made.around_softmax(minilm)
    return [
        Patient("static MiniLM, tool's defaults",
                made.static(minilm, folder / "minilm-static.onnx", draw), sentences),
        Patient("MiniLM, signed integer operators",
                made.static(minilm, folder / "minilm-signed.onnx", draw,
                            nodes_to_exclude=around, **made.SIGNED), sentences),
        Patient("int8 Gemm, float biases",
                made.with_biases(folder / "biases.onnx", int32=False, width=WIDTH), rows),
        Patient("int8 weights stored [N, K]",
                made.weights_only(folder / "weights.onnx", turned=True, width=WIDTH),
                made.row_feeds(1, WIDTH)),
        resnet(folder, settings),
    ]  # fmt: skip


def resnet(folder: Path, settings: Settings) -> Patient:
    """ResNet-56 as the runtime saved it, and the original quantized: of what was saved the tool
    quantizes nothing, or fails."""
    task = tasks().TASKS["resnet56"](settings.workdir)
    feeds = list(task.calibration(64))
    saved = made.optimised(task.model, folder / "resnet56-all.onnx")
    quantized = made.static(task.model, folder / "resnet56-static.onnx", feeds, **made.PAIRS)
    return Patient("ResNet-56, saved at ORT_ENABLE_ALL", saved, feeds, quantized)
