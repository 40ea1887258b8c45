from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.passes.math.noise import (
    Reader,
    Spread,
    conv_reader,
    int8_noise,
    linear_reader,
    rounding_noise,
)

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)


def spread(x: Array) -> Spread:
    """Of raw samples [n, C]."""
    wide = x.astype(np.float64)
    live = float(np.mean(wide != 0))
    return Spread(wide.min(axis=0), wide.max(axis=0), (wide**2).mean(axis=0), live)


def on_grid(x: Array) -> Array:
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return np.asarray((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale)


def rounded(w: Array, levels: int) -> Array:
    """[in, out], one scale for each output."""
    scale = np.abs(w).max(axis=0) / levels
    return np.asarray(np.rint(w / scale) * scale)


def measured(x: Array, w: Array, scale: Array, levels: int = 127) -> float:
    """Squared error for one row, summed over outputs."""
    x, w = x / scale, w * scale[:, None]
    error = on_grid(x) @ rounded(w, levels) - x @ w
    return float((error**2).sum() / len(x))


@pytest.mark.parametrize("levels", [127, 63])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_prediction_is_what_rounding_costs(alpha: float, relu: bool, levels: int) -> None:
    x = RNG.normal(size=(3000, 64)) * np.geomspace(0.5, 20, 64)
    x = np.maximum(x, 0) if relu else x
    w = RNG.normal(size=(64, 400))
    scale = np.abs(x).max(axis=0) ** alpha / np.abs(w).max(axis=1) ** (1 - alpha)
    expected = measured(x, w, scale, levels)
    assert int8_noise(scale, spread(x), [linear_reader(w)], levels) == pytest.approx(
        expected, rel=0.2
    )


def test_a_common_factor_changes_nothing_and_readers_add_up() -> None:
    x, w, v = RNG.normal(size=(50, 8)), RNG.normal(size=(8, 5)), RNG.normal(size=(8, 3))
    seen, scale = spread(x), RNG.uniform(0.1, 3, 8)
    one, two = linear_reader(w), linear_reader(v)
    both = int8_noise(scale, seen, [one, two], 127)
    assert int8_noise(scale * 7, seen, [one, two], 127) == pytest.approx(both, rel=1e-6)
    apart = int8_noise(scale, seen, [one], 127) + int8_noise(scale, seen, [two], 127)
    assert both == pytest.approx(apart, rel=1e-9)
    joined = linear_reader(np.concatenate([w, v], axis=1))
    assert int8_noise(scale, seen, [joined], 127) == pytest.approx(both, rel=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_convolution_sums_over_taps_and_groups(groups: int) -> None:
    """Every output of every group is a linear layer of as many inputs as it has weights."""
    w = RNG.normal(size=(12, 6 // groups, 3, 3)).astype(np.float32)
    reader = conv_reader(w, groups)
    assert isinstance(reader, Reader)
    seen = spread(RNG.normal(size=(40, 6)) * np.geomspace(0.1, 5, 6))
    scale = RNG.uniform(0.2, 4, 6)
    total = 0.0
    activation = rounding_noise(seen.low / scale, seen.high / scale)
    for output in range(12):
        first = output // (12 // groups) * (6 // groups)
        channels = np.repeat(np.arange(first, first + 6 // groups), 9)
        weights = w[output].reshape(-1).astype(np.float64) * scale[channels]
        step = np.abs(weights).max() / 127
        energy = (seen.mean_square / scale**2)[channels].sum()
        total += activation * (weights**2).sum() + step**2 / 12 * energy
    assert int8_noise(scale, seen, [reader], 127) == pytest.approx(total, rel=1e-5)


def test_a_range_contains_zero() -> None:
    step = 4.0 / 255
    assert rounding_noise(np.array([2.0, 1.0]), np.array([4.0, 3.0])) == pytest.approx(step**2 / 12)
    assert rounding_noise(np.array([-4.0]), np.array([-1.0])) == pytest.approx(step**2 / 12)
    assert rounding_noise(np.array([-1.0]), np.array([3.0])) == pytest.approx(step**2 / 12)
    assert rounding_noise(np.zeros(3), np.zeros(3)) == 0.0


def test_a_silent_activation_makes_no_noise() -> None:
    seen = Spread(np.zeros(4), np.zeros(4), np.zeros(4))
    assert int8_noise(np.ones(4), seen, [linear_reader(RNG.normal(size=(4, 3)))], 127) == 0.0
    np.testing.assert_array_equal(Spread(-np.ones(2), np.ones(2) * 3, np.ones(2)).absmax, [3, 3])
