"""all-MiniLM-L6-v2 on STS-B: quality over calibration draws, speed, kernels."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import planish
from benchmarks import peers
from benchmarks.artifacts import (
    MODEL,
    compile_to,
    float_layers,
    kernel_rows,
    megabytes,
    session_run,
)
from benchmarks.bootstrap import drop_interval
from benchmarks.data import Array, Feeds, Run, calibration_feeds, minilm_task, sentence_feeds, tasks
from benchmarks.figures import Figure, Outcome, at_least, at_most, holds, interval
from benchmarks.settings import Settings
from benchmarks.timing import Timings, alternate

SEEDS = (0, 1, 2)
LAYERS = 36  # query, key, value, output, up and down in six blocks
MAX_DROP, MIN_COSINE, MAX_MEGABYTES = 0.3, 0.985, 23.5
MIN_SPEEDUP, MIN_SPEEDUP_DYNAMIC = 2.6, 1.25


@dataclass(frozen=True)
class Score:
    """spearman: percent. drop: against the float model, with its 95 % interval. cosine: mean
    over sentences between the embeddings of both models."""

    spearman: float
    drop: float
    low: float
    high: float
    cosine: float


class Judge:
    """Scores models against the float model on the first ``pairs`` pairs of an STS-B split.

    language: en; on the test split de and zh, too.
    """

    def __init__(
        self,
        split: str,
        float_model: Path,
        threads: int,
        pairs: int | None = None,
        language: str = "en",
    ) -> None:
        first, second, gold = tasks().stsb(language, split)
        self.threads = threads
        self.sentences = first[:pairs] + second[:pairs]
        self.gold: Array = gold[:pairs]
        self.reference = self.embed(session_run(float_model, threads))

    def embed(self, run: Run) -> Array:
        """Unit-length embeddings [2 * pairs, 384] of all sentences."""
        vectors: Array = tasks().SentenceFeeds().embed(run, self.sentences)
        return vectors

    def similarity(self, vectors: Array) -> Array:
        """Cosine similarity of each pair, [pairs]."""
        half = len(self.gold)
        similarity: Array = (vectors[:half] * vectors[half:]).sum(axis=1)
        return similarity

    def score(self, model: Path) -> Score:
        """Score of the model at a path under default session options."""
        spearman = tasks().spearman
        vectors = self.embed(session_run(model, self.threads))
        before, after = self.similarity(self.reference), self.similarity(vectors)

        def drop(index: Array) -> float:
            gold = self.gold[index]
            return float(spearman(before[index], gold) - spearman(after[index], gold))

        low, high = drop_interval(drop, len(self.gold))
        cosine = float((vectors * self.reference).sum(axis=1).mean())
        found = float(spearman(after, self.gold))
        return Score(found, drop(np.arange(len(self.gold))), low, high, cosine)


@functools.cache
def artifact(seed: int, settings: Settings) -> planish.Artifact:
    """MiniLM compiled with one calibration draw, the policy deciding; once a run."""
    folder = settings.workdir / f"minilm-{settings.target}-draw{seed}"
    model = minilm_task(settings.workdir).model
    feeds = calibration_feeds(seed)
    return compile_to(folder, model, settings.target, feeds, settings.threads)


def quality(settings: Settings) -> Outcome:
    """Spearman, embedding cosine and size over three calibration draws."""
    judge = Judge(settings.split, minilm_task(settings.workdir).model, settings.threads)
    made = [artifact(seed, settings) for seed in SEEDS]
    scores = [judge.score(each.path / MODEL) for each in made]
    sizes = [megabytes(each.path / MODEL) for each in made]
    rows = tuple(
        (
            str(seed), f"{score.spearman:.2f}", f"{score.drop:+.2f}",
            f"{score.low:+.2f} … {score.high:+.2f}", f"{score.cosine:.4f}", f"{size:.2f}",
            str(each.manifest["plan"]["pipeline"]),
        )
        for seed, score, size, each in zip(SEEDS, scores, sizes, made, strict=True)
    )  # fmt: skip
    drops, cosines = [s.drop for s in scores], [s.cosine for s in scores]
    spread = ", ".join(f"{drop:+.2f}" for drop in drops)
    return Outcome(
        f"MiniLM, STS-B {settings.split} (en), {len(SEEDS)} calibration draws of 512 sentences",
        ("draw", "Spearman %", "drop", "95 % interval", "cosine", "MB", "pipeline"),
        rows,
        (
            at_most("MiniLM Spearman drop, median of draws", float(np.median(drops)), MAX_DROP,
                    "points", spread),
            at_least("MiniLM mean embedding cosine, median of draws", float(np.median(cosines)),
                     MIN_COSINE, note=f"lowest {min(cosines):.4f}"),
            at_most("MiniLM model size, largest of draws", max(sizes), MAX_MEGABYTES, "MB"),
        ),
        tuple(f"draw {seed}: {each.verdict}" for seed, each in zip(SEEDS, made, strict=True)),
    )  # fmt: skip


def speed_feeds() -> list[Feeds]:
    """The first sentences of the 1,379 test pairs, sorted by length, 32 a batch."""
    first, _, _ = tasks().stsb("en", "test")
    return sentence_feeds(sorted(first, key=len), 32)


def speed(settings: Settings) -> Outcome:
    """Seconds inside run: the float original, quantize_dynamic's output, planish."""
    original = minilm_task(settings.workdir).model
    dynamic = peers.onnxruntime_dynamic(original, settings.workdir / "minilm-ort-dynamic.onnx")
    models = {
        "float32 original": original,
        "onnxruntime quantize_dynamic": dynamic,
        "planish": artifact(0, settings).path / MODEL,
    }
    runs = {name: session_run(path, settings.threads) for name, path in models.items()}
    taken = alternate(runs, speed_feeds(), rounds=settings.rounds)
    return Outcome(
        f"MiniLM, 1,379 sentences in batches of 32, {settings.threads} threads, seconds in run, "
        f"median of {settings.rounds} alternating rounds",
        ("model", "seconds", "vs float32", "vs quantize_dynamic"),
        tuple(speed_row(taken, name, tuple(models)[:2]) for name in models),
        (
            speed_figure(taken, "float32 original", MIN_SPEEDUP),
            speed_figure(taken, "onnxruntime quantize_dynamic", MIN_SPEEDUP_DYNAMIC),
        ),
    )


def speed_row(taken: Timings, name: str, baselines: Sequence[str]) -> tuple[str, ...]:
    """Name, seconds, and the speedup against each baseline."""
    speedups = (f"{taken.speedup(baseline, name).value:.2f}x" for baseline in baselines)
    return (name, f"{taken.median(name):.3f}", *speedups)


def speed_figure(taken: Timings, baseline: str, bound: float) -> Figure:
    """How many times faster planish is than ``baseline``, against its bar."""
    ratio = taken.speedup(baseline, "planish")
    note = interval(ratio.low, ratio.high)
    return at_least(f"MiniLM speed against {baseline}", ratio.value, bound, "x", note)


def kernels(settings: Settings) -> Outcome:
    """Which kernel computes each linear layer, by the manifest and by our own count."""
    made = artifact(0, settings)
    layers = kernel_rows(made.manifest, lambda row: True)
    left = [row for row in layers if not row["integer"]]
    surprises = list(made.manifest["kernels"]["surprises"])
    executed = float_layers(made.path / MODEL)
    unexplained = [row["site"] for row in left if not row["reason"]]
    integer = len(layers) - len(left)
    return Outcome(
        "MiniLM, kernels of the linear layers",
        ("kernel", "layers", "reason where float"),
        (*integer_rows(layers), *((r["kernel"], r["site"], r["reason"]) for r in left)),
        (
            holds("MiniLM linear layers, all in the census", len(layers) == LAYERS,
                  f"{len(layers)}: {integer} integer, {len(left)} float", f"{LAYERS} layers"),
            holds("MiniLM float layers as executed are those the manifest names",
                  len(executed) == len(left), f"{len(executed)} executed in float",
                  f"{len(left)} named", "; ".join(executed[:4])),
            holds("MiniLM float layers have reasons", not unexplained,
                  f"{len(unexplained)} without", "0 without", "; ".join(unexplained[:4])),
            holds("MiniLM layers the runtime quantized by itself, or did not",
                  not surprises, str(len(surprises)), "0", "; ".join(surprises[:4])),
        ),
    )  # fmt: skip


def integer_rows(layers: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """One row for each integer kernel, with the number of layers that it computes."""
    counts = Counter(row["kernel"] for row in layers if row["integer"])
    return [(kernel, str(count), "") for kernel, count in sorted(counts.items())]
