"""Typed models and their twins: types where they belong, numbers as plain formulas give them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.backends.tensorrt.precision import LIMITS, WIDE, Precision, decide
from planish.compiler.backends.tensorrt.writing import twin, typed
from planish.compiler.calibration.peaks import float_values, peaks
from planish.ir.graph import constant_array, operator, producer
from planish.ir.signature import Signature
from planish.ir.verify import violations
from planish.targets.loader import load_target
from planish.targets.schema import Floats

RANDOM = np.random.default_rng(0)
A100, H100, T4 = (load_target(name) for name in ("nvidia-a100", "nvidia-h100", "nvidia-t4"))
HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
F8 = ml_dtypes.float8_e4m3fn
PORTS = ("float[n, 16] x", "float[n, 32] y")


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * RANDOM.normal(size=shape)).astype(np.float32)


X = normal(6, 16)
CODES = RANDOM.integers(-127, 128, (16, 32), np.int8)
INT8 = {
    "s": np.float32(0.0213), "z": np.int8(0), "w": CODES,
    "ws": (0.004 + 0.001 * RANDOM.random(32)).astype(np.float32), "wz": np.zeros(32, np.int8),
    "b": normal(32),
}  # fmt: skip
LAYER = (
    "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
    "v = DequantizeLinear<axis=1>(w, ws, wz) m = MatMul(d, v) y = Add(m, b)"
)


def chosen(model: ir.Model, feeds: Any, target: Any = A100) -> Precision:
    return decide(model, target, peaks(model, float_values(model), [feeds]))


def checked(model: ir.Model) -> ir.Model:
    """The model where ONNX's checker and our own rules find nothing."""
    assert list(violations(model)) == []
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def node(model: ir.Model, op: str) -> ir.Node:
    (found,) = [n for n in model.graph if n.op_type == op]
    return found


def types(values: Iterable[ir.Value | None]) -> list[ir.DataType | None]:
    return [None if value is None else value.dtype for value in values]


def half(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.float16).astype(np.float64)


def test_an_integer_layer_in_half_precision(build: Any, run: Any) -> None:
    model = build(LAYER, INT8, *PORTS)
    made = checked(typed(model, chosen(model, {"x": X})))
    assert Signature.of(made) == Signature.of(model)
    product = node(made, "MatMul")
    assert types((*product.inputs, *product.outputs)) == [HALF] * 3
    quantize = node(made, "QuantizeLinear")  # of a float32 input, with a scale of its type
    assert types(quantize.inputs) == [FLOAT, FLOAT, ir.DataType.INT8]
    for back in (n for n in made.graph if n.op_type == "DequantizeLinear"):
        assert types(back.inputs) == [ir.DataType.INT8, HALF, ir.DataType.INT8]
        zeros = constant_array(back.inputs[2])
        assert zeros is not None
        assert not zeros.any()
    assert producer(made.graph.outputs[0], "Cast") is not None
    expected = grid(X, half(INT8["s"]), 127) @ (CODES * half(INT8["ws"])) + half(INT8["b"])
    found = run(made, {"x": X})[0]
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def grid(x: np.ndarray, scale: Any, limit: float) -> np.ndarray:
    """Rounded to steps and clipped, in float64 behind the float32 division."""
    steps = np.rint(x / np.float32(scale))
    return np.asarray(np.clip(steps, -limit - 1, limit).astype(np.float64) * scale)


@pytest.mark.parametrize("optimize", ["none", "all"])
def test_the_twin_computes_the_rounding_and_nothing_else(
    optimize: str, build: Any, run: Any
) -> None:
    """Also under the runtime's optimisations: no integer kernel, no weight that it rounds."""
    model = build(LAYER, INT8, *PORTS)
    made = checked(twin(model, chosen(model, {"x": X})))
    floats = {v.dtype for n in made.graph for v in n.outputs} - {ir.DataType.INT8}
    assert floats == {FLOAT}
    x = X.copy()
    x[0, :4] = (9.0, -9.0, 0.0, 0.01065)  # beyond both ends, none, and half a step
    expected = grid(x, half(INT8["s"]), 127) @ (CODES * half(INT8["ws"])) + half(INT8["b"])
    np.testing.assert_allclose(run(made, {"x": x}, optimize)[0], expected, rtol=1e-5, atol=1e-5)


def test_eight_bit_floats(build: Any, run: Any) -> None:
    weight, scale = normal(16, 32, scale=0.1), np.float32(0.1 / 448)
    codes = np.clip(weight / scale, -448, 448).astype(F8)
    tensors: dict[str, Any] = {
        "s": np.float32(1.5 / 448), "z": np.zeros((), F8), "w": codes, "ws": scale,
        "b": INT8["b"],
    }  # fmt: skip
    body = LAYER.replace("<axis=1>(w, ws, wz)", "(w, ws, z)")
    model = build(body, tensors, *PORTS)
    precision = chosen(model, {"x": X}, H100)
    precision = replace(precision, scales=frozenset())  # exact scales, to compare exactly
    kept = {n.name: "scale" for n in model.graph if n.op_type == "MatMul"}
    precision = replace(precision, kept={**precision.kept, **kept})
    wide = codes.astype(np.float64) * np.float64(scale)
    steps = np.clip(X / tensors["s"], -448, 448).astype(F8).astype(np.float64)
    expected = (steps * np.float64(tensors["s"])) @ wide
    assert np.abs(X).max() > 1.5  # some saturate
    made = checked(twin(model, precision))
    assert "QuantizeLinear" not in {n.op_type for n in made.graph}
    found = run(made, {"x": X}, "all")[0] - half(INT8["b"])
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    product = run(checked(typed(model, precision)), {"x": X})[0] - half(INT8["b"])
    np.testing.assert_allclose(product, expected, atol=2e-3 * np.abs(expected).max())


def test_without_conversion_both_are_the_graph_itself(build: Any, run: Any) -> None:
    model = build(LAYER, INT8, *PORTS)
    made = checked(typed(model, WIDE))
    assert {v.dtype for n in made.graph for v in n.outputs} == {FLOAT, ir.DataType.INT8}
    assert sum(n.op_type == "Cast" for n in made.graph) == 0
    expected = run(model, {"x": X})[0]
    np.testing.assert_array_equal(run(made, {"x": X})[0], expected)
    np.testing.assert_allclose(run(twin(model, WIDE), {"x": X})[0], expected, atol=1e-5)


# -- what stays float32 ----------------------------------------------------------------


def test_what_exceeds_float16_on_data_stays_float32(build: Any, run: Any) -> None:
    """x^4 of 20 is 160000: in float16 that is infinite, and the difference to itself is NaN."""
    body = "a = Mul(x, x) b = Mul(a, a) c = Sqrt(b) y = Relu(c)"
    model = build(body, {}, "float[n, 16] x", "float[n, 16] y")
    x = np.full((2, 16), 20.0, np.float32)
    precision = chosen(model, {"x": x})
    outputs = {str(n.outputs[0].name): n.name for n in model.graph}
    assert {outputs["b"], outputs["c"]} == set(precision.kept)
    assert set(precision.kept.values()) == {"range"}
    made = checked(typed(model, precision))
    np.testing.assert_allclose(run(made, {"x": x})[0], 400.0, rtol=2e-3)
    assert float(np.finfo(np.float16).max) < 20.0**4


def test_half_of_the_range_is_left_for_data_not_seen(build: Any) -> None:
    model = build("y = Relu(x)", {}, "float[n, 16] x", "float[n, 16] y")
    for peak, kept in ((0.9, 0), (1.1, 1)):
        x = np.full((1, 16), peak * LIMITS[HALF], np.float32)
        assert len(chosen(model, {"x": x}).kept) == kept


@pytest.mark.parametrize(
    ("body", "tensors", "reason"),
    [
        ("y = Add(x, c)", {"c": np.float32(1e-12)}, "constant"),
        ("y = Mul(x, c)", {"c": np.float32(1e5)}, "constant"),
        ("y = Add(x, c)", {"c": np.float32(0.5)}, None),
        (
            "y = Add(x, c)",
            {"c": np.geomspace(1e-9, 1, 32, dtype=np.float32)},
            None,
        ),  # some are lost
        ("y = Add(x, c)", {"c": np.full(32, 1e-9, np.float32)}, "constant"),  # all would be
        ("a = Mul(x, c) y = Relu(a)", {"c": np.float32(2**-10)}, None),
        ("a = Mul(x, c) b = Mul(a, c) y = Relu(b)", {"c": np.float32(2**-10)}, "range"),
        ("a = Mul(x, c) y = ReduceL2<keepdims=1, axes=[1]>(a)", {"c": np.float32(64)}, "range"),
        ("y = GlobalAveragePool(x)", {}, None),
    ],
)
def test_constants_and_sums(body: str, tensors: Any, reason: str | None, build: Any) -> None:
    wide = "float[n, 32] x" if "Pool" not in body else "float[n, 32, 4, 4] x"
    axes = ", axes" if "ReduceL2" in body else ""
    body = body.replace(", axes=[1]>(a)", ">(a, axes)") if axes else body
    given = dict(tensors) | ({"axes": np.array([1])} if axes else {})
    model = build(
        body, given, wide, "float[n, k] y" if "Pool" not in body else "float[n, 32, 1, 1] y"
    )
    shape = (2, 32) if "Pool" not in body else (2, 32, 4, 4)
    precision = chosen(model, {"x": np.ones(shape, np.float32)})
    last = next(reversed(model.graph))
    assert precision.kept.get(last.name) == reason


def test_a_scale_that_float16_does_not_hold_keeps_the_layer_in_float32(
    build: Any, run: Any
) -> None:
    tiny = {**INT8, "ws": np.full(32, 3e-7, np.float32)}
    model = build(LAYER, tiny, *PORTS)
    precision = chosen(model, {"x": X})
    assert precision.kept == {node(model, "MatMul").name: "scale"}
    made = checked(typed(model, precision))
    product = node(made, "MatMul")
    assert types((*product.inputs, *product.outputs)) == [FLOAT] * 3
    expected = grid(X, half(INT8["s"]), 127) @ (CODES * np.float64(np.float32(3e-7)))
    found = run(made, {"x": X})[0] - half(INT8["b"])
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_bodies_stay_float32_and_read_what_they_capture(build: Any, run: Any) -> None:
    body = (
        "a = Mul(x, two) y = If (flag) <then_branch = t () => (float[n, 16] o) { o = Add(a, a) }, "
        "else_branch = e () => (float[n, 16] o2) { o2 = Identity(a) }>"
    )
    model = build(body, {"two": np.float32(2)}, "float[n, 16] x, bool flag", "float[n, 16] y")
    feeds = {"x": X, "flag": np.array(True)}
    precision = chosen(model, feeds)
    assert list(precision.kept.values()) == ["body"]
    made = checked(typed(model, precision))
    np.testing.assert_allclose(run(made, feeds)[0], 4 * X, rtol=2e-3)


def test_types_that_an_operator_does_not_take(build: Any, run: Any) -> None:
    """Resize reads its scales in float32 whatever it resizes."""
    body = 'y = Resize<mode="nearest">(x, , scales)'
    model = build(
        body, {"scales": np.array([1, 1, 2, 2], np.float32)},
        "float[n, 2, 4, 4] x", "float[n, 2, 8, 8] y",
    )  # fmt: skip
    feeds = {"x": normal(1, 2, 4, 4)}
    precision = chosen(model, feeds)
    made = checked(typed(model, precision))
    resize = node(made, "Resize")
    assert types(resize.inputs) == [HALF, None, FLOAT]
    np.testing.assert_allclose(run(made, feeds)[0], run(model, feeds)[0], rtol=1e-3)


def test_integers_become_halves_at_once(build: Any, run: Any) -> None:
    body = "f = Cast<to=1>(k) y = Mul(x, f)"
    model = build(body, {}, "float[n, 16] x, int64[n, 16] k", "float[n, 16] y")
    feeds = {"x": X, "k": RANDOM.integers(0, 5, (6, 16))}
    made = checked(typed(model, chosen(model, feeds)))
    assert types(node(made, "Mul").inputs) == [HALF, HALF]
    np.testing.assert_allclose(run(made, feeds)[0], X * feeds["k"], rtol=2e-3)


def test_bfloat16_where_products_exceed_float16(build: Any) -> None:
    model = build("m = MatMul(x, w) y = Add(m, b)", {"w": normal(16, 32), "b": INT8["b"]}, *PORTS)
    big = {"x": np.full((2, 16), 30000.0, np.float32)}
    assert chosen(model, big, A100).dtype == ir.DataType.BFLOAT16
    assert chosen(model, big, T4).dtype == HALF  # which has no bfloat16
    assert chosen(model, big, T4).kept
    made = checked(typed(model, chosen(model, big, A100)))
    assert node(made, "MatMul").outputs[0].dtype == ir.DataType.BFLOAT16
    none = replace(A100, floats=Floats("widened", "refused", "refused", "refused"))
    assert chosen(model, big, none) == WIDE


def test_opsets_without_scales_in_half_precision_stay_float32(build: Any) -> None:
    model = build("y = Relu(x)", {}, "float[n, 16] x", "float[n, 16] y", opset=18)
    assert chosen(model, {"x": X}) == WIDE


def test_an_output_that_others_read_is_cast_for_the_caller_alone(build: Any, run: Any) -> None:
    model = build("y = Relu(x) z = Exp(y)", {}, "float[n, 16] x", "float[n, 16] y, float[n, 16] z")
    made = checked(typed(model, chosen(model, {"x": X})))
    assert operator(node(made, "Exp"))[1] == "Exp"
    assert types(node(made, "Exp").inputs) == [HALF]
    assert [v.dtype for v in made.graph.outputs] == [FLOAT, FLOAT]
    for found, expected in zip(run(made, {"x": X}), run(model, {"x": X}), strict=True):
        np.testing.assert_allclose(found, expected, rtol=4e-3)
