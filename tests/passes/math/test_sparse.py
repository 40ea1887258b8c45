"""Masks, weights under them and orders of inputs, each against a plain search or formula."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest

from planish.passes.math.refit import Doubles, damped
from planish.passes.math.sparse import (
    Pattern,
    block_mask,
    holds,
    inverse_factor,
    pattern_mask,
    saliency,
    share_mask,
    sparsegpt,
)
from planish.passes.math.sparse_fit import masked_refit
from planish.passes.math.sparse_order import best_order, kept_score

Array = np.ndarray[Any, Any]
PATTERNS = ("2:4", "1:4", "4:8", "2:8")


def drawn(inputs: int, outputs: int, rows: int = 60, seed: int = 0) -> tuple[Array, Array]:
    """Data [rows, inputs] whose channels hang together, and a weight."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(inputs, inputs)) * np.geomspace(1, 0.2, inputs)
    return rng.normal(size=(rows, inputs)) @ mixed, rng.normal(size=(inputs, outputs))


def moments_of(data: Array) -> Array:
    return data.T @ data / len(data)


def lost(weight: Array, other: Array, data: Array) -> float:
    return float(np.mean((data @ (other - weight)) ** 2))


def masks_of(inputs: int, pattern: Pattern) -> list[Array]:
    """Every mask of one column."""
    each = list(combinations(range(pattern.group), pattern.keep))
    found = []
    for chosen in product(each, repeat=inputs // pattern.group):
        mask = np.zeros((inputs // pattern.group, pattern.group), bool)
        for row, kept in zip(mask, chosen, strict=True):
            row[list(kept)] = True
        found.append(mask.reshape(-1, 1))
    return found


def surgeon(column: Array, moments: Array, pattern: Pattern) -> tuple[Array, Array]:
    """Optimal brain surgeon, a group at a time, by inverses of what is left: slow and plain."""
    w, kept = column.astype(float).copy(), np.ones(len(column), bool)
    for start in range(0, len(w), pattern.group):
        left = np.arange(start, len(w))
        inverse = np.linalg.inv(moments[np.ix_(left, left)])
        sets = list(combinations(range(pattern.group), pattern.group - pattern.keep))
        costs = [
            w[left[list(s)]] @ np.linalg.inv(inverse[np.ix_(s, s)]) @ w[left[list(s)]] for s in sets
        ]
        gone = list(sets[int(np.argmin(costs))])
        step = inverse[:, gone] @ np.linalg.inv(inverse[np.ix_(gone, gone)]) @ w[left[gone]]
        w[left] -= step
        w[left[gone]], kept[left[gone]] = 0.0, False
    return w, kept


# -- masks -----------------------------------------------------------------------------


@pytest.mark.parametrize("text", PATTERNS)
def test_no_mask_keeps_more_of_the_scores(text: str) -> None:
    pattern, scores = Pattern.of(text), np.random.default_rng(1).random((8, 3))
    mask = pattern_mask(scores, pattern)
    assert holds(np.where(mask, scores, 0), pattern)
    assert mask.sum() == pytest.approx((1 - pattern.share) * scores.size)
    for column in range(3):
        best = max(float(scores[m[:, 0], column].sum()) for m in masks_of(8, pattern))
        assert scores[mask[:, column], column].sum() == pytest.approx(best)


def test_of_equal_scores_the_first_stay() -> None:
    assert pattern_mask(np.ones((4, 1)), Pattern(2, 4))[:, 0].tolist() == [1, 1, 0, 0]
    assert share_mask(np.ones((4, 1)), 0.5)[:, 0].tolist() == [1, 1, 0, 0]


def test_what_a_pattern_is() -> None:
    weight = np.ones((8, 2))
    weight[[0, 3, 4, 5]] = 0
    assert holds(weight, Pattern(2, 4))
    assert not holds(weight[1:5], Pattern(1, 4))
    assert not holds(weight[:6], Pattern(2, 4)), "six inputs do not fall into groups of four"
    weight[3, 1] = 1e-30
    assert not holds(weight, Pattern(2, 4))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_the_lowest_share_of_each_column_goes(share: float) -> None:
    scores = np.random.default_rng(2).random((40, 5))
    mask = share_mask(scores, share)
    assert (mask.sum(axis=0) == 40 - round(share * 40)).all()
    for column in range(5):
        assert scores[mask[:, column], column].min() > scores[~mask[:, column], column].max()


def test_blocks_go_as_a_whole() -> None:
    scores = np.random.default_rng(3).random((10, 7))
    scores[4:8, 0:4] = 0.0
    scores[8:, 4:] = 5.0  # small blocks at the edge are judged by their mean
    mask = block_mask(scores, 1 / 6, 4)
    gone = np.zeros((10, 7), bool)
    gone[4:8, 0:4] = True
    np.testing.assert_array_equal(mask, ~gone)


def test_wanda_weighs_by_energy() -> None:
    weight, energy = np.array([[3.0], [1.0]]), np.array([1.0, 16.0])
    assert saliency(weight, None).argmax() == 0
    assert saliency(weight, energy).tolist() == [[9.0], [16.0]]


# -- one group after another -----------------------------------------------------------


@pytest.mark.parametrize("text", PATTERNS)
def test_each_group_is_what_the_surgeon_would_take(text: str) -> None:
    pattern = Pattern.of(text)
    data, weight = drawn(24, 6)
    moments = moments_of(data) + 0.01 * np.eye(24)
    made, mask = sparsegpt(weight, moments, pattern)
    for column in range(6):
        expected, kept = surgeon(weight[:, column], moments, pattern)
        np.testing.assert_array_equal(mask[:, column], kept)
        np.testing.assert_allclose(made[:, column], expected, rtol=1e-8, atol=1e-10)


def test_panels_change_nothing() -> None:
    """More inputs than are updated in one go."""
    pattern = Pattern(2, 4)
    data, weight = drawn(272, 2, rows=600)
    moments = moments_of(data) + 0.05 * np.eye(272)
    made, _ = sparsegpt(weight, moments, pattern)
    expected, _ = surgeon(weight[:, 0], moments, pattern)
    np.testing.assert_allclose(made[:, 0], expected, rtol=1e-6, atol=1e-9)


def test_the_factor_of_the_inverse() -> None:
    moments = moments_of(drawn(12, 1)[0]) + 0.1 * np.eye(12)
    factor = inverse_factor(moments)
    assert np.array_equal(factor, np.triu(factor))
    np.testing.assert_allclose(factor.T @ factor, np.linalg.inv(moments), rtol=1e-9)
    tail = np.linalg.inv(moments[5:, 5:])
    np.testing.assert_allclose(factor[5:, 5:].T @ factor[5:, 5:], tail, rtol=1e-9)


def test_it_loses_less_than_masks_that_see_one_weight_at_a_time() -> None:
    pattern = Pattern(2, 4)
    data, weight = drawn(64, 32, rows=500)
    moments = moments_of(data) + 1e-3 * np.eye(64)
    made, mask = sparsegpt(weight, moments, pattern)
    wanda = pattern_mask(saliency(weight, np.diagonal(moments)), pattern)
    magnitude = pattern_mask(saliency(weight, None), pattern)
    masks = [mask, wanda, magnitude]
    fitted = [lost(weight, masked_refit(weight, moments, m), data) for m in masks]
    cut = [lost(weight, np.where(m, weight, 0), data) for m in masks]
    assert fitted == sorted(fitted)
    assert fitted[0] < lost(weight, made, data) < min(cut)
    assert all(after < before for after, before in zip(fitted, cut, strict=True))


# -- fitted ----------------------------------------------------------------------------


def test_what_stays_is_the_least_squares_fit() -> None:
    data, weight = drawn(20, 6, rows=80)
    mask = np.random.default_rng(4).random((20, 6)) < 0.6
    mask[:, 5] = False
    made = masked_refit(weight, moments_of(data), mask)
    for column in range(5):
        kept = mask[:, column]
        fit = np.linalg.lstsq(data[:, kept], data @ weight[:, column], rcond=None)[0]
        np.testing.assert_allclose(made[kept, column], fit, rtol=1e-8)
    assert (made[~mask] == 0).all()
    whole = masked_refit(weight, moments_of(data), np.ones_like(mask))
    np.testing.assert_allclose(whole, weight)


def test_a_ridge_holds_weights_to_what_they_were() -> None:
    """As extra rows of data would: each says that one weight stays."""
    data, weight = drawn(12, 4, rows=30)
    ridge = 0.3
    mask = np.random.default_rng(5).random((12, 4)) < 0.5
    mask[0] = True
    made = masked_refit(weight, moments_of(data) + ridge * np.eye(12), mask)
    rows = np.concatenate([data, np.sqrt(ridge * len(data)) * np.eye(12)])
    for column in range(4):
        kept = mask[:, column]
        fit = np.linalg.lstsq(rows[:, kept], rows @ weight[:, column], rcond=None)[0]
        np.testing.assert_allclose(made[kept, column], fit, rtol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_in_steps_it_loses_hardly_more_than_the_least(seed: int) -> None:
    """Inputs that are alike, of very unlike sizes; a column without rows, one with all of them."""
    data, weight = drawn(96, 24, rows=300, seed=seed)
    data = (data + 3 * data[:, :1]) * np.geomspace(0.01, 10, 96)
    moments = damped(moments_of(data), 300)
    mask = pattern_mask(saliency(weight, np.diagonal(moments)), Pattern(2, 4))
    mask[:, 0], mask[:, 1] = False, True
    made = masked_refit(weight, moments, mask, direct=0)
    assert (made[~mask] == 0).all()
    np.testing.assert_allclose(made[:, 1], weight[:, 1])

    def loss(fitted: Doubles) -> float:
        return float(np.einsum("kn,kn->", fitted - weight, moments @ (fitted - weight)))

    least = loss(masked_refit(weight, moments, mask, direct=96))
    assert loss(np.where(mask, weight, 0.0)) > 1.2 * least
    assert least <= loss(made) <= 1.002 * least


@pytest.mark.parametrize(
    "moments", [[[1, 0, 0], [0, -1, 1], [0, 1, 1]], [[1, 2, 1], [2, 1, -1], [1, -1, 1]]]
)
def test_steps_find_that_moments_are_not_positive_definite(moments: Any) -> None:
    mask = np.array([[True], [True], [False]])
    with pytest.raises(np.linalg.LinAlgError, match="positive"):
        masked_refit(np.ones((3, 1)), np.asarray(moments, float), mask, direct=0)


# -- orders ----------------------------------------------------------------------------


def orders_of_two_groups(size: int) -> list[list[int]]:
    everything = set(range(2 * size))
    return [[*one, *sorted(everything - set(one))] for one in combinations(range(2 * size), size)]


@pytest.mark.parametrize("text", ["2:4", "1:4"])
def test_the_order_of_eight_inputs_is_the_best_there_is(text: str) -> None:
    """Trades of one channel against another reach it, but for one case in ten at most."""
    pattern, best = Pattern.of(text), 0
    for seed in range(30):
        scores = np.random.default_rng(seed).random((8, 3)) ** 4
        order = best_order(scores, pattern)
        assert sorted(order.tolist()) == list(range(8))
        reached = kept_score(scores[order], pattern)
        most = max(kept_score(scores[o], pattern) for o in orders_of_two_groups(4))
        assert kept_score(scores, pattern) <= reached <= most + 1e-12
        best += reached == pytest.approx(most)
    assert best >= 27


def test_channels_that_compete_are_put_apart() -> None:
    """Four heavy channels in one group: the pattern would lose two of them."""
    scores = np.full((16, 4), 0.01)
    scores[4:8] = 1.0
    order = best_order(scores, Pattern(2, 4))
    assert kept_score(scores, Pattern(2, 4)) < 8.5
    assert kept_score(scores[order], Pattern(2, 4)) > 16
    assert sorted(order.tolist()) == list(range(16))


def test_where_nothing_helps_the_order_stays() -> None:
    scores = np.ones((16, 4))
    assert best_order(scores, Pattern(2, 4)).tolist() == list(range(16))
    assert best_order(scores[:4], Pattern(2, 4)).tolist() == [0, 1, 2, 3]
