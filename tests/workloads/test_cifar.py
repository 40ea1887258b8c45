"""Residual networks in static int8 classify as they did, in integer kernels.

A fixed sample of what ``benchmarks/run.py resnet`` measures in full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import planish
from benchmarks.artifacts import MODEL, float_layers, megabytes, session_run
from benchmarks.cifar import MAX_DROP
from benchmarks.settings import Settings

Build = Callable[[str], planish.Artifact]

NETWORKS = pytest.mark.parametrize(
    ("name", "layers"), [("resnet20", 20), pytest.param("resnet56", 56, marks=pytest.mark.torch)]
)


@NETWORKS
def test_accuracy_stays_within_half_a_point(
    name: str, layers: int, resnet: Build, task: Callable[[str], Any], settings: Settings
) -> None:
    made = task(name)
    after = made.evaluate(session_run(resnet(name).path / MODEL, settings.threads)).metrics
    assert made.baseline["top1"] - after["top1"] <= MAX_DROP
    assert made.baseline["top1/jpeg"] - after["top1/jpeg"] <= MAX_DROP


@NETWORKS
def test_convolutions_run_in_integer_kernels(name: str, layers: int, resnet: Build) -> None:
    artifact = resnet(name)
    sites = artifact.manifest["kernels"]["sites"]
    left = [row for row in sites if not row["integer"]]
    assert len(sites) == layers
    assert len(left) <= 2  # the first, of three channels, and the last, of ten classes
    assert all(row["reason"] for row in left)
    assert len(float_layers(artifact.path / MODEL)) == len(left)  # counted without planish
    assert artifact.manifest["kernels"]["surprises"] == []


@NETWORKS
def test_the_model_shrinks(
    name: str, layers: int, resnet: Build, task: Callable[[str], Any]
) -> None:
    assert megabytes(resnet(name).path / MODEL) < megabytes(task(name).model) / 3
    assert resnet(name).manifest["quality"]["verdict"] == "within-budget"
