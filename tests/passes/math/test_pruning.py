from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from planish.ir.errors import InputError
from planish.passes.math.bias import bias_correction_linear
from planish.passes.math.pruning import (
    Reader,
    Removal,
    by_score,
    magnitude,
    second_order,
    weighted,
)
from planish.passes.math.refit import centred, damped, inverted, refit, refit_across

Array = NDArray[Any]
ROWS = 300


def data(inputs: int, seed: int = 0, rows: int = ROWS) -> Array:
    """Correlated inputs of unlike energy, not centred."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((inputs, inputs)) / np.sqrt(inputs) + np.eye(inputs)
    scale, shift = rng.uniform(0.2, 3.0, inputs), rng.standard_normal(inputs)
    return np.asarray(rng.standard_normal((rows, inputs)) @ mixing * scale + shift)


def covariance(x: Array) -> Array:
    return centred(x.T @ x, x.sum(axis=0), len(x))


def test_a_variance_below_the_rounding_of_its_sums_is_none() -> None:
    """A channel that never changes, next to one that does; sums in float32 as kernels take them."""
    x = np.stack([np.full(64, 0.37), 1e-3 * np.random.default_rng(0).normal(size=64)], 1)
    single = x.astype(np.float32)
    matrix = (single.T @ single).astype(np.float64)
    matrix[0, 0] = np.nextafter(np.float32(matrix[0, 0]), np.float32(0))  # one rounding too small
    found = centred(matrix, single.sum(axis=0, dtype=np.float64), len(x))
    assert found[0, 0] == 0.0
    assert np.isfinite(damped(found, len(x))).all()
    with pytest.raises(InputError, match="negative"):
        damped(centred(np.diag([-1.0, 1.0]), np.zeros(2), 4), 4)


def reader(inputs: int, outputs: int, width: int, seed: int = 0) -> tuple[Reader, Array]:
    """A reader whose moments are those of data, and the data."""
    x = data(inputs, seed)
    weight = np.random.default_rng(seed + 99).standard_normal((inputs, outputs))
    index = np.random.default_rng(seed).permutation(inputs)[: inputs // width * width]
    return Reader(weight, damped(covariance(x), len(x)), index.reshape(-1, width)), x


def least_squares(one: Reader, gone: list[int]) -> float:
    """The cost of removing units, by a fit on explicit rows of data with these moments."""
    rows = np.linalg.cholesky(one.moments).T
    kept = np.setdiff1d(np.arange(len(one.weight)), one.index[gone].reshape(-1))  # -1: no row
    wanted = rows @ one.weight
    fitted, *_ = np.linalg.lstsq(rows[:, kept], wanted, rcond=None)
    return float(((rows[:, kept] @ fitted - wanted) ** 2).sum())


def greedy(readers: list[Reader], count: int) -> Removal:
    """The same by trying every unit at every step."""
    units, order, costs, spent = len(readers[0].index), list[int](), list[float](), 0.0
    for _ in range(count):
        left = [u for u in range(units) if u not in order]
        totals = [sum(least_squares(r, [*order, u]) for r in readers) for u in left]
        best = int(np.argmin(totals))
        order.append(left[best])
        costs.append(totals[best] - spent)
        spent = totals[best]
    return Removal(np.array(order), np.array(costs))


# -- one after another ---------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "width"), [(9, 1), (12, 3), (12, 4), (10, 1)])
def test_the_order_and_its_costs_are_those_of_trying_everything(inputs: int, width: int) -> None:
    one, _ = reader(inputs, 4, width, seed=inputs + width)
    count = inputs // width - 1
    found, expected = second_order([one], count), greedy([one], count)
    assert found.order.tolist() == expected.order.tolist()
    np.testing.assert_allclose(found.costs, expected.costs, rtol=1e-6)


def test_costs_of_several_readers_add_up() -> None:
    """The second reads the units in another order, and inputs that belong to none."""
    first, _ = reader(8, 3, 1, seed=3)
    second, _ = reader(19, 5, 2, seed=4)
    other = Reader(second.weight, second.moments, np.arange(16).reshape(8, 2) + 3)
    found, expected = second_order([first, other], 6), greedy([first, other], 6)
    assert found.order.tolist() == expected.order.tolist()
    np.testing.assert_allclose(found.costs, expected.costs, rtol=1e-6)


def test_units_may_have_fewer_rows_than_others_or_none() -> None:
    """As where a shortcut is padded with channels: some layers read only part of the units."""
    one, _ = reader(14, 4, 1, seed=5)
    uneven = np.full((6, 3), -1)
    for unit, rows in enumerate([[3, 7], [0], [], [9, 1, 13], [2], [5, 4]]):
        uneven[unit, : len(rows)] = rows
    first = Reader(one.weight, one.moments, uneven)
    whole, _ = reader(6, 3, 1, seed=6)
    found, expected = second_order([first, whole], 5), greedy([first, whole], 5)
    assert found.order.tolist() == expected.order.tolist()
    np.testing.assert_allclose(found.costs, expected.costs, rtol=1e-6)
    energies = np.diagonal(one.moments) * (one.weight**2).sum(axis=1)
    wanted = [energies[rows[rows >= 0]].sum() for rows in uneven]
    np.testing.assert_allclose(weighted([first]), wanted)


@pytest.mark.parametrize("width", [1, 2])
def test_costs_stay_exact_over_many_updates(width: int) -> None:
    """More units than are removed between two updates of whole matrices, thrice over."""
    one, _ = reader(220, 6, width)
    found = second_order([one], 105)
    assert len(set(found.order.tolist())) == 105
    for count in (1, 31, 32, 33, 64, 105):
        expected = least_squares(one, found.order[:count].tolist())
        assert found.costs[:count].sum() == pytest.approx(expected, rel=1e-6)


def test_the_first_cost_is_the_optimal_brain_surgeons() -> None:
    one, _ = reader(10, 4, 1)
    inverse = np.linalg.inv(one.moments)
    saliency = (one.weight**2).sum(axis=1) / np.diagonal(inverse)
    found = second_order([one], 1)
    assert found.costs[0] == pytest.approx(saliency.min())
    assert one.index[found.order[0], 0] == saliency.argmin()


def test_the_first_cost_of_a_head_is_its_schur_complement() -> None:
    one, _ = reader(12, 5, 4)
    c, found = one.moments, second_order([one], 1)
    costs = []
    for head in one.index:
        rest = np.setdiff1d(np.arange(12), head)
        told = c[np.ix_(head, rest)] @ np.linalg.solve(c[np.ix_(rest, rest)], c[np.ix_(rest, head)])
        w = one.weight[head]
        costs.append(float(np.trace(w.T @ (c[np.ix_(head, head)] - told) @ w)))
    assert found.order.tolist() == [int(np.argmin(costs))]
    assert found.costs[0] == pytest.approx(min(costs))


def test_one_after_another_is_near_the_best_of_all_subsets() -> None:
    """And nearer than scores that are taken once."""
    ratios = []
    for seed in range(30):
        one, _ = reader(8, 3, 1, seed)
        best = min(least_squares(one, list(s)) for s in itertools.combinations(range(8), 4))
        saliency = (one.weight**2).sum(axis=1) / np.diagonal(np.linalg.inv(one.moments))
        at_once = by_score(saliency[one.index[:, 0]], 4).order.tolist()
        ratios.append(
            (second_order([one], 4).costs.sum() / best, least_squares(one, at_once) / best)
        )
    in_turn, once = np.median(ratios, axis=0)
    assert in_turn < 1.05
    assert in_turn < 0.5 * (1 + once)


def test_after_twins_one_of_them_costs_nothing_and_the_other_a_lot() -> None:
    x = data(6)
    x[:, 3] = x[:, 1]
    index = np.arange(6)[:, None]
    one = Reader(np.ones((6, 4)), damped(covariance(x), 1e9), index)
    found = second_order([one], 5)
    assert int(found.order[0]) in (1, 3)
    assert found.costs[0] < 1e-4 * found.costs[1]
    assert {1, 3} - {int(found.order[0])} != {int(found.order[1])}


def test_dead_inputs_go_first() -> None:
    x = data(6)
    x[:, [2, 4]] = 7.0  # do not vary: a bias says it all
    one = Reader(np.ones((6, 4)), damped(covariance(x), len(x)), np.arange(6)[:, None])
    assert sorted(second_order([one], 2).order.tolist()) == [2, 4]


def test_inputs_without_any_energy_are_ranked_by_weights() -> None:
    weight = np.diag([3.0, 1.0, 2.0])
    one = Reader(weight, damped(np.zeros((3, 3)), 10), np.arange(3)[:, None])
    assert second_order([one], 3).order.tolist() == [1, 2, 0]


# -- scores --------------------------------------------------------------------------------


def test_magnitude_is_what_makes_a_unit_times_what_reads_it() -> None:
    gate, up, down = (
        np.arange(12.0).reshape(6, 2),
        np.ones((6, 1)),
        2 + np.arange(18.0).reshape(6, 3),
    )
    index = np.array([[0, 5], [1, 4], [2, -1]])
    found = magnitude([(gate, index), (up, index)], [(down, index)])
    rows = [[0, 5], [1, 4], [2]]
    made = [np.linalg.norm(np.hstack([gate, up])[i]) for i in rows]
    expected = [norm * np.linalg.norm(down[i]) for norm, i in zip(made, rows, strict=True)]
    np.testing.assert_allclose(found, expected)


def test_wanda_and_flap_are_sums_over_the_rows_of_a_unit() -> None:
    x, weight = data(6), np.random.default_rng(1).standard_normal((6, 4))
    index = np.array([[0, 1], [2, 3], [4, 5]])
    about_zero, about_mean = x.T @ x / len(x), covariance(x)
    for moments in (about_zero, about_mean):
        found = weighted([Reader(weight, moments, index)])
        rows = (weight**2).sum(axis=1) * np.diagonal(moments)
        np.testing.assert_allclose(found, rows.reshape(3, 2).sum(axis=1))
    np.testing.assert_allclose(np.diagonal(about_mean), x.var(axis=0))


def test_the_lowest_scores_go_first_and_ties_in_order() -> None:
    found = by_score(np.array([3.0, 1.0, 2.0, 1.0]), 3)
    assert found.order.tolist() == [1, 3, 2]
    assert found.costs.tolist() == [1.0, 1.0, 2.0]


# -- fitting -------------------------------------------------------------------------------


def test_the_fit_with_its_bias_is_that_of_least_squares_on_the_data() -> None:
    x, weight = data(10), np.random.default_rng(5).standard_normal((10, 4))
    kept = np.ones(10, bool)
    kept[[1, 4, 7]] = False
    moments = damped(covariance(x), 1e12)  # next to no ridge
    made = refit(weight, moments, kept)
    shift = bias_correction_linear(weight, made, x.mean(axis=0))
    wanted = x @ weight
    explicit, *_ = np.linalg.lstsq(
        np.hstack([x[:, kept], np.ones((len(x), 1))]), wanted, rcond=None
    )
    assert not made[~kept].any()
    np.testing.assert_allclose(made[kept], explicit[:-1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(shift, explicit[-1], rtol=1e-3, atol=1e-3)


def test_without_a_bias_moments_about_zero_give_the_best_fit() -> None:
    x, weight = data(8), np.random.default_rng(5).standard_normal((8, 3))
    kept = np.arange(8) < 5
    made = refit(weight, damped(x.T @ x / len(x), 1e12), kept)
    explicit, *_ = np.linalg.lstsq(x[:, kept], x @ weight, rcond=None)
    np.testing.assert_allclose(made[kept], explicit, rtol=1e-3, atol=1e-3)


def test_the_cost_of_a_removal_is_the_error_of_the_fit() -> None:
    one, _ = reader(14, 5, 2)
    found = second_order([one], 4)
    kept = np.ones(14, bool)
    kept[one.index[found.order]] = False
    change = refit(one.weight, one.moments, kept) - one.weight
    assert found.costs.sum() == pytest.approx(float(np.vdot(change, one.moments @ change)))


def test_what_the_data_does_not_tell_stays_as_it_was() -> None:
    """Three rows of data for eight inputs: the fit may not invent the rest."""
    x, weight = data(8, rows=3), np.random.default_rng(5).standard_normal((8, 3))
    moments = damped(covariance(x), len(x))
    nothing = np.ones(8, bool)
    np.testing.assert_array_equal(refit(weight, moments, nothing), weight)
    made = refit(weight, moments, np.arange(8) != 2)
    assert np.linalg.norm(made - weight) < 2 * np.linalg.norm(weight[2])


def test_nothing_kept_is_nothing_fitted() -> None:
    assert not refit(np.ones((3, 2)), np.eye(3), np.zeros(3, bool)).any()


# -- moments -------------------------------------------------------------------------------


def test_the_covariance_comes_from_sums() -> None:
    x = data(5)
    np.testing.assert_allclose(covariance(x), np.cov(x.T, bias=True), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("rows", "share"), [(1e12, 1e-6), (100, 0.2 * 5 / 100), (1, 1.0)])
def test_the_ridge_grows_as_rows_get_few(rows: float, share: float) -> None:
    moments = covariance(data(5))
    ridge = damped(moments, rows) - moments
    np.testing.assert_allclose(ridge, share * np.diagonal(moments).mean() * np.eye(5), atol=1e-9)


def test_singular_moments_have_an_inverse() -> None:
    x = data(6)
    x[:, 5] = x[:, 0] - 2 * x[:, 1]
    moments = damped(covariance(x), 1e12)
    assert np.isfinite(inverted(moments)).all()
    slightly_negative = covariance(x) - 1e-4 * np.eye(6)
    assert np.linalg.eigvalsh(damped(slightly_negative, 1e12)).min() > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_moments_that_cannot_be_are_refused(bad: float) -> None:
    moments = np.eye(3)
    moments[1, 1] = bad
    with pytest.raises(InputError, match="second moments"):
        damped(moments, 10)


def test_a_matrix_far_from_positive_semidefinite_is_refused() -> None:
    with pytest.raises(InputError, match="positive semidefinite"):
        damped(np.array([[1.0, 9.0], [9.0, 1.0]]), 10)


# -- inputs that are not what they were --------------------------------------------------------


def test_a_fit_across_is_the_least_squares_fit_of_the_old_outputs() -> None:
    """With the ridge as rows of data that ask for the weights as they were."""
    x, weight = data(8), np.random.default_rng(1).standard_normal((8, 3))
    now = np.maximum(x, 0) + 0.1 * data(8, seed=2)
    kept = np.array([True, False, True, True, False, True, True, True])
    moments, across = now.T @ now / ROWS, now.T @ x / ROWS
    ridge = np.diagonal(damped(moments, ROWS) - moments).mean()
    rows = np.concatenate([now[:, kept], np.sqrt(ridge * ROWS) * np.eye(6)])
    wanted = np.concatenate([x @ weight, np.sqrt(ridge * ROWS) * weight[kept]])
    explicit, *_ = np.linalg.lstsq(rows, wanted, rcond=None)
    made = refit_across(weight, moments, across, ROWS, kept)
    np.testing.assert_allclose(made[kept], explicit, rtol=1e-6, atol=1e-9)
    assert not made[~kept].any()


@pytest.mark.parametrize("gone", [[0], [1, 4], list(range(8)), []])
def test_of_the_same_inputs_it_is_the_plain_fit(gone: list[int]) -> None:
    x, weight = data(8), np.random.default_rng(1).standard_normal((8, 3))
    kept = ~np.isin(np.arange(8), gone)
    moments = covariance(x)
    made = refit_across(weight, moments, moments, ROWS, kept)
    np.testing.assert_allclose(made, refit(weight, damped(moments, ROWS), kept), atol=1e-9)
