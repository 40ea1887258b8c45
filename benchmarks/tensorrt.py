"""Models compiled for NVIDIA GPUs through TensorRT, as far as that can be told without a GPU.

Of each artifact: what the rules of ``planish targets check`` find on ``model.onnx``, ONNX's full
check, whether ``verify.py`` passes, and the task's metric with ``reference.onnx`` beside the
original's. No engine is built and nothing is timed.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

import planish
from benchmarks.artifacts import MODEL, compile_to, megabytes, session_run
from benchmarks.data import calibration_feeds, minilm_task, tasks
from benchmarks.figures import Figure, Outcome, at_most, holds
from benchmarks.settings import Settings
from planish.ir.load import load_as_written
from planish.targets.loader import load_target
from planish.targets.rules.table import check_model

MOST_DROP = 0.5
"""Points of the metric, or percent of it where it is no percentage."""
SAMPLES = 128
"""Of calibration data; MiniLM has the draw that its other benchmarks start with."""
INT8, HALF, FP8 = (
    "canonicalize,quantize{scheme=static}", "canonicalize", "canonicalize,quantize-float8"
)  # fmt: skip
FORMS = (
    ("nvidia-a100", "int8", INT8),
    ("nvidia-a100", "float16", HALF),
    ("nvidia-h100", "fp8", FP8),
)
NO_GATE = "cosine=0.5"
"""All layers stay quantized: the task's own metric is what is asked here."""
TASKS = (
    "minilm", "resnet20", "resnet56", "tsp20", "tsp50", "stories260k", "squeezenet", "yolox_nano"
)  # fmt: skip
PERCENT = frozenset({"minilm", "resnet20", "resnet56", "squeezenet", "yolox_nano"})
"""Tasks whose metric is in percent, so that points can be told."""


@dataclass(frozen=True)
class Scored:
    """One task in one form: its metric before and after, and what the checks found."""

    task: str
    target: str
    form: str
    metric: str
    before: float
    after: float
    drop: float
    megabytes: tuple[float, float]
    findings: tuple[str, ...]
    valid: str
    verified: bool
    verdict: str
    left: str


def everything(settings: Settings) -> Outcome:
    """MiniLM, ResNets, TSP encoders, stories260K, SqueezeNet and YOLOX for TensorRT."""
    names = [name for name in TASKS if not settings.tasks or name in settings.tasks]
    found = [each for name in names for each in scored(name, settings)]
    return Outcome(
        f"{len(names)} tasks in {len(FORMS)} forms for TensorRT, scored with reference.onnx on the "
        "CPU; no engine was built",
        ("task", "target", "form", "metric", "float", "compiled", "drop", "MB", "rules", "verdict"),
        tuple(map(row, found)),
        tuple(figure for each in found for figure in figures(each)),
    )


def scored(name: str, settings: Settings) -> list[Scored]:
    """One task in every form."""
    made_by = minilm_task if name == "minilm" else tasks().TASKS[name]
    task = made_by(settings.workdir)
    before = task.baseline[task.metric]
    made = [compiled(name, task, before, *form, settings) for form in FORMS]
    gc.collect()
    return made


def compiled(
    name: str, task: Any, before: float, target: str, form: str, pipeline: str, settings: Settings
) -> Scored:
    """Compile as asked, without giving sites back, and score what stands for the engine."""
    folder = settings.workdir / f"tensorrt-{name}-{form}"
    print(f"{name}, {form} …", file=sys.stderr, flush=True)
    data = calibration_feeds(0) if name == "minilm" else task.calibration(SAMPLES)
    made = compile_to(
        folder, task.model, target, data, settings.threads, pipeline=pipeline, max_drift=NO_GATE
    )
    after = task.evaluate(session_run(made.runnable, settings.threads)).metrics[task.metric]
    drop = (before - after) if task.higher_is_better else (after - before)
    drop = drop if name in PERCENT else 100.0 * drop / abs(before)
    sizes = (megabytes(task.model), megabytes(folder / MODEL))
    return Scored(
        name, target, form, task.metric, before, after, drop, sizes, broken(folder, target),
        invalid(folder), verifies(folder), made.verdict.split(", not run")[0], given_back(made),
    )  # fmt: skip


def broken(folder: Path, target: str) -> tuple[str, ...]:
    """Ids of the rules that the typed model breaks."""
    found = check_model(load_as_written(folder / MODEL), load_target(target))
    return tuple(sorted({each.rule for each in found if each.severity != "note"}))


def invalid(folder: Path) -> str:
    """What ONNX's checker says of the typed model with shapes inferred; "" for nothing."""
    try:
        onnx.checker.check_model(str(folder / MODEL), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error).strip().partition("\n")[0]
    return ""


def verifies(folder: Path) -> bool:
    """Whether the artifact's own self-test passes."""
    words = [sys.executable, str(folder / "verify.py")]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def given_back(made: planish.Artifact) -> str:
    """How many sites were left as they were to hold the default gate."""
    count = sum(len(sites) for sites in made.manifest["plan"]["given_back"].values())
    return f"{count} given back" if count else ""


def row(one: Scored) -> tuple[str, ...]:
    """One line of the table."""
    return (
        one.task, one.target, one.form, one.metric, f"{one.before:.4g}", f"{one.after:.4g}",
        f"{one.drop:+.2f}", f"{one.megabytes[0]:.1f} -> {one.megabytes[1]:.1f}",
        ", ".join(one.findings) or "silent", "; ".join(filter(None, (one.verdict, one.left))),
    )  # fmt: skip


def figures(one: Scored) -> Sequence[Figure]:
    """Quality, and that nothing objects."""
    name = f"{one.task}, {one.form} for {one.target}"
    unit = "points" if one.task in PERCENT else "%"
    sound = not one.findings and not one.valid and one.verified
    note = one.valid or ", ".join(one.findings)
    return (
        at_most(f"{name}: drop of {one.metric}", one.drop, MOST_DROP, unit, one.left),
        holds(f"{name}: rules, onnx.checker and verify.py", sound,
              "silent" if sound else "findings", "silent", note),
    )  # fmt: skip
