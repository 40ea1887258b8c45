"""Models compiled for ONNX Runtime's CUDA provider, as far as that can be told without a GPU.

Of each artifact: what the rules of ``planish targets check`` find on ``model.onnx``, ONNX's full
check, whether ``verify.py`` passes, the metric with ``reference.onnx`` beside that of the original,
and how near ``model.onnx`` itself, run by the CPU provider, is to the original. Nothing is timed.
"""

from __future__ import annotations

import gc
from itertools import islice

import planish
from benchmarks.artifacts import MODEL, session_run
from benchmarks.data import calibration_feeds, minilm_task, tasks
from benchmarks.figures import Figure, Outcome, at_most
from benchmarks.settings import Settings
from benchmarks.tensorrt import (
    MOST_DROP,
    NO_GATE,
    PERCENT,
    SAMPLES,
    Form,
    Scored,
    checked,
    made_for,
    row,
    sound,
)
from planish.compiler.quality.driftmeter import DriftMeter
from planish.targets.runtime import open_session

TARGET = "nvidia-a100-onnxruntime"
FORMS = (
    Form(TARGET, "cuda float16", "canonicalize"),
    Form(TARGET, "cuda int8 weights", "canonicalize,weight-only{bits=8}"),
    Form(TARGET, "cuda int4 weights", "canonicalize,weight-only", held=False),
)
"""4 bits are told as they come; convolutions have no kernel for weights of few bits."""
TASKS = (
    "minilm", "resnet20", "resnet56", "tsp20", "tsp50", "stories260k", "squeezenet", "yolox_nano"
)  # fmt: skip
FEEDS = 4


def everything(settings: Settings) -> Outcome:
    """MiniLM, ResNets, TSP encoders, stories260K, SqueezeNet and YOLOX for the CUDA provider."""
    rows, found = list[tuple[str, ...]](), list[Figure]()
    for name in TASKS:
        if settings.tasks and name not in settings.tasks:
            continue
        for form in FORMS:
            one, decibels = scored(name, form, settings)
            rows.append((*row(one), decibels))
            found += figures(one)
        gc.collect()
    return Outcome(
        f"{len(TASKS)} tasks in {len(FORMS)} forms for ONNX Runtime's CUDA provider, scored with "
        "reference.onnx on the CPU; nothing was run on a GPU",
        ("task", "target", "form", "metric", "before", "after", "drop", "MB", "in few bits",
         "given back", "rules", "model.onnx on the CPU, dB"),
        tuple(rows),
        tuple(found),
    )  # fmt: skip


def scored(name: str, form: Form, settings: Settings) -> tuple[Scored, str]:
    """One task in one form; and how near model.onnx itself is to the original."""
    print(f"{name}, {form.name} …", flush=True)
    task = (minilm_task if name == "minilm" else tasks().TASKS[name])(settings.workdir)
    data = list(calibration_feeds(0) if name == "minilm" else task.calibration(SAMPLES))
    made = made_for(form, name, task.model, data, settings, max_drift=NO_GATE)
    before = task.baseline[task.metric]
    after = task.evaluate(session_run(made.runnable, settings.threads)).metrics[task.metric]
    drop = (before - after) if task.higher_is_better else (after - before)
    drop = drop if name in PERCENT else 100.0 * drop / abs(before)
    found = checked(made, form.target, task.model.stat().st_size / 1e6)
    one = Scored(name, form, task.metric, before, after, drop, found)
    return one, nearness(made, task.model, data, settings.threads)


def nearness(made: planish.Artifact, original: object, data: list[object], threads: int) -> str:
    """SQNR of model.onnx against the original over some feeds, least of the outputs; or why not."""
    before = open_session(original, threads=threads)  # type: ignore[arg-type]
    meter = DriftMeter(before.output_names)
    try:
        after = open_session(made.path / MODEL, threads=threads)
        for feed in islice(data, FEEDS):
            meter.add(before.run(feed), after.run(feed))  # type: ignore[arg-type]
    except planish.PlanishError as error:
        return f"not run: {error.what[:60]}"
    known = [d.sqnr_db for d in meter.result().outputs if d.sqnr_db is not None]
    return f"{min(known):.1f}" if known else "–"


def figures(one: Scored) -> list[Figure]:
    """Quality, and that nothing objects."""
    name = f"{one.task}, {one.form.name}"
    unit = "points" if one.task in PERCENT else "%"
    quality = at_most(f"{name}: drop of {one.metric}", one.drop, MOST_DROP, unit)
    return [*([quality] if one.form.held else []), sound(name, one.checked)]
