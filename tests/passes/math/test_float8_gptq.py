"""8-bit floats chosen together: less error of the outputs than the nearest ones, and never NaN."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir.errors import InputError
from planish.passes.math.float8 import E4M3, absmax_scale, round_to_float8
from planish.passes.math.float8_gptq import gptq_float8

RNG = np.random.default_rng(3)


def correlated(rows: int, inputs: int) -> np.ndarray:
    return RNG.normal(size=(rows, inputs // 4)) @ RNG.normal(size=(inputs // 4, inputs)) + 0.1 * (
        RNG.normal(size=(rows, inputs))
    )


def error(x: np.ndarray, w: np.ndarray, codes: np.ndarray, scale: np.float32) -> float:
    return float(((x @ (codes.astype(np.float64) * np.float64(scale) - w)) ** 2).sum())


@pytest.mark.parametrize("inputs", [8, 130, 300])
def test_outputs_lose_less_than_by_rounding(inputs: int) -> None:
    x, w = correlated(2000, inputs), RNG.normal(size=(inputs, 24)).astype(np.float32)
    scale = absmax_scale(float(np.abs(w).max()))
    codes = gptq_float8(w, x.T @ x, scale)
    assert codes.dtype == E4M3
    assert error(x, w, codes, scale) < 0.4 * error(x, w, round_to_float8(w, scale), scale)


def test_a_sweep_never_loses_more() -> None:
    x, w = correlated(500, 64), RNG.normal(size=(64, 16)).astype(np.float32)
    scale, gram = absmax_scale(float(np.abs(w).max())), x.T @ x
    errors = [error(x, w, gptq_float8(w, gram, scale, sweeps=n), scale) for n in (0, 1, 3)]
    assert errors[0] > errors[1] >= errors[2] * 0.999


def test_inputs_that_have_nothing_in_common_are_rounded() -> None:
    w = RNG.normal(size=(40, 8)).astype(np.float32)
    scale = absmax_scale(float(np.abs(w).max()))
    for gram in (np.eye(40), np.zeros((40, 40))):
        np.testing.assert_array_equal(gptq_float8(w, gram, scale), round_to_float8(w, scale))


def test_zeros_stay_zeros_although_errors_pull_at_them() -> None:
    x, w = correlated(500, 64), RNG.normal(size=(64, 16)).astype(np.float32)
    w[::2] = 0
    scale = absmax_scale(float(np.abs(w).max()))
    codes = gptq_float8(w, x.T @ x, scale).astype(np.float32)
    assert not codes[::2].any()
    assert error(x, w, codes, scale) < 0.7 * error(x, w, round_to_float8(w, scale), scale)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_weights_and_moments_that_are_not_finite_are_refused(broken: float) -> None:
    w, gram = np.ones((4, 2), np.float32), np.eye(4)
    with pytest.raises(InputError):
        gptq_float8(np.full((4, 2), broken, np.float32), gram, np.float32(1))
    with pytest.raises(InputError):
        gptq_float8(w, np.full((4, 4), broken), np.float32(1))
    with pytest.raises(InputError):
        gptq_float8(w, np.eye(3), np.float32(1))
