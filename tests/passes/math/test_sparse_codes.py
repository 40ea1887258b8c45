"""Zeros and int8 codes together: the sweep, the fit and the grid, each against a plain formula."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from planish.passes.math.affine import dequantize, quantize_weight
from planish.passes.math.sparse import Pattern, holds, sparsegpt
from planish.passes.math.sparse_codes import fit_on_grid, grid_scales
from planish.passes.math.sparse_fit import masked_refit

Array = np.ndarray[Any, Any]


def problem(inputs: int, outputs: int, seed: int = 0) -> tuple[Array, Array]:
    """A weight, and second moments of inputs that hang together."""
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(40 * inputs, inputs)) @ (
        rng.normal(size=(inputs, inputs)) * np.geomspace(1, 0.1, inputs)
    )
    moments = data.T @ data / len(data)
    moments += 1e-3 * np.trace(moments) / inputs * np.eye(inputs)
    return rng.standard_t(4, size=(inputs, outputs)), moments


def losses(weight: Array, made: Array, moments: Array) -> Array:
    """d^T C d of each column, one by one."""
    changes = (np.asarray(made, np.float64) - weight).T
    return np.array([float(d @ moments @ d) for d in changes])


def moved(column: Array, inverse: Array, fixed: list[int], aims: list[float]) -> tuple[Array, Any]:
    """The column when some of it becomes ``aims`` and all else makes up for that, and the cost."""
    lost = column[fixed] - aims
    step = np.linalg.inv(inverse[np.ix_(fixed, fixed)]) @ lost
    return column - inverse[:, fixed] @ step, lost @ step


def surgeon(column: Array, moments: Array, pattern: Pattern, scale: float) -> tuple[Array, Array]:
    """One group after another: each set that could go, the others rounded in turn, by inverses."""
    w, kept = column.astype(float).copy(), np.ones(len(column), bool)
    for start in range(0, len(w), pattern.group):
        inverse, left = np.linalg.inv(moments[start:, start:]), w[start:]
        tried = []
        for gone in map(list, combinations(range(pattern.group), pattern.group - pattern.keep)):
            fixed, aims = gone.copy(), [0.0] * len(gone)
            for row in sorted(set(range(pattern.group)) - set(gone)):
                code = np.rint(moved(left, inverse, fixed, aims)[0][row] / scale)
                fixed.append(row)
                aims.append(float(np.clip(code, -127, 127)) * scale)
            after, cost = moved(left, inverse, fixed, aims)
            tried.append((cost, gone, after))
        _, gone, w[start:] = min(tried, key=lambda found: found[0])
        kept[[start + row for row in gone]] = False
    return np.where(kept, w, 0.0), kept


# -- one sweep -------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8", "2:8"])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_each_group_is_what_the_surgeon_would_take_and_round(text: str, share: float) -> None:
    """Also where codes end, and the largest weights beyond them."""
    pattern = Pattern.of(text)
    weight, moments = problem(24, 4)
    scale = share * grid_scales(weight)
    made, mask = sparsegpt(weight, moments, pattern, scale)
    codes = np.rint(made / scale)
    assert np.abs(codes).max() == 127 if share < 1 else np.abs(codes).max() <= 127
    np.testing.assert_allclose(made, codes * scale, rtol=0, atol=1e-9 * scale.max())
    assert holds(codes, pattern)
    for column in range(4):
        expected, kept = surgeon(weight[:, column], moments, pattern, scale[column])
        np.testing.assert_array_equal(mask[:, column], kept)
        np.testing.assert_allclose(made[:, column], expected, rtol=1e-8, atol=1e-10)


def test_codes_decide_what_goes_only_where_they_are_coarse() -> None:
    weight, moments = problem(32, 6)
    _, mask = sparsegpt(weight, moments, Pattern(2, 4))
    _, eight_bits = sparsegpt(weight, moments, Pattern(2, 4), grid_scales(weight))
    _, three_bits = sparsegpt(weight, moments, Pattern(2, 4), 42 * grid_scales(weight))
    assert np.mean(eight_bits != mask) < 0.1
    assert np.mean(three_bits != mask) > 0.15


# -- the grid --------------------------------------------------------------------------


def test_quantize_finds_the_grid_again_bit_for_bit() -> None:
    """Peaks of every size, those that are flushed to zero and the largest of float32 among them."""
    rng = np.random.default_rng(1)
    peaks = np.concatenate([np.exp(rng.uniform(-80, 80, 3000)), [1e-44, 1e-38, 2e-36, 3.4028e38]])
    real = rng.uniform(-1, 1, size=(40, len(peaks)))
    real = real / np.abs(real).max(axis=0) * peaks
    real[:, 5] = 0
    scale = grid_scales(real)
    codes = np.clip(np.rint(real / scale), -127, 127)
    weight = (codes * scale).astype(np.float32)
    assert np.array_equal(weight.astype(np.float64), codes * scale), "exact in float32"
    assert np.isfinite(weight).all()
    found, steps = quantize_weight(weight, 1)
    assert np.array_equal(found, codes)
    assert np.array_equal(dequantize(found, steps, 0, 1), weight)
    some = codes.any(axis=0)
    assert np.array_equal(steps[some], scale[some])
    usual = (peaks > 1e-35) & some
    assert (np.abs(codes).max(axis=0)[usual] == 127).all()
    np.testing.assert_allclose(scale[usual] * 127, peaks[usual], rtol=2**-16)


def test_taps_of_an_output_share_its_scale() -> None:
    real = np.random.default_rng(2).normal(size=(8, 3 * 5))
    scale = grid_scales(real, taps=3).reshape(3, 5)
    assert np.array_equal(scale[0], scale[1])
    assert np.array_equal(scale[0], scale[2])
    peaks = np.abs(real).reshape(8, 3, 5).max(axis=(0, 1))
    np.testing.assert_allclose(scale[0] * 127, peaks, rtol=2**-16)


# -- the fit ---------------------------------------------------------------------------


@pytest.mark.parametrize("taps", [1, 3])
def test_no_output_loses_more_than_fitted_and_then_rounded(taps: int) -> None:
    weight, moments = problem(96, 24)
    _, mask = sparsegpt(weight, moments, Pattern(2, 4))
    found = fit_on_grid(weight, moments, mask, taps)
    real = masked_refit(weight, moments, mask)
    by_output = np.abs(real).reshape(96, taps, -1).max(axis=(0, 1))
    step = np.tile(by_output / 127, taps)
    rounded = np.rint(real / step) * step

    def of_outputs(made: Array) -> Array:
        return np.asarray(losses(weight, made, moments).reshape(taps, -1).sum(axis=0))

    ours, theirs, least = map(of_outputs, (found.weight, rounded, real))
    np.testing.assert_allclose(found.loss, ours, rtol=1e-9)
    assert (ours <= theirs).all()
    assert (ours - least).sum() < 0.8 * (theirs - least).sum(), "of what rounding costs"
    assert (found.codes[~mask] == 0).all()
    codes, scale = quantize_weight(
        found.weight.astype(np.float32).reshape(96, taps, -1).transpose(2, 0, 1), 0
    )
    assert np.array_equal(codes.transpose(1, 2, 0).reshape(96, -1), found.codes)
    assert np.array_equal(np.tile(scale, taps), found.scale)


def test_no_other_code_in_one_place_loses_less() -> None:
    weight, moments = problem(16, 5)
    mask = np.random.default_rng(3).random((16, 5)) < 0.6
    found = fit_on_grid(weight, moments, mask)
    before, free = losses(weight, found.weight, moments), mask.copy()
    free[np.abs(masked_refit(weight, moments, mask)).argmax(axis=0), np.arange(5)] = False
    for row, column in zip(*np.nonzero(free), strict=True):
        for step in (-1, 1):
            other = found.codes.copy()
            other[row, column] += step
            if np.abs(other[row, column]) <= 127:
                after = losses(weight, other * found.scale, moments)[column]
                assert after >= before[column] * (1 - 1e-12)


def test_outputs_of_zeros_stay_zeros() -> None:
    weight, moments = problem(16, 4)
    weight[:, 1] = 0
    mask = np.ones(weight.shape, bool)
    mask[:, 2] = False
    found = fit_on_grid(weight, moments, mask)
    assert not found.codes[:, 1:3].any()
    assert found.codes[:, [0, 3]].any(axis=0).all()
    assert (found.scale[1:3] == 1).all()
    assert found.loss[1] == 0
    assert found.loss[2] == pytest.approx(weight[:, 2] @ moments @ weight[:, 2])


def test_of_two_fits_each_output_takes_the_better_one() -> None:
    weight, moments = problem(32, 8)
    rng = np.random.default_rng(4)
    one, other = (fit_on_grid(weight, moments, rng.random((32, 8)) < 0.5, 2) for _ in range(2))
    best = one.or_better(other)
    assert 0 < (best.loss == one.loss).sum() < 4
    assert np.array_equal(best.loss, np.minimum(one.loss, other.loss))
    each = losses(weight, best.weight, moments).reshape(2, 4).sum(axis=0)
    np.testing.assert_allclose(each, best.loss, rtol=1e-9)
