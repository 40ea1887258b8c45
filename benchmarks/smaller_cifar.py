"""Smaller shapes on CIFAR-10: ResNet-20 and ResNet-56 with three tenths fewer operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import planish
from benchmarks.artifacts import MODEL, compiled, session_run
from benchmarks.bootstrap import drop_interval
from benchmarks.cifar import CALIBRATION_IMAGES, paired_drop
from benchmarks.data import Array, Feeds, tasks
from benchmarks.figures import Figure, Outcome, at_most, holds
from benchmarks.settings import Settings
from benchmarks.shapes import PICKING
from planish.ir.counting.count import SiteRow, site_table
from planish.ir.sites import find_sites
from planish.ir.types.bound import bound_shapes

SEEDS = (0, 1, 2)
DRAWN, BATCH = 384, 32
"""Images of one calibration draw, of 512; images of a feed."""
SHARE = 0.3
ALIKE = 0.02
"""By how much the operations that go may differ from ``SHARE``."""
NO_GATE = "cosine=0.05"
"""Edits are judged here, not given back."""
CUT = f"prune-channels{{ratio={SHARE} of=flops multiples=false"
WHOLE, PLAIN = "fitted in sequence", "magnitude"
CASES = {
    PLAIN: f"{CUT} scope=layer score=magnitude refit=false reestimate=false}}",
    "magnitude, re-estimated": f"{CUT} scope=layer score=magnitude refit=false}}",
    "refit": f"{CUT} sequential=false reestimate=false}}",
    "refit and re-estimated": f"{CUT} sequential=false}}",
    WHOLE: f"{CUT}}}",
    f"{WHOLE}, int8": f"{CUT}}},quantize{{scheme=static}}",
}
"""The default is fitted in sequence and re-estimated."""
IMAGES = ("clean", "jpeg")


@dataclass(frozen=True)
class Drop:
    """Points of accuracy that are lost on a slice, with the interval of 95 % over its images."""

    value: float
    low: float
    high: float


def resnet20(settings: Settings) -> Outcome:
    """ResNet-20, 30 % fewer operations: accuracy against magnitudes without a fit."""
    return resnet("resnet20", settings)


def resnet56(settings: Settings) -> Outcome:
    """ResNet-56, 30 % fewer operations: accuracy against magnitudes without a fit."""
    return resnet("resnet56", settings)


def resnet(name: str, settings: Settings) -> Outcome:
    """Every case over three calibration draws; a drop is the median of them."""
    task = tasks().TASKS[name](settings.workdir)
    before = task.evaluate(session_run(task.model, settings.threads))
    rows, drops, figures = list[tuple[str, ...]](), dict[str, dict[str, float]](), list[Figure]()
    for case in CASES:
        made = [built(task, case, seed, settings) for seed in SEEDS]
        scores = [task.evaluate(session_run(each.path / MODEL, settings.threads)) for each in made]
        found = {part: [drop_of(before, s, part) for s in scores] for part in IMAGES}
        drops[case] = {part: float(np.median([d.value for d in ds])) for part, ds in found.items()}
        gone = [operations(task.model, each.path / MODEL) for each in made]
        rows.append((case, f"{-100 * float(np.median(gone)):+.1f}", *cells(found)))
        if "int8" not in case:
            figures += [shapes(f"{name}, {case}", task.model, made[0], gone[0])]
    return Outcome(
        f"{name}, {100 * SHARE:.0f} % fewer operations, no training, median of {len(SEEDS)} draws "
        f"of {DRAWN} calibration images",
        ("what", "operations %", *(f"{part} {w}" for part in IMAGES for w in ("drop", "95 %"))),
        tuple(rows),
        (*(half(name, part, drops) for part in IMAGES), *figures),
    )


def built(task: Any, case: str, seed: int, settings: Settings) -> planish.Artifact:
    """The model through a pipeline, with nothing given back."""
    folder = settings.workdir / f"{task.name}-{'-'.join(case.replace(',', '').split())}-draw{seed}"
    return compiled(
        folder, task.model, list(draw(task, seed)), settings,
        pipeline=f"canonicalize,{CASES[case]}", max_drift=NO_GATE, goal="size",
    )  # fmt: skip


def draw(task: Any, seed: int) -> Iterator[Feeds]:
    """``DRAWN`` different images, in feeds of ``BATCH``."""
    pool: Array = np.concatenate([feed["x"] for feed in task.calibration(CALIBRATION_IMAGES)])
    chosen = np.random.default_rng(seed).permutation(len(pool))[:DRAWN]
    for start in range(0, DRAWN, BATCH):
        yield {"x": pool[chosen[start : start + BATCH]]}


def drop_of(before: Any, after: Any, part: str) -> Drop:
    """On the images of a slice, paired."""
    mask = before.slices[part]
    count = int(mask.sum())
    drop = paired_drop(before.per_sample[mask], after.per_sample[mask])
    return Drop(drop(np.arange(count)), *drop_interval(drop, count))


def cells(found: Mapping[str, Sequence[Drop]]) -> Iterator[str]:
    """By slice the median of the draws, and the interval of the first."""
    for drops in found.values():
        yield f"{np.median([drop.value for drop in drops]):+.2f}"
        yield f"{drops[0].low:+.2f} … {drops[0].high:+.2f}"


def half(name: str, part: str, drops: Mapping[str, Mapping[str, float]]) -> Figure:
    """The bar: at most half of what magnitudes lose."""
    bound = drops[PLAIN][part] / 2
    return at_most(f"{name}, {part} images: accuracy drop", drops[WHOLE][part], bound, "points",
                   f"magnitudes without a fit lose {drops[PLAIN][part]:.3g}")  # fmt: skip


# -- shapes ------------------------------------------------------------------------------


def layers(path: Path) -> tuple[dict[str, SiteRow], Counter[str]]:
    """Convolutions by name, on one image, and how many nodes there are of each operator."""
    model = ir.load(path)
    batch = {str(size): 1 for value in model.graph.inputs for size in value.shape or ()}
    table = site_table(find_sites(model), bound_shapes(model, batch))
    found = {row.name: row for row in table if row.kind == "conv"}
    return found, Counter(node.op_type for node in model.graph)


def operations(original: Path, made: Path) -> float:
    """The share of the operations of all convolutions that went."""
    before, after = (sum(row.flops or 0 for row in layers(p)[0].values()) for p in (original, made))
    return 1 - after / before


def shapes(name: str, original: Path, made: planish.Artifact, gone: float) -> Figure:
    """Every convolution has the channels that the manifest says, and nothing picks any."""
    (before, usual), (after, operators) = layers(original), layers(made.path / MODEL)
    wanted = {n: list(row.shape) for n, row in before.items()}
    for edit in made.manifest["edits"]:
        for group in edit["details"].get("groups", {}).values():
            maker, *readers = group["sites"]
            wanted[maker][0] = group["kept"]
            for reader in readers:
                wanted[reader][1] = group["kept"]
    wrong = [n for n, row in after.items() if tuple(wanted[n]) != row.shape]
    wrong += [op for op in PICKING if operators[op] > usual[op]]
    wrong += [] if abs(gone - SHARE) <= ALIKE else ["operations"]
    smaller = sum(row.shape != before[n].shape for n, row in after.items())
    text = f"{smaller} of {len(after)} convolutions smaller, operations {-100 * gone:+.1f} %"
    bar = f"as planned, {-100 * SHARE:+.0f} %, no Slice or Gather more"
    return holds(f"{name}: shapes", not wrong, text, bar, ", ".join(wrong))
