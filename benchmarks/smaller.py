"""Smaller shapes on MiniLM: what pruned heads and neurons, factors and dropped layers cost, and
what they are worth together with int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import planish
from benchmarks.artifacts import MODEL, compiled, megabytes, session_run
from benchmarks.data import calibration_feeds, held_out_feeds, minilm_task
from benchmarks.figures import Figure, Outcome, at_least, at_most, interval
from benchmarks.minilm import SEEDS, Judge, Score, speed_feeds
from benchmarks.settings import Settings
from benchmarks.shapes import as_planned
from benchmarks.timing import Ratio, alternate

NO_GATE = "cosine=0.1"
"""Edits are judged here, not given back."""
LEEWAY = 0.005
"""Of the bars on the cosine: between draws, and between kernels."""
SIZES = {"batch": 32, "sequence": 32}
"""For which operations are counted."""


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
    Case("neurons -50 %", "prune-neurons{ratio=0.5 scope=global}", None, 0.92),
    Case("low rank, 80 % of the linear parameters", "low-rank{total=0.8 share=qkv gain=size}",
         0.3, 0.885),
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
    original = minilm_task(settings.workdir).model
    judges = {
        language: Judge(settings.split, original, settings.threads, language=language)
        for language in (("en", "de", "zh") if settings.split == "test" else ("en",))
    }
    rows, figures, notes = list[tuple[str, ...]](), list[Figure](), list[str]()
    for case in CASES:
        made = [built(case, seed, settings) for seed in SEEDS]
        scores = {
            language: [judge.score(each.path / MODEL) for each in made]
            for language, judge in judges.items()
        }
        size = f"{megabytes(made[-1].path / MODEL):.1f}"
        rows += [(case.name, name, *texts(found), size) for name, found in scores.items()]
        figures += judged(case, scores["en"])
        figures.append(as_planned(f"MiniLM, {case.name}", original, made[0], SIZES))
        notes += apart(case, scores)
    return Outcome(
        f"MiniLM, STS-B {settings.split}, no training, median of {len(SEEDS)} draws of 512 English "
        "calibration sentences",
        ("what goes", "slice", "Spearman %", "drop", "95 % of the first", "cosine", "lowest", "MB"),
        tuple(rows),
        tuple(figures),
        tuple(notes),
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
    rows = [part(name, each, ratios[name], scores[name]) for name, each in made.items()]
    return Outcome(
        f"MiniLM, sentences of STS-B by length, 32 a batch, {settings.threads} threads",
        ("what", "speed", "95 %", "cosine", "Spearman %", "MB"),
        tuple(rows),
        (*worth(ratios, scores), *shapes_of(made, task.model)),
        tuple(f"{name}: {each.verdict}" for name, each in made.items()),
    )


def part(name: str, made: planish.Artifact, ratio: Ratio, score: Score) -> tuple[str, ...]:
    """One line of the table of speeds."""
    return (
        name, f"{ratio.value:.2f}x", interval(ratio.low, ratio.high), f"{score.cosine:.4f}",
        f"{score.spearman:.2f}", f"{megabytes(made.path / MODEL):.1f}",
    )  # fmt: skip


def worth(ratios: Mapping[str, Ratio], scores: Mapping[str, Score]) -> list[Figure]:
    """The bars of the whole, and that each cut alone is faster than the float model."""
    *cuts, whole = (case.name for case in PARTS)
    one = ratios[whole]
    faster = [
        at_least(f"MiniLM, {name}: the lower bound of its speed against float32", ratios[name].low,
                 1.0, "x", f"{ratios[name].value:.3g}x")
        for name in cuts
    ]  # fmt: skip
    return [
        at_least("MiniLM, smaller and int8, speed against float32", one.value, LEAST_SPEED, "x",
                 interval(one.low, one.high)),
        at_least("MiniLM, smaller and int8, mean cosine", scores[whole].cosine, LEAST_COSINE,
                 note=f"tolerance {LEEWAY}"),
        *faster,
    ]  # fmt: skip


def shapes_of(made: Mapping[str, planish.Artifact], original: Path) -> list[Figure]:
    """Of all artifacts with cuts; int8 ones look up embeddings in other ways, cut or not."""
    int8 = made["int8"].path / MODEL
    return [
        as_planned(f"MiniLM, {case.name}", original, made[case.name], SIZES,
                   int8 if INT8 in case.pipeline else None)
        for case in PARTS
        if "prune" in case.pipeline
    ]  # fmt: skip


def folder_of(case: Case, seed: int, settings: Settings) -> Path:
    """Where the artifact lies."""
    name = "".join(c if c.isalnum() else "-" for c in case.pipeline)
    return settings.workdir / f"minilm-{name}-draw{seed}"


def built(case: Case, seed: int, settings: Settings) -> planish.Artifact:
    """MiniLM through the pipeline, calibrated with all of a draw, with nothing given back."""
    return compiled(
        folder_of(case, seed, settings), minilm_task(settings.workdir).model,
        calibration_feeds(seed), settings, holdout=held_out_feeds(seed),
        pipeline=f"canonicalize,{case.pipeline}", max_drift=NO_GATE, goal="size",
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
    """The bars of a case; on the cosine with its tolerance."""
    drop, cosine = (float(np.median([getattr(s, n) for s in scores])) for n in ("drop", "cosine"))
    found = list[Figure]()
    if case.drop is not None:
        name = f"MiniLM, {case.name}: Spearman drop"
        note = interval(scores[0].low, scores[0].high)
        found.append(at_most(name, drop, case.drop, "points", note))
    if case.cosine is not None:
        name, bar = f"MiniLM, {case.name}: mean cosine", case.cosine
        figure = at_least(name, cosine, bar, note=f"tolerance {LEEWAY}")
        found.append(replace(figure, met=cosine >= bar - LEEWAY))
    return found


def apart(case: Case, scores: Mapping[str, Sequence[Score]]) -> list[str]:
    """What is said of a language that falls or rises, in every draw, where English does not."""
    found = list[str]()
    for language, each in list(scores.items())[1:]:
        falls, rises = all(s.low > 0 for s in each), all(s.high < 0 for s in each)
        if falls or rises:
            word = "falls" if falls else "rises"
            bounds = "; ".join(f"{-s.drop:+.2f} ({-s.high:+.2f} to {-s.low:+.2f})" for s in each)
            english = float(np.median([-s.drop for s in scores["en"]]))
            found.append(
                f"{case.name}: {language} {word} in all draws, by {bounds}; en {english:+.2f}"
            )
    return found
