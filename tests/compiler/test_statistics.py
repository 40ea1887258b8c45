from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from planish.compiler.quality.statistics import (
    mean,
    median_ratio,
    paired_bootstrap,
    percentile_interval,
    samples_needed,
    upper_bound,
)
from planish.ir.errors import InputError


def plain_mean(samples: NDArray[Any]) -> float:
    """A mean that is not recognised as one, so that it takes the general way."""
    return float(sum(samples.tolist()) / len(samples))


def drops(before: NDArray[Any], after: NDArray[Any], seed: int, resamples: int = 400) -> Any:
    draws = paired_bootstrap(before, after, mean, mean, resamples=resamples, seed=seed)
    return draws[:, 0] - draws[:, 1]


def test_the_spread_of_the_draws_is_the_standard_error_of_paired_differences() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(80, 10, 400)
    after = before - 0.5 + rng.normal(0, 0.8, 400)
    drawn = drops(before, after, seed=1, resamples=4000)
    expected = np.std(before - after) / np.sqrt(400)
    assert drawn.std() == pytest.approx(expected, rel=0.05)
    assert drawn.mean() == pytest.approx((before - after).mean(), abs=0.1 * expected)
    # Unpaired, the spread would be that of the samples themselves, ten times as wide.
    assert drawn.std() < 0.15 * np.std(before) * np.sqrt(2 / 400)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    truth, trials, inside, below_bound = 0.3, 300, 0, 0
    for trial in range(trials):
        before = rng.normal(size=120)
        after = before - truth + rng.exponential(1.0, 120) - 1.0
        drawn = drops(before, after, seed=trial)
        interval = percentile_interval(drawn)
        bound = upper_bound(drawn)
        assert interval is not None
        assert bound is not None
        inside += interval.low <= truth <= interval.high
        below_bound += truth <= bound
    assert 0.90 <= inside / trials <= 0.985
    assert 0.90 <= below_bound / trials <= 0.985


def test_the_general_way_draws_the_same_samples_as_the_fast_one() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.normal(size=50), rng.normal(size=50)
    fast = paired_bootstrap(before, after, mean, np.mean, resamples=200, seed=4)
    slow = paired_bootstrap(before, after, plain_mean, plain_mean, resamples=200, seed=4)
    assert fast.shape == slow.shape == (200, 2)
    np.testing.assert_allclose(fast, slow, rtol=1e-12)
    again = paired_bootstrap(before, after, mean, mean, resamples=200, seed=4)
    np.testing.assert_array_equal(fast, again)
    other = paired_bootstrap(before, after, mean, mean, resamples=200, seed=5)
    assert not np.array_equal(fast, other)


def test_many_samples_are_drawn_in_chunks_without_a_seam() -> None:
    n = 600_000  # three draws at a time
    before = np.arange(n, dtype=np.float64)
    draws = paired_bootstrap(before, before + 1, mean, mean, resamples=7, seed=0)
    assert draws.shape == (7, 2)
    assert len(set(draws[:, 0])) == 7
    np.testing.assert_allclose(draws[:, 1] - draws[:, 0], 1.0)


def test_rows_are_resampled_whole() -> None:
    rows = np.stack([np.arange(30.0), 2 * np.arange(30.0)], axis=1)

    def slope(samples: NDArray[Any]) -> float:
        return float(samples[:, 1].sum() / samples[:, 0].sum())

    draws = paired_bootstrap(rows, rows * [1, 3], slope, slope, resamples=50, seed=0)
    np.testing.assert_allclose(draws, np.broadcast_to([2.0, 6.0], (50, 2)))


def test_a_mean_of_rows_is_the_mean_of_everything() -> None:
    rows = np.random.default_rng(6).normal(size=(40, 3))
    fast = paired_bootstrap(rows, rows, mean, mean, resamples=20, seed=0)
    slow = paired_bootstrap(
        rows, rows, lambda s: float(s.mean()), lambda s: float(s.mean()), resamples=20, seed=0
    )
    np.testing.assert_allclose(fast, slow)


def test_draws_on_which_an_aggregate_fails_are_left_out_unless_they_are_many() -> None:
    def fails_without_the_first(samples: NDArray[Any]) -> float:
        if not (samples == 0).any():
            raise ZeroDivisionError
        return float(samples.mean())

    values = np.arange(4.0)  # (3/4)^4 = 32 % of the draws miss the first
    draws = paired_bootstrap(values, values, fails_without_the_first, mean, resamples=300, seed=0)
    missing = np.isnan(draws[:, 0]).mean()
    assert missing == pytest.approx(0.75**4, abs=0.08)
    assert percentile_interval(draws[:, 0]) is None
    assert upper_bound(draws[:, 0]) is None
    some = np.append(np.arange(99.0), np.nan)
    interval = percentile_interval(some)
    assert interval is not None
    expected = np.quantile(np.arange(99.0), [0.025, 0.975])
    np.testing.assert_allclose([interval.low, interval.high], expected)


def test_samples_that_cannot_be_paired_are_refused() -> None:
    for before, after in [(np.ones(3), np.ones(4)), (np.ones(0), np.ones(0))]:
        with pytest.raises(InputError, match="cannot be paired"):
            paired_bootstrap(before, after, mean, mean, resamples=10, seed=0)


def test_the_number_of_samples_needed_is_that_of_the_textbook() -> None:
    # One point of accuracy at 3 % discordance needs 1,850 samples, at 10 % 6,200.
    assert samples_needed(math.sqrt(0.03), 0.01) == pytest.approx(1855, abs=2)
    assert samples_needed(math.sqrt(0.10), 0.01) == pytest.approx(6183, abs=3)
    assert samples_needed(1.0, 0.5, drop=0.3) == math.ceil(6.1826 / 0.04)
    assert samples_needed(0.0, 0.5) == 1


@pytest.mark.parametrize(("budget", "drop"), [(0.5, 0.5), (0.5, 0.7), (0.0, 0.0)])
def test_no_number_of_samples_shows_what_is_not_so(budget: float, drop: float) -> None:
    assert samples_needed(1.0, budget, drop) is None


def test_that_many_samples_decide_in_four_of_five_trials() -> None:
    deviation, budget, true_drop = 1.0, 0.4, 0.1
    n = samples_needed(deviation, budget, true_drop)
    assert n is not None
    rng = np.random.default_rng(7)
    passed = 0
    for trial in range(300):
        difference = rng.normal(true_drop, deviation, n)
        bound = upper_bound(drops(difference, np.zeros(n), seed=trial, resamples=300))
        passed += bound is not None and bound <= budget
    assert passed / 300 == pytest.approx(0.8, abs=0.08)


def test_a_ratio_of_medians_covers_the_truth_and_ignores_what_slows_both() -> None:
    rng = np.random.default_rng(8)
    inside = 0
    for trial in range(150):
        load = rng.lognormal(0, 0.5, 60)
        before = 2.0 * load * rng.lognormal(0, 0.03, 60)
        after = 1.0 * load * rng.lognormal(0, 0.03, 60)
        ratio = median_ratio(before, after, resamples=400, seed=trial)
        inside += ratio.low <= 2.0 <= ratio.high
        assert ratio.low <= ratio.value <= ratio.high
        assert ratio.value == np.median(before) / np.median(after)
        assert ratio.high - ratio.low < 0.5
    assert inside / 150 >= 0.88


@pytest.mark.parametrize(
    ("above", "below"),
    [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, 0.0], [1.0, 1.0]), ([1.0, math.nan], [1.0, 1.0])],
)
def test_timings_that_are_none_are_refused(above: list[float], below: list[float]) -> None:
    with pytest.raises(InputError, match="timing"):
        median_ratio(above, below)
