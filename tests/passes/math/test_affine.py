from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from planish.ir.errors import InputError, UsageError
from planish.passes.math.affine import (
    affine_grids,
    affine_params,
    dequantize,
    fake_quantize,
    integer_limits,
    quantize,
    quantize_weight,
)

FINITE = st.floats(-(2.0**127), 2.0**127, width=32)
DTYPES = st.sampled_from(["uint8", "int8"])


def onnx_round_trip(
    x: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any], axis: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Codes and values of QuantizeLinear and DequantizeLinear in ONNX's own evaluator."""
    code = helper.np_dtype_to_tensor_dtype(zero_point.dtype)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, scale.shape),
        helper.make_tensor_value_info("z", code, zero_point.shape),
    ]
    outputs = [
        helper.make_tensor_value_info("q", code, x.shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape),
    ]
    graph = helper.make_graph(nodes, "round_trip", ends, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    onnx.checker.check_model(model)
    results = ReferenceEvaluator(model).run(None, {"x": x, "s": scale, "z": zero_point})
    assert isinstance(results, list)
    return np.asarray(results[0]), np.asarray(results[1])


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("zero_point", [0, 3, 100, 127])
def test_quantize_and_dequantize_do_what_onnx_does(dtype: str, zero_point: int) -> None:
    rng = np.random.default_rng(zero_point)
    ties = np.arange(-40, 40, dtype=np.float32) * 0.125
    x = np.concatenate([ties, rng.normal(size=200), [1e6, -1e6]])
    x = x.astype(np.float32)
    scale = np.array(0.25, dtype=np.float32)
    expected_q, expected_y = onnx_round_trip(x, scale, np.array(zero_point, dtype=dtype), 0)
    q = quantize(x, scale, zero_point, dtype)
    assert q.dtype == dtype
    np.testing.assert_array_equal(q, expected_q)
    np.testing.assert_array_equal(dequantize(q, scale, zero_point), expected_y)
    np.testing.assert_array_equal(fake_quantize(x, scale, zero_point, dtype), expected_y)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_quantize_per_channel_does_what_onnx_does(axis: int) -> None:
    rng = np.random.default_rng(axis + 1)
    x = rng.normal(scale=3, size=(4, 5, 6)).astype(np.float32)
    channels = x.shape[axis]
    scale = np.asarray(rng.uniform(0.01, 0.05, size=(channels,)), dtype=np.float32)
    zero_point = np.asarray(rng.integers(-20, 20, size=(channels,)), dtype=np.int8)
    expected_q, expected_y = onnx_round_trip(x, scale, zero_point, axis)
    q = quantize(x, scale, zero_point, "int8", axis)
    np.testing.assert_array_equal(q, expected_q)
    np.testing.assert_array_equal(dequantize(q, scale, zero_point, axis), expected_y)


def test_what_is_too_large_for_a_code_saturates() -> None:
    x = np.array([np.inf, -np.inf, 3e38, -3e38, 1e9])
    np.testing.assert_array_equal(quantize(x, 1e-3, 5, "uint8"), [255, 0, 255, 0, 255])
    np.testing.assert_array_equal(quantize(x, 1e-3, 5, "int8"), [127, -128, 127, -128, 127])


def test_halves_round_to_even() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    np.testing.assert_array_equal(quantize(x, 1.0, 0, "int8"), [0, 2, 2, 0, -2, -2])


@given(st.tuples(FINITE, FINITE).map(sorted), DTYPES, st.booleans())
def test_any_range_gives_a_usable_grid(ends: list[float], dtype: str, symmetric: bool) -> None:
    scale, zero_point = affine_params(*ends, dtype=dtype, symmetric=symmetric)
    qmin, qmax = integer_limits(dtype)
    assert isinstance(scale, np.float32)
    assert np.isfinite(scale)
    assert scale >= np.finfo(np.float32).tiny, "zero or denormal scales are flushed by runtimes"
    assert isinstance(zero_point, int)
    assert qmin <= zero_point <= qmax
    assert fake_quantize(np.zeros(1), scale, zero_point, dtype)[0] == 0.0
    # Every value of the range is within one step, the rounding of the zero point included.
    exact = np.array(ends, dtype=np.float64)
    codes = quantize(exact, scale, zero_point, dtype).astype(np.float64)
    back = (codes - zero_point) * float(scale)
    assert np.all(np.abs(back - exact) <= 1.001 * float(scale))


def test_asymmetric_parameters_follow_the_formula() -> None:
    assert affine_params(-1.0, 3.0, dtype="uint8", symmetric=False) == (np.float32(4 / 255), 64)
    assert affine_params(-1.0, 3.0, dtype="int8", symmetric=False) == (np.float32(4 / 255), -64)


@pytest.mark.parametrize("lo", [-0.05, -0.7, -1.0, -1.49, -2.9])
def test_the_zero_point_is_the_nearest_code(lo: float) -> None:
    for dtype, qmin in (("uint8", 0), ("int8", -128)):
        _, zero_point = affine_params(lo, 3.1, dtype=dtype, symmetric=False)
        assert abs(zero_point - (qmin + 255 * -lo / (3.1 - lo))) <= 0.5001


def test_symmetric_parameters_put_zero_in_the_middle() -> None:
    assert affine_params(-1.0, 3.0, dtype="int8", symmetric=True) == (np.float32(3 / 127), 0)
    assert affine_params(-1.0, 3.0, dtype="uint8", symmetric=True) == (np.float32(3 / 127), 128)


def test_zero_lies_at_the_end_of_ranges_of_one_sign() -> None:
    # Runtimes drop a Relu only when its zero point is the smallest code.
    assert affine_params(0.0, 7.3, dtype="uint8", symmetric=False)[1] == 0
    assert affine_params(2.0, 7.3, dtype="uint8", symmetric=False) == (np.float32(7.3 / 255), 0)
    assert affine_params(0.0, 7.3, dtype="int8", symmetric=False)[1] == -128
    assert affine_params(-5.0, -2.0, dtype="uint8", symmetric=False) == (np.float32(5 / 255), 255)
    assert affine_params(-5.0, -2.0, dtype="int8", symmetric=False)[1] == 127


def test_an_empty_range_gets_a_scale_of_one() -> None:
    assert affine_params(0.0, 0.0, dtype="uint8", symmetric=False) == (np.float32(1), 0)
    assert affine_params(0.0, 0.0, dtype="int8", symmetric=True) == (np.float32(1), 0)


def test_many_ranges_at_once_equal_one_by_one() -> None:
    rng = np.random.default_rng(0)
    lo, hi = -rng.exponential(size=50), rng.exponential(size=50)
    for dtype, symmetric in itertools.product(["uint8", "int8"], [False, True]):
        scales, zero_points = affine_grids(lo, hi, dtype=dtype, symmetric=symmetric)
        each = [
            affine_params(a, b, dtype=dtype, symmetric=symmetric)
            for a, b in zip(lo, hi, strict=True)
        ]
        assert list(zip(scales, zero_points, strict=True)) == each


@pytest.mark.parametrize("ends", [(np.nan, 1.0), (0.0, np.inf), (-np.inf, 0.0), (-1e39, 0.0)])
def test_ranges_that_are_not_finite_are_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="not finite") as error:
        affine_params(*ends, dtype="uint8", symmetric=False)
    assert "calibration data" in error.value.hint


def test_a_range_with_swapped_ends_is_refused() -> None:
    with pytest.raises(InputError, match="ends before it begins"):
        affine_params(1.0, -1.0, dtype="uint8", symmetric=False)


def test_an_unknown_type_names_the_near_one() -> None:
    with pytest.raises(UsageError, match="'uint4'") as error:
        affine_params(0.0, 1.0, dtype="uint4", symmetric=False)
    assert "'uint8'" in error.value.hint


@pytest.mark.parametrize(("bits", "qmax"), [(8, 127), (7, 63)])
@pytest.mark.parametrize(("shape", "axis"), [((6, 4), 1), ((6, 4), 0), ((3, 2, 5, 5), 0)])
def test_weights_are_within_half_a_step_and_use_the_whole_range(
    shape: tuple[int, ...], axis: int, bits: int, qmax: int
) -> None:
    w = np.random.default_rng(bits).normal(size=shape).astype(np.float32)
    q, scale = quantize_weight(w, axis, bits)
    assert q.shape == w.shape
    assert q.dtype == np.int8
    assert scale.dtype == np.float32
    assert scale.shape == (shape[axis],)
    for channel in range(shape[axis]):
        row, codes = np.take(w, channel, axis), np.take(q, channel, axis).astype(np.float64)
        peak = np.abs(row.astype(np.float64)).max()
        assert scale[channel] == pytest.approx(peak / qmax, rel=1e-6)
        assert np.abs(codes).max() == qmax
        error = np.abs(codes * float(scale[channel]) - row)
        assert error.max() <= 0.5 * float(scale[channel]) * (1 + 1e-5)


def test_a_channel_of_zeros_takes_the_largest_scale_of_the_others() -> None:
    w = np.array([[0.0, 1.0, -2.0], [0.0, 0.5, 1.0]], dtype=np.float32)
    q, scale = quantize_weight(w, 1)
    np.testing.assert_allclose(scale, [2 / 127, 1 / 127, 2 / 127], rtol=1e-6)
    assert not q[:, 0].any()


def test_weights_that_are_all_zero_or_denormal_have_a_scale_above_zero() -> None:
    for w in (np.zeros((4, 3), np.float32), np.full((4, 3), 1e-42, np.float32)):
        q, scale = quantize_weight(w, 1)
        assert np.all(scale >= np.finfo(np.float32).tiny)
        assert np.all(np.abs(q * scale - w) <= scale / 2)


def test_the_smallest_scale_keeps_a_bias_within_32_bits() -> None:
    w = np.array([[1e-9, 1.0], [0.0, -1.0]], dtype=np.float32)
    bias, input_scale = np.array([2.0, 2.0]), 0.02
    floor = np.abs(bias) / (input_scale * 2.0**30)
    q, scale = quantize_weight(w, 1, min_scale=floor)
    assert np.all(np.rint(bias / (input_scale * scale.astype(np.float64))) <= 2**31 - 1)
    assert scale[1] == np.float32(1 / 127)
    assert np.all(np.abs(q * scale - w) <= scale / 2 * (1 + 1e-5))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    w = np.ones((3, 3), dtype=np.float32)
    w[1, 2] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        quantize_weight(w, 1)


def test_other_widths_are_refused() -> None:
    with pytest.raises(UsageError, match="not 4"):
        quantize_weight(np.ones((2, 2), np.float32), 1, bits=4)
