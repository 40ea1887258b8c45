"""Faults of files that import mends: what is meant is in no doubt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.ir.errors import InputError
from planish.ir.load import load_model
from planish.ir.save import to_bytes
from planish.ir.verify import violations
from planish.targets.runtime import open_session

FLOAT = TensorProto.FLOAT


def model(
    nodes: list[onnx.NodeProto], shape: list[int | str | None], opset: int = 17
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])


def constant(name: str, *values: float) -> onnx.NodeProto:
    return helper.make_node(
        "Constant", [], [name], value=numpy_helper.from_array(np.array(values, np.float32))
    )


def run(data: bytes, x: np.ndarray) -> np.ndarray:
    return open_session(data, threads=1).run({"x": x})[0]


def test_of_constants_with_one_name_the_last_counts_as_in_the_runtime() -> None:
    nodes = [constant("c", 1.0), helper.make_node("Add", ["x", "c"], ["y"]), constant("c", 5.0)]
    proto = model(nodes, ["n"])
    imported = load_model(proto)
    assert [r.code for r in imported.remarks] == ["constant-defined-twice"]
    x = np.zeros(2, np.float32)
    np.testing.assert_array_equal(run(to_bytes(imported.model), x), [5.0, 5.0])
    np.testing.assert_array_equal(run(proto.SerializeToString(), x), [5.0, 5.0])
    assert len(proto.graph.node) == 3  # the caller's proto is as it was


def test_other_nodes_with_one_output_name_are_refused() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
    with pytest.raises(InputError, match="'y' is defined twice"):
        load_model(model(nodes, ["n"]))


def test_a_branch_that_returns_an_outer_value_gets_a_copy() -> None:
    returned = helper.make_tensor_value_info("r", TensorProto.INT64, None)  # a wrong guess
    then = helper.make_graph([], "then", [], [returned])
    other = helper.make_graph(
        [helper.make_node("Neg", ["r"], ["n"])], "else", [],
        [helper.make_tensor_value_info("n", FLOAT, None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["positive"], to=TensorProto.BOOL),
        helper.make_node("If", ["positive"], ["y"], then_branch=then, else_branch=other),
    ]
    imported = load_model(model(nodes, ["n"]))
    assert [r.code for r in imported.remarks] == ["outer-output-copied"]
    assert violations(imported.model) == []
    np.testing.assert_array_equal(
        run(to_bytes(imported.model), np.array([2.0, -1.0], np.float32)), [2.0, 0.0]
    )


def test_negative_sizes_are_unknown_ones() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [-1, 3])
    for source in (proto, ir.from_proto(proto)):
        signature = load_model(source).signature
        assert signature.inputs[0].shape == (None, 3)
        assert signature.outputs[0].shape in ((None, 3), ("n", 3))


def test_what_serves_training_only_is_dropped() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], ["n"])
    step = proto.training_info.add()
    step.algorithm.CopyFrom(helper.make_graph([helper.make_node("Neg", ["y"], ["g"])], "a", [], []))
    imported = load_model(proto)
    assert [r.code for r in imported.remarks] == ["training-info-dropped"]
    assert not onnx.load_model_from_string(to_bytes(imported.model)).training_info
    assert proto.training_info


def test_a_sparse_constant_inside_a_function_becomes_dense() -> None:
    values = numpy_helper.from_array(np.array([2.0, 3.0], np.float32), "v")
    indices = numpy_helper.from_array(np.array([0, 2], np.int64), "i")
    sparse = helper.make_sparse_tensor(values, indices, [3])
    body = [
        helper.make_node("Constant", [], ["w"], sparse_value=sparse),
        helper.make_node("Mul", ["a", "w"], ["b"]),
    ]
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "scaled", ["a"], ["b"], body, opsets)
    proto = model([helper.make_node("scaled", ["x"], ["y"], domain="own")], [3])
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    imported = load_model(proto)
    assert [r.code for r in imported.remarks] == ["sparse-made-dense"]
    out = run(to_bytes(imported.model), np.ones(3, np.float32))
    np.testing.assert_array_equal(out, [2.0, 0.0, 3.0])


def test_a_file_without_an_ir_version_is_named_so(tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], ["n"])
    proto.ClearField("ir_version")
    path = tmp_path / "old.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="names no IR version"):
        load_model(path)


def test_an_input_that_is_also_an_output_keeps_its_shape() -> None:
    rows = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    bare = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [rows], [result, bare])
    opset = [helper.make_opsetid("", 17)]
    signature = load_model(helper.make_model(graph, opset_imports=opset, ir_version=8)).signature
    assert [spec.shape for spec in signature.inputs] == [("n", 4)]
    assert [spec.shape for spec in signature.outputs] == [("n", 4), ("n", 4)]
