"""What a difference says of weights, operations and time; and of weights that are missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.compiler.diffing import ModelDiff, compare
from planish.ir.diff.replay import patch_of
from planish.ir.diff.weights import WeightChange
from planish.ir.errors import InputError, UsageError

Save = Callable[..., Path]
Nodes = list[onnx.NodeProto]
RNG = np.random.default_rng(3)
W, V = (RNG.normal(size=(64, 32)).astype(np.float32) for _ in range(2))


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """``save("a", nodes, w=…)``: x [batch, 64] to y [batch, 32]."""

    def written(
        name: str, nodes: list[onnx.NodeProto], apart: str = "", **held: np.ndarray
    ) -> Path:
        face = [
            helper.make_tensor_value_info(n, 1, ["batch", s]) for n, s in (("x", 64), ("y", 32))
        ]
        weights = [numpy_helper.from_array(array, name) for name, array in held.items()]
        graph = helper.make_graph(nodes, "net", face[:1], face[1:], weights)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path, save_as_external_data=bool(apart), location=apart or None,
                  size_threshold=0)  # fmt: skip
        return path

    return written


def matmul(weight: str = "w", read: str = "x", made: str = "y") -> onnx.NodeProto:
    return helper.make_node("MatMul", [read, weight], [made])


def only(found: ModelDiff) -> WeightChange:
    """The one weight that changed."""
    (change,) = [change for hunk in found.graph.hunks for change in found.weights(hunk)]
    return change


def affine(axis: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """int8 codes of W, scale, zero point, and what they stand for."""
    top = np.abs(W).max() if axis is None else np.abs(W).max(axis=1 - axis)
    scale = (top / 100).astype(np.float32)
    zero = np.zeros_like(scale, dtype=np.int8) + np.int8(5)
    wide = scale if axis in (None, 1) else scale[:, None]
    shift = zero if axis in (None, 1) else zero[:, None]
    codes = np.clip(np.rint(W / wide) + shift, -128, 127).astype(np.int8)
    return codes, scale, zero, (codes.astype(np.float64) - shift) * wide


def error(array: np.ndarray) -> float:
    return float(
        np.linalg.norm(array - W.astype(np.float64)) / np.linalg.norm(W.astype(np.float64))
    )


# -- weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_codes_behind_a_dequantizer(save: Save, axis: int | None) -> None:
    codes, scale, zero, stood_for = affine(axis)
    dequantize = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"])
    if axis is not None:
        dequantize.attribute.append(helper.make_attribute("axis", axis))
    nodes = [dequantize, matmul()]
    found = compare(save("a", [matmul()], w=W), save("b", nodes, q=codes, s=scale, z=zero))
    change = only(found)
    assert change.error == pytest.approx(error(stood_for), rel=1e-6)
    assert change.after is not None
    assert [part.name for part in change.after.parts] == ["q", "s", "z"]


def test_codes_whose_scale_is_behind_the_product(save: Save) -> None:
    codes, scale, _, _ = affine(1)
    stood_for = codes.astype(np.float64) * scale
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "k", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=1),
        helper.make_node("Mul", ["s", "t"], ["u"]),
        helper.make_node("Mul", ["f", "u"], ["y"]),
    ]
    change = only(compare(save("a", [matmul()], w=W), save("b", nodes, k=codes, t=scale)))
    assert change.error == pytest.approx(error(stood_for), rel=1e-6)


def test_codes_of_four_bits(save: Save) -> None:
    """Blocks of 32 rows, each code + 8 in a nibble, the lower one first."""
    blocks = W.T.reshape(32, 2, 32)
    scale = np.abs(blocks).max(axis=2, keepdims=True) / 7
    codes = (np.clip(np.rint(blocks / scale), -8, 7) + 8).astype(np.uint8)
    packed = codes[..., ::2] | codes[..., 1::2] << 4
    node = helper.make_node("MatMulNBits", ["x", "q", "s"], ["y"], domain="com.microsoft",
                            K=64, N=32, bits=4, block_size=32)  # fmt: skip
    other = save("b", [node], q=packed, s=scale.reshape(-1).astype(np.float32))
    change = only(compare(save("a", [matmul()], w=W), other))
    stood_for = ((codes.astype(np.float64) - 8) * scale).reshape(32, 64).T
    assert change.error == pytest.approx(error(stood_for), rel=1e-5)


def test_two_factors_are_one_weight(save: Save) -> None:
    u, s, v = np.linalg.svd(W, full_matrices=False)
    p, q = (u[:, :8] * s[:8]).astype(np.float32), v[:8]
    other = save("b", [matmul("p", made="h"), matmul("q", "h")], p=p, q=q)
    change = only(compare(save("a", [matmul()], w=W), other))
    assert change.error == pytest.approx(
        float(np.sqrt((s[8:] ** 2).sum() / (s**2).sum())), rel=1e-4
    )
    assert change.after is not None
    assert (change.after.rank, change.before and change.before.rank) == (8, 32)


def test_zeros_and_two_of_four(save: Save) -> None:
    groups = W.reshape(16, 4, 32)
    order = np.argsort(np.abs(groups), axis=1)
    kept = np.where(order.argsort(axis=1) >= 2, groups, 0).reshape(64, 32)
    change = only(compare(save("a", [matmul()], w=W), save("b", [matmul()], w=kept)))
    assert change.after is not None
    assert change.before is not None
    assert (change.before.two_of_four, change.after.two_of_four) == (False, True)
    assert (change.before.zeros, change.after.zeros) == (0.0, 0.5)


def test_a_weight_that_was_cut(save: Save) -> None:
    one = [matmul(made="h"), matmul("v", "h")]
    before = save("a", one, w=W, v=RNG.normal(size=(32, 32)).astype(np.float32))
    after = save("b", one, w=W[:, :24].copy(), v=RNG.normal(size=(24, 32)).astype(np.float32))
    found = compare(before, after)
    changes = [c for hunk in found.graph.hunks for c in found.weights(hunk)]
    assert [c.cut for c in changes] == [0.25, 0.25]


# -- operations and time -------------------------------------------------------------------


def test_operations_are_counted_where_sizes_are_known(save: Save) -> None:
    one = save("a", [matmul()], w=W)
    other = save("b", [matmul("p", made="h"), matmul("q", "h")], p=W[:, :8].copy(), q=W[:8].copy())
    assert compare(one, other).to_json()["before"]["flops"] is None
    found = compare(one, other, workload="batch=10").to_json()
    flops = [found[side]["flops"] for side in ("before", "after")]
    assert flops == [2 * 10 * 64 * 32, 2 * 10 * 8 * (64 + 32)]
    assert found["hunks"][0]["flops"] == flops
    with pytest.raises(UsageError, match="no input has an axis"):
        compare(one, other, workload="bach=10")


def test_predicted_time(save: Save) -> None:
    one, other = save("a", [matmul()], w=W), save("b", [matmul(made="h"), helper.make_node(
        "Relu", ["h"], ["y"])], w=W)  # fmt: skip
    found = compare(one, other, target="nvidia-a100", workload="batch=10")
    before, after = found.figures.before, found.figures.after
    assert before.ms is not None
    assert after.ms is not None
    assert 0 < before.ms <= after.ms
    assert "predicted" in str(found)
    unknown = compare(one, other, target="generic", workload="batch=10")
    assert unknown.figures.before.ms is None
    assert "predicted  not known: generic has no rates" in str(unknown)


# -- weights that are missing --------------------------------------------------------------


def test_missing_weights_are_said_to_be_unknown(save: Save, tmp_path: Path) -> None:
    before = save("a", [matmul()], w=W)
    after = save("b", [matmul(made="h"), helper.make_node("Relu", ["h"], ["y"])],
                 apart="b.data", w=V)  # fmt: skip
    (tmp_path / "b.data").unlink()
    found = compare(before, after)
    assert found
    assert found.graph.unknown == ((), ("w",))
    assert [hunk.kind for hunk in found.graph.hunks] == ["added"]
    assert "the files of 1 weights after are missing, w: compared by dtype and shape" in str(found)
    document = json.loads(json.dumps(found.to_json()))
    assert document["unknown_weights"] == [[], ["w"]]
    with pytest.raises(InputError, match="missing"):
        patch_of(found.graph)


def test_nothing_else_differs_than_what_is_missing(save: Save, tmp_path: Path) -> None:
    before, after = save("a", [matmul()], w=W), save("b", [matmul()], apart="b.data", w=W)
    assert not compare(before, after)
    (tmp_path / "b.data").write_bytes(b"short")
    found = compare(before, after)
    assert found  # nobody can know
    assert str(found).startswith("no difference that can be seen")
    assert not compare(after, after)


def test_weights_that_are_there_are_told_apart_all_the_same(save: Save, tmp_path: Path) -> None:
    """Two weights of one shape on both sides: one is missing after, the other one differs."""
    nodes = [matmul(made="h"), matmul("v", "h")]
    held = {"w": W[:32, :32].copy(), "v": V[:32, :32].copy()}
    nodes[0].input[0] = "c"
    first = helper.make_node("Slice", ["x", "zero", "end", "axis"], ["c"])
    sizes = {"zero": np.array([0]), "end": np.array([32]), "axis": np.array([1])}
    before = save("a", [first, *nodes], **held, **sizes)
    model = onnx.load(before)
    for tensor in model.graph.initializer:
        if tensor.name == "v":
            tensor.CopyFrom(numpy_helper.from_array(2 * held["v"], "v"))
        elif tensor.name == "w":
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="gone.data")
    after = tmp_path / "b.onnx"
    onnx.save(model, after)
    found = compare(before, after)
    assert found.graph.unknown == ((), ("w",))
    (hunk,) = found.graph.hunks
    assert [c.before.parts[0].name for c in found.weights(hunk) if c.before] == ["v"]
