"""Patterns with replacements: what is matched, what is left, how the graph looks afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.errors import PassError, UsageError
from planish.ir.graph import constant_array
from planish.ir.provenance import ORIGIN_KEY
from planish.passes.api import Pass, Semantics
from planish.passes.registry import borrowing, collecting
from planish.passes.rewriting import ROUNDS, rewrite_pass

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
HEAD = '<ir_version: 9, opset_import: ["" : 17]>\n'
Make = Callable[..., type[Pass]]


def make(name: str, pattern: Any, replacement: Any, **settings: Any) -> type[Pass]:
    """The pass, known to nobody else."""
    with collecting(Path(__file__).parent):
        return rewrite_pass(name, pattern, **settings)(replacement)


def bench(graphs: ModuleType, text: str, **weights: np.ndarray) -> Any:
    return graphs.Bench(graphs.parse(HEAD + text, **weights), [{"x": X}], target="generic")


def run(held: Any, cls: type[Pass]) -> int:
    """How many edits the pass makes."""
    with borrowing([cls]):
        return len(held.run(cls.name).edits)


@pytest.fixture
def twice_relu() -> type[Pass]:
    def pattern(op: Any, x: Any) -> Any:
        return op.Relu(op.Relu(x))

    def replacement(op: Any, x: Any) -> Any:
        return op.Relu(x)

    return make("twice-relu", pattern, replacement)


def test_a_chain_is_shortened_until_nothing_is_left(
    graphs: ModuleType, twice_relu: type[Pass]
) -> None:
    held = bench(graphs, "g (float[3, 4] x) => (float[3, 4] y) "
                 "{ a = Relu(x) b = Relu(a) c = Relu(b) d = Relu(c) y = Relu(d) }")  # fmt: skip
    before = graphs.run(held.model, {"x": X})
    run(held, twice_relu)
    assert graphs.ops(held.model) == ["Relu"]
    assert [v.name for v in held.model.graph.outputs] == ["y"]
    np.testing.assert_array_equal(held.outputs({"x": X})["y"], before["y"])
    (node,) = held.model.graph
    assert len(node.metadata_props[ORIGIN_KEY].split("|")) == 5


def test_what_others_read_inside_the_match_stays(
    graphs: ModuleType, twice_relu: type[Pass]
) -> None:
    text = "g (float[3, 4] x) => (float[3, 4] y, float[3, 4] a) { a = Relu(x) y = Relu(a) }"
    held = bench(graphs, text)
    assert run(held, twice_relu) == 0
    assert set(held.refusals().values()) == {"used-elsewhere"}
    (refused,) = held.remarks("refused").values()
    assert "'a', inside the match, is an output" in refused.sentence


def test_bodies_are_rewritten_and_may_read_what_is_outside(
    graphs: ModuleType, twice_relu: type[Pass]
) -> None:
    held = bench(graphs, """g (float[3, 4] x) => (float[3, 4] y) {
        q = Neg(x) s = ReduceSum<keepdims = 0>(q) c = Cast<to = 9>(s)
        y = If(c) <then_branch = one () => (float[3, 4] v) { b = Relu(q) v = Relu(b) },
                   else_branch = two () => (float[3, 4] w) { w = Identity(q) }>
    }""")  # fmt: skip
    before = graphs.run(held.model, {"x": X})["y"]
    assert run(held, twice_relu) == 1
    assert [n.op_type for n in held.model.graph.all_nodes()].count("Relu") == 1
    np.testing.assert_array_equal(held.outputs({"x": X})["y"], before)


@pytest.mark.parametrize("count", [1, 2])
def test_one_node_is_never_two_of_a_pattern(graphs: ModuleType, count: int) -> None:
    """Siblings are fused with each other, and one that has none is left alone."""

    def pattern(op: Any, x: Any, v: Any, w: Any) -> Any:
        return op.MatMul(x, v), op.MatMul(x, w)

    def replacement(op: Any, x: Any, v: Any, w: Any) -> Any:
        both = np.concatenate([constant_array(v), constant_array(w)], 1)
        return op.Split(op.MatMul(x, op.initializer(both)), axis=1, _outputs=2)

    names = ["y", "z"][:count]
    text = "g (float[3, 4] x) => (" + ", ".join(f"float[3, 4] {name}" for name in names) + ") {"
    weights = {f"w{name}": np.diag(X[i]) for i, name in enumerate(names)}
    held = bench(graphs, text + " ".join(f"{n} = MatMul(x, w{n})" for n in names) + " }", **weights)
    before = graphs.run(held.model, {"x": X})
    assert run(held, make("siblings", pattern, replacement, semantics=Semantics.REASSOCIATES)) == (
        count - 1
    )
    assert graphs.ops(held.model).count("MatMul") == 1
    for name in names:
        np.testing.assert_allclose(held.outputs({"x": X})[name], before[name], rtol=1e-6)


def test_a_rule_that_fits_its_own_output_ends(graphs: ModuleType) -> None:
    def pattern(op: Any, x: Any, w: Any) -> Any:
        return op.Add(x, w)

    def replacement(op: Any, x: Any, w: Any) -> Any:
        return op.Add(op.Identity(x), w)

    held = bench(graphs, "g (float[3, 4] x) => (float[3, 4] y) { a = Add(x, w) y = Add(a, w) }",
                 w=X[0])  # fmt: skip
    cls = make("again", pattern, replacement)
    assert run(held, cls) == 2 < ROUNDS
    assert graphs.ops(held.model).count("Add") == 2
    assert run(held, cls) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g (float[3, 4] x) => (float[3, 4] y) { a = Neg(x) y = Abs(a) }", ["Neg", "Identity"]),
        ("g (float[3, 4] x) => (float[3, 4] y) { y = Abs(x) }", ["Identity"]),
        ("g (float[3, 4] x) => (float[3, 4] y, float[3, 4] a) { a = Neg(x) y = Abs(a) }",
         ["Neg", "Identity"]),
    ],
)  # fmt: skip
def test_a_variable_may_be_returned(graphs: ModuleType, text: str, expected: list[str]) -> None:
    """The face of the model stays, also where an input or another output takes the place."""

    def pattern(op: Any, x: Any) -> Any:
        return op.Abs(x)

    def replacement(op: Any, x: Any) -> Any:
        return x

    held = bench(graphs, text)
    face = [v.name for v in (*held.model.graph.inputs, *held.model.graph.outputs)]
    cls = make("no-abs", pattern, replacement)
    with borrowing([cls]), pytest.raises(PassError, match="although it promises not to"):
        held.run("no-abs")  # it is wrong, of course
    assert [v.name for v in (*held.model.graph.inputs, *held.model.graph.outputs)] == face
    held.manager.instruments = held.manager.instruments[:1]  # look at the graph alone
    assert run(held, cls) == 1
    assert graphs.ops(held.model) in (expected, expected[:1])
    assert [v.name for v in (*held.model.graph.inputs, *held.model.graph.outputs)] == face


def test_several_outputs_are_replaced_where_that_is_in_order(graphs: ModuleType) -> None:
    def pattern(op: Any, x: Any) -> Any:
        a = op.Neg(x)
        return op.Exp(a), op.Abs(a)

    def replacement(op: Any, x: Any) -> Any:
        a = op.Mul(x, -1.0)
        return op.Exp(a), op.Abs(a)

    held = bench(graphs, """g (float[3, 4] x) => (float[3, 4] y, float[3, 4] z) {
        a = Neg(x) y = Exp(a) b = Relu(y) c = Abs(a) z = Add(b, c) }""")  # fmt: skip
    before = graphs.run(held.model, {"x": X})
    assert run(held, make("two", pattern, replacement)) == 1
    assert "Neg" not in graphs.ops(held.model)
    after = held.outputs({"x": X})
    assert all(np.array_equal(after[name], before[name]) for name in ("y", "z"))


def test_shared_constants_stay_and_names_are_new(graphs: ModuleType) -> None:
    def pattern(op: Any, x: Any, w: Any) -> Any:
        return op.Mul(x, w)

    def replacement(op: Any, x: Any, w: Any) -> Any:
        return op.Mul(x, op.initializer(w.const_value.numpy(), "w"))

    text = "g (float[3, 4] x) => (float[3, 4] y) { a = Mul(x, w) b = Mul(a, w) y = Sub(b, w) }"
    held = bench(graphs, text, w=X[0])
    before = graphs.run(held.model, {"x": X})["y"]
    assert run(held, make("own-copy", pattern, replacement)) == 2
    assert len(held.model.graph.initializers) == 3
    np.testing.assert_array_equal(held.outputs({"x": X})["y"], before)


def test_attributes_are_bound_and_handed_on(graphs: ModuleType) -> None:
    def pattern(op: Any, x: Any, perm: Any) -> Any:
        return op.Relu(op.Transpose(x, perm=perm))

    def replacement(op: Any, x: Any, perm: Any) -> Any:
        assert isinstance(perm, ir.Attr)
        return op.Transpose(op.Relu(x), perm=perm)

    text = "g (float[3, 4] x) => (float[4, 3] y) { t = Transpose<perm = [1, 0]>(x) y = Relu(t) }"
    held = bench(graphs, text)
    assert run(held, make("swap", pattern, replacement)) == 1
    assert graphs.ops(held.model) == ["Relu", "Transpose"]


def test_nodes_are_selected_by_name(graphs: ModuleType, twice_relu: type[Pass]) -> None:
    held = bench(graphs, """g (float[3, 4] x) => (float[3, 4] y, float[3, 4] z) {
        a = Relu(x) y = Relu(a) b = Relu(x) z = Relu(b) }""")  # fmt: skip
    (last,) = (n.name for n in held.model.graph if n.outputs[0].name == "z")
    with borrowing([twice_relu]):
        assert len(held.run("twice-relu", selector=(last[:-1] + "?",)).edits) in (1, 2)
        assert len(held.run("twice-relu", selector=("nothing*",)).edits) == 0


LIES = {
    "another shape": (lambda op, x: op.Transpose(x, perm=[1, 0]), "the pattern's output is"),
    "another dtype": (lambda op, x: op.Cast(x, to=1 + 10), "the pattern's output is FLOAT"),
    "too many": (lambda op, x: (x, x), "the replacement returns"),
    "nothing": (lambda op, x: None, "the replacement returns NoneType"),
    "a list": (lambda op, x: op.Add(x, [1, 2]), "a list cannot be an input"),
}


@pytest.mark.parametrize("name", LIES)
def test_replacements_that_do_not_fit(graphs: ModuleType, name: str) -> None:
    replacement, said = LIES[name]

    def pattern(op: Any, x: Any) -> Any:
        return op.Sin(x)

    held = bench(graphs, "g (float[3, 4] x) => (float[3, 4] y) { a = Sin(x) y = Neg(a) }")
    before = graphs.snapshot(held.model)
    cls = make("lie", pattern, replacement)
    with borrowing([cls]), pytest.raises(PassError, match=said) as caught:
        held.run("lie")
    assert "test_rewriting.py" in caught.value.where
    assert graphs.snapshot(held.model) == before


@pytest.mark.parametrize(
    ("answer", "edits", "refused"),
    [(None, 1, 0), (True, 1, 0), (np.True_, 1, 0), (False, 0, 1), ("not here", 0, 1)],
)
def test_what_check_may_say(graphs: ModuleType, answer: Any, edits: int, refused: int) -> None:
    def pattern(op: Any, x: Any) -> Any:
        return op.Neg(op.Neg(x))

    def check(x: Any) -> Any:
        assert isinstance(x, ir.Value)
        return answer

    held = bench(graphs, "g (float[3, 4] x) => (float[3, 4] y) { a = Neg(x) y = Neg(a) }")
    assert run(held, make("no", pattern, lambda op, x: op.Identity(x), check=check)) == edits
    assert len(held.refusals()) == refused


def test_check_that_says_something_else(graphs: ModuleType) -> None:
    held = bench(graphs, "g (float[3, 4] x) => (float[3, 4] y) { y = Neg(x) }")
    cls = make("odd", lambda op, x: op.Neg(x), lambda op, x: x, check=lambda x: 7)
    with borrowing([cls]), pytest.raises(PassError, match="check returns a int"):
        held.run("odd")


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (lambda op, x: op.Reluu(x), "no operator of ONNX"),
        (lambda op, x: x, "returns no value of an operator"),
        (lambda op, x: None, "returns no value of an operator"),
        (lambda op, x: 1 / 0, "ZeroDivisionError"),
        ("Relu", "a pattern is a function"),
    ],
)
def test_patterns_that_are_none(pattern: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make("none", pattern, lambda op, x: x)


def test_a_lossy_rewrite_is_none() -> None:
    with pytest.raises(UsageError, match="EXACT or REASSOCIATES"):
        make("lossy", lambda op, x: op.Neg(x), lambda op, x: x, semantics=Semantics.LOSSY)
