"""MiniLM and residual networks for CPUs without VNNI: no sum of two products saturates.

Shown by an emulation of such a CPU that knows nothing of planish: over every pair of weights for
any activations, and over all sums that are made of real data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import planish
from benchmarks.artifacts import MODEL, compile_to
from benchmarks.data import calibration_draw, sentence_feeds
from benchmarks.emulation import run_without_vnni
from benchmarks.settings import Settings
from planish.targets.loader import load_target

Build = Callable[[str], planish.Artifact]

CASES = pytest.mark.parametrize(
    ("case", "layers"),
    [
        ("minilm", 36),
        ("resnet20", 18),
        pytest.param("resnet56", 54, marks=pytest.mark.torch),
    ],
)


@pytest.fixture(scope="module")
def avx2(task: Callable[[str], Any], settings: Settings) -> Build:
    """``avx2("resnet20")``: that case in int8 for x86-avx2, calibrated with a few samples."""

    @functools.cache
    def build(case: str) -> planish.Artifact:
        if case == "minilm":
            feeds = sentence_feeds(calibration_draw(0, 32), 16)
        else:
            feeds = task(case).calibration(64)
        return compile_to(
            settings.workdir / f"{case}-avx2", task(case).model, "x86-avx2", feeds,
            settings.threads, pipeline="canonicalize,quantize{scheme=static}",
        )  # fmt: skip

    return build


@CASES
def test_no_sum_of_two_products_saturates(
    case: str, layers: int, avx2: Build, task: Callable[[str], Any]
) -> None:
    model = avx2(case).path / MODEL
    feed = a_feed(case, task)
    outputs, count = run_without_vnni(model, feed)
    assert count.layers == layers
    assert count.pairs > 100_000
    assert (count.unsafe, count.clipped) == (0, 0)
    assert 24_000 < count.largest <= 32767  # the room there is, is used
    for emulated, there in zip(outputs, as_written(model, feed), strict=True):
        # All but roundings that fall to the other side.
        assert 10 * np.log10((there**2).sum() / ((emulated - there) ** 2).sum()) > 25


@CASES
def test_the_artifact_says_so_and_that_it_ran_elsewhere(
    case: str, layers: int, avx2: Build
) -> None:
    manifest = avx2(case).manifest
    (note,) = [n for n in manifest["notes"] if "16-bit" in n]
    assert f"proven for every pair of weights of all {layers} integer layers" in note
    assert sum(r["code"] == "pair-safe" for r in manifest["remarks"]) == layers
    if load_target("host").int8.saturates:
        return
    assert manifest["speed"]["verdict"] == "not-measured"
    assert manifest["exit_code"] == 11
    assert "16 bits" in manifest["not_on_target"]
    assert manifest["reference_runtime"].startswith("onnxruntime ")


def test_the_emulation_finds_what_eight_bits_would_lose(
    resnet: Build, task: Callable[[str], Any]
) -> None:
    """The same network, its weights in all of 8 bits as for a CPU with VNNI."""
    if load_target("host").int8.saturates:
        pytest.skip("this machine adds in 16 bits itself")
    _, count = run_without_vnni(resnet("resnet20").path / MODEL, a_feed("resnet20", task))
    assert count.unsafe > 1000
    assert count.clipped > 0


def a_feed(case: str, task: Callable[[str], Any]) -> dict[str, np.ndarray]:
    """Two samples."""
    if case == "minilm":
        return dict(next(iter(sentence_feeds(calibration_draw(1, 2), 2))))
    feed = next(iter(task(case).calibration(8)))
    return {name: array[:2] for name, array in feed.items()}


def as_written(model: Path, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What the graph means: the runtime's own rewrites are another error."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, feed)
    return outputs
