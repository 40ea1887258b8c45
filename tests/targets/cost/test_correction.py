"""The affine correction, and rank correlation, against formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from planish.targets.cost.correction import fit_affine, kendall_tau, relative_error


def test_an_affine_relation_is_found_again() -> None:
    sums = np.array([1.0, 3.0, 10.0, 400.0])
    a, b = fit_affine(sums, 0.5 + 1.25 * sums)
    assert (a, b) == pytest.approx((0.5, 1.25), rel=1e-6)


def test_one_model_that_is_quite_off_does_not_move_the_others() -> None:
    sums = np.array([1.0, 2.0, 5.0, 9.0, 20.0, 100.0])
    times = 0.1 + 1.2 * sums
    times[2] *= 4
    a, b = fit_affine(sums, times)
    errors = sorted(abs(a + b * sums - times) / times)
    assert errors[-2] < 0.02
    assert errors[-1] > 0.5


def test_the_offset_is_never_negative_nor_above_the_least_time() -> None:
    sums = np.array([1.0, 2.0, 4.0, 8.0])
    low, slope = fit_affine(sums, 2 * sums - 0.9)
    assert low == 0
    assert slope > 0
    high, _ = fit_affine(sums, np.array([5.0, 5.1, 5.2, 5.3]))
    assert 0 <= high <= 5.0


@pytest.mark.parametrize(
    ("sums", "times"), [([1.0], [1.0]), ([1.0, 0.0], [1, 2]), ([1, 2], [1, 0])]
)
def test_too_little_to_fit_on(sums: list[float], times: list[float]) -> None:
    with pytest.raises(ValueError, match="two pairs"):
        fit_affine(sums, times)


def test_rank_correlation_is_scipys() -> None:
    drawn = np.random.default_rng(3)
    for _ in range(20):
        first, second = drawn.normal(size=7), drawn.normal(size=7)
        expected = kendalltau(first, second).statistic
        assert kendall_tau(first, second) == pytest.approx(expected)


def test_measured_ties_do_not_count() -> None:
    assert kendall_tau([1, 2, 3], [1.0, 1.02, 5.0], tie=0.03) == 1.0
    assert kendall_tau([2, 1, 3], [1.0, 1.02, 5.0], tie=0.03) == 1.0
    assert kendall_tau([2, 1, 3], [1.0, 1.02, 5.0]) == pytest.approx(1 / 3)
    assert kendall_tau([1, 2], [1.0, 1.0]) is None


def test_relative_error() -> None:
    assert relative_error(1.5, 1.0) == relative_error(0.5, 1.0) == 0.5
