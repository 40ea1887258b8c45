"""The census on graphs written by hand: what is counted, and what counts as a weight."""

from __future__ import annotations

import json
from collections import ChainMap

import onnx
from onnx import TensorProto, helper

from planish.targets import census
from planish.targets.census import KernelRow, StoredTensor, kernel_census, runtime_census

MS = "com.microsoft"


def tensor(name: str, kind: int, *shape: int) -> onnx.TensorProto:
    return onnx.TensorProto(name=name, data_type=kind, dims=shape)


def proto(nodes: list[onnx.NodeProto], *tensors: onnx.TensorProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "g", [], [], tensors))


def test_integer_and_float_kernels_are_told_apart() -> None:
    nodes = [
        helper.make_node(
            "QLinearMatMul", ["q", "s", "z", "w8", "ws", "wz", "s", "z"], ["a"], name="one"
        ),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="two"),
        helper.make_node("MatMul", ["b", "b"], ["c"], name="attention"),
        helper.make_node(
            "QGemm", ["q", "s", "z", "w8", "ws", "wz"], ["d"], name="three", domain=MS
        ),
        helper.make_node("Conv", ["c", "k"], ["e"], name="conv", domain="com.microsoft.nchwc"),
    ]
    census = kernel_census(
        proto(
            nodes,
            tensor("w8", TensorProto.INT8, 8, 4),
            tensor("wz", TensorProto.INT8),
            tensor("w", TensorProto.FLOAT, 4, 4),
            tensor("k", TensorProto.FLOAT, 4, 4, 3, 3),
        )
    )
    assert census.counts == {
        "MatMul": 2,
        "QLinearMatMul": 1,
        "com.microsoft.nchwc:Conv": 1,
        "com.microsoft:QGemm": 1,
    }
    assert census.kernels == (
        KernelRow("one", "QLinearMatMul", True, ("w8",), "INT8", (8, 4), ("a",)),
        KernelRow("two", "MatMul", False, ("w",), "FLOAT", (4, 4), ("b",)),
        KernelRow("three", "com.microsoft:QGemm", True, ("w8",), "INT8", (8, 4), ("d",)),
        KernelRow("conv", "com.microsoft.nchwc:Conv", False, ("k",), "FLOAT", (4, 4, 3, 3), ("e",)),
    )
    assert [row.node_name for row in census.by_weight()["w8"]] == ["one", "three"]
    assert census.integer_initializers == (
        StoredTensor("w8", "INT8", (8, 4)),
        StoredTensor("wz", "INT8", ()),
    )


def test_a_weight_dequantized_on_every_run_is_a_float_kernel_with_an_integer_weight() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w8", "s"], ["w"]),
        helper.make_node("Transpose", ["w"], ["wt"]),
        helper.make_node("Gemm", ["x", "wt"], ["y"], name="fc"),
    ]
    (row,) = kernel_census(proto(nodes, tensor("w8", TensorProto.INT8, 8, 4))).kernels
    assert row == KernelRow("fc", "Gemm", False, ("w8",), "INT8", (8, 4), ("y",))


def test_a_constant_may_stand_on_the_left() -> None:
    nodes = [helper.make_node("MatMul", ["w", "x"], ["y"], name="left")]
    (row,) = kernel_census(proto(nodes, tensor("w", TensorProto.FLOAT, 8, 4))).kernels
    assert row.weight_names == ("w",)


def test_weights_in_few_bits_are_integer_by_accuracy_level() -> None:
    nodes = [
        helper.make_node("MatMulNBits", ["x", "p"], ["a"], domain=MS, accuracy_level=4),
        helper.make_node("MatMulNBits", ["x", "p"], ["b"], domain=MS, accuracy_level=1),
        helper.make_node("MatMulNBits", ["x", "p"], ["c"], domain=MS),
    ]
    census = kernel_census(proto(nodes, tensor("p", TensorProto.UINT8, 8, 2, 16)))
    assert [row.integer for row in census.kernels] == [True, False, False]


def test_subgraphs_see_outer_weights_and_their_own() -> None:
    inner = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "outer"], ["a"], name="in1"),
            helper.make_node("MatMul", ["a", "own"], ["b"], name="in2"),
        ],
        "then",
        [],
        [],
        [tensor("own", TensorProto.UINT8, 2, 2)],
    )
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("MatMul", ["x", "own"], ["z"], name="outside"),
    ]
    census = kernel_census(proto(nodes, tensor("outer", TensorProto.FLOAT, 4, 4)))
    assert census.counts == {"If": 1, "MatMul": 5}
    assert [row.node_name for row in census.kernels] == ["in1", "in2", "in1", "in2"]
    assert [t.name for t in census.integer_initializers] == ["own", "own"]


def test_weights_that_nobody_wrote_are_foreign() -> None:
    census = kernel_census(
        proto(
            [],
            tensor("mine", TensorProto.INT8, 4, 4),
            tensor("fc_weight_q", TensorProto.INT8, 4, 4),
            tensor("fc_weight_zp", TensorProto.INT8),
            tensor("float", TensorProto.FLOAT, 4, 4),
            tensor("nibbles", TensorProto.UINT4, 4, 4),
        )
    )
    assert [t.name for t in census.foreign_weights({"mine"})] == ["fc_weight_q", "nibbles"]


def test_a_census_survives_json() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")]
    census = kernel_census(proto(nodes, tensor("w", TensorProto.FLOAT, 8, 4)))
    data = json.loads(json.dumps(census.to_json()))
    assert data["counts"] == {"MatMul": 1}
    assert data["kernels"][0]["weight_shape"] == [8, 4]


def test_the_runtimes_own_graph_is_counted() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[B, 2] x) => (float[B, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float[2] b = {1, 1}> {
        h = MatMul(x, w)
        y = Add(h, b)
    }"""
    census = runtime_census(onnx.parser.parse_model(text).SerializeToString())
    assert census.counts == {"Gemm": 1}
    assert census.kernels[0].weight_names == ("w",)


def test_only_attributes_that_hold_graphs_are_looked_into() -> None:
    """Each of the others once counted as an empty graph, with a copy of all names it sees."""
    nodes = [onnx.helper.make_node("Softmax", [f"v{i}"], [f"v{i + 1}"], axis=-1) for i in range(50)]
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    outer = census._Scope(ChainMap(), ChainMap())
    ((found, _),) = census._scopes(graph, outer)
    assert found is graph
