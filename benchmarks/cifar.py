"""ResNet-20 and ResNet-56 on CIFAR-10: static int8, accuracy and speed against float."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.artifacts import MODEL, compile_to, kernel_rows, megabytes, session_run
from benchmarks.bootstrap import drop_interval
from benchmarks.data import Array, tasks
from benchmarks.figures import Figure, Outcome, above, at_most, holds, interval
from benchmarks.settings import Settings
from benchmarks.timing import alternate

CALIBRATION_IMAGES = 512
MAX_DROP = 0.5  # points of accuracy
TIMED_BATCH, TIMED_BATCHES = 32, 16


def resnet20(settings: Settings) -> Outcome:
    """ResNet-20: accuracy on 1,500 JPEG and 242 clean images, speed."""
    return resnet("resnet20", settings)


def resnet56(settings: Settings) -> Outcome:
    """ResNet-56: accuracy on 1,500 JPEG and 242 clean images, speed."""
    return resnet("resnet56", settings)


def resnet(name: str, settings: Settings) -> Outcome:
    """Compile with 512 images, the policy deciding; then accuracy, kernels and speed."""
    task = tasks().TASKS[name](settings.workdir)
    feeds = list(task.calibration(CALIBRATION_IMAGES))
    folder = settings.workdir / f"{name}-{settings.target}"
    made = compile_to(folder, task.model, settings.target, feeds, settings.threads)
    before = task.evaluate(session_run(task.model, settings.threads))
    after = task.evaluate(session_run(made.path / MODEL, settings.threads))
    runs = {
        "float32": session_run(task.model, settings.threads),
        "planish": session_run(made.path / MODEL, settings.threads),
    }
    taken = alternate(runs, feeds[:TIMED_BATCHES], rounds=settings.rounds)
    ratio = taken.speedup("float32", "planish")
    integer = kernel_rows(made.manifest, lambda row: bool(row["integer"]))
    layers = kernel_rows(made.manifest, lambda row: True)
    pipeline = str(made.manifest["plan"]["pipeline"])
    return Outcome(
        f"{name}, CIFAR-10, {settings.threads} threads, {TIMED_BATCH} images a batch",
        ("model", "clean242 %", "JPEG %", "ms a batch", "MB"),
        (
            row("float32", before, taken.median("float32"), megabytes(task.model)),
            row("planish", after, taken.median("planish"), megabytes(made.path / MODEL)),
        ),
        (
            accuracy(name, "clean", before, after),
            accuracy(name, "jpeg", before, after),
            holds(f"{name} is static int8", "scheme=static" in pipeline,
                  f"{len(integer)} of {len(layers)} layers integer", "static", pipeline),
            above(f"{name} speed against float32", ratio.value, 1.0, "x",
                  interval(ratio.low, ratio.high)),
        ),
        (made.verdict,),
    )  # fmt: skip


def row(name: str, scores: Any, seconds: float, size: float) -> tuple[str, ...]:
    """One line of the table. seconds: for all timed batches."""
    clean, jpeg = scores.metrics["top1"], scores.metrics["top1/jpeg"]
    return (
        name,
        f"{clean:.2f}",
        f"{jpeg:.2f}",
        f"{1000 * seconds / TIMED_BATCHES:.2f}",
        f"{size:.3f}",
    )


def accuracy(name: str, images: str, before: Any, after: Any) -> Figure:
    """The drop of accuracy on one slice, with its paired interval."""
    mask = before.slices[images]
    drop = paired_drop(before.per_sample[mask], after.per_sample[mask])
    count = int(mask.sum())
    low, high = drop_interval(drop, count)
    note = interval(low, high)
    return at_most(f"{name} accuracy drop on {count} {images} images", drop(np.arange(count)),
                   MAX_DROP, "points", note)  # fmt: skip


def paired_drop(before: Array, after: Array) -> Callable[[Array], float]:
    """The mean difference at given indices, of scores [n] in points."""
    difference = before - after
    return lambda index: float(difference[index].mean())
