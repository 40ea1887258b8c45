"""8-bit floats against the definition of E4M3, written out."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir.errors import InputError
from planish.passes.math.float8 import LARGEST, absmax_scale, round_to_float8


def e4m3() -> np.ndarray:
    """All finite values: sign, 4 bits of exponent with bias 7, 3 of mantissa; 0x7F is NaN."""
    codes = np.arange(127)
    exponent, mantissa = codes >> 3, codes & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    positive = np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal)
    return np.concatenate([-positive[:0:-1], positive])


def test_values_go_to_the_nearest_code_and_saturate() -> None:
    x = np.random.default_rng(0).normal(size=4000).astype(np.float32) * 200
    scale = np.float32(0.7)
    steps = np.clip(x.astype(np.float64) / scale, -LARGEST, LARGEST)
    grid = e4m3()
    nearest = np.abs(steps[:, None] - grid[None]).min(axis=1)
    found = round_to_float8(x, scale).astype(np.float64)
    assert set(found) <= set(grid)
    np.testing.assert_allclose(np.abs(found - steps), nearest, atol=1e-5)
    assert np.abs(found).max() == LARGEST == grid.max()


def test_the_scale_maps_the_largest_magnitude_to_the_largest_code() -> None:
    assert absmax_scale(44.8) == pytest.approx(0.1)
    assert absmax_scale(0.0) == 1.0
    assert absmax_scale(1e-44) > 0
    for bad in (np.nan, np.inf):
        with pytest.raises(InputError, match="not finite"):
            absmax_scale(bad)
