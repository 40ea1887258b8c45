"""Graphs deeper than Python's stack: long chains, and bodies inside bodies.

Files end at some 30 bodies inside each other, which is how deep protobuf's parsers go; a model in
memory has no such bound.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.digest import cone_digest, contents_digest
from planish.ir.editing.moved import contents_moved
from planish.ir.errors import VerifyError
from planish.ir.graph import all_graphs, subgraphs
from planish.ir.load import load_model
from planish.ir.region import region_nodes
from planish.ir.rewriter import EditRecord, Rewriter
from planish.ir.signature import Signature
from planish.ir.sites import find_sites
from planish.ir.verify import violations

LENGTH, DEPTH = 5_000, 50
FLOAT = ir.TensorType(ir.DataType.FLOAT)


def value(name: str, shape: list[int] | None = None) -> ir.Value:
    return ir.Value(name=name, type=FLOAT, shape=ir.Shape([2] if shape is None else shape))


def model_of(inputs: list[ir.Value], nodes: list[ir.Node]) -> ir.Model:
    last = nodes[-1].outputs[0]
    last.name, last.type, last.shape = "y", FLOAT, ir.Shape([2])
    graph = ir.Graph(inputs, [last], nodes=nodes, opset_imports={"": 20}, name="deep")
    return ir.Model(graph, ir_version=10)


def chain(length: int = LENGTH) -> ir.Model:
    """Relu and Neg in turns; the shapes are given, as inferring them is not what is tested."""
    start = value("x")
    nodes, last = [], start
    for i in range(length):
        made = ir.node("Neg" if i % 2 else "Relu", [last], name=f"n{i}", outputs=[value(f"v{i}")])
        nodes.append(made)
        last = made.outputs[0]
    return model_of([start], nodes)


def nested(depth: int = DEPTH) -> ir.Model:
    """An If in an If in an If; the innermost branch reads the model's input."""
    start, flag = value("x"), ir.Value(name="c", type=ir.TensorType(ir.DataType.BOOL))
    flag.shape = ir.Shape([])
    held = [ir.node("Relu", [start], name="inner", outputs=[value("inner_out")])]
    for i in range(depth):
        other = ir.node("Neg", [start], name=f"other{i}", outputs=[value(f"other{i}_out")])
        branches = {
            "then_branch": ir.Graph([], [held[-1].outputs[0]], nodes=held, name=f"then{i}"),
            "else_branch": ir.Graph([], [other.outputs[0]], nodes=[other], name=f"else{i}"),
        }
        outputs = [value(f"if{i}_out")]
        held = [ir.node("If", [flag], branches, name=f"if{i}", outputs=outputs)]
    return model_of([start, flag], held)


def in_the_middle(rewriter: Rewriter, graph: ir.Graph, place: int) -> EditRecord:
    """A node between two of the graph."""
    node = graph[place]
    read = node.inputs[0]
    with rewriter.edit("middle") as record:
        made = rewriter.insert("Abs", [read], before=node)
        rewriter.set_input(node, 0, made.outputs[0])
    return record


@pytest.fixture(scope="module")
def long_model() -> ir.Model:
    return chain()


def test_a_long_chain_is_checked_hashed_and_edited(long_model: ir.Model) -> None:
    model = long_model
    signature, before = Signature.of(model), contents_digest(model)
    assert violations(model, signature) == []
    assert len(find_sites(model)) == 0
    output = model.graph.outputs[0]
    assert len(cone_digest(output)) == 32
    assert len(region_nodes(model.graph.inputs, [output])) == LENGTH > sys.getrecursionlimit()
    rewriter, mark = Rewriter(model), 0
    record = in_the_middle(rewriter, model.graph, LENGTH // 2)
    rewriter.verify(record, signature)
    assert rewriter.moved(record)
    rewriter.rollback(mark)
    assert contents_digest(model) == before


def test_a_long_chain_is_swept_and_comes_back(long_model: ir.Model) -> None:
    model = long_model
    before, rewriter = contents_digest(model), Rewriter(model)
    with rewriter.edit("all") as record:
        output = model.graph.outputs[0]
        rewriter.replace_uses(output, model.graph.inputs[0])
        rewriter.sweep([output])
    assert [node.op_type for node in model.graph] == ["Identity"]
    assert rewriter.moved(record)
    rewriter.verify(record, Signature.of(model))
    rewriter.rollback(0)
    assert contents_digest(model) == before


def test_an_edit_of_a_whole_chain_that_moves_nothing_is_found_out(long_model: ir.Model) -> None:
    """Each node gives way to an equal one, so that the whole chain must be compared."""
    rewriter = Rewriter(long_model)
    with rewriter.edit("copies") as record:
        for node in list(long_model.graph)[:-1]:
            made = rewriter.insert(node.op_type, list(node.inputs), before=node)
            rewriter.take_over(node.outputs[0], made.outputs[0])
            rewriter.remove(node)
    assert contents_moved(record.footprint) is False
    rewriter.rollback(0)


def test_what_a_local_edit_costs_does_not_grow_with_the_graph(
    long_model: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from planish.ir import rewriter as door
    from planish.ir.editing import moved, sound

    labels = moved.operator_label
    seen: list[ir.Node] = []

    def counted(node: ir.Node, state: object) -> object:
        seen.append(node)
        return labels(node, state)  # type: ignore[arg-type]

    rewriter = Rewriter(long_model)
    first = in_the_middle(rewriter, long_model.graph, 7)
    rewriter.verify(first)  # the order of the graph is known from here on
    monkeypatch.setattr(moved, "operator_label", counted)
    monkeypatch.setattr(sound, "verify", None)  # calling them would fail
    monkeypatch.setattr(door, "contents_digest", None)
    monkeypatch.setattr(ir.Graph, "__iter__", None)
    node = rewriter.value("v100").producer()  # type: ignore[union-attr]
    assert node is not None
    with rewriter.edit("equal") as record:
        made = rewriter.insert(node.op_type, list(node.inputs), before=node)
        rewriter.take_over(node.outputs[0], made.outputs[0])
        rewriter.remove(node)
    rewriter.verify(record, Signature.of(long_model))
    assert not rewriter.moved(record)
    assert len(seen) < 40
    monkeypatch.undo()
    rewriter.rollback(0)


def test_bodies_inside_bodies_are_checked_hashed_and_edited() -> None:
    model = load_model(nested()).model
    signature, before = Signature.of(model), contents_digest(model)
    assert len(list(all_graphs(model))) == 2 * DEPTH + 1
    assert len(find_sites(model, nested=True)) == 0
    assert contents_digest(model.clone()) == before
    rewriter, innermost = Rewriter(model), model.graph
    while (node := innermost[0]).op_type == "If":
        innermost = next(subgraphs(node))
    record = in_the_middle(rewriter, innermost, 0)
    rewriter.verify(record, signature)
    assert not list(rewriter.doubts(record, signature))
    assert rewriter.moved(record)
    rewriter.rollback(0)
    assert contents_digest(model) == before


def test_a_body_that_reads_what_comes_later_is_a_broken_rule() -> None:
    model = load_model(nested(3)).model
    rewriter = Rewriter(model)
    inner = next(subgraphs(next(subgraphs(model.graph[0]))[0]))[0]
    with rewriter.edit("late") as record:
        late = rewriter.insert("Relu", [model.graph.inputs[0]])
        rewriter.set_input(inner, 0, late.outputs[0])
    with pytest.raises(VerifyError, match="before it is computed"):
        rewriter.verify(record)


def test_numbers_of_weights_do_not_count_twice() -> None:
    """Many weights dropped and brought back keep their order."""
    model = load_model(chain(10)).model
    rewriter = Rewriter(model)
    for i in range(2000):
        rewriter.initializer("w", np.array([i], np.float32))
    names = list(model.graph.initializers)
    assert names[:3] == ["w", "w_1", "w_2"]
    mark = rewriter.checkpoint()
    for _ in range(20):
        with rewriter.edit("drop"):
            rewriter.sweep([v for v in model.graph.initializers.values() if v.name != "w_7"])
        assert list(model.graph.initializers) == ["w_7"]
        rewriter.rollback(mark)
        assert list(model.graph.initializers) == names
