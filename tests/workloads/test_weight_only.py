"""all-MiniLM-L6-v2 in 4 bits, embeddings too: a seventh of the bytes, without any data.

``benchmarks/weight_only.py`` measures the same in full, with calibration data.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import planish
from benchmarks.artifacts import MODEL, megabytes, sha256
from benchmarks.minilm import Judge
from benchmarks.settings import Settings

pytestmark = pytest.mark.torch  # exports the model

PIPELINE = "canonicalize,weight-only{method=round}"
MAX_MEGABYTES, MIN_COSINE = 14.0, 0.95
PAIRS = 100


def compiled(model: Path, folder: Path, settings: Settings, **options: Any) -> planish.Artifact:
    return planish.compile(
        model, settings.target, goal="size", threads=settings.threads, output=folder, **options
    )


@pytest.fixture(scope="module")
def packed(
    task: Callable[[str], Any], settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> planish.Artifact:
    folder = tmp_path_factory.mktemp("packed") / "out"
    return compiled(task("minilm").model, folder, settings, pipeline=PIPELINE)


def test_a_seventh_of_the_bytes(
    packed: planish.Artifact, task: Callable[[str], Any], settings: Settings
) -> None:
    assert megabytes(packed.path / MODEL) <= MAX_MEGABYTES
    score = Judge("dev", task("minilm").model, settings.threads, PAIRS).score(packed.path / MODEL)
    assert MIN_COSINE <= score.cosine < 1


def test_every_layer_runs_with_packed_weights(packed: planish.Artifact) -> None:
    kernels = packed.manifest["kernels"]
    assert {row["kernel"] for row in kernels["sites"]} == {"com.microsoft:MatMulNBits"}
    assert kernels["surprises"] == []
    assert packed.manifest["quality"]["verdict"] == "unverified"
    assert max(edit["runtime_loss"] or 0 for edit in packed.manifest["edits"]) > 0


def test_the_artifact_proves_itself(packed: planish.Artifact) -> None:
    done = subprocess.run(
        [sys.executable, "-I", str(packed.path / "verify.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_plan_replays_to_the_same_bytes(
    packed: planish.Artifact, task: Callable[[str], Any], settings: Settings, tmp_path: Path
) -> None:
    again = compiled(task("minilm").model, tmp_path / "out", settings, plan=packed.path)
    assert sha256(again.path / MODEL) == sha256(packed.path / MODEL)
