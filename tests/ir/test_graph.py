"""The small questions about a graph: constants, neighbours, subgraphs, shapes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir import graph

PLAIN = """
<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]>
plain (float[batch, 4] x, bool flag) => (float[batch, 4] y) {
    half = Constant <value_float = 0.5> ()
    sizes = Constant <value_ints = [2, 3]> ()
    a = Mul (x, half)
    b = Add (a, "w")
    c = Add (a, a)
    y = If (flag) <
        then_branch = then () => (float[batch, 4] t) { u = Mul (b, half) t = Add (u, c) },
        else_branch = other () => (float[batch, 4] e) {
            e = If (flag) <
                then_branch = deep () => (float[batch, 4] d) { d = Neg (x) },
                else_branch = last () => (float[batch, 4] l) { l = Identity (b) }
            >
        }
    >
}
"""


@pytest.fixture
def model() -> ir.Model:
    weight = ir.tensor(np.arange(4, dtype=np.float32), name="w")
    return ir.from_onnx_text(PLAIN, initializers=[weight])


def node(model: ir.Model, output: str) -> ir.Node:
    return next(n for n in graph.all_nodes(model) if n.outputs[0].name == output)


def test_all_nodes_come_outermost_first_and_in_graph_order(model: ir.Model) -> None:
    names = [n.outputs[0].name for n in graph.all_nodes(model)]
    assert names == ["half", "sizes", "a", "b", "c", "y", "u", "t", "e", "d", "l"]
    assert [g.name for g in graph.all_graphs(model)] == ["plain", "then", "other", "deep", "last"]


def test_captured_values_are_the_outer_ones_of_all_depths_in_order(model: ir.Model) -> None:
    held = graph.captured_values(node(model, "y"))
    assert [v.name for v in held] == ["b", "half", "c", "flag", "x"]
    assert [v.name for v in graph.captured_values(node(model, "e"))] == ["x", "b"]
    assert graph.captured_values(node(model, "a")) == []


def test_a_subgraph_that_returns_an_outer_value_captures_it() -> None:
    x, flag = ir.val("x"), ir.val("flag")
    negated = ir.node("Neg", [x])
    inner = ir.Graph([], [negated.outputs[0]], nodes=[], name="then")
    choice = ir.node("If", [flag], {"then_branch": inner})
    ir.Graph([x, flag], choice.outputs, nodes=[negated, choice])
    assert graph.captured_values(choice) == [negated.outputs[0]]


def test_consumers_are_nodes_once_each_with_those_in_subgraphs(model: ir.Model) -> None:
    a, b = node(model, "a").outputs[0], node(model, "b").outputs[0]
    assert [n.outputs[0].name for n in graph.consumers(a)] == ["b", "c"]
    assert {n.outputs[0].name for n in graph.consumers(b)} == {"u", "l"}


def test_single_consumer_needs_one_reader_and_no_output() -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 17]>
    g (float[2] x) => (float[2] y, float[2] z) { a = Neg (x) y = Abs (a) z = Add (y, y) }"""
    model = ir.from_onnx_text(text)
    assert graph.single_consumer(node(model, "a").outputs[0]) is node(model, "y")
    assert graph.single_consumer(node(model, "y").outputs[0]) is None, "an output is read outside"
    assert graph.single_consumer(node(model, "z").outputs[0]) is None


def test_producer_by_type(model: ir.Model) -> None:
    a = node(model, "a").outputs[0]
    assert graph.producer(a) is graph.producer(a, "Mul") is node(model, "a")
    assert graph.producer(a, "Add") is None
    assert graph.producer(model.graph.inputs[0]) is None
    assert graph.producer(None) is None


def test_constants_are_initializers_and_constant_nodes(model: ir.Model) -> None:
    half, sizes = node(model, "half").outputs[0], node(model, "sizes").outputs[0]
    weight = node(model, "b").inputs[1]
    assert graph.is_constant(weight)
    assert graph.is_constant(half)
    assert not graph.is_constant(model.graph.inputs[0])
    assert not graph.is_constant(node(model, "a").outputs[0])
    assert not graph.is_constant(None)
    np.testing.assert_array_equal(graph.constant_array(weight), np.arange(4, dtype=np.float32))
    np.testing.assert_array_equal(graph.constant_array(sizes), [2, 3])
    assert graph.constant_array(None) is None


def test_an_initializer_that_a_feed_can_override_is_not_constant() -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 17]>
    g (float[2] x, float[2] w = {1.0, 2.0}) => (float[2] y) { y = Add (x, w) }"""
    model = ir.from_onnx_text(text)
    weight = model.graph.inputs[1]
    assert weight.is_initializer(), "else the test shows nothing"
    assert not graph.is_constant(weight)
    assert graph.constant_array(weight) is None


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_scalar_has_one_element_in_any_rank(shape: tuple[int, ...]) -> None:
    value = ir.val("s", const_value=ir.tensor(np.full(shape, 2.5, np.float32)))
    ir.Graph([], [], nodes=[], initializers=[value])
    assert graph.scalar(value) == 2.5


def test_what_is_no_scalar(model: ir.Model) -> None:
    assert graph.scalar(node(model, "sizes").outputs[0]) is None
    assert graph.scalar(model.graph.inputs[0]) is None
    assert graph.scalar(None) is None
    text = ir.val("t", const_value=ir.tensor(["a"]))
    ir.Graph([], [], nodes=[], initializers=[text])
    assert graph.scalar(text) is None


def test_attributes_as_python_values() -> None:
    made = ir.node("Op", [], {"i": 3, "f": 0.5, "s": "text", "ints": [1, 2], "strings": ["a"]})
    assert graph.attribute(made, "i") == 3
    assert graph.attribute(made, "f") == 0.5
    assert graph.attribute(made, "s") == "text"
    assert graph.attribute(made, "ints") == (1, 2)
    assert graph.attribute(made, "strings") == ("a",)
    assert graph.attribute(made, "absent") is None
    assert graph.attribute(made, "absent", 7) == 7


def test_an_attribute_of_a_function_is_not_known() -> None:
    reference = ir.RefAttr("axis", "outer", ir.AttributeType.INT)
    assert graph.attribute(ir.Node("", "Softmax", [], [reference]), "axis", -1) == -1


def test_shapes_with_names_and_gaps(model: ir.Model) -> None:
    assert graph.dims(model.graph.inputs[0]) == ("batch", 4)
    assert graph.rank(model.graph.inputs[0]) == 2
    unknown = ir.val("u", shape=ir.Shape([None, 3]))
    assert graph.dims(unknown) == (None, 3)
    assert graph.dims(ir.val("v")) is None
    assert graph.rank(ir.val("v")) is None
    assert graph.dims(None) is None


def test_the_shape_of_a_constant_is_that_of_its_tensor(model: ir.Model) -> None:
    weight = node(model, "b").inputs[1]
    assert weight is not None
    weight.shape = ir.Shape([9, 9])
    assert graph.dims(weight) == (4,)


def test_opset_operator_and_given(model: ir.Model) -> None:
    assert graph.opset(model) == graph.opset(model.graph) == 17
    contrib = ir.node("Gelu", [None, model.graph.inputs[0]], domain="com.microsoft")
    assert graph.operator(contrib) == ("com.microsoft", "Gelu")
    assert graph.operator(ir.node("Add", [], domain="ai.onnx")) == ("", "Add")
    assert graph.given(contrib, 1) is model.graph.inputs[0]
    assert graph.given(contrib, 0) is graph.given(contrib, 5) is graph.given(contrib, None) is None
