"""doctor on MiniLM as onnxruntime's own tool quantizes it: a sample of ``run.py doctor``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import doctor_models as made
from benchmarks.artifacts import session_run
from planish.compiler.doctor.examine import examine
from planish.compiler.progress import Silent
from planish.targets.census import runtime_census

pytestmark = pytest.mark.torch  # exports the model


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return float(((one * other).sum(axis=-1) / lengths).mean())


def test_the_mask_is_the_first_cause_and_mending_it_brings_the_answers_back(
    task: Callable[[str], Any], tmp_path: Path
) -> None:
    source = task("minilm")
    feeds = list(source.calibration(2))
    static = made.static(source.model, tmp_path / "static.onnx", feeds)
    mended = tmp_path / "mended.onnx"
    found = examine(
        static, calibration=feeds[:1], threads=1, fix=mended, progress=Silent(), seconds=0.05
    )
    rules = [cause.rule for cause in found.causes if cause.severity != "note"]
    assert rules[0] == "softmax-range-blown"
    assert set(rules[1:]) == {"signed-and-shared", "table-dequantized-whole"}
    assert found.layers == (12, 36)
    answers = [np.asarray(session_run(p, 1)(feeds[0])[0]) for p in (source.model, static, mended)]
    assert cosine(answers[0], answers[1]) < 0.6
    assert cosine(answers[0], answers[2]) > cosine(answers[0], answers[1]) + 0.2
    assert all(row.integer for row in runtime_census(mended, threads=1).kernels)
