"""What the suites are made of: constants, weights, folders, lists of what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.compiler.harness.case import Case
from planish.compiler.harness.execute import run_all
from planish.compiler.harness.lossless import chained, cpu_targets, lossless_passes
from planish.compiler.harness.suites import SUITES, folder_suite
from planish.compiler.harness.suites.constants import variants
from planish.compiler.harness.suites.exclusions import reason_of, same_bits, written
from planish.compiler.harness.suites.weights import seed_weights
from planish.compiler.harness.suites.wheels import feedable, module, seeded
from planish.ir.errors import InputError, UsageError

LINEAR = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[2, 3] x, float[3, 4] w) => (float[2, 4] y) { y = MatMul(x, w) }
"""
FEED = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "w": np.ones((3, 4), np.float32)}


def linear() -> Case:
    return Case("linear", onnx.parser.parse_model(LINEAR), (FEED,))


def outputs(case: Case) -> list[np.ndarray]:
    (run,) = run_all(case.model.SerializeToString(), case.feeds)
    return list(run.values())


def test_variants_feed_one_input_or_none_and_compute_the_same() -> None:
    (expected,) = outputs(linear())
    made = {case.name: case for case in variants(linear())}
    assert list(made) == ["linear-fed-x", "linear-fed-w", "linear-constant"]
    for name in ("x", "w"):
        case = made[f"linear-fed-{name}"]
        assert set(case.feeds[0]) == {name} == {i.name for i in case.model.graph.input}
        np.testing.assert_array_equal(outputs(case)[0], expected)
    last = made["linear-constant"]
    assert not last.model.graph.input
    assert [n.op_type for n in last.model.graph.node].count("Constant") == 2
    np.testing.assert_array_equal(outputs(last)[0], expected[None])
    assert linear().model == onnx.parser.parse_model(LINEAR)


def test_numbers_that_weights_must_not_hold_stay_fed() -> None:
    feed = {**FEED, "w": np.full((3, 4), np.nan, np.float32)}
    made = {c.name: c for c in variants(Case("linear", linear().model, (feed,)))}
    assert list(made) == ["linear-fed-w", "linear-constant"]
    assert all(set(case.feeds[0]) == {"w"} for case in made.values())


def network(ir_version: int) -> ir.Model:
    """A convolution whose kernel is filled, a norm from initializers, a layer from a Constant."""
    kernel = numpy_helper.from_array(np.array([8, 3, 3, 3], np.int64), "kernel_shape")
    norm = [numpy_helper.from_array(np.ones(8, np.float32), n) for n in ("a", "b", "m", "v")]
    rows = numpy_helper.from_array(np.ones((4, 8), np.float32))
    tiny = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    nodes = [
        helper.make_node("ConstantOfShape", ["kernel_shape"], ["kernel"]),
        helper.make_node("Conv", ["x", "kernel"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "a", "b", "m", "v"], ["n"]),
        helper.make_node("GlobalAveragePool", ["n"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Constant", [], ["rows"], value=rows),
        helper.make_node("Gemm", ["f", "rows"], ["g"], transB=1),
        helper.make_node("Mul", ["g", "half"], ["y"]),
    ]
    tensors = [kernel, *norm, tiny]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])]
    if ir_version < 4:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph(nodes, "g", inputs, [result], tensors)
    opsets = [helper.make_opsetid("", 11)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=ir_version))


@pytest.mark.parametrize("ir_version", [3, 8])
def test_weights_are_drawn_anew_and_nothing_else(ir_version: int) -> None:
    model = network(ir_version)
    assert seed_weights(model) == 6
    proto = ir.to_proto(model)
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert set(weights) == {"kernel", "a", "b", "m", "v", "half"}
    assert [n.op_type for n in proto.graph.node].count("ConstantOfShape") == 0
    assert len(proto.graph.input) == (7 if ir_version < 4 else 1)
    assert weights["half"] == 0.5
    assert (weights["v"] > 0).all()
    assert np.std(weights["kernel"]) == pytest.approx((2 / 27) ** 0.5, rel=0.2)
    np.testing.assert_allclose(weights["kernel"].mean(axis=(1, 2, 3)), 0, atol=1e-6)
    feed = {"x": np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)}
    (y,) = outputs(Case("network", proto, (feed,)))
    assert np.unique(y).size == 4


def test_weights_are_the_same_for_the_same_seed() -> None:
    first, again, other = (network(8) for _ in range(3))
    seed_weights(first), seed_weights(again), seed_weights(other, seed=1)
    assert ir.to_proto(first) == ir.to_proto(again)
    assert ir.to_proto(first) != ir.to_proto(other)


def test_a_folder_gives_a_case_a_model_with_two_feeds(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    onnx.save(linear().model, tmp_path / "deep" / "linear.onnx")
    old = linear().model
    old.opset_import[0].version = 5
    onnx.save(old, tmp_path / "old.onnx")
    refused, taken = sorted(folder_suite(tmp_path).cases(), key=lambda c: len(c.feeds))
    assert (taken.name, refused.name) == ("deep/linear.onnx", "old.onnx")
    assert len(taken.feeds) == 2
    assert len(run_all(taken.model.SerializeToString(), taken.feeds)) == 2
    assert refused.feeds == ()


def test_a_folder_reads_weights_beside_the_model(tmp_path: Path) -> None:
    model = next(c for c in variants(linear()) if c.name == "linear-fed-x").model
    path = tmp_path / "linear.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (case,) = folder_suite(tmp_path).cases()
    assert len(run_all(case.model.SerializeToString(), case.feeds)) == 2


def test_a_folder_without_models_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no \*\.onnx"):
        folder_suite(tmp_path).cases()
    with pytest.raises(UsageError, match="is no folder"):
        folder_suite(tmp_path / "none").cases()
    (tmp_path / "x.onnx").write_text("no model")
    with pytest.raises(InputError, match="not an ONNX"):
        list(folder_suite(tmp_path).cases())


def test_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(UsageError, match="comes with nowhere") as caught:
        module("nowhere.to.be.found", "pip install nowhere")
    assert caught.value.hint == "pip install nowhere"


def test_randomness_is_seeded_and_put_back() -> None:
    np.random.seed(7)
    expected = np.random.RandomState(7).rand()
    with seeded():
        first = np.random.rand()
    with seeded():
        assert np.random.rand() == first
    assert np.random.rand() == expected


def test_stored_data_become_feeds() -> None:
    tensor = numpy_helper.from_array(np.arange(3, dtype=np.int64))
    assert feedable(None) is None
    np.testing.assert_array_equal(feedable(tensor), [0, 1, 2])
    assert feedable(np.float32(2)).shape == ()
    assert [a.tolist() for a in feedable([tensor, [1.0]][:1])] == [[0, 1, 2]]
    sequence = numpy_helper.from_list([np.ones(2, np.float32)])
    assert [a.tolist() for a in feedable(sequence)] == [[1.0, 1.0]]


def test_bits_are_compared_by_kind_type_shape_and_byte() -> None:
    nan = np.array([np.nan], np.float32)
    assert same_bits([nan, None], [nan.copy(), None])
    assert not same_bits([np.zeros(1)], [-np.zeros(1)])
    assert not same_bits([np.zeros(1)], np.zeros((1, 1)))
    assert not same_bits([np.zeros(1)], [np.zeros(1, np.float32)])
    assert not same_bits([nan], [None])
    assert same_bits(np.array(["a"], object), np.array(["a"], object))


def test_a_list_is_written_by_reason_and_versions() -> None:
    text = written({"b": "why", "a": "why", "c": "else"}, "What it is.")
    assert text.startswith(f'# What it is.\nonnx = "{onnx.__version__}"\n')
    assert text.index('reason = "else"') < text.index('"c"') < text.index('reason = "why"')
    assert text.index('"a"') < text.index('"b"')
    assert "kernel" in reason_of("Could not find an implementation for Foo(1)")
    assert reason_of("something new") == "something new"


def test_what_must_hold_of_every_model() -> None:
    assert lossless_passes()[0] == "canonicalize"
    assert "quantize" not in lossless_passes()
    assert chained().pipeline.split(",") == list(lossless_passes())
    assert {"generic", "x86-avx2", "x86-avx512-vnni"} <= set(cpu_targets())


def test_suites_are_named_and_lazy() -> None:
    names = "onnx-node onnx-node-constants onnx-models onnx-light onnxscript"
    assert set(SUITES) == set(names.split())
    assert all(suite.name == name and suite.summary for name, suite in SUITES.items())
