from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.checking.regions import Reference, RegionCheck, compare, reference
from planish.compiler.context import values_by_name
from planish.ir.errors import PassError
from planish.ir.qdq import static_view
from planish.ir.rewriter import Rewriter
from planish.passes.api import FakeQuant, Perturbation

Array = np.ndarray[Any, Any]
TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 32] x) => (float[n, 16] y)
{
  h = Tanh(x)
  a = MatMul(h, w)
  b = Add(a, bias)
  y = Relu(b)
}
"""
RNG = np.random.default_rng(4)
W = RNG.normal(size=(32, 16)).astype(np.float32)
B = RNG.normal(size=16).astype(np.float32)
H = RNG.uniform(-1, 1, size=(40, 32)).astype(np.float32)


@pytest.fixture
def model(graphs: ModuleType) -> ir.Model:
    parsed: ir.Model = graphs.parse(TEXT, w=W, bias=B)
    return parsed


def measured(model: ir.Model, perturbation: Perturbation, h: Array = H) -> Reference:
    return reference(model, perturbation, values_by_name(model), {"h": h, "unused": h}, 1)


def compared(model: ir.Model, perturbation: Perturbation, ref: Reference) -> RegionCheck:
    return compare(model, perturbation, values_by_name(model), ref, 1)


def output(h: Array, w: Array, bias: Array = B) -> Array:
    wide: Array = h.astype(np.float64) @ w.astype(np.float64) + bias
    return wide


def relative(before: Array, after: Array) -> float:
    return float(((before - after) ** 2).sum() / (before**2).sum())


def on_grid(x: Array, scale: float, zero: int) -> Array:
    codes = np.clip(np.rint(x.astype(np.float64) / scale) + zero, 0, 255)
    return np.asarray((codes - zero) * scale)


def test_the_loss_of_new_weights_is_the_relative_squared_error(model: ir.Model) -> None:
    w, bias = np.round(W * 4) / 4, B + np.float32(0.125)
    ref = measured(model, Perturbation(("h",), ("b",), {"w": w, "bias": bias}))
    np.testing.assert_allclose(ref.outputs["b"], output(H, w, bias), rtol=1e-5, atol=1e-5)
    assert ref.loss == pytest.approx(relative(output(H, W), output(H, w, bias)), rel=1e-5)


def test_a_region_left_as_it_is_loses_nothing(model: ir.Model) -> None:
    perturbation = Perturbation(("h",), ("b", "y"), contraction=32)
    ref = measured(model, perturbation)
    assert ref.loss == 0.0
    np.testing.assert_allclose(ref.outputs["y"], np.maximum(output(H, W), 0), rtol=1e-5, atol=1e-5)
    assert compared(model, perturbation, ref) == RegionCheck(True, 0.0)


def test_the_loss_of_a_static_range_on_an_input(model: ir.Model) -> None:
    quant = FakeQuant("uint8", 1 / 64, 64)  # 0.98 and above is clipped at 255
    ref = measured(model, Perturbation(("h",), ("b",), fake_quants={"h": quant}))
    expected = output(on_grid(H, 1 / 64, 64), W)
    np.testing.assert_allclose(ref.outputs["b"], expected, rtol=1e-5, atol=1e-5)
    assert ref.loss == pytest.approx(relative(output(H, W), expected), rel=1e-4)


def test_the_loss_of_a_dynamic_range_on_an_input(model: ir.Model) -> None:
    ref = measured(model, Perturbation(("h",), ("b",), fake_quants={"h": FakeQuant()}))
    scale = (float(H.max()) - float(H.min())) / 255
    zero = int(np.rint(-float(H.min()) / scale))
    expected = output(on_grid(H, scale, zero), W)
    assert ref.loss == pytest.approx(relative(output(H, W), expected), rel=1e-2)
    assert 1e-7 < ref.loss < 1e-3


def test_an_output_quantizer_counts_as_loss_but_not_in_the_reference(model: ir.Model) -> None:
    quants = {"b": FakeQuant("uint8", 0.25, 128)}
    ref = measured(model, Perturbation(("h",), ("b",), fake_quants=quants))
    float_output = output(H, W)
    np.testing.assert_allclose(ref.outputs["b"], float_output, rtol=1e-5, atol=1e-5)
    expected = relative(float_output, on_grid(float_output, 0.25, 128))
    assert ref.loss == pytest.approx(expected, rel=1e-2)


def test_a_silent_region_loses_nothing_or_everything(model: ir.Model) -> None:
    silent = Perturbation(("h",), ("a",), {"w": W * 2})
    assert measured(model, silent, H * 0).loss == 0.0
    loud = Perturbation(("h",), ("b",), {"bias": B})
    model.graph.initializers["bias"].const_value = ir.tensor(B * 0)
    assert measured(model, loud, H * 0).loss == np.inf


@pytest.mark.parametrize(("excess", "agrees"), [(0.5, True), (2.0, False)])
def test_regions_agree_within_rounding_of_their_products(
    model: ir.Model, graphs: ModuleType, excess: float, agrees: bool
) -> None:
    """|a - b| <= 1e-5 max|a| sqrt(K), moved through the bias to either side of the bound."""
    perturbation = Perturbation(("h",), ("b",), contraction=32)
    ref = measured(model, perturbation)
    bound = 1e-5 * np.abs(ref.outputs["b"]).max() * np.sqrt(32)
    moved = B.copy()
    moved[3] += excess * bound
    graphs.value(model, "bias").const_value = ir.tensor(moved)
    check = compared(model, perturbation, ref)
    assert check.agrees is agrees
    assert check.worst == pytest.approx(excess, rel=0.1)
    assert agrees or "b: 6.25% of elements differ" in check.sentence


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_agrees_with_numbers(
    model: ir.Model, graphs: ModuleType, bad: float
) -> None:
    quants = {"h": FakeQuant("uint8", 1 / 64, 64)}
    for perturbation in (
        Perturbation(("h",), ("b",), contraction=32),
        Perturbation(("h",), ("b",), fake_quants=quants, contraction=32),
    ):
        ref = measured(model, perturbation)
        graphs.value(model, "bias").const_value = ir.tensor(np.where(np.arange(16) == 3, bad, B))
        assert not compared(model, perturbation, ref).agrees
        graphs.value(model, "bias").const_value = ir.tensor(B)
    one = {"b": ref.outputs["b"].copy()}
    one["b"][0, 0] = bad  # one element of 640 x 16, fewer than may lie a step away
    many = {name: np.tile(array, (16, 1)) for name, array in ref.inputs.items()}
    tiled = Reference(many, {"b": np.concatenate([one["b"], *[ref.outputs["b"]] * 15])}, 0.0)
    assert not compared(quantized_input(model, graphs), perturbation, tiled).agrees


def test_zeros_in_float16_agree(graphs: ModuleType) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float16[n, 32] h) => (float16[n, 32] y)
    { y = Mul(h, zero) }
    """
    model = graphs.parse(text, zero=np.zeros(32, np.float16))
    perturbation, values = Perturbation(("h",), ("y",)), values_by_name(model)
    ref = reference(model, perturbation, values, {"h": H.astype(np.float16)}, 1)
    assert compare(model, perturbation, values, ref, 1).agrees


def test_infinities_where_they_belong_agree(graphs: ModuleType) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[n, 32] h, bool[n, 32] m) => (float[n, 32] y)
    <float low = {-inf}> { y = Where(m, h, low) }
    """
    model = graphs.parse(text.replace("{-inf}", "{-1}"))
    model.graph.initializers["low"].const_value = ir.tensor(np.float32(-np.inf))
    perturbation = Perturbation(("h", "m"), ("y",))
    values = values_by_name(model)
    ref = reference(model, perturbation, values, {"h": H, "m": H > 0}, 1)
    assert np.isinf(ref.outputs["y"]).any()
    assert compare(model, perturbation, values, ref, 1).agrees
    assert ref.loss == 0.0


def test_behind_a_quantizer_a_few_elements_may_differ(model: ir.Model, graphs: ModuleType) -> None:
    """One in a thousand, where a value lay between two steps."""
    quants = {"h": FakeQuant("uint8", 1 / 64, 64)}
    plain = Perturbation(("h",), ("b",), contraction=32)
    behind = Perturbation(("h",), ("b",), fake_quants=quants, contraction=32)
    many = RNG.uniform(-1, 1, size=(200, 32)).astype(np.float32)  # 3,200 outputs
    for perturbation, flips, agrees in [
        (behind, 3, True), (behind, 4, False), (plain, 1, False)
    ]:  # fmt: skip
        ref = measured(model, perturbation, many)
        got = ref.outputs["b"].copy()
        got.flat[:flips] += 1
        moved = Reference(ref.inputs, {"b": got}, ref.loss)
        lowered = graphs.parse(TEXT, w=W, bias=B)
        if perturbation is behind:
            lowered = quantized_input(lowered, graphs)
        assert compared(lowered, perturbation, moved).agrees is agrees


def quantized_input(model: ir.Model, graphs: ModuleType) -> ir.Model:
    rewriter, h = Rewriter(model), graphs.value(model, "h")
    view = static_view(rewriter, h, 1 / 64, 64, "uint8")
    product = next(n for n in model.graph if n.op_type == "MatMul")
    rewriter.set_input(product, 0, view)
    return model


def test_another_shape_or_dtype_does_not_agree(model: ir.Model, graphs: ModuleType) -> None:
    perturbation = Perturbation(("h",), ("b",), contraction=32)
    ref = measured(model, perturbation)
    for replaced, face in [
        (ref.outputs["b"][:, :8], "float32[40, 8]"),
        (ref.outputs["b"].astype(np.float16), "float16[40, 16]"),
    ]:
        check = compared(model, perturbation, Reference(ref.inputs, {"b": replaced}, 0.0))
        assert not check.agrees
        assert f"expected {face}" in check.sentence


def test_the_worst_output_decides(model: ir.Model) -> None:
    perturbation = Perturbation(("h",), ("a", "b"), contraction=32)
    ref = measured(model, perturbation)
    outputs = {"a": ref.outputs["a"] + 1, "b": ref.outputs["b"]}
    check = compared(model, perturbation, Reference(ref.inputs, outputs, 0.0))
    assert not check.agrees
    assert check.sentence.startswith("a:")


def test_regions_that_are_not_closed_or_lost_are_errors(
    model: ir.Model, graphs: ModuleType
) -> None:
    with pytest.raises(PassError, match="also reads the graph input 'x'"):
        reference(model, Perturbation((), ("b",)), values_by_name(model), {}, 1)
    perturbation = Perturbation(("h",), ("b",))
    ref = measured(model, perturbation)
    graphs.value(model, "b").name = "renamed"
    with pytest.raises(PassError, match="lost the value 'b'"):
        compared(model, perturbation, ref)
