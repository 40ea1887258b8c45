from __future__ import annotations

import numpy as np
import pytest

from planish.ir.errors import InputError, UsageError
from planish.passes.math.equalize import (
    channel_absmax,
    conv_input_absmax,
    cross_layer_scale,
    smooth_scale,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_smoothing_follows_the_paper(alpha: float) -> None:
    act, w = RNG.uniform(0.1, 50, 9), RNG.uniform(0.01, 2, 9)
    scale = smooth_scale(act, w, alpha)
    assert scale.dtype == np.float32
    for j in range(9):
        assert scale[j] == pytest.approx(act[j] ** alpha / w[j] ** (1 - alpha), rel=1e-6)


def test_smoothing_by_half_gives_both_sides_the_same_range() -> None:
    x, w = RNG.normal(size=(40, 6)) * [1, 1, 30, 1, 0.2, 1], RNG.normal(size=(6, 5))
    act, peaks = np.abs(x).max(axis=0), channel_absmax(w, 0)
    scale = smooth_scale(act, peaks, 0.5).astype(np.float64)
    smooth_x, smooth_w = x / scale, w * scale[:, None]
    np.testing.assert_allclose(np.abs(smooth_x).max(0), np.abs(smooth_w).max(1), rtol=1e-5)
    np.testing.assert_allclose(smooth_x @ smooth_w, x @ w, rtol=1e-9)


def test_dead_channels_stay_as_they_are_and_tiny_ones_do_not_explode() -> None:
    scale = smooth_scale([0.0, 4.0, 1e-30, 4.0], [1.0, 0.0, 1.0, 1e-30], 0.5)
    np.testing.assert_allclose(scale[:2], [1.0, 1.0])
    np.testing.assert_allclose(scale[2:], [1e-5**0.5, 2.0 / 1e-5**0.5], rtol=1e-6)
    assert smooth_scale([1e-5], [1e6], 0.0)[0] == np.float32(1e-5)


def test_cross_layer_scales_make_both_layers_alike() -> None:
    w1, w2 = RNG.normal(size=(5, 7)) * RNG.uniform(0.01, 9, 7), RNG.normal(size=(7, 3))
    r1, r2 = channel_absmax(w1, 1), channel_absmax(w2, 0)
    scale = cross_layer_scale(r1, r2).astype(np.float64)
    first, second = np.abs(w1 / scale).max(0), np.abs(w2 * scale[:, None]).max(1)
    np.testing.assert_allclose(first, second, rtol=1e-5)
    np.testing.assert_allclose(first, np.sqrt(r1.astype(np.float64) * r2), rtol=1e-5)
    x = RNG.normal(size=(20, 5))
    through = np.maximum(x @ w1, 0) @ w2
    equalized = np.maximum(x @ (w1 / scale), 0) @ (w2 * scale[:, None])
    np.testing.assert_allclose(equalized, through, rtol=1e-9)


def test_cross_layer_scales_of_dead_and_extreme_channels() -> None:
    scale = cross_layer_scale([0.0, 1.0, 1e38, 1e-40], [1.0, 0.0, 1e-40, 1e38])
    np.testing.assert_allclose(scale, [1.0, 1.0, 1e5, 1e-5], rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_input_channels_of_a_grouped_convolution(groups: int) -> None:
    w = RNG.normal(size=(12, 6 // groups, 3, 3)).astype(np.float32)
    expected = np.zeros(6, dtype=np.float32)
    for o in range(12):
        for i in range(6 // groups):
            channel = o // (12 // groups) * (6 // groups) + i
            expected[channel] = max(expected[channel], np.abs(w[o, i]).max())
    np.testing.assert_array_equal(conv_input_absmax(w, groups), expected)
    np.testing.assert_array_equal(channel_absmax(w, 0), np.abs(w).reshape(12, -1).max(1))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="alpha"):
        smooth_scale([1.0], [1.0], 1.5)
    with pytest.raises(InputError, match="shapes"):
        smooth_scale([1.0, 2.0], [1.0], 0.5)
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="negative or not finite"):
            cross_layer_scale([1.0, bad], [1.0, 1.0])
