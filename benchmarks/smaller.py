"""Smaller shapes on MiniLM: what pruned heads and neurons, factors and dropped layers cost, and
what they are worth together with int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import planish
from benchmarks.artifacts import MODEL, compile_to, megabytes, session_run
from benchmarks.data import calibration_feeds, minilm_task
from benchmarks.figures import Figure, Outcome, at_least, at_most, interval
from benchmarks.minilm import SEEDS, Judge, Score, speed_feeds
from benchmarks.settings import Settings
from benchmarks.timing import alternate

NO_GATE = "cosine=0.1"
"""Edits are judged here, not given back."""


@dataclass(frozen=True)
class Case:
    """A pipeline. drop, cosine: bars on the medians of the draws, None where there is none."""

    name: str
    pipeline: str
    drop: float | None = None
    cosine: float | None = None


CASES = (
    Case("heads -25 %", "prune-heads{ratio=0.25}", 0.3, 0.975),
    Case("heads -50 %", "prune-heads{ratio=0.5}", 0.3, 0.935),
    Case("neurons -25 %", "prune-neurons{ratio=0.25}", None, 0.965),
    Case("neurons -50 %", "prune-neurons{ratio=0.5}", None, 0.92),
    Case("low rank, 80 % of the linear parameters",
         "low-rank{total=0.8 share=qkv gain=size exclude=*.attention.output.dense}", 0.3, 0.885),
    Case("one of six layers", "drop-layers"),
)  # fmt: skip
INT8 = "quantize{scheme=static}"
PARTS = (
    Case("neurons -50 %", "prune-neurons{ratio=0.5}"),
    Case("heads -25 %", "prune-heads{ratio=0.25 scope=layer}"),
    Case("int8", INT8),
    Case("all three", f"prune-neurons{{ratio=0.5}},prune-heads{{ratio=0.25 scope=layer}},{INT8}"),
)
LEAST_SPEED, LEAST_COSINE = 3.6, 0.87


def quality(settings: Settings) -> Outcome:
    """Spearman and embedding cosine of each technique alone, over three calibration draws."""
    judge = Judge(settings.split, minilm_task(settings.workdir).model, settings.threads)
    rows, figures = list[tuple[str, ...]](), list[Figure]()
    for case in CASES:
        scores = [judge.score(built(case, seed, settings).path / MODEL) for seed in SEEDS]
        size = megabytes(folder_of(case, SEEDS[-1], settings) / MODEL)
        rows.append((case.name, *texts(scores), f"{size:.1f}"))
        figures += judged(case, scores)
    return Outcome(
        f"MiniLM, STS-B {settings.split} (en), no training, median of {len(SEEDS)} draws of 512 "
        "calibration sentences",
        ("what goes", "Spearman %", "drop", "95 % of the first", "cosine", "lowest", "MB"),
        tuple(rows),
        tuple(figures),
    )


def speed(settings: Settings) -> Outcome:
    """Half the neurons, a quarter of the heads and int8: the parts and the whole, by turns."""
    task = minilm_task(settings.workdir)
    judge = Judge(settings.split, task.model, settings.threads)
    made = {case.name: built(case, 0, settings) for case in PARTS}
    scores = {name: judge.score(each.path / MODEL) for name, each in made.items()}
    runs = {"float32": session_run(task.model, settings.threads)}
    runs |= {n: session_run(each.path / MODEL, settings.threads) for n, each in made.items()}
    taken = alternate(runs, speed_feeds(), rounds=settings.rounds)
    ratios = {name: taken.speedup("float32", name) for name in made}
    whole = PARTS[-1].name
    return Outcome(
        f"MiniLM, sentences of STS-B by length, 32 a batch, {settings.threads} threads",
        ("what", "speed", "95 %", "cosine", "Spearman %", "MB"),
        tuple(
            (
                name, f"{ratios[name].value:.2f}x",
                interval(ratios[name].low, ratios[name].high), f"{scores[name].cosine:.4f}",
                f"{scores[name].spearman:.2f}", f"{megabytes(each.path / MODEL):.1f}",
            )
            for name, each in made.items()
        ),
        (
            at_least("MiniLM, smaller and int8, speed against float32", ratios[whole].value,
                     LEAST_SPEED, "x", interval(ratios[whole].low, ratios[whole].high)),
            at_least("MiniLM, smaller and int8, mean cosine", scores[whole].cosine, LEAST_COSINE),
        ),
        tuple(f"{name}: {each.verdict}" for name, each in made.items()),
    )  # fmt: skip


def folder_of(case: Case, seed: int, settings: Settings) -> Path:
    """Where the artifact lies."""
    name = "".join(c if c.isalnum() else "-" for c in case.pipeline)
    return settings.workdir / f"minilm-{name}-draw{seed}"


def built(case: Case, seed: int, settings: Settings) -> planish.Artifact:
    """MiniLM through the pipeline, with nothing given back."""
    return compile_to(
        folder_of(case, seed, settings), minilm_task(settings.workdir).model, settings.target,
        calibration_feeds(seed), settings.threads, pipeline=f"canonicalize,{case.pipeline}",
        max_drift=NO_GATE, goal="size",
    )  # fmt: skip


def texts(scores: Sequence[Score]) -> tuple[str, ...]:
    """Cells of a table: medians, and the interval of the first draw."""
    cosines = [score.cosine for score in scores]
    return (
        f"{np.median([s.spearman for s in scores]):.2f}",
        f"{np.median([s.drop for s in scores]):+.2f}",
        f"{scores[0].low:+.2f} … {scores[0].high:+.2f}",
        f"{np.median(cosines):.4f}", f"{min(cosines):.4f}",
    )  # fmt: skip


def judged(case: Case, scores: Sequence[Score]) -> list[Figure]:
    """The bars of a case."""
    drop, cosine = (float(np.median([getattr(s, n) for s in scores])) for n in ("drop", "cosine"))
    found = list[Figure]()
    if case.drop is not None:
        name = f"MiniLM, {case.name}: Spearman drop"
        found.append(at_most(name, drop, case.drop, "points"))
    if case.cosine is not None:
        found.append(at_least(f"MiniLM, {case.name}: mean cosine", cosine, case.cosine))
    return found
