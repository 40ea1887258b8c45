"""all-MiniLM-L6-v2 in int8 still ranks sentences as it did, in a quarter of the bytes.

A fixed sample of what ``benchmarks/run.py minilm`` measures in full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import planish
from benchmarks.artifacts import MODEL, float_layers, megabytes
from benchmarks.minilm import LAYERS, MAX_MEGABYTES, MIN_COSINE, Judge
from benchmarks.settings import Settings

pytestmark = pytest.mark.torch  # exports the model

PAIRS = 400
SAMPLE_DROP = 0.6  # points of Spearman on the sample; the bar is 0.3 on all 1,379 pairs

Build = Callable[[str], planish.Artifact]
SCHEMES = pytest.mark.parametrize("scheme", ["static", "dynamic"])


@pytest.fixture(scope="module")
def judge(task: Callable[[str], Any], settings: Settings) -> Judge:
    return Judge("test", task("minilm").model, settings.threads, PAIRS)


@SCHEMES
def test_embeddings_keep_their_direction_and_their_ranking(
    scheme: str, minilm: Build, judge: Judge
) -> None:
    score = judge.score(minilm(scheme).path / MODEL)
    assert score.cosine >= MIN_COSINE
    assert score.drop <= SAMPLE_DROP
    assert score.cosine < 1  # it is another model that was scored


@SCHEMES
def test_a_quarter_of_the_bytes(scheme: str, minilm: Build) -> None:
    assert megabytes(minilm(scheme).path / MODEL) <= MAX_MEGABYTES


@SCHEMES
def test_every_linear_layer_runs_in_an_integer_kernel(scheme: str, minilm: Build) -> None:
    artifact = minilm(scheme)
    sites = artifact.manifest["kernels"]["sites"]
    assert len(sites) == LAYERS
    assert [row["site"] for row in sites if not row["integer"]] == []
    assert float_layers(artifact.path / MODEL) == []  # counted without planish
    assert artifact.manifest["kernels"]["surprises"] == []


@SCHEMES
def test_the_verdict_is_one_that_was_measured(scheme: str, minilm: Build) -> None:
    manifest = minilm(scheme).manifest
    assert manifest["quality"]["verdict"] == "within-budget"
    assert manifest["quality"]["drift"]["last_hidden_state"]["cosine"] >= 0.98
    assert manifest["speed"]["verdict"] in ("faster", "no-gain", "slower")
    assert manifest["speed"]["rounds"] > 0


def test_sites_bear_the_names_of_the_modules(minilm: Build) -> None:
    names = {row["site"] for row in minilm("static").manifest["kernels"]["sites"]}
    assert "bert.encoder.layer.0.attention.self.query" in names
    assert "bert.encoder.layer.5.output.dense" in names
