"""A recurrent model in int8 keeps its score over whole streams, and says what it did not judge."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import planish
from benchmarks.artifacts import MODEL, compile_to, session_run
from benchmarks.settings import Settings

MAX_DROP = 1.0  # points of AUC
FRAMES = 256


@pytest.fixture(scope="module")
def silero(task: Callable[[str], Any], settings: Settings) -> planish.Artifact:
    """The detector in static int8, calibrated with frames of whole clips."""
    frames = list(itertools.islice(task("silero_vad").calibration(), 1024))
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, FRAMES).astype(int)]
    return compile_to(
        settings.workdir / "silero-static", task("silero_vad").model, settings.target, chosen,
        settings.threads, pipeline="canonicalize,equalize,quantize{scheme=static}",
    )  # fmt: skip


def test_the_score_over_whole_clips_holds(
    silero: planish.Artifact, task: Callable[[str], Any], settings: Settings
) -> None:
    after = task("silero_vad").evaluate(session_run(silero.path / MODEL, settings.threads))
    drop = task("silero_vad").baseline["auc"] - after.metrics["auc"]
    assert -MAX_DROP <= drop <= MAX_DROP
    assert silero.manifest["quality"]["verdict"] == "within-budget"
    assert [row["integer"] for row in silero.manifest["kernels"]["sites"]].count(True) == 5


def test_it_is_said_what_was_not_judged_and_what_was_not_reached(silero: planish.Artifact) -> None:
    notes = " | ".join(silero.manifest["notes"])
    assert "stateN follows state" in notes
    assert "2 LSTM inside branches or loops" in notes
