"""Transforms of others behind the checks: what is taken over, what is refused, what stays."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest

from planish.ir.errors import EndlessError, PassError, UsageError
from planish.ir.provenance import ORIGIN_KEY
from planish.passes.adapting import adapt
from planish.passes.api import Pass, Semantics
from planish.passes.registry import borrowing, collecting

onnxscript = pytest.importorskip("onnxscript.rewriter.pattern")

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
HEAD = '<ir_version: 9, opset_import: ["" : 17]>\n'


def adapted(thing: Any, name: str = "", **settings: Any) -> type[Pass]:
    """The pass, known to nobody else."""
    with collecting(Path(__file__).parent):
        return adapt(thing, name, **settings)


def rule(pattern: Any, replacement: Any) -> Any:
    return onnxscript.RewriteRule(pattern, replacement, name="rule")


@pytest.fixture
def held(graphs: ModuleType) -> Any:
    """Two equal branches, an Identity in front and one that is an output."""
    text = """g (float[3, 4] x) => (float[3, 4] y, float[3, 4] h) {
        i = Identity(x) a = Add(i, w) b = Relu(a) c = Relu(a) q = Mul(b, c)
        h = Identity(q) y = Identity(h) }"""
    return graphs.Bench(graphs.parse(HEAD + text, w=X[0]), [{"x": X}], target="generic")


def run(held: Any, cls: type[Pass]) -> list[Any]:
    with borrowing([cls]):
        edits: list[Any] = held.run(cls.name).edits
    return edits


def test_an_onnx_ir_pass_is_taken_over_with_inferred_lineage(held: Any, graphs: ModuleType) -> None:
    before = graphs.run(held.model, {"x": X})
    edits = run(held, adapted(common.CommonSubexpressionEliminationPass()))
    assert [edit.lineage for edit in edits] == ["inferred"]
    assert edits[0].pass_name == "common-subexpression-elimination"
    assert graphs.ops(held.model).count("Relu") == 1
    after = held.outputs({"x": X})
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_new_nodes_come_from_those_that_they_replace(held: Any, graphs: ModuleType) -> None:
    cls = adapted(rule(lambda op, x, w: op.Add(x, w), lambda op, x, w: op.Sum(x, w)), "to-sum")
    origin = next(n for n in held.model.graph if n.op_type == "Add").name
    run(held, cls)
    (node,) = (n for n in held.model.graph if n.op_type == "Sum")
    assert origin in node.metadata_props[ORIGIN_KEY].split("|")


def wrong_outputs(model: ir.Model) -> None:
    model.graph.outputs[0].name = "renamed"


def broken(model: ir.Model) -> ir.Model:
    nodes = list(model.graph)
    nodes[1].replace_input_with(0, nodes[3].outputs[0])
    return model


def lying_shape(model: ir.Model) -> None:
    model.graph[1].outputs[0].shape = ir.Shape([7, 7])


def nan(model: ir.Model) -> None:
    value = model.graph.initializers["w"]
    value.const_value = ir.tensor(np.full(4, np.nan, np.float32), name="w")


def raising(model: ir.Model) -> None:
    raise KeyError("half way")


def other(model: ir.Model) -> str:
    return "a model"


def opsets(model: ir.Model) -> None:
    model.graph.opset_imports[""] = 18


LIES = {
    "identity elimination": (common.IdentityEliminationPass(), "broken graph: unique-outputs"),
    "other outputs": (wrong_outputs, "signature: output 'y' is gone"),
    "use before definition": (broken, "topological-order"),
    "a shape": (lying_shape, "shapes that cannot be"),
    "numbers": (nan, "weights are not finite"),
    "an error": (raising, "the transform failed with"),
    "no model": (other, "the transform returns a str"),
    "the opset": (opsets, "turns opset 17 of ONNX into 18"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_transform_that_lies_changes_nothing(held: Any, graphs: ModuleType, name: str) -> None:
    thing, said = LIES[name]
    before = graphs.snapshot(held.model)
    cls = adapted(thing, "lie")
    with borrowing([cls]), pytest.raises(PassError, match=said) as caught:
        held.run("lie")
    assert "test_adapting.py" in caught.value.where
    assert graphs.snapshot(held.model) == before


class Wrapped(ir.passes.InPlacePass):
    """One whose error onnx_ir wraps into one of its own."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        raising(model)
        raise AssertionError


@pytest.mark.parametrize("thing", [raising, ir.passes.Sequential(Wrapped())])
def test_an_error_keeps_its_type_and_its_line(held: Any, thing: Any) -> None:
    with borrowing([adapted(thing, "lie")]), pytest.raises(PassError) as caught:
        held.run("lie")
    assert caught.value.what == "the transform failed with KeyError: 'half way'"
    line = raising.__code__.co_firstlineno + 1
    assert f"test_adapting.py:{line}" in caught.value.where


def test_a_rule_that_fits_its_own_output_is_stopped(held: Any, graphs: ModuleType) -> None:
    before = graphs.snapshot(held.model)
    again = rule(lambda op, x: op.Relu(x), lambda op, x: op.Identity(op.Relu(x)))
    cls = adapted(again, "again")
    with borrowing([cls]), pytest.raises(EndlessError, match="was applied more than"):
        held.run("again")
    assert graphs.snapshot(held.model) == before


def test_an_initializer_that_hides_another_is_seen(graphs: ModuleType) -> None:
    """onnxscript lets a new initializer take the name of one that others still read."""

    def hiding(op: Any, x: Any, w: Any) -> Any:
        return op.Add(x, op.initializer(ir.tensor(-w.const_value.numpy()), "w"))

    text = "g (float[3, 4] x) => (float[3, 4] y) { a = Sub(x, w) y = Mul(a, w) }"
    held = graphs.Bench(graphs.parse(HEAD + text, w=X[0]), [{"x": X}], target="generic")
    before = graphs.snapshot(held.model)
    cls = adapted(rule(lambda op, x, w: op.Sub(x, w), hiding), "hiding")
    with borrowing([cls]), pytest.raises(PassError, match="inputs-defined"):
        held.run("hiding")
    assert graphs.snapshot(held.model) == before


def test_a_wrong_rule_breaks_its_promise(held: Any, graphs: ModuleType) -> None:
    before = graphs.snapshot(held.model)
    cls = adapted(rule(lambda op, x: op.Relu(x), lambda op, x: op.Abs(x)), "wrong")
    with borrowing([cls]), pytest.raises(PassError, match="although it promises not to"):
        held.run("wrong")
    assert graphs.snapshot(held.model) == before


def test_how_constants_are_stored_is_not_taken_over(graphs: ModuleType) -> None:
    text = "g (float[3, 4] x) => (float[3, 4] y) { a = Add(x, v) y = Add(a, w) }"
    model = graphs.parse(HEAD + text, v=X[0], w=X[0].copy())
    held = graphs.Bench(model, [{"x": X}], target="generic")
    assert run(held, adapted(common.DeduplicateInitializersPass(size_limit=1 << 20))) == []
    assert held.refusals() in ({"graph": "storage-only"}, {})
    assert len(held.model.graph.initializers) == 2


@pytest.mark.parametrize(
    ("thing", "settings", "said"),
    [
        (7, {}, "cannot be made a pass"),
        (common.IdentityEliminationPass(), {"semantics": Semantics.LOSSY}, "EXACT or REASSOCIATES"),
        ([], {}, "cannot be made a pass"),
        (common.InlinePass, {"name": "no name"}, "no name, or one that a pipeline cannot spell"),
    ],
)
def test_what_cannot_be_adapted(thing: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        adapted(thing, settings.pop("name", ""), **settings)
