"""What two targets differ in."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from planish.targets.cost.measured import Measured
from planish.targets.differences import different_figures, different_techniques
from planish.targets.loader import load_target
from planish.targets.schema import NAMING

PAIRS = [
    ("x86-avx2", "x86-avx512-vnni"),
    ("nvidia-a100", "nvidia-h100"),
    ("generic", "qualcomm-hexagon"),
    ("raspberry-pi-5", "nvidia-onnxruntime-cuda"),
]


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every field by path, read off the dataclasses without help of ``figures``."""
    found: dict[str, Any] = {}
    for item in fields(value):
        inner = getattr(value, item.name)
        if is_dataclass(inner):
            found |= leaves(inner, f"{prefix}{item.name}.")
        elif prefix or item.name not in NAMING:
            found[prefix + item.name] = inner
    return found


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_each_figure_that_differs_is_listed_once(one: str, other: str) -> None:
    first, second = load_target(one), load_target(other)
    ours, theirs = leaves(first), leaves(second)
    wanted = {path: (ours[path], theirs[path]) for path in ours if ours[path] != theirs[path]}
    rows = different_figures(first, second)
    assert {row.path: (row.first, row.second) for row in rows} == wanted
    assert len(rows) == len(wanted) > 0
    for row in rows:
        assert row.first_source == ("" if row.first is None else first.sources[row.path])
        assert row.second_source == ("" if row.second is None else second.sources[row.path])


def test_the_tables_stay_together() -> None:
    rows = different_figures(load_target("raspberry-pi-5"), load_target("nvidia-a100"))
    tables = [row.path.partition(".")[0] for row in rows if "." in row.path]
    assert len(set(tables)) == sum(a != b for a, b in zip(["", *tables], tables, strict=False))


def test_a_target_does_not_differ_from_itself_or_from_its_alias() -> None:
    target = load_target("nvidia-a100")
    assert different_figures(target, load_target("nvidia-a100-sxm-80gb")) == ()
    assert different_techniques(target, target) == ()
    named = replace(target, name="x", summary="y", sources={}, notes=("z",), aliases=("w",))
    assert different_figures(target, named) == ()


def test_techniques_differ_by_the_reason_too() -> None:
    pairs = different_techniques(load_target("generic"), load_target("arm-neon-dotprod"))
    assert [(a.technique, a.code, b.code) for a, b in pairs] == [
        ("weight-only-int2", "", "no-nbits-kernel"),
        ("fp16", "widened", "unknown"),
    ]


def test_what_was_measured_is_named_by_its_date() -> None:
    target = load_target("generic")
    probed = replace(target, measured=Measured("2026-11-21", "onnxruntime 1.31.1", "Some CPU"))
    (row,) = different_figures(target, probed)
    assert (row.path, row.first) == ("measured", None)
    assert row.second == "2026-11-21, Some CPU, onnxruntime 1.31.1"
