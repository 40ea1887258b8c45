"""8-bit floats in blocks against the definition of E4M3 and of powers of two."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from planish.ir.errors import InputError, UsageError
from planish.passes.math.mxfp8 import dequantize_mx, power_above, round_mx, round_rows_mx

E4M3 = np.unique(
    np.abs(np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64))
)
E4M3 = np.concatenate([-E4M3[np.isfinite(E4M3)][:0:-1], E4M3[np.isfinite(E4M3)]])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, shape).astype(np.float32)


def test_the_least_power_of_two_that_is_not_below() -> None:
    for exponent in range(-125, 120):
        exact = np.float32(2.0**exponent)
        assert power_above(exact) == exact
        assert power_above(np.nextafter(exact, np.float32(np.inf))) == 2 * exact
        assert power_above(np.nextafter(exact, np.float32(0))) == exact
    assert power_above(np.float32(0)) == power_above(np.float32(1e-44)) == np.float32(2.0**-126)


def test_codes_are_the_nearest_under_the_least_scale_that_holds_the_block() -> None:
    w = normal(64, 5)
    coded = round_mx(w)
    for block, n in np.ndindex(2, 5):
        rows = slice(32 * block, 32 * block + 32)
        peak, scale = float(np.abs(w[rows, n]).max()), float(coded.scales[block, n])
        assert np.log2(scale) == round(np.log2(scale))
        assert peak <= 448 * scale
        assert peak > 448 * scale / 2
        wanted = w[rows, n].astype(np.float64)
        nearest = np.abs(wanted[:, None] - E4M3 * scale).min(axis=1)
        found = coded.codes[rows, n].astype(np.float64) * scale
        np.testing.assert_allclose(np.abs(found - wanted), nearest, atol=1e-7)
        np.testing.assert_array_equal(dequantize_mx(coded)[rows, n], found.astype(np.float32))


def test_activations_are_rounded_as_weights_are() -> None:
    x = normal(3, 5, 64, seed=1)
    x[0, 0, :32] = 0
    coded = round_mx(x.reshape(15, 64).T)
    np.testing.assert_array_equal(round_rows_mx(x).reshape(15, 64).T, dequantize_mx(coded))
    assert not round_rows_mx(x)[0, 0, :32].any()


def test_small_and_large_numbers() -> None:
    for size in (1e-38, 1e-20, 1e30):
        w = normal(32, 3, seed=2) * np.float32(size)
        error = np.square((dequantize_mx(round_mx(w)).astype(np.float64) - w) / size).sum()
        assert error < 2e-3 * np.square(w.astype(np.float64) / size).sum()


def test_bad_weights_are_named() -> None:
    w = normal(32, 2)
    w[3, 1] = np.inf
    with pytest.raises(InputError, match="infinite"):
        round_mx(w)
    with pytest.raises(UsageError, match="48 inputs do not fall in blocks of 32"):
        round_mx(normal(48, 2))
