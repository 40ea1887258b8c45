from __future__ import annotations

import math

import numpy as np
import pytest

from planish.passes.math.blockcodes import blocked, dequantize_blocks
from planish.passes.math.blockwise import block_energy, full_range, round_blocks
from planish.passes.math.hqq import fitted_scale, fitted_zero, half_quadratic, hqq_blocks, shrink


def mean_error(w: list[float], scale: float, zero: float, bits: int) -> float:
    """Mean error of one block, in units of a step."""
    codes: list[int] = [min(max(round(x / scale + zero), 0), 2**bits - 1) for x in w]
    rest = [abs(x / scale - (q - zero)) for x, q in zip(w, codes, strict=True)]
    return sum(rest) / len(rest)


def published(w: list[float], scale: float, zero: float, bits: int) -> float:
    """Least mean error of one block on the way of the published iteration: beta 10, p 0.7."""
    beta, best = 10.0, math.inf
    for _ in range(20):
        codes = [min(max(round(x / scale + zero), 0), 2**bits - 1) for x in w]
        rest = [x / scale - (q - zero) for x, q in zip(w, codes, strict=True)]
        best = min(best, sum(abs(e) for e in rest) / len(rest))
        outliers = [
            math.copysign(max(abs(e) - abs(e) ** (0.7 - 1) / beta, 0.0), e) if e else 0.0
            for e in rest
        ]
        moved = [q - (x / scale - o) for q, x, o in zip(codes, w, outliers, strict=True)]
        zero = sum(moved) / len(moved)
        beta *= 1.01
    return best


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("inputs", [32, 25])
def test_zero_points_follow_the_published_iteration(bits: int, inputs: int) -> None:
    rng = np.random.default_rng(bits)
    w = rng.standard_t(4, (inputs, 6)).astype(np.float32) * np.float32(0.03)
    blocks, present = blocked(w, 16), block_energy(None, inputs, 16)
    grid = full_range(blocks, bits, symmetric=False)
    scale, zeros = half_quadratic(blocks, grid, present, bits, fitted_zero)
    assert np.array_equal(scale, grid[0])
    for group, n in np.ndindex(zeros.shape):
        members = [float(v) for v in w[16 * group : 16 * (group + 1), n]]
        start = float(grid[0][group, n]), float(grid[1][group, n])
        reached = mean_error(members, float(scale[group, n]), float(zeros[group, n]), bits)
        # Not the zero points: near its least the mean error hardly depends on them.
        assert reached == pytest.approx(published(members, *start, bits), rel=1e-4)


def test_scales_are_the_least_squares_of_what_is_no_outlier() -> None:
    rng = np.random.default_rng(1)
    target, codes = rng.standard_normal((2, 3, 16, 4)).astype(np.float32)
    present = np.ones((3, 16, 1), np.float32)
    scale, zeros = np.full((3, 4), 0.5, np.float32), np.zeros((3, 4), np.float32)
    fitted, same = fitted_scale(target, codes, (scale, zeros), present)
    assert same is zeros
    for group, n in np.ndindex(fitted.shape):
        a, b = codes[group, :, n], target[group, :, n] * 0.5
        assert fitted[group, n] == pytest.approx(float(a @ b) / float(a @ a), rel=1e-5)


def test_shrinkage_takes_large_errors_only() -> None:
    errors = np.array([0.0, 0.1, -0.4, 3.0], np.float32)
    expected = [0.0, 0.0, -(0.4 - 0.4**-0.3 / 10), 3.0 - 3.0**-0.3 / 10]
    np.testing.assert_allclose(shrink(errors, 10.0), expected, rtol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_mean_error_is_below_that_of_covering_the_range(bits: int, symmetric: bool) -> None:
    w = np.random.default_rng(bits).standard_t(4, (200, 50)).astype(np.float32)
    coded = hqq_blocks(w, bits=bits, block=32, symmetric=symmetric)
    assert (coded.zero_point is None) == symmetric
    plain = round_blocks(w, bits=bits, block=32, symmetric=symmetric, clip=False)
    error, before = (np.abs(dequantize_blocks(c) - w).mean() for c in (coded, plain))
    assert error < 0.97 * before


def test_the_size_of_the_weights_does_not_matter() -> None:
    w = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
    small = hqq_blocks(w * np.float32(2.0**-20), bits=4, block=32)
    assert np.array_equal(small.codes, hqq_blocks(w, bits=4, block=32).codes)
