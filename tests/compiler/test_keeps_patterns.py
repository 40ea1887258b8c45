"""Zeros in a pattern that kernels skip: edits that would fill them are undone, with a remark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.checking.patterns import KeepsPatterns
from planish.ir.facts import FLOAT, SPARSE
from planish.ir.graph import constant_array
from planish.ir.rewriter import Rewriter
from planish.passes.api import SITES, Candidate, Context, Pass, Perturbation, Semantics

TEXT = (
    '<ir_version: 10, opset_import: ["" : 20]>\n'
    "g (float[n, 16] x) => (float[n, 8] y) { h = MatMul(x, first) y = MatMul(h, last) }"
)
FEEDS = [{"x": np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32)}]


@dataclass(frozen=True)
class NoOptions:
    """None."""


class Shift(Pass):
    """Adds something to every weight, or multiplies it."""

    name = "shift"
    semantics = Semantics.LOSSY
    Options = NoOptions
    factor: ClassVar[float] = 1.0
    summand: ClassVar[float] = 0.0

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate]:
        for site in ctx.analysis(SITES).of_kind("linear"):
            yield Candidate(site.name, "shifted")

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        site = ctx.analysis(SITES).by_name[candidate.site]
        array, name = constant_array(site.weight), str(site.weight.name)  # type: ignore[union-attr]
        assert array is not None
        made = (self.factor * array + np.float32(self.summand)).astype(np.float32)
        ends = (str(site.input.name),), (str(site.output.name),)  # type: ignore[union-attr]
        return Perturbation(*ends, {name: made}, payload=(name, made), contraction=16)

    def lower(
        self, model: ir.Model, candidate: Candidate, perturbation: Perturbation | None,
        rewriter: Rewriter, ctx: Context,
    ) -> None:  # fmt: skip
        assert perturbation is not None
        name, made = perturbation.payload
        rewriter.set_tensor(model.graph.initializers[name], made)


class Fill(Shift):
    summand = 0.1


class FillOpenly(Fill):
    invalidates = frozenset({SPARSE})


class Scale(Shift):
    factor = 2.0


def half_sparse(graphs: ModuleType, target: str) -> Any:
    """Two layers, the second with zeros in half of its inputs."""
    rng = np.random.default_rng(1)
    first, last = (rng.normal(size=shape).astype(np.float32) for shape in ((16, 16), (16, 8)))
    last[np.arange(16) % 4 < 2] = 0
    model = graphs.parse(TEXT, first=first, last=last)
    return graphs.Bench(model, FEEDS, target=target, instruments=[KeepsPatterns()])


def run(bench: Any, cls: type[Pass]) -> list[str]:
    """The sites that were edited."""
    outcome = bench.manager.run(cls(NoOptions()))
    return [edit.site for edit in outcome.edits]


def facts(bench: Any) -> dict[str, frozenset[str]]:
    bench.context.begin_pass("", bench.model)
    return {site.name: site.facts for site in bench.context.analysis(SITES)}


def test_an_edit_that_fills_zeros_is_undone(graphs: ModuleType) -> None:
    bench = half_sparse(graphs, "nvidia-a100")
    assert facts(bench)["linear2"] == {FLOAT, "sparse-2:4"}
    before = constant_array(bench.model.graph.initializers["last"])
    assert run(bench, Fill) == ["linear1"]
    missed = bench.remarks("missed")["linear2"]
    assert missed.code == "pattern-lost"
    assert "2:4" in missed.sentence
    now = constant_array(bench.model.graph.initializers["last"])
    np.testing.assert_array_equal(now, before)
    assert facts(bench)["linear2"] == {FLOAT, "sparse-2:4"}


def test_one_that_keeps_them_stays(graphs: ModuleType) -> None:
    bench = half_sparse(graphs, "nvidia-a100")
    assert run(bench, Scale) == ["linear1", "linear2"]
    assert bench.remarks("missed") == {}


@pytest.mark.parametrize(
    ("cls", "target"),
    [(FillOpenly, "nvidia-a100"), (Fill, "x86-avx2"), (Fill, "nvidia-t4")],
)
def test_zeros_are_filled_where_that_is_said_or_costs_nothing(
    graphs: ModuleType, cls: type[Pass], target: str
) -> None:
    bench = half_sparse(graphs, target)
    assert run(bench, cls) == ["linear1", "linear2"]
    assert facts(bench)["linear2"] == {FLOAT}
