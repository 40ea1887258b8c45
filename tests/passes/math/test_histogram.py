from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from planish.ir.errors import InputError
from planish.passes.math.histogram import Histogram, fold, merge_histograms, rebin, split_zero

VALUES = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32))


def test_counts_are_those_of_numpy() -> None:
    x = np.random.default_rng(0).normal(size=5000)
    histogram = Histogram.of(x, bins=64)
    counts, edges = np.histogram(x, bins=64)
    np.testing.assert_array_equal(histogram.counts, counts)
    np.testing.assert_allclose(histogram.edges, edges)
    assert (histogram.minimum, histogram.maximum) == (x.min(), x.max())


@given(VALUES)
def test_every_value_is_counted_once(x: NDArray[np.float32]) -> None:
    histogram = Histogram.of(x, bins=32)
    assert histogram.total == x.size
    assert (histogram.lo, histogram.hi) == (x.min(), x.max())


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_a_merge_keeps_the_mass_and_the_extremes(parts: list[NDArray[np.float32]]) -> None:
    merged = merge_histograms([Histogram.of(x, bins=32) for x in parts], bins=64)
    everything = np.concatenate(parts)
    assert merged.total == pytest.approx(everything.size, rel=1e-9)
    assert merged.minimum == merged.lo == everything.min()
    assert merged.maximum == merged.hi == everything.max()
    assert np.all(merged.counts >= 0)


def test_a_merge_is_as_good_as_one_histogram_of_everything() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(loc=m, scale=s, size=20_000) for m, s in [(0, 1), (2, 0.3), (-1, 3)]]
    merged = merge_histograms([Histogram.of(x) for x in parts])
    whole = Histogram.of(np.concatenate(parts))
    points = np.linspace(whole.lo, whole.hi, 500)
    apart = np.abs(merged.mass_below(points) - whole.mass_below(points)) / whole.total
    assert apart.max() < 1e-3


def test_constant_tensors_merge_into_the_bin_of_their_value() -> None:
    spread = Histogram.of(np.linspace(0.0, 8.0, 9), bins=8)
    merged = merge_histograms([spread, Histogram.of(np.full(100, 3.0), bins=8)], bins=8)
    assert merged.counts[3] == pytest.approx(spread.counts[3] + 100)
    assert merged.total == pytest.approx(109)


def test_binning_anew_leaves_empty_bins_empty() -> None:
    for n in (7, 23, 49):
        counts = (np.arange(n) % 2).astype(np.float64) * 1e6
        histogram = Histogram(0.0, 0.1 * n, counts, 0.0, 0.1 * n)
        wider = rebin(histogram, -0.3 * n, 0.3 * n, bins=6 * n)
        np.testing.assert_allclose(wider.counts[3 * n : 4 * n], counts, rtol=1e-9, atol=0)
        assert np.count_nonzero(wider.counts) == n // 2


@pytest.mark.parametrize("shift", [-2.0, 0.0, 5.0])
def test_folding_is_the_histogram_of_magnitudes(shift: float) -> None:
    x = np.random.default_rng(3).normal(loc=shift, size=50_000)
    folded = fold(Histogram.of(x))
    points = np.linspace(0.0, np.abs(x).max(), 40)
    expected = np.searchsorted(np.sort(np.abs(x)), points) / x.size
    assert np.abs(folded.mass_below(points) / x.size - expected).max() < 2e-3
    assert folded.total == x.size
    assert (folded.lo, folded.hi) == (0.0, np.abs(x).max())
    assert folded.maximum == np.abs(x).max()


def test_the_spike_at_zero_is_told_from_what_lies_around_it() -> None:
    x = np.maximum(np.random.default_rng(2).normal(size=100_000), 0.0)
    counts, spike = split_zero(Histogram.of(x))
    assert spike == pytest.approx(np.count_nonzero(x == 0.0), rel=0.01)
    assert counts.sum() + spike == pytest.approx(x.size)


def test_data_without_zero_have_no_spike() -> None:
    for x in (np.linspace(1.0, 2.0, 1000), np.full(5, 4.0)):
        counts, spike = split_zero(Histogram.of(x))
        assert spike == 0.0
        assert counts.sum() == x.size


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0, np.nan]), np.array([np.inf, 0.0])])
def test_values_that_have_no_histogram_are_refused(values: NDArray[np.float64]) -> None:
    with pytest.raises(InputError):
        Histogram.of(values)


def test_fields_that_contradict_each_other_are_refused() -> None:
    counts = np.ones(4)
    for lo, hi, least, most in [(1, 0, 0, 1), (0, np.nan, 0, 1), (0, 1, 2, 1)]:
        with pytest.raises(InputError, match="no histogram can span"):
            Histogram(lo, hi, counts, least, most)
    with pytest.raises(InputError, match="none negative"):
        Histogram(0, 1, -counts, 0, 1)
    with pytest.raises(InputError, match="none negative"):
        Histogram(0, 1, np.ones((2, 2)), 0, 1)
    with pytest.raises(InputError, match="no histogram to merge"):
        merge_histograms([])
