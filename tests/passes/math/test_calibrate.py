from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from planish.ir.errors import UsageError
from planish.passes.math import calibrate
from planish.passes.math.affine import affine_params
from planish.passes.math.calibrate import (
    CALIBRATORS,
    Histogram,
    entropy,
    minmax,
    mse,
    percentile,
)
from planish.passes.math.clipping import expected_error
from planish.passes.math.divergence import divergence

RNG = np.random.default_rng(7)
N = 60_000
SAMPLES: dict[str, NDArray[np.float64]] = {
    "normal": RNG.normal(size=N),
    "laplace": RNG.laplace(size=N),
    "heavy tails": RNG.standard_t(3, size=N),
    "relu": np.maximum(RNG.normal(size=N), 0.0),
    "sparse relu": np.maximum(RNG.normal(loc=-1.5, size=N), 0.0) * 20,
    "lopsided": np.concatenate([-RNG.exponential(0.02, N // 2), RNG.gamma(2.0, 1.0, N // 2)]),
    "negative": -RNG.exponential(size=N) - 1.0,
    "far from zero": RNG.uniform(5.0, 6.0, N),
    "one outlier": np.append(RNG.normal(size=N), 100.0),
}
EVERY_WAY = list(itertools.product(CALIBRATORS, ["uint8", "int8"], [False, True]))


def true_error(x: NDArray[np.float64], lo: float, hi: float, dtype: str, symmetric: bool) -> float:
    """Mean squared error of quantizing the raw samples to a range, in float64."""
    scale, zero_point = affine_params(lo, hi, dtype=dtype, symmetric=symmetric)
    qmin, qmax = (0, 255) if dtype == "uint8" else (-128, 127)
    codes = np.clip(np.round(x / np.float64(scale)) + zero_point, qmin, qmax)
    return float(np.mean(((codes - zero_point) * np.float64(scale) - x) ** 2))


def least_error(x: NDArray[np.float64], dtype: str, symmetric: bool) -> float:
    """The least error of any range, by trying the raw samples on a dense grid of both ends."""
    lo, hi = min(x.min(), 0.0), max(x.max(), 0.0)
    factors = np.geomspace(1.0, 1 / 60, 24)
    if symmetric:
        top = max(-lo, hi)
        ranges = [(-top * f, top * f) for f in np.geomspace(1.0, 1 / 60, 120)]
    else:
        lows = lo * factors if lo < 0 else np.zeros(1)
        highs = hi * factors if hi > 0 else np.zeros(1)
        ranges = list(itertools.product(lows, highs))
    return min(true_error(x, a, b, dtype, symmetric) for a, b in ranges)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", SAMPLES)
def test_mse_is_as_good_as_trying_every_range_on_the_samples(name: str, symmetric: bool) -> None:
    x = SAMPLES[name][:: 1 if symmetric else 6]
    x = np.concatenate([x, [SAMPLES[name].min(), SAMPLES[name].max()]])
    lo, hi = mse(Histogram.of(x), dtype="uint8", symmetric=symmetric)
    best = least_error(x, "uint8", symmetric)
    assert true_error(x, lo, hi, "uint8", symmetric) <= 1.03 * best


def test_mse_clips_an_outlier_that_is_not_worth_it() -> None:
    rng = np.random.default_rng(3)
    x = np.append(rng.normal(size=10**6), 40.0)
    lo, hi = mse(Histogram.of(x), dtype="uint8", symmetric=False)
    assert -5 < lo < -3.5
    # The optimum of (40 - hi)^2 / n + ((hi - lo) / 255)^2 / 12.
    weight = x.size / (12 * 255**2)
    assert hi == pytest.approx((40 + weight * lo) / (1 + weight), rel=0.05)
    assert true_error(x, lo, hi, "uint8", False) < 0.5 * true_error(
        x, x.min(), 40.0, "uint8", False
    )


def test_expected_error_is_the_error_of_the_samples() -> None:
    for name, (lo, hi) in itertools.product(
        ["normal", "relu", "lopsided"], [(-1.0, 1.5), (-0.02, 9.0), (-4.0, 0.7)]
    ):
        x = SAMPLES[name]
        ends = np.array([lo]), np.array([hi])
        for symmetric in (False, True):
            expected = expected_error(Histogram.of(x), *ends, dtype="int8", symmetric=symmetric)
            exact = true_error(x, lo, hi, "int8", symmetric) * x.size
            assert expected[0] == pytest.approx(exact, rel=0.03)


def divergence_of(counts: NDArray[np.float64], start: int, stop: int, levels: int) -> float:
    """The divergence written out: bin by bin, level by level, as in the talk."""
    reference = counts[start:stop].copy()
    reference[0] += counts[:start].sum()
    reference[-1] += counts[stop:].sum()
    inside = counts[start:stop]
    candidate = np.zeros(stop - start)
    for level in range(levels):
        first = level * (stop - start) // levels
        last = (level + 1) * (stop - start) // levels
        used = [i for i in range(first, last) if reference[i] > 0]
        for i in used:
            candidate[i] = inside[first:last].sum() / len(used)
    p, q = reference / reference.sum(), candidate / candidate.sum()
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            total += float("inf") if b == 0 else a * np.log(a / b)
    return total


def test_divergence_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(4)
    counts = rng.poisson(3.0 * np.exp(-(np.linspace(-4, 4, 96) ** 2) / 2)).astype(np.float64)
    counts[[3, 90]] = 1.0
    windows = [(a, b) for a in range(0, 40, 7) for b in range(56, 97, 5) if b - a >= 16]
    starts, stops = np.array([w[0] for w in windows]), np.array([w[1] for w in windows])
    found = divergence(counts, starts, stops, 16)
    expected = [divergence_of(counts, a, b, 16) for a, b in windows]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_divergence_is_infinite_where_clipped_mass_has_no_level_of_its_own() -> None:
    counts = np.array([5.0, 4.0, 3.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    found = divergence(counts, np.array([0]), np.array([6]), 3)
    assert found[0] == np.inf == divergence_of(counts, 0, 6, 3)


def test_entropy_of_half_open_data_is_the_best_of_all_windows() -> None:
    x = np.concatenate([SAMPLES["relu"], np.full(30, 12.0)])
    histogram = Histogram.of(x, bins=2048)
    lo, hi = entropy(histogram, dtype="uint8", symmetric=False)
    counts = histogram.counts.copy()
    counts[0] = min(counts[0], counts[1])
    mass = np.cumsum(counts)
    stops = [s for s in range(256, 2049) if mass[s - 1] >= 0.99 * mass[-1]]
    # Written out, every window is slow: a few around the best and a sample of the others.
    found = round(hi / 12.0 * 2048)
    chosen = divergence_of(counts, 0, found, 256)
    assert lo == 0.0
    for stop in {*stops[::60], *range(found - 4, min(found + 5, 2049))}:
        if stop in stops:
            assert chosen <= divergence_of(counts, 0, stop, 256) + 1e-12


def test_entropy_clips_far_outliers_and_keeps_flat_data_whole() -> None:
    rng = np.random.default_rng(5)
    tailed = np.concatenate([rng.normal(size=200_000), rng.uniform(5, 30, 20)])
    lo, hi = entropy(Histogram.of(tailed), dtype="int8", symmetric=True)
    assert 3 < hi == -lo < 15
    lo, hi = entropy(Histogram.of(tailed), dtype="uint8", symmetric=False)
    assert -6 < lo < -2
    assert 3 < hi < 15
    flat = np.linspace(-2.0, 3.0, 204_801)
    assert entropy(Histogram.of(flat), dtype="uint8", symmetric=False) == (-2.0, 3.0)


def test_entropy_never_clips_more_than_one_percent() -> None:
    for x in SAMPLES.values():
        lo, hi = entropy(Histogram.of(x), dtype="uint8", symmetric=False)
        assert np.mean((x < lo) | (x > hi)) <= 0.011


@pytest.mark.parametrize("p", [99.0, 99.9, 99.95])
def test_percentiles_are_those_of_the_samples(p: float) -> None:
    bin_width = np.ptp(SAMPLES["laplace"]) / 2048
    x = SAMPLES["laplace"]
    lo, hi = percentile(Histogram.of(x), dtype="uint8", symmetric=False, p=p)
    expected = np.percentile(x, [(100 - p) / 2, 100 - (100 - p) / 2])
    np.testing.assert_allclose([lo, hi], expected, atol=3 * bin_width, rtol=0.02)
    lo, hi = percentile(Histogram.of(x), dtype="uint8", symmetric=True, p=p)
    np.testing.assert_allclose(hi, np.percentile(np.abs(x), p), atol=3 * bin_width, rtol=0.02)
    assert lo == -hi
    x = SAMPLES["relu"]
    lo, hi = percentile(Histogram.of(x), dtype="uint8", symmetric=False, p=p)
    assert lo == 0.0
    np.testing.assert_allclose(hi, np.percentile(x, p), atol=3 * bin_width, rtol=0.02)


def test_a_percentile_of_data_that_are_nearly_all_zero_is_not_an_empty_range() -> None:
    x = np.zeros(10**6)
    x[0] = 5.0
    for symmetric in (False, True):
        lo, hi = percentile(Histogram.of(x), dtype="uint8", symmetric=symmetric)
        assert lo <= 0 < hi <= 5.0


def test_a_percentile_outside_its_limits_is_refused() -> None:
    histogram = Histogram.of(SAMPLES["normal"])
    for p in (0.0, 49.9, 100.1, float("nan")):
        with pytest.raises(UsageError, match="percentile"):
            percentile(histogram, dtype="uint8", symmetric=False, p=p)
    whole = minmax(histogram, dtype="uint8", symmetric=False)
    assert percentile(histogram, dtype="uint8", symmetric=False, p=100) == whole


@pytest.mark.parametrize(("method", "dtype", "symmetric"), EVERY_WAY)
def test_ranges_contain_zero_and_stay_within_the_extremes(
    method: str, dtype: str, symmetric: bool
) -> None:
    for name, x in SAMPLES.items():
        lo, hi = CALIBRATORS[method](Histogram.of(x), dtype=dtype, symmetric=symmetric)
        assert lo <= 0 <= hi, name
        assert hi > lo, name
        if symmetric:
            assert lo == -hi
            assert hi <= np.abs(x).max()
        else:
            assert lo >= min(x.min(), 0.0)
            assert hi <= max(x.max(), 0.0)


@pytest.mark.parametrize("method", CALIBRATORS)
def test_data_of_one_sign_keep_their_other_end_at_zero(method: str) -> None:
    for name in ("relu", "sparse relu", "far from zero"):
        lo, _ = CALIBRATORS[method](Histogram.of(SAMPLES[name]), dtype="uint8", symmetric=False)
        assert lo == 0.0
    _, hi = CALIBRATORS[method](Histogram.of(SAMPLES["negative"]), dtype="uint8", symmetric=False)
    assert hi == 0.0


@pytest.mark.parametrize(("method", "dtype", "symmetric"), EVERY_WAY)
@pytest.mark.parametrize("value", [0.0, 3.5, -2.0, 1e-42, -1e-42, 3e38])
def test_constant_tensors_keep_their_exact_range(
    value: float, method: str, dtype: str, symmetric: bool
) -> None:
    histogram = Histogram.of(np.full(10, value))
    lo, hi = CALIBRATORS[method](histogram, dtype=dtype, symmetric=symmetric)
    ends = (-abs(value), abs(value)) if symmetric else (min(value, 0.0), max(value, 0.0))
    assert (lo, hi) == ends
    assert affine_params(lo, hi, dtype=dtype, symmetric=symmetric)[0] > 0


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**127), 2.0**127, width=32)),
    st.sampled_from(EVERY_WAY),
    st.sampled_from([1.0, 1e-38, 1e-45]),
)
def test_any_data_give_a_grid(
    values: NDArray[np.float32], way: tuple[str, str, bool], shrink: float
) -> None:
    method, dtype, symmetric = way
    x = values.astype(np.float64) * shrink
    lo, hi = CALIBRATORS[method](Histogram.of(x), dtype=dtype, symmetric=symmetric)
    assert min(x.min(), 0.0) <= lo <= 0 <= hi or symmetric
    scale, _ = affine_params(lo, hi, dtype=dtype, symmetric=symmetric)
    assert scale > 0
    assert np.isfinite(scale)


@pytest.mark.parametrize("method", CALIBRATORS)
def test_an_unknown_type_is_refused(method: str) -> None:
    with pytest.raises(UsageError, match="int16"):
        CALIBRATORS[method](Histogram.of(SAMPLES["relu"]), dtype="int16", symmetric=False)


def test_a_range_is_searched_once_a_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[Histogram] = []

    def search(histogram: Histogram, *rest: float, **kind: object) -> tuple[float, float]:
        searched.append(histogram)
        return -1.0, 1.0

    monkeypatch.setattr(calibrate, "least_squares_range", search)
    one, two = (Histogram(-2.0, 2.0, np.ones(8), -2.0, 2.0) for _ in range(2))
    for histogram in (one, two, one):
        calibrate.mse(histogram, dtype="uint8", symmetric=False)
    calibrate.mse(one, dtype="int8", symmetric=False)
    assert [id(h) for h in searched] == [id(one), id(two), id(one)]
