"""The graphs that scaling is measured on, and how a compile is told apart into phases."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from benchmarks import scaling
from planish.ir.load import load_model
from planish.ir.sites import find_sites


def test_graphs_have_the_nodes_and_sites_that_are_asked_for() -> None:
    assert len(scaling.chain(100).graph.node) == 100
    kinds = [s.kind for s in find_sites(load_model(scaling.transformer(3)).model)]
    assert [kinds.count(k) for k in ("linear", "attention", "ffn")] == [18, 3, 3]
    assert len(scaling.linear_sites(20).graph.node) == len(scaling.transformer(4).graph.node)
    for model in (scaling.chain(10), scaling.transformer(2)):
        onnx.checker.check_model(model, full_check=True)


def test_a_compile_says_what_each_phase_took(tmp_path: Path) -> None:
    found = scaling.compiled("sites", 6, "quantize{scheme=dynamic}", tmp_path)
    assert found["edits"] == 6
    assert {"importing", "quantize", "judging"} <= set(found["phases"])
    assert 0 < found["timing"] < found["seconds"]
    assert list(tmp_path.iterdir()) == []


def test_slopes_tell_linear_from_quadratic() -> None:
    def run(size: int, power: int) -> dict[str, float]:
        return {"nodes": size, "seconds": 1 + size**power, "timing": 1, "peak_bytes": size}

    linear = scaling._slopes("a", [run(10, 1), run(40, 1)], "nodes")
    quadratic = scaling._slopes("a", [run(10, 2), run(40, 2)], "nodes")
    assert [f.met for f in linear] == [True, True]
    assert [f.met for f in quadratic] == [False, True]
    assert quadratic[0].value == "2"


def test_checks_are_measured_where_a_compile_makes_them() -> None:
    full, local = scaling._checks(scaling.chain(60))
    assert full > 0
    assert local > 0
    spent: list[float] = []
    with scaling._timed("planish.ir.load.violations", spent):
        load_model(scaling.chain(10))
    assert len(spent) == 2
    for place in scaling.CHECKS:
        with scaling._timed(place, spent):
            pass


@pytest.mark.parametrize("name", ["net-cost", "scaling", "scaling-sites"])
def test_each_benchmark_is_registered(name: str) -> None:
    from benchmarks.run import benchmark

    assert benchmark(name).__module__ == "benchmarks.scaling"
