from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler import execution
from planish.compiler.checking import regionruns as module
from planish.compiler.checking.regionruns import RegionRuns
from planish.compiler.context import CompileContext
from planish.compiler.data.feeds import synthetic
from planish.compiler.instruments import BrokenPromiseError, VerifyEach
from planish.compiler.manager import PassManager
from planish.compiler.progress import Silent
from planish.compiler.spill import SpillingRewriter
from planish.ir.load import load_model
from planish.ir.rewriter import Rewriter
from planish.ir.signature import Signature
from planish.passes.api import (
    Candidate,
    Context,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    pass_class,
)
from planish.targets.loader import load_target

PLENTY = 1 << 40
TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 8] x) => (float[n, 8] y)
<int64[2] keep = {0, -1}, float two = {2}>
{
  a = MatMul(x, w1)
  b = Relu(a)
  c = MatMul(b, w2)
  d = Tanh(c)
  e = MatMul(d, w3)
  f = Mul(e, two)
  y = Reshape(f, keep)
}
"""
RNG = np.random.default_rng(5)
WEIGHTS = {f"w{i}": RNG.normal(size=(8, 8)).astype(np.float32) for i in (1, 2, 3)}

Edit = Callable[[ir.Model, Rewriter], None]


@dataclass(frozen=True)
class NoOptions:
    pass


class Editing(Pass):
    """Makes one edit to the graph."""

    name = "editing"
    semantics = Semantics.REASSOCIATES
    Options = NoOptions
    edit: Edit

    def candidates(self, model: ir.Model, ctx: Context) -> Iterable[Candidate | Refusal]:
        return [Candidate("graph", "edit")]

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        type(self).edit(model, rewriter)


def parsed(text: str = TEXT) -> ir.Model:
    made = [ir.tensor(array, name=name) for name, array in WEIGHTS.items() if name in text]
    return load_model(ir.from_onnx_text(text, initializers=made)).model


def checked(
    edit: Edit, semantics: Semantics = Semantics.REASSOCIATES, text: str = TEXT, limit: int = PLENTY
) -> tuple[RegionRuns, CompileContext]:
    """The edit made by a pass with that promise, held to it without running the model."""
    model = parsed(text)
    signature = Signature.of(model)
    feeds = synthetic(signature, 1, 0)
    target = load_target("x86-avx2")
    context = CompileContext(target, model, feeds, False, None, 1, Silent(), limit=limit)
    runs = RegionRuns(limit=limit)
    instruments = [VerifyEach(signature), runs]
    pass_ = type("Once", (Editing,), {"edit": staticmethod(edit), "semantics": semantics})
    PassManager(Rewriter(model), context, instruments).run(pass_(NoOptions()))
    return runs, context


def node(model: ir.Model, output: str) -> ir.Node:
    return next(n for n in model.graph if n.outputs[0].name == output)


def spelled_out(model: ir.Model, rewriter: Rewriter) -> None:
    """Each MatMul(x, w) as MatMul(x, w) + 0."""
    for old in [n for n in model.graph if n.op_type == "MatMul"]:
        zero = rewriter.initializer("zero", np.zeros(8, np.float32))
        product = rewriter.insert("MatMul", list(old.inputs), before=old).outputs[0]
        total = rewriter.insert("Add", [product, zero], before=old).outputs[0]
        rewriter.take_over(old.outputs[0], total)
        rewriter.remove(old)


def shifted(by: float, output: str = "c") -> Edit:
    """One product is off by a constant."""

    def edit(model: ir.Model, rewriter: Rewriter) -> None:
        old = node(model, output)
        much = rewriter.initializer("much", np.full(8, by, np.float32))
        product = rewriter.insert("MatMul", list(old.inputs), before=old).outputs[0]
        total = rewriter.insert("Add", [product, much], before=old).outputs[0]
        rewriter.take_over(old.outputs[0], total)
        rewriter.remove(old)

    return edit


def test_no_session_of_the_whole_model_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real = execution.running

    def watched(model: ir.Model, **options: Any) -> Any:
        seen.append([n.op_type for n in model.graph])
        return real(model, **options)

    monkeypatch.setattr(module, "running", watched)
    runs, _ = checked(spelled_out)
    assert (runs.checked, len(runs.forms), runs.left) == (3, 1, {})
    assert seen == [["MatMul"], ["MatMul", "Add"]]


def test_a_form_is_run_again_where_its_weights_stand_otherwise() -> None:
    def edit(model: ir.Model, rewriter: Rewriter) -> None:
        spelled_out(model, rewriter)
        last = next(
            n for n in model.graph if [v.name for v in n.inputs if v is not None][:1] == ["d"]
        )
        rewriter.set_input(last, 1, model.graph.initializers["w1"])

    with pytest.raises(BrokenPromiseError, match="changed output 'y'"):
        checked(edit)


@pytest.mark.parametrize("semantics", [Semantics.EXACT, Semantics.REASSOCIATES])
def test_a_wrong_edit_is_an_error(semantics: Semantics) -> None:
    with pytest.raises(BrokenPromiseError, match="changed output 'y'"):
        checked(shifted(0.5), semantics)


def test_what_is_equal_in_real_arithmetic_is_not_equal_in_bits() -> None:
    def swapped(model: ir.Model, rewriter: Rewriter) -> None:
        """(x w1) as ((x 3) w1) / 3."""
        old = node(model, "a")
        three = rewriter.initializer("three", np.array(3, np.float32))
        x = rewriter.insert("Mul", [old.inputs[0], three], before=old).outputs[0]
        product = rewriter.insert("MatMul", [x, old.inputs[1]], before=old).outputs[0]
        whole = rewriter.insert("Div", [product, three], before=old).outputs[0]
        rewriter.take_over(old.outputs[0], whole)
        rewriter.remove(old)

    assert checked(swapped)[0].checked == 1
    with pytest.raises(BrokenPromiseError):
        checked(swapped, Semantics.EXACT)


def test_a_name_that_moved_to_another_value_is_no_error() -> None:
    def edit(model: ir.Model, rewriter: Rewriter) -> None:
        """(e 2) as (2 d) w3: the name of e goes to another value."""
        product, scaled = node(model, "e"), node(model, "f")
        two = scaled.inputs[1]
        first = rewriter.insert("Mul", [product.inputs[0], two], before=product).outputs[0]
        second = rewriter.insert("MatMul", [first, product.inputs[1]], before=product).outputs[0]
        rewriter.take_over(scaled.outputs[0], second)
        rewriter.remove(scaled)
        rewriter.take_over(product.outputs[0], first)
        rewriter.remove(product)

    runs, _ = checked(edit)
    assert runs.checked >= 1
    assert not runs.left


def test_a_region_of_unknown_shape_is_said_and_not_passed() -> None:
    text = TEXT.replace("b = Relu(a)", "n = NonZero(a) b = Relu(a)").replace(
        "e = MatMul(d, w3)", "e = MatMul(d, w3) k = Cast <to = 1> (n) r = ReduceSum(k) q = Neg(r)"
    )

    def edit(model: ir.Model, rewriter: Rewriter) -> None:
        old = node(model, "k")
        again = rewriter.insert("Identity", [old.inputs[0]], before=old).outputs[0]
        rewriter.set_input(old, 0, again)

    runs, context = checked(edit, Semantics.EXACT, text)
    assert runs.checked == 0
    assert list(runs.left) == ["k"]
    notes = [r for r in context.remarks if r.code == "not-checked"]
    assert [(r.site, r.kind) for r in notes] == [("k", "note")]
    assert "the shape of one of its inputs is not known" in notes[0].sentence


def test_a_region_that_does_not_fit_is_said_and_not_passed() -> None:
    runs, context = checked(shifted(0.5), limit=1)
    assert (runs.checked, list(runs.left)) == (0, ["c"])
    assert "may be used" in next(r.sentence for r in context.remarks if r.code == "not-checked")


def test_large_weights_are_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIFTED", 16)
    constants: list[int] = []
    real = execution.running

    def watched(model: ir.Model, **options: Any) -> Any:
        constants.append(len(model.graph.initializers))
        return real(model, **options)

    monkeypatch.setattr(module, "running", watched)
    assert checked(spelled_out)[0].checked == 3
    assert constants == [0, 0]
    with pytest.raises(BrokenPromiseError):
        checked(shifted(0.5))


# -- lossy edits -------------------------------------------------------------------------


def test_layers_are_quantized_without_running_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kit: ModuleType
) -> None:
    monkeypatch.setattr("planish.compiler.spill.SPILLED", 1000)
    model = load_model(kit.chain(3)).model
    signature = Signature.of(model)
    target = load_target("x86-avx2")
    feeds = synthetic(signature, 1, 0)
    context = CompileContext(target, model, feeds, False, None, 1, Silent(), limit=PLENTY)
    rewriter = SpillingRewriter(model, tmp_path / "weights")
    runs = RegionRuns(limit=PLENTY)
    cls = pass_class("quantize")
    outcome = PassManager(rewriter, context, [VerifyEach(signature), runs]).run(cls(cls.Options()))
    assert [e.setting for e in outcome.edits] == ["dynamic"] * 3
    assert all(0 < (e.loss or 0) < 1e-2 for e in outcome.edits)
    assert runs.lossy == 3
    codes = [
        v.const_value for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT8
    ]
    large = [t for t in codes if t is not None and t.nbytes > 1000]
    assert len(large) == 3
    assert all(isinstance(t, ir.ExternalTensor) for t in large)
    assert len(list((tmp_path / "weights").iterdir())) == 3


def test_a_layer_too_large_for_the_limit_is_left_alone(kit: ModuleType) -> None:
    model = load_model(kit.chain(2)).model
    signature = Signature.of(model)
    feeds = synthetic(signature, 1, 0)
    context = CompileContext(
        load_target("x86-avx2"), model, feeds, False, None, 1, Silent(), limit=1
    )
    cls = pass_class("quantize")
    runs = RegionRuns(limit=1)
    outcome = PassManager(Rewriter(model), context, [runs]).run(cls(cls.Options()))
    assert outcome.edits == []
    assert {r.code for r in context.remarks} == {"memory"}
    assert all("may be used" in r.sentence for r in context.remarks)
