from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir import rewriter as module
from planish.ir.errors import PassError
from planish.ir.graph import constant_array, dims
from planish.ir.provenance import EDIT_KEY, ORIGIN_KEY, SCOPE_KEY
from planish.ir.rewriter import Rewriter
from planish.ir.signature import Signature
from planish.ir.verify import violations

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 4] x, bool c) => (float[n, 4] y, float[n, 4] z, float[n, 4] r)
{
  [first] a = Mul(x, w)
  [second] b = Relu(a)
  [third] d = Add(b, a)
  [choose] y = If(c) <
    then_branch = t () => (float[n, 4] t_out) { [inner] t_out = Mul(d, w) },
    else_branch = e () => (float[n, 4] e_out) { [other] e_out = Neg(a) }
  >
  [last] z = Neg(d)
  [residual] r = Sub(b, x)
}
"""

W = np.array([1.0, -2.0, 3.0, 0.5], np.float32)
X = np.arange(8, dtype=np.float32).reshape(2, 4) - 3


@pytest.fixture
def model(graphs: ModuleType) -> ir.Model:
    parsed: ir.Model = graphs.parse(TEXT, w=W)
    return parsed


def change_everything(model: ir.Model, graphs: ModuleType) -> Callable[[Rewriter], None]:
    """Every primitive once."""

    def get(name: str) -> ir.Value:
        return graphs.value(model, name)  # type: ignore[no-any-return]

    def at(name: str) -> ir.Node:
        return graphs.node(model, name)  # type: ignore[no-any-return]

    def edit(rewriter: Rewriter) -> None:
        scale = rewriter.initializer("w", np.array(2.0, np.float32))
        double = rewriter.insert("Mul", [get("a"), scale], after=at("first"), name="double")
        rewriter.replace_uses(get("a"), double.outputs[0], only=[at("second"), at("third")])
        tanh = rewriter.insert("Tanh", [get("d")], before=at("choose"), origins=[at("third")])
        rewriter.replace_uses(get("z"), tanh.outputs[0])
        rewriter.remove(at("last"))
        rewriter.set_tensor(get("w"), W * 2)
        rewriter.set_attribute(at("residual"), "note", "changed")
        rewriter.set_input(at("residual"), 1, scale)
        rewriter.set_type(get("b"), ir.DataType.FLOAT, ir.Shape(["n", 4]))
        rewriter.require_opset("com.microsoft", 1)
        rewriter.require_opset("", 7)
        relu = rewriter.insert("Relu", [double.outputs[0]], before=at("third"))
        rewriter.take_over(get("b"), relu.outputs[0])
        rewriter.sweep([get("b_before")])

    return edit


def test_rollback_restores_everything(model: ir.Model, graphs: ModuleType) -> None:
    feeds = {"x": X, "c": np.array(True)}
    before, numbers = graphs.snapshot(model), graphs.run(model, feeds)
    rewriter = Rewriter(model)
    mark = rewriter.checkpoint()
    with rewriter.edit("test/all"):
        change_everything(model, graphs)(rewriter)
    assert violations(model) == []
    changed = graphs.snapshot(model)
    assert all(changed[key] != before[key] for key in ("digest", "nodes", "initializers", "opsets"))
    rewriter.rollback(mark)
    assert graphs.snapshot(model) == before
    after = graphs.run(model, feeds)
    assert all(np.array_equal(after[name], numbers[name]) for name in numbers)


def test_what_is_done_again_after_a_rollback_is_the_same(
    model: ir.Model, graphs: ModuleType
) -> None:
    rewriter, seen = Rewriter(model), []
    for _ in range(3):
        mark = rewriter.checkpoint()
        with rewriter.edit("test/all") as record:
            change_everything(model, graphs)(rewriter)
        seen.append((record.id, graphs.snapshot(model)))
        rewriter.rollback(mark)
    assert seen[0] == seen[1] == seen[2]


def test_rollback_goes_back_to_the_mark_and_not_further(
    model: ir.Model, graphs: ModuleType
) -> None:
    rewriter = Rewriter(model)
    rewriter.set_tensor(graphs.value(model, "w"), W + 1)
    mark = rewriter.checkpoint()
    rewriter.set_tensor(graphs.value(model, "w"), W + 2)
    rewriter.rollback(mark)
    array = graphs.value(model, "w").const_value.numpy()
    np.testing.assert_array_equal(array, W + 1)


def test_an_edit_that_fails_leaves_no_trace_and_the_next_one_works(
    model: ir.Model, graphs: ModuleType
) -> None:
    before, rewriter = graphs.snapshot(model), Rewriter(model)

    def fail() -> None:
        with rewriter.edit("test/one"):
            change_everything(model, graphs)(rewriter)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert graphs.snapshot(model) == before
    with rewriter.edit("test/two") as record:
        pass
    assert record.id == "0001-test/two"


def test_edits_do_not_nest(model: ir.Model) -> None:
    rewriter = Rewriter(model)
    with rewriter.edit("outer"), pytest.raises(PassError, match="nest"), rewriter.edit("inner"):
        pass


def test_names_are_unique_also_against_subgraphs(model: ir.Model) -> None:
    rewriter = Rewriter(model)
    assert rewriter.value_name("t_out") == "t_out_1"
    assert rewriter.value_name("t_out") == "t_out_2"
    assert rewriter.initializer("x", W).name == "x_1"
    assert rewriter.initializer("x", W).name == "x_2"
    made = [rewriter.insert("Neg", [rewriter.graph.inputs[0]], name="inner") for _ in range(2)]
    assert [n.name for n in made] == ["inner_1", "inner_2"]
    names = [o.name for n in made for o in n.outputs]
    assert names == ["inner", "inner_1"]  # values have names of their own
    assert violations(rewriter.model) == []


def test_numbers_and_arrays_keep_their_shape(model: ir.Model) -> None:
    rewriter = Rewriter(model)
    matrix = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    for array in (np.array(2.0, np.float32), matrix):
        value = rewriter.initializer("a", array)
        kept = constant_array(value)
        assert kept is not None
        assert value.shape == kept.shape == array.shape
        np.testing.assert_array_equal(kept, array)


def test_new_nodes_know_their_edit_their_origins_and_their_type(
    model: ir.Model, graphs: ModuleType
) -> None:
    rewriter = Rewriter(model)
    first, second = graphs.node(model, "first"), graphs.node(model, "second")
    second.metadata_props[SCOPE_KEY] = "['layer', 'relu']"
    with rewriter.edit("test/one") as record:
        new = rewriter.insert(
            "Neg", [graphs.value(model, "b")], before=graphs.node(model, "third"),
            origins=[first, second],
        )  # fmt: skip
        newer = rewriter.insert("Neg", [new.outputs[0]], after=new, origins=[new, first])
    assert new.metadata_props[ORIGIN_KEY] == "first|second"
    assert newer.metadata_props[ORIGIN_KEY] == "first|second"
    assert new.metadata_props[EDIT_KEY] == record.id == "0001-test/one"
    assert new.metadata_props[SCOPE_KEY] == "['layer', 'relu']"
    assert record.added == [new, newer]
    assert record.origins == ["first", "second"]
    assert new.outputs[0].dtype == ir.DataType.FLOAT
    assert dims(new.outputs[0]) == ("n", 4)


def test_the_record_lists_what_was_touched(model: ir.Model, graphs: ModuleType) -> None:
    rewriter = Rewriter(model)
    with rewriter.edit("test/one") as record:
        rewriter.replace_uses(graphs.value(model, "z"), graphs.value(model, "d"))
        rewriter.remove(graphs.node(model, "last"))
        rewriter.set_tensor(graphs.value(model, "w"), W)
        rewriter.set_input(graphs.node(model, "residual"), 1, graphs.value(model, "a"))
    assert record.removed == ["last"]
    assert record.tensors == ["w"]
    assert record.origins == ["last", "residual"]


def test_a_graph_output_keeps_its_name_and_shape(model: ir.Model, graphs: ModuleType) -> None:
    signature, rewriter = Signature.of(model), Rewriter(model)
    z, last = graphs.value(model, "z"), graphs.node(model, "last")
    new = rewriter.insert("Abs", [graphs.value(model, "d")], before=last)
    rewriter.replace_uses(z, new.outputs[0])
    rewriter.remove(last)
    assert Signature.of(model) == signature
    assert new.outputs[0].name == "z"
    assert violations(model, signature) == []


@pytest.mark.parametrize("other", ["x", "w", "r"])
def test_an_input_a_constant_or_another_output_comes_through_an_identity(
    model: ir.Model, graphs: ModuleType, other: str
) -> None:
    rewriter, signature = Rewriter(model), Signature.of(model)
    before = graphs.snapshot(model)
    mark = rewriter.checkpoint()
    rewriter.replace_uses(graphs.value(model, "z"), graphs.value(model, other))
    rewriter.remove(graphs.node(model, "last"))
    assert graphs.ops(model)[-1] == "Identity"
    assert violations(model, signature if other != "w" else None) == []
    rewriter.rollback(mark)
    assert graphs.snapshot(model) == before


def test_an_output_of_unknown_type_keeps_its_promise(graphs: ModuleType) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20, "my.ops" : 1]>
    g (float[2] x) => (float[2] y) { [only] y = Neg(x) }
    """
    model = graphs.parse(text)
    signature, rewriter = Signature.of(model), Rewriter(model)
    new = rewriter.insert("Custom", [graphs.value(model, "x")], domain="my.ops")
    rewriter.replace_uses(graphs.value(model, "y"), new.outputs[0])
    rewriter.remove(graphs.node(model, "only"))
    assert Signature.of(model) == signature


def test_uses_in_branches_are_replaced_too(model: ir.Model, graphs: ModuleType) -> None:
    rewriter = Rewriter(model)
    new = rewriter.insert("Abs", [graphs.value(model, "b")], before=graphs.node(model, "choose"))
    rewriter.replace_uses(graphs.value(model, "d"), new.outputs[0])
    assert graphs.node(model, "inner").inputs[0] is new.outputs[0]
    rewriter.sweep([graphs.value(model, "d")])
    assert "third" not in [n.name for n in model.graph]
    assert violations(model) == []


def test_taking_over_keeps_the_name_of_an_inner_value(model: ir.Model, graphs: ModuleType) -> None:
    rewriter, mark = Rewriter(model), 0
    before = graphs.snapshot(model)
    new = rewriter.insert("Abs", [graphs.value(model, "a")], before=graphs.node(model, "third"))
    old = graphs.value(model, "b")
    rewriter.take_over(old, new.outputs[0])
    assert new.outputs[0].name == "b"
    assert old.name == "b_before"
    assert not old.uses()
    rewriter.rollback(mark)
    assert graphs.snapshot(model) == before


def test_dead_code_is_swept_and_live_code_is_not(model: ir.Model, graphs: ModuleType) -> None:
    rewriter = Rewriter(model)
    constant = rewriter.initializer("lonely", W)
    one = rewriter.insert("Mul", [graphs.value(model, "a"), constant])
    two = rewriter.insert("Add", [one.outputs[0], one.outputs[0]])
    rewriter.sweep([two.outputs[0], graphs.value(model, "d"), graphs.value(model, "x"), None])
    assert graphs.ops(model) == ["Mul", "Relu", "Add", "If", "Neg", "Sub"]
    assert "lonely" not in model.graph.initializers
    assert list(model.graph.initializers) == ["w"]


def test_what_is_still_used_is_not_removed(model: ir.Model, graphs: ModuleType) -> None:
    rewriter, before = Rewriter(model), graphs.snapshot(model)
    with pytest.raises(PassError, match=r"outputs \['b'\] are still used"):
        rewriter.remove(graphs.node(model, "second"))
    with pytest.raises(PassError, match=r"outputs \['z'\] are still used"):
        rewriter.remove(graphs.node(model, "last"))
    assert graphs.snapshot(model) == before


def test_a_chain_can_be_removed_in_any_order(graphs: ModuleType) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[2] x) => (float[2] y) { [a] p = Neg(x) [b] q = Abs(p) [c] r = Exp(q) y = Neg(x) }
    """
    for order in ("abc", "cba", "bac"):
        model = graphs.parse(text)
        rewriter, before = Rewriter(model), graphs.snapshot(model)
        rewriter.remove([graphs.node(model, name) for name in order])
        assert graphs.ops(model) == ["Neg"]
        rewriter.rollback(0)
        assert graphs.snapshot(model) == before


def test_a_tensor_of_another_shape_or_dtype_is_refused(model: ir.Model, graphs: ModuleType) -> None:
    rewriter, w = Rewriter(model), graphs.value(model, "w")
    for data in (W[:2], W.astype(np.float64)):
        with pytest.raises(PassError, match=r"cannot stand for FLOAT\[4\]"):
            rewriter.set_tensor(w, data)
    with pytest.raises(PassError, match="initializer"):
        rewriter.set_tensor(graphs.value(model, "b"), W)
    np.testing.assert_array_equal(w.const_value.numpy(), W)


def test_inputs_that_an_operator_cannot_take_are_an_error(
    model: ir.Model, graphs: ModuleType
) -> None:
    rewriter, before = Rewriter(model), graphs.snapshot(model)
    wrong = np.zeros((3, 5), np.float32)

    def edit() -> None:
        with rewriter.edit("test/one"):
            rewriter.insert("MatMul", [graphs.value(model, "b"), rewriter.initializer("v", wrong)])

    with pytest.raises(PassError):
        edit()
    assert graphs.snapshot(model) == before


def test_rewriting_ends(
    model: ir.Model, graphs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OPERATIONS_PER_EDIT", 50)
    rewriter, before = Rewriter(model), graphs.snapshot(model)

    def endless() -> None:
        with rewriter.edit("test/endless"):
            while True:
                rewriter.insert("Neg", [graphs.value(model, "b")])

    with pytest.raises(PassError, match="more than 50 operations"):
        endless()
    assert graphs.snapshot(model) == before


# -- inside subgraphs ------------------------------------------------------------------

BRANCHES = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n] x, bool b) => (float[n] y) {
  r = Relu(x)
  y = If (b) <then_branch = t () => (float[n] p) { p = Neg(r) },
              else_branch = e () => (float[n] q) { q = Neg(r) }>
}"""


def test_an_initializer_goes_where_it_is_said(graphs: ModuleType) -> None:
    model = graphs.parse(BRANCHES)
    rewriter = Rewriter(model)
    inner = graphs.node(model, "Neg_2").graph
    before = graphs.snapshot(model)
    with rewriter.edit("test"):
        value = rewriter.initializer("c", np.ones(1, np.float32), graph=inner)
    assert list(inner.initializers) == [value.name]
    assert not model.graph.initializers
    rewriter.rollback(0)
    assert not inner.initializers
    assert graphs.snapshot(model) == before


def test_a_body_output_that_becomes_an_outer_value_is_copied_inside(graphs: ModuleType) -> None:
    model = graphs.parse(BRANCHES)
    rewriter = Rewriter(model)
    neg = graphs.node(model, "Neg_2")
    name, body = neg.outputs[0].name, neg.graph
    before = graphs.snapshot(model)
    with rewriter.edit("test"):
        rewriter.replace_uses(neg.outputs[0], neg.inputs[0])
        rewriter.remove(neg)
    assert [n.op_type for n in body] == ["Identity"]
    assert [v.name for v in body.outputs] == [name]
    assert violations(model) == []
    rewriter.rollback(0)
    assert [n.op_type for n in body] == ["Neg"]
    assert graphs.snapshot(model) == before


def test_constants_keep_their_order_whatever_is_undone(model: ir.Model, graphs: ModuleType) -> None:
    rewriter = Rewriter(model)
    held = [rewriter.initializer(f"c{i}", W) for i in range(4)]
    rewriter.insert("Mul", [held[1], held[2]])
    new = rewriter.insert("Neg", [held[1]])
    rewriter.take_over(held[1], new.outputs[0])  # the constant gets another name and goes last
    before, mark = graphs.snapshot(model), rewriter.checkpoint()
    assert before["initializers"] == ["w", "c0", "c2", "c3", "c1_before"]
    with rewriter.edit("test/one"):
        rewriter.sweep([held[0], held[3]])
        other = rewriter.insert("Neg", [held[2]])
        rewriter.take_over(held[2], other.outputs[0])
        rewriter.initializer("c0", W)
    assert list(model.graph.initializers) == ["w", "c1_before", "c2_before", "c0_1"]
    rewriter.rollback(mark)
    assert graphs.snapshot(model) == before
