"""The shape of a target and of what is shown of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planish.targets.loader import load_target, target_names
from planish.targets.schema import LIMITS, Target


@pytest.fixture
def target() -> Target:
    return load_target("x86-avx512-vnni")


def test_figures_are_the_facts_each_with_its_source(target: Target) -> None:
    figures = {figure.path: figure for figure in target.figures()}
    assert figures["int8.weight_bits"].value == 8
    assert "VNNI" in figures["int8.weight_bits"].source
    assert figures["runtime.max_opset"].value == 26
    assert not {"name", "summary", "kind", "extends", "sources", "resolved"} & set(figures)
    assert "runtime.max_version" not in figures  # unknown figures are left out, not shown as null


def test_a_target_survives_json(target: Target) -> None:
    data = json.loads(json.dumps(target.to_json()))
    assert data["name"] == "x86-avx512-vnni"
    assert data["features"] == list(target.features)
    assert data["int8"]["speed_ratio"] == target.int8.speed_ratio
    assert data["sources"] == dict(target.sources)


def test_targets_can_be_keys(target: Target) -> None:
    assert len({target, load_target("x86-avx512-vnni"), load_target("generic")}) == 2


def test_every_limit_is_on_a_field_and_holds_in_the_catalogue() -> None:
    for name in target_names()[1:]:
        target = load_target(name)
        for path, (holds, _) in LIMITS.items():
            value: Any = target
            for part in path.split("."):
                value = None if value is None else getattr(value, part)
            assert value is None or holds(value), (name, path)
