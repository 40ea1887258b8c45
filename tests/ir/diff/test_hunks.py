"""What changed, together with what, and how it is said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from planish.ir.diff.changes import GraphDiff
from planish.ir.diff.hunks import diff_models
from planish.ir.diff.lineage import Lineage, Stamp, lineage_of
from planish.ir.diff.pool import Pool
from planish.ir.diff.replay import patch_of, replay, store_of
from planish.ir.digest import contents_digest
from planish.ir.graph import all_nodes

Net = Callable[..., ir.Model]
Weight = Callable[[int], np.ndarray]


def told(diff: GraphDiff) -> list[tuple[str, list[str], list[str]]]:
    """Kind of each hunk, operators before and after."""
    return [
        (h.kind, [diff.before.nodes[n].op_type for n in h.before],
         [diff.after.nodes[n].op_type for n in h.after])
        for h in diff.hunks
    ]  # fmt: skip


def test_nothing_changed(net: Net, weight: Weight) -> None:
    body = "a = MatMul(x, w) y = Relu(a)"
    found = diff_models(net(body, w=weight(0)), net(body, w=weight(0)))
    assert not found
    assert (found.hunks, found.unchanged) == ((), 2)


def test_a_layer_in_two_factors_is_one_hunk(net: Net, weight: Weight) -> None:
    one = net("a = MatMul(x, w) y = Relu(a)", w=weight(0))
    other = net("h = MatMul(x, u) a = MatMul(h, v) y = Relu(a)",
                u=weight(0)[:, :2], v=weight(0)[:2])  # fmt: skip
    found = diff_models(one, other)
    assert told(found) == [("replaced", ["MatMul"], ["MatMul", "MatMul"])]
    (hunk,) = found.hunks
    assert hunk.bytes == 0  # 16 numbers before, 8 and 8 after
    assert {t.before.name for t in hunk.tensors if t.before} == {"w"}


def test_equal_changes_along_a_chain_are_hunks_of_their_own(net: Net, weight: Weight) -> None:
    tensors = {f"w{i}": weight(i) for i in range(3)}
    one = net("a = MatMul(x, w0) b = MatMul(a, w1) y = MatMul(b, w2)", **tensors)
    doubled = {name: 2 * array for name, array in tensors.items()}
    found = diff_models(one, net("a = MatMul(x, w0) b = MatMul(a, w1) y = MatMul(b, w2)",
                                 **doubled))  # fmt: skip
    assert told(found) == [("modified", ["MatMul"], ["MatMul"])] * 3
    errors = [change.error or 0.0 for hunk in found.hunks for change in hunk.tensors]
    np.testing.assert_allclose(errors, np.ones(3))


def test_what_is_new_stands_where_it_is_read(net: Net, weight: Weight) -> None:
    one = net("a = MatMul(x, w) y = Relu(a)", w=weight(0))
    other = net("a = MatMul(x, w) n = Neg(a) y = Relu(n)", w=weight(0))
    assert told(diff_models(one, other)) == [("added", [], ["Neg"])]
    assert told(diff_models(other, one)) == [("removed", ["Neg"], [])]


def test_attributes_are_named(net: Net) -> None:
    one = net("a = Softmax <axis = 0> (x) y = Relu(a)")
    other = net("a = Softmax <axis = 1> (x) y = Relu(a)")
    (hunk,) = diff_models(one, other).hunks
    assert (hunk.kind, hunk.details) == ("modified", ("Softmax: axis: 0 -> 1",))


def test_wiring_that_changed_without_a_new_node(net: Net, weight: Weight) -> None:
    one = net("a = MatMul(x, v) b = MatMul(x, w) y = Sub(a, b)", v=weight(0), w=weight(1))
    other = net("a = MatMul(x, v) b = MatMul(x, w) y = Sub(b, a)", v=weight(0), w=weight(1))
    (hunk,) = diff_models(one, other).hunks
    assert hunk.kind == "moved"
    assert hunk.details == ("Sub: inputs 0 and 1 swapped",)


def test_an_input_that_comes_from_another_node_says_from_which(net: Net) -> None:
    one, other = (net(f"a = Neg(x) b = Abs(x) c = Exp({read}) y = Sum(a, b, c)") for read in "ab")
    for model in (one, other):
        for node in model.graph:
            node.name = f"the_{node.op_type}"
    (hunk,) = diff_models(one, other).hunks
    assert (hunk.kind, hunk.details) == ("moved", ("Exp: input 0: Neg the_Neg -> Abs the_Abs",))


def test_exchanged_weights_are_other_weights(net: Net, weight: Weight) -> None:
    """By content each product is where the other one was, but nothing around them moved."""
    body = "a = MatMul(x, v) b = Relu(a) c = MatMul(b, w) d = Abs(c) y = Exp(d)"
    one, other = net(body, v=weight(0), w=weight(1)), net(body, v=weight(1), w=weight(0))
    found = diff_models(one, other)
    assert told(found) == [("modified", ["MatMul"], ["MatMul"])] * 2
    assert [len(hunk.tensors) for hunk in found.hunks] == [1, 1]
    assert contents_digest(replay(one, patch_of(found), store_of(other))) == contents_digest(other)


def test_an_input_of_the_model_in_the_place_of_a_node_that_stays(net: Net) -> None:
    one, other = (net(f"a = Neg(x) b = Abs(a) y = Sub(b, {read})") for read in ("a", "x"))
    names = [next(n.name for n in m.graph if n.op_type == "Neg") for m in (one, other)]
    for before, after, told in (
        (one, other, f"Neg {names[0]} -> the input x"),
        (other, one, f"the input x -> Neg {names[0]}"),
    ):
        (hunk,) = diff_models(before, after).hunks
        assert (hunk.kind, hunk.details) == ("moved", (f"Sub: input 1: {told}",))


def test_outputs_that_change_places(net: Net) -> None:
    face = "(float[2, 4] x) => (float[2, 4] y, float[2, 4] z)"
    one = net("y = Abs(x) z = Exp(x)", face=face)
    found = diff_models(one, net("z = Abs(x) y = Exp(x)", face=face))
    assert found
    assert found.hunks or found.face


def test_the_face_and_the_opsets_are_told(net: Net) -> None:
    found = diff_models(
        net("y = Relu(x)"), net("z = Relu(x)", face="(float[2, 4] x) => (float[2, 4] z)")
    )
    assert found
    assert found.face == ("output 'y' is gone", "output 'z' is new")


def test_constants_stored_twice_are_told(net: Net, weight: Weight) -> None:
    one = net("a = MatMul(x, w) y = MatMul(a, w)", w=weight(0))
    other = net("a = MatMul(x, w) y = MatMul(a, v)", w=weight(0), v=weight(0))
    found = diff_models(one, other)
    assert found.hunks == ()
    assert len(found.stores) == 1
    assert found.stores[0].endswith("is stored 1 times -> 2 times")


def test_two_graphs_with_nothing_in_common(net: Net, weight: Weight) -> None:
    found = diff_models(net("a = Sin(x) y = Cos(a)"), net("a = Neg(x) b = Abs(a) y = Exp(b)"))
    assert told(found) == [("replaced", ["Sin", "Cos"], ["Neg", "Abs", "Exp"])]


def test_the_body_that_a_change_stands_in(net: Net) -> None:
    face = "(float[2, 4] x, bool c) => (float[2, 4] y)"
    body = (
        "y = If (c) <then_branch = t () => (float[2, 4] p) {{ p = {0} (x) }}, "
        "else_branch = e () => (float[2, 4] q) {{ q = {1} (x) }}>"
    )
    one, other = (net(body.format(*ops), face=face) for ops in (("Relu", "Neg"), ("Relu", "Abs")))
    for model in (one, other):
        for node in model.graph:
            node.name = "choice"
        for node in all_nodes(model):
            node.name = node.name if node.op_type == "If" else ""
    modules = [hunk.module for hunk in diff_models(one, other).hunks]
    assert modules
    assert set(modules) == {"choice > else_branch"}


def test_stamps_say_what_came_from_what(net: Net, weight: Weight) -> None:
    """Two equal layers, the second one replaced by what could as well stand for the first."""
    one = net("a = MatMul(x, v) b = Relu(a) y = MatMul(b, w)", v=weight(0), w=weight(1))
    other = net("a = MatMul(x, v) b = Relu(a) h = MatMul(b, p) y = MatMul(h, q)",
                v=weight(0), p=weight(2)[:, :2], q=weight(3)[:2])  # fmt: skip
    for node in (*one.graph, *other.graph):
        node.name = f"n_{node.outputs[0].name}"
    stamp = Stamp("0001-low-rank/second", ("n_y",))
    stamps = {"n_h": stamp, "n_y": stamp}
    found = diff_models(one, other, lineage=lambda a, b: lineage_of(a, b, stamps))
    (hunk,) = found.hunks
    assert told(found) == [("replaced", ["MatMul"], ["MatMul", "MatMul"])]
    assert hunk.edits == ("0001-low-rank/second",)
    assert set(found.matching.how.values()) == {"lineage"}


def test_an_edit_that_only_read_what_a_node_computes_did_not_change_it(net: Net) -> None:
    """Relu reads a constant now; that what it computes is rounded is another hunk."""
    one = net("n = Neg(c) a = Max(x, n) y = Abs(a)", c=np.array([1, 2, 3, 4], np.float32))
    other = net("a = Max(x, m) q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) "
                "y = Abs(d)", m=np.array([-1, -2, -3, -4], np.float32), s=np.float32(1),
                z=np.uint8(0))  # fmt: skip

    def lineage(before: Pool, after: Pool) -> Lineage:
        kinds = {node.op_type: a for a, node in enumerate(before.nodes)}
        new = {node.op_type: b for b, node in enumerate(after.nodes)}
        return Lineage(
            {kinds[name]: new[name] for name in ("Max", "Abs")},
            touched={kinds["Neg"]: ("1-fold/m",), kinds["Max"]: ("1-fold/m", "2-round/a")},
            made={new["QuantizeLinear"]: "2-round/a", new["DequantizeLinear"]: "2-round/a"},
        )

    found = diff_models(one, other, lineage=lineage)
    assert [hunk.edits for hunk in found.hunks] == [("1-fold/m",), ("2-round/a",)]


def test_stamps_of_another_compile_are_not_believed(net: Net, weight: Weight) -> None:
    one, other = net("y = Relu(x)"), net("a = Neg(x) y = Abs(a)")
    for node in other.graph:
        node.name = f"other_{node.name}"
    stamps = {str(n.name): Stamp("1-p/s", ("elsewhere",)) for n in other.graph}
    assert diff_models(one, other, lineage=lambda a, b: lineage_of(a, b, stamps)).hunks
