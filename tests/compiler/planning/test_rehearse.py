"""A rehearsal: the graph that a build would make, without its numbers, and back again."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.backends.kernels import count_kernels
from planish.compiler.context import CompileContext
from planish.compiler.planning.rehearse import Rehearsal, rehearse
from planish.compiler.planning.siteplans import kernels_of, site_plans
from planish.compiler.progress import Silent
from planish.ir.digest import contents_digest, structure_digest
from planish.ir.load import load_model
from planish.ir.provenance import without_implied_origins
from planish.ir.rewriter import Rewriter
from planish.ir.save import saved_bytes, to_bytes
from planish.passes.api import Pass
from planish.passes.quantize import Quantize

DYNAMIC = "canonicalize,quantize"
STATIC = "canonicalize,quantize{scheme=static}"
EQUALIZED = "canonicalize,equalize,quantize{scheme=static}"
INT4 = "canonicalize,weight-only{method=round}"
INT8 = "canonicalize,weight-only{bits=8 method=round}"
PIPELINES = (DYNAMIC, STATIC, EQUALIZED, INT4, INT8)


def stage(kit: ModuleType, proto: onnx.ModelProto) -> tuple[Rewriter, CompileContext]:
    model = load_model(proto).model
    context = CompileContext(kit.target(), model, kit.feed_set(proto), True, None, 1, Silent())
    return Rewriter(model), context


def rehearsed(
    kit: ModuleType, text: str, proto: onnx.ModelProto | None = None, *, lower: bool = True
) -> Rehearsal:
    return rehearse(text, *stage(kit, proto or kit.chain(3)), lower=lower)


@pytest.mark.parametrize("text", PIPELINES)
def test_the_graph_is_that_of_a_build(kit: ModuleType, tmp_path: Path, text: str) -> None:
    """Of the same nodes and tensors; one byte in a hundred may go to names and corrected biases."""
    done = rehearsed(kit, text)
    build = kit.workshop(kit.chain(3), tmp_path).build(text)
    assert done.model is not None
    assert ops(done.model) == ops(build.model)
    assert [e.site for e in done.edits if e.site != "graph"] == [
        e.site for e in build.edits if e.pass_name not in ("canonicalize", "equalize")
    ]
    with without_implied_origins(done.model):
        assert saved_bytes(done.model) == pytest.approx(build.bytes, rel=0.02)


def test_the_model_comes_back_as_it_was(kit: ModuleType) -> None:
    rewriter, context = stage(kit, kit.chain(2))
    before, mark = contents_digest(rewriter.model), rewriter.checkpoint()
    for text in PIPELINES:
        rehearse(text, rewriter, context, lower=True)
        assert contents_digest(rewriter.model) != before
        rewriter.rollback(mark)
        assert contents_digest(rewriter.model) == before


def test_lossless_moves_at_single_sites_are_named_and_not_made(kit: ModuleType) -> None:
    done = rehearsed(kit, EQUALIZED, kit.chain(3, gains={0: 30.0}))
    assert len(done.skipped["equalize"]) > 0
    assert {e.pass_name for e in done.edits} <= {"canonicalize", "quantize"}
    assert len(done.layers) == 3


def test_passes_can_be_asked_without_a_graph_being_made(kit: ModuleType) -> None:
    rewriter, context = stage(kit, kit.chain(3))
    digest = structure_digest(rewriter.model)
    done = rehearse(DYNAMIC, rewriter, context, lower=False)
    assert done.model is None
    assert structure_digest(rewriter.model) == digest
    plans = site_plans(done, {})
    assert [p.done for p in plans] == ["quantize dynamic"] * 3
    assert sum(p.saving for p in plans) == 3 * 3 * 64 * 64


def test_no_weight_is_read_for_an_outline(kit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("perturb was called")

    monkeypatch.setattr(Quantize, "perturb", fail)
    assert len(rehearsed(kit, DYNAMIC).edits) >= 3


def test_a_pass_without_an_outline_is_perturbed() -> None:
    class Plain(Pass):
        """Says what it was asked."""

        def perturb(self, model: Any, candidate: Any, ctx: Any) -> Any:
            return candidate

    asked: Any = "asked"
    nothing: Any = None
    assert Plain(None).outline(nothing, asked, nothing) == asked


def test_each_layer_has_what_is_done_or_why_not(kit: ModuleType) -> None:
    model = kit.graph(
        'a = MatMul(x, "large") y = MatMul(a, "small")',
        {"large": kit.normal(64, 64), "small": kit.normal(64, 8)},
        'float["batch", 64] x',
        'float["batch", 8] y',
    )
    done = rehearsed(kit, DYNAMIC, model)
    large, small = site_plans(done, kernels_of(done, 1))
    assert (large.done, large.bits, large.saving) == ("quantize dynamic", 8, 3 * 64 * 64)
    assert large.kernel.endswith(("DynamicQuantizeMatMul", "MatMulIntegerToFloat"))
    assert (small.done, small.code, small.bits) == ("", "too-small", 32)
    assert "smaller than" in small.sentence
    alone = site_plans(rehearsed(kit, "canonicalize", model), {})
    assert {(p.done, p.code) for p in alone} == {("", "not-taken")}


@pytest.mark.parametrize("text", [DYNAMIC, STATIC, INT4])
def test_kernels_are_those_of_the_built_model(kit: ModuleType, tmp_path: Path, text: str) -> None:
    build = kit.workshop(kit.chain(3), tmp_path).build(text)
    real = count_kernels(build.path, build.model, build.remarks, threads=1)
    assert kernels_of(rehearsed(kit, text), 1) == {k.site: k.kernel for k in real.sites}


def test_saved_bytes_are_those_of_the_file(kit: ModuleType) -> None:
    weights = {"w": kit.normal(300, 64), "b": kit.normal(64), "e": np.zeros((0, 64), np.float32)}
    body = 'p = MatMul(x, "w") q = Add(p, "b") y = Concat<axis=0>(q, "e")'
    proto = kit.graph(body, weights, 'float["n", 300] x', 'float["m", 64] y')
    model = load_model(proto).model
    assert saved_bytes(model) == pytest.approx(len(to_bytes(model)), abs=16)
    assert structure_digest(model) == structure_digest(load_model(proto).model)


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]
