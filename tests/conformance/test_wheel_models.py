"""Real graphs inside installed packages: the lossless pipeline leaves what they compute.

The light models are run here but for the three largest, on one target each; `make conformance`
runs all models on every CPU target, behind every lossless pass.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from planish.compiler.harness.case import Case
from planish.compiler.harness.check import check
from planish.compiler.harness.execute import run_all
from planish.compiler.harness.lossless import chained, cpu_targets
from planish.compiler.harness.subject import Subject
from planish.compiler.harness.suites import SUITES
from planish.compiler.harness.suites.builders import BUILDERS, builder_case
from planish.compiler.harness.suites.light import image, light_case
from planish.compiler.harness.suites.wheels import data_folder
from planish.compiler.policy import LOSSLESS
from planish.compiler.quality.equality import difference
from planish.targets.host import HOST

LARGE_LIGHT = {"light_bvlc_alexnet", "light_vgg19", "light_zfnet512"}
LARGE_BUILDERS = {"smollm-1", "smollm-2", "whisper-decoder"}
"""Models with more than 150 MB of weights: seconds for each of the copies that a check makes."""
TARGETS = [name for name in cpu_targets() if name != HOST]  # the host is one of the others
LIGHT = [p for p in sorted(data_folder("light").glob("*.onnx")) if p.stem not in LARGE_LIGHT]
SMALL_BUILDERS = [name for name in BUILDERS if name not in LARGE_BUILDERS]


@functools.cache
def light(number: int) -> Case:
    return light_case(LIGHT[number])


def outcome_of(subject: Subject, case: Case) -> list[str]:
    outcome = check(subject, case)
    skipped = [f"skipped: {outcome.skipped}"] if outcome.skipped else []
    return [f"{case.name}: {text}" for text in [*map(str, outcome.failures), *skipped]]


@pytest.mark.parametrize("target", TARGETS)
def test_stored_models_are_met_on_every_cpu_target(target: str) -> None:
    subject = Subject(LOSSLESS, target)
    assert not [s for case in SUITES["onnx-models"].cases() for s in outcome_of(subject, case)]


def test_the_runtime_meets_the_stored_outputs() -> None:
    """Otherwise the rule on stored outputs would let everything pass."""
    for case in SUITES["onnx-models"].cases():
        assert case.expected is not None
        for outputs, stored in zip(
            run_all(case.model.SerializeToString(), case.feeds), case.expected, strict=True
        ):
            for got, wanted in zip(outputs.values(), stored or (), strict=True):
                assert difference(wanted, got, 1e-4) is None, case.name


@pytest.mark.parametrize("number", range(len(LIGHT)), ids=lambda n: LIGHT[n].stem)
def test_light_models_compute_what_they_did(number: int) -> None:
    subject = Subject(LOSSLESS, TARGETS[number % len(TARGETS)])
    assert not outcome_of(subject, light(number))


@pytest.mark.parametrize("number", range(len(LIGHT)), ids=lambda n: LIGHT[n].stem)
def test_light_models_tell_inputs_apart(number: int) -> None:
    case = light(number)
    feeds = (*case.feeds, image(case.model, seed=3))
    first, second = (
        np.concatenate([np.ravel(a) for a in outputs.values()])
        for outputs in run_all(case.model.SerializeToString(), feeds)
    )
    assert np.isfinite(first).all()
    assert np.abs(first - second).max() > 0.01 * np.abs(first).max()  # far above any tolerance
    assert np.unique(first).size > first.size / 2  # no softmax in saturation


@pytest.mark.parametrize("name", SMALL_BUILDERS)
def test_transformers_compute_what_they_did(name: str) -> None:
    pytest.importorskip("onnxscript")
    assert not outcome_of(chained(), builder_case(name))


@pytest.mark.parametrize("target", TARGETS)
def test_the_smallest_transformers_compute_what_they_did_on_every_cpu_target(target: str) -> None:
    pytest.importorskip("onnxscript")
    for name in ("bart-encoder", "rotary-1", "rotary-2", "rotary-partial"):
        assert not outcome_of(Subject(LOSSLESS, target), builder_case(name))
