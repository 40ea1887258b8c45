"""A residual network with fewer channels classifies nearly as it did, in integer kernels, too.

A fixed sample of what ``benchmarks/run.py smaller-resnet20`` measures in full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import planish
from benchmarks import smaller_cifar
from benchmarks.artifacts import MODEL, compile_to, session_run
from benchmarks.settings import Settings

IMAGES = 128
MOST = {"clean": 4.0, "jpeg": 9.0}
"""Points of accuracy that may go; magnitudes without a fit lose 53 and 49."""


@pytest.fixture(scope="module")
def smaller(task: Callable[[str], Any], settings: Settings) -> planish.Artifact:
    """ResNet-20 with 30 % fewer operations, in static int8."""
    made, name = task("resnet20"), f"{smaller_cifar.WHOLE}, int8"
    return compile_to(
        settings.workdir / "resnet20-smaller", made.model, settings.target,
        list(made.calibration(IMAGES)), settings.threads, max_drift=smaller_cifar.NO_GATE,
        goal="size", pipeline=f"canonicalize,{smaller_cifar.CASES[name]}",
    )  # fmt: skip


def test_convolutions_have_the_channels_of_the_plan(
    smaller: planish.Artifact, task: Callable[[str], Any]
) -> None:
    original = task("resnet20").model
    gone = smaller_cifar.operations(original, smaller.path / MODEL)
    found = smaller_cifar.shapes("resnet20", original, smaller, gone)
    assert (found.met, found.note) == (True, "")


def test_accuracy_stays_and_products_are_integers(
    smaller: planish.Artifact, task: Callable[[str], Any], settings: Settings
) -> None:
    made = task("resnet20")
    before, after = (
        made.evaluate(session_run(model, settings.threads))
        for model in (made.model, smaller.path / MODEL)
    )
    for part, most in MOST.items():
        drop = smaller_cifar.drop_of(before, after, part)
        assert drop.low <= drop.value <= drop.high
        assert drop.value <= most
    rows = smaller.manifest["kernels"]["sites"]
    assert sum(row["integer"] for row in rows) > len(rows) / 2
    assert all(row["integer"] or row["reason"] for row in rows)  # few channels are slower so


def test_a_wrong_plan_is_told(smaller: planish.Artifact, task: Callable[[str], Any]) -> None:
    original = task("resnet20").model
    found = smaller_cifar.shapes("resnet20", original, smaller, 0.1)
    assert (found.met, found.note) == (False, "operations")
