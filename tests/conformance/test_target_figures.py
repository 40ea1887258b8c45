"""What the target files say of ONNX Runtime on CPUs, tried in the runtime that is installed.

A failure here after an update of the runtime means that a figure of ``targets/catalog`` is out of
date: change the file and its source, not the test.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.ir.errors import TargetError
from planish.targets.census import runtime_census
from planish.targets.loader import load_target
from planish.targets.runtime import open_session, optimized_graph

K, N = 64, 32
GENERIC = load_target("generic")
MS = helper.make_opsetid("com.microsoft", 1)
Nodes = list[onnx.NodeProto]


def made(
    nodes: Nodes, weights: dict[str, Any], dtype: int = TensorProto.FLOAT, opset: int = 23
) -> bytes:
    """A model x[m, K] -> y[m, N] of that type; weights are arrays or finished tensors."""
    tensors = [
        w if isinstance(w, onnx.TensorProto) else numpy_helper.from_array(w, n)
        for n, w in weights.items()
    ]
    ends = [helper.make_tensor_value_info(n, dtype, ["m", d]) for n, d in (("x", K), ("y", N))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", opset), MS]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    return bytes(model.SerializeToString())


def cast(array: np.ndarray[Any, Any], name: str, dtype: int) -> onnx.TensorProto:
    return helper.make_tensor(name, dtype, array.shape, array.ravel().tolist())


def few_bits(bits: int, block: int) -> bytes:
    blocks = -(-K // block)
    weights = {
        "w": np.full((N, blocks, block * bits // 8), 0b10011100, np.uint8),
        "s": np.full((N, blocks), 0.01, np.float32),
    }
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
        K=K, N=N, bits=bits, block_size=block, accuracy_level=GENERIC.weight_only.accuracy_level,
    )  # fmt: skip
    return made([node], weights)


@pytest.mark.parametrize("bits", GENERIC.weight_only.bits)
@pytest.mark.parametrize("block", GENERIC.weight_only.blocks)
def test_weights_in_few_bits_run(bits: int, block: int) -> None:
    (y,) = open_session(few_bits(bits, block)).run({"x": np.ones((3, K), np.float32)})
    assert y.shape == (3, N)
    assert np.isfinite(y).all()
    assert np.ptp(y, axis=1).max() < 1e-3  # all columns of the weight are the same


@pytest.mark.parametrize("block", [8, 512])
def test_other_blocks_are_refused(block: int) -> None:
    assert block not in GENERIC.weight_only.blocks
    with pytest.raises(TargetError):
        open_session(few_bits(4, block))


def test_float16_is_widened() -> None:
    assert GENERIC.floats.float16 == load_target("x86-avx512-vnni").floats.float16 == "widened"
    weight = np.full((K, N), 0.5, np.float16)
    model = made(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, TensorProto.FLOAT16
    )
    graph = optimized_graph(model).graph
    assert {node.op_type for node in graph.node} == {"Cast", "MatMul"}
    (kernel,) = runtime_census(model).kernels
    assert (kernel.op, kernel.weight_dtype) == ("MatMul", "FLOAT")


@pytest.mark.parametrize("op", ["MatMul", "Add"])
def test_bfloat16_is_refused(op: str) -> None:
    assert GENERIC.floats.bfloat16 == "refused"
    shape = (K, N) if op == "MatMul" else (N,)
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["h"]),
        helper.make_node("Add", ["h", "w"], ["y"]),
    ]
    weights = {
        "v": cast(np.ones((K, N)), "v", TensorProto.BFLOAT16),
        "w": cast(np.ones(shape), "w", TensorProto.BFLOAT16),
    }
    if op == "MatMul":
        nodes, weights = [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights["w"]}
    with pytest.raises(TargetError, match="no kernel for"):
        open_session(made(nodes, weights, TensorProto.BFLOAT16))


def quantized(dtype: int, opset: int) -> bytes:
    weights = {
        "w": cast(np.ones((K, N)), "w", dtype),
        "z": cast(np.zeros(()), "z", dtype),
        "s": np.float32(0.5),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"]),
        helper.make_node("MatMul", ["d", "f"], ["y"]),
    ]
    return made(nodes, weights, opset=opset)


@pytest.mark.parametrize(
    ("field", "dtype", "opset"),
    [
        ("float8", TensorProto.FLOAT8E4M3FN, 19),
        ("float8", TensorProto.FLOAT8E5M2, 21),
        ("float4", TensorProto.FLOAT4E2M1, 23),
    ],
)
def test_narrow_floats_between_quantizers_are_refused(field: str, dtype: int, opset: int) -> None:
    assert getattr(GENERIC.floats, field) == "refused"
    with pytest.raises(TargetError, match="refuses the model"):
        open_session(quantized(dtype, opset))


def sparse_weight(node: onnx.NodeProto) -> bytes:
    """The node with a weight w [K, N] of four ones, stored as a sparse initializer."""
    values = numpy_helper.from_array(np.ones(4, np.float32), "w")
    places = numpy_helper.from_array(np.array([0, 5, 40, 90], np.int64), "w_places")
    model = onnx.load_from_string(made([node], {}))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [K, N]))
    return bytes(model.SerializeToString())


def test_a_weight_with_zeros_is_multiplied_as_a_dense_one() -> None:
    assert GENERIC.sparse.patterns == ()
    model = sparse_weight(helper.make_node("MatMul", ["x", "w"], ["y"]))
    assert Counter(runtime_census(model).counts) == {"MatMul": 1}
    weight = np.zeros(K * N, np.float32)
    weight[[0, 5, 40, 90]] = 1
    x = np.random.default_rng(0).normal(size=(3, K)).astype(np.float32)
    np.testing.assert_allclose(
        open_session(model).run({"x": x})[0], x @ weight.reshape(K, N), rtol=1e-6
    )


def test_the_one_operator_for_sparse_tensors_takes_no_weight() -> None:
    node = helper.make_node("SparseToDenseMatMul", ["w", "x"], ["y"], domain="com.microsoft")
    with pytest.raises(TargetError, match=r"'tensor\(float\)' of input parameter \(w\)"):
        open_session(sparse_weight(node))


def test_the_version_that_the_files_were_checked_with_is_the_oldest_allowed() -> None:
    installed = tuple(map(int, ort.__version__.split(".")[:2]))
    assert installed >= tuple(map(int, GENERIC.runtime.min_version.split(".")))
