"""Weights of few bits: what codes cost stories260K, and MiniLM's size and quality."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import planish
from benchmarks import stories as text
from benchmarks.artifacts import MODEL, megabytes
from benchmarks.data import Array, Feeds, calibration_feeds, minilm_task
from benchmarks.figures import Figure, Outcome, at_least, at_most
from benchmarks.minilm import Judge, Score
from benchmarks.settings import Settings
from planish.passes.math.blockcodes import dequantize_blocks
from planish.passes.math.blockwise import round_blocks
from planish.passes.math.gptq import gptq_blocks
from planish.passes.math.hqq import hqq_blocks

BLOCK = 32
MOST_WORSE = {4: 6.0, 3: 35.0}  # percent of perplexity
BEST = "GPTQ"
MOST_MEGABYTES, LEAST_COSINE, LEAST_COSINE_WITHOUT_DATA = 14.0, 0.985, 0.95

Code = Callable[[Array, Array], Array]
"""A weight [K, N] and the Gram matrix of its inputs -> the weight as its codes have it."""


def methods(bits: int, symmetric: bool) -> Mapping[str, Code]:
    """How codes are chosen, the simplest first."""
    form: dict[str, Any] = {"bits": bits, "block": BLOCK, "symmetric": symmetric}
    return {
        "rounding": lambda w, g: dequantize_blocks(round_blocks(w, **form, clip=False)),
        "HQQ": lambda w, g: dequantize_blocks(hqq_blocks(w, **form)),
        "clipped": lambda w, g: dequantize_blocks(round_blocks(w, **form)),
        "clipped, weighted": lambda w, g: dequantize_blocks(
            round_blocks(w, **form, importance=np.diagonal(g))
        ),
        "GPTQ as published": lambda w, g: dequantize_blocks(
            gptq_blocks(w, g, **form, clip=False, refit=False, sweeps=0)
        ),
        "GPTQ, clipped": lambda w, g: dequantize_blocks(
            gptq_blocks(w, g, **form, refit=False, sweeps=0)
        ),
        "GPTQ, clipped, refitted": lambda w, g: dequantize_blocks(
            gptq_blocks(w, g, **form, sweeps=0)
        ),
        BEST: lambda w, g: dequantize_blocks(gptq_blocks(w, g, **form)),
    }


@dataclass(frozen=True)
class Bench:
    """What all ways of coding stories260K share: the model, its layers, their Gram matrices."""

    path: Path
    model: onnx.ModelProto
    grams: Mapping[str, Array]
    settings: Settings

    @classmethod
    def prepare(cls, settings: Settings) -> Bench:
        """Calibrate on text that is not scored."""
        path = text.model_path(settings.workdir)
        model = onnx.load(path)
        feeds = text.calibration(settings.workdir, settings.threads)
        grams = text.grams(model, feeds, settings.workdir, settings.threads)
        return cls(path, model, grams, settings)

    def perplexities(self, weights: Mapping[str, Array]) -> Array:
        """On self-made text and on stories, with other weights in some layers' places."""
        changed = text.with_weights(self.model, weights)
        run = text.runner(changed, self.settings.workdir, self.settings.threads)
        made = text.perplexity_of_made_text(run, self.path, self.settings.threads)
        return np.array([made, text.perplexity_of_stories(run, self.settings.workdir)])

    def coded(self, code: Code, *, head: bool) -> dict[str, Array]:
        """The weights of all layers, with or without the last one, after coding."""
        found = text.layers(self.model)
        chosen = found if head else found[:-1]
        return {each.weight: code(each.matrix, self.grams[each.input]) for each in chosen}


def stories(settings: Settings) -> Outcome:
    """Perplexity of stories260K with int4 and int3 weights in blocks of 32, by method."""
    bench = Bench.prepare(settings)
    plain = bench.perplexities({})
    rows, figures = [("float32", "", "", *_texts(plain, plain))], []
    for bits in MOST_WORSE:
        for symmetric in (False, True):
            for name, code in methods(bits, symmetric).items():
                after = bench.perplexities(bench.coded(code, head=False))
                kind = "symmetric" if symmetric else "asymmetric"
                rows.append((name, str(bits), kind, *_texts(after, plain)))
                if name == BEST and not symmetric:
                    figures += _worse(bits, after, plain)
        with_head = bench.perplexities(bench.coded(methods(bits, False)[BEST], head=True))
        rows.append((f"{BEST}, the head too", str(bits), "asymmetric", *_texts(with_head, plain)))
    return Outcome(
        "stories260K, layers of the blocks in codes of few bits, blocks of 32 inputs",
        ("method", "bits", "grid", "self-made text", "worse", "stories", "worse"),
        tuple(rows),
        tuple(figures),
        ("perplexity with dequantized weights; calibrated on other stories and self-made text",),
    )


def _texts(after: Array, before: Array) -> tuple[str, ...]:
    pairs = zip(after, 100 * (after / before - 1), strict=True)
    return tuple(text for value, worse in pairs for text in (f"{value:.3f}", f"{worse:+.1f} %"))


def _worse(bits: int, after: Array, before: Array) -> list[Figure]:
    kinds = zip(("self-made text", "stories"), after, 100 * (after / before - 1), strict=True)
    return [
        at_most(f"stories260K int{bits} perplexity on {kind}, worse by", worse, MOST_WORSE[bits],
                "%", f"{value:.3f}")
        for kind, value, worse in kinds
    ]  # fmt: skip


def minilm(settings: Settings) -> Outcome:
    """MiniLM in int4 with embeddings, through the compiler: size, cosine, Spearman, seconds."""
    judge = Judge(settings.split, minilm_task(settings.workdir).model, settings.threads)
    build = partial(_built, settings, judge)
    rows = {
        "GPTQ, 512 sentences": build("calibrated", calibration_feeds(0), "weight-only"),
        "without data": build("data-free", None, "weight-only"),
        "without data, HQQ": build("hqq", None, "weight-only{method=hqq}"),
    }
    calibrated, data_free = rows["GPTQ, 512 sentences"], rows["without data"]
    return Outcome(
        f"MiniLM, int4 in blocks of {BLOCK} with embeddings, STS-B {settings.split} (en)",
        ("codes", "MB", "MiB", "cosine", "Spearman %", "drop", "compile s"),
        tuple((name, *made.texts()) for name, made in rows.items()),
        (
            at_most("MiniLM int4 size", calibrated.size, MOST_MEGABYTES, "MB"),
            at_least("MiniLM int4 mean cosine, calibrated", calibrated.score.cosine, LEAST_COSINE),
            at_least("MiniLM int4 mean cosine, without data", data_free.score.cosine,
                     LEAST_COSINE_WITHOUT_DATA),
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A compiled MiniLM: 10^6 bytes, score against float, seconds that the compile took."""

    size: float
    score: Score
    seconds: float

    def texts(self) -> tuple[str, ...]:
        """Cells of a table."""
        return (
            f"{self.size:.2f}", f"{self.size * 1e6 / 2**20:.2f}", f"{self.score.cosine:.4f}",
            f"{self.score.spearman:.2f}", f"{self.score.drop:+.2f}", f"{self.seconds:.0f}",
        )  # fmt: skip


def _built(
    settings: Settings, judge: Judge, name: str, feeds: list[Feeds] | None, pipeline: str
) -> Made:
    folder = settings.workdir / f"minilm-int4-{name}"
    start = time.perf_counter()
    planish.compile(
        minilm_task(settings.workdir).model, settings.target, calibration=feeds, goal="size",
        pipeline=pipeline, threads=settings.threads, output=folder, force=True, progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    model = folder / MODEL
    return Made(megabytes(model), judge.score(model), seconds)
