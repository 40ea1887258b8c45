from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from planish.passes.math.affine import dequantize, quantize_weight
from planish.passes.math.bias import bias_correction_conv, bias_correction_linear, output_error


def rounded(w: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    q, scale = quantize_weight(w, axis, bits=7)
    return dequantize(q, scale, 0, axis)


def test_the_corrected_bias_restores_the_mean_output() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(loc=2.0, size=(500, 24))
    w = rng.normal(size=(24, 10)).astype(np.float32)
    w_hat = rounded(w, 1)
    shift = bias_correction_linear(w, w_hat, x.mean(axis=0))
    assert shift.dtype == np.float32
    before = (x @ w).mean(axis=0)
    assert np.abs((x @ w_hat).mean(axis=0) - before).max() > 1e-3
    np.testing.assert_allclose((x @ w_hat + shift).mean(axis=0), before, atol=1e-6)


def convolve(x: NDArray[Any], w: NDArray[Any], groups: int) -> NDArray[Any]:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups)
    infos = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape),
        helper.make_tensor_value_info("w", TensorProto.FLOAT, w.shape),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph([node], "conv", infos, [output]))
    results = ReferenceEvaluator(model).run(None, {"x": x, "w": w})
    assert isinstance(results, list)
    return np.asarray(results[0], dtype=np.float64)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_corrected_bias_of_a_convolution_restores_its_response_to_the_mean(
    groups: int,
) -> None:
    rng = np.random.default_rng(groups)
    mean = rng.uniform(1.0, 3.0, 4).astype(np.float32)
    w = rng.normal(size=(8, 4 // groups, 3, 3)).astype(np.float32)
    w_hat = rounded(w, 0)
    x = np.broadcast_to(mean[None, :, None, None], (1, 4, 5, 5)).astype(np.float32)
    change = (convolve(x, w, groups) - convolve(x, w_hat, groups))[0, :, 0, 0]
    assert np.abs(change).max() > 1e-3
    np.testing.assert_allclose(bias_correction_conv(w, w_hat, mean, groups), change, atol=3e-5)


def test_the_correction_works_for_any_number_of_spatial_axes() -> None:
    w = np.random.default_rng(1).normal(size=(3, 2, 5)).astype(np.float32)
    shift = bias_correction_conv(w, np.zeros_like(w), [1.0, -2.0])
    expected = w[:, 0].sum(axis=1, dtype=np.float64) - 2 * w[:, 1].sum(axis=1, dtype=np.float64)
    np.testing.assert_allclose(shift, expected, rtol=1e-5)


def test_output_error_is_the_error_of_the_outputs() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 16)) @ rng.normal(size=(16, 16))
    w = rng.normal(size=(16, 9)).astype(np.float32)
    w_hat = rounded(w, 1)
    y, y_hat = x @ w.astype(np.float64), x @ w_hat.astype(np.float64)
    expected = np.sum((y_hat - y) ** 2) / np.sum(y**2)
    assert output_error(w, w_hat, x.T @ x / len(x)) == pytest.approx(expected, rel=1e-9)


def test_output_error_at_its_ends() -> None:
    w, gram = np.ones((3, 2)), np.eye(3)
    assert output_error(w, w, gram) == 0.0
    assert output_error(w, w, np.zeros((3, 3))) == 0.0
    assert output_error(w, np.zeros((3, 2)), gram) == pytest.approx(1.0)
    assert output_error(np.zeros((3, 2)), w, gram) == float("inf")


def test_without_a_gram_matrix_the_error_is_that_of_the_weights() -> None:
    rng = np.random.default_rng(4)
    w, other = rng.standard_normal((2, 7, 3))
    expected = np.square(other - w).sum() / np.square(w).sum()
    assert output_error(w, other, None) == pytest.approx(expected, rel=1e-12)
