from __future__ import annotations

import itertools

import numpy as np
import pytest

from planish.passes.math.allocation import Way, share_out


def spent(ways: list[Way], taken: tuple[int, ...] | list[int]) -> float:
    return sum(sum(way.costs[:count]) for way, count in zip(ways, taken, strict=True))


def best(ways: list[Way], request: int) -> float:
    """The least that exactly ``request`` unit steps can cost."""
    choices = itertools.product(*(range(len(way.sizes) + 1) for way in ways))
    return min(spent(ways, choice) for choice in choices if sum(choice) == request)


@pytest.mark.parametrize("request_", range(1, 12))
def test_rising_costs_are_shared_out_at_the_least_price(request_: int) -> None:
    rng = np.random.default_rng(request_)
    ways = [Way([1] * 4, np.sort(rng.uniform(size=4)).tolist()) for _ in range(3)]
    taken = share_out(ways, request_)
    assert sum(taken) == request_
    assert spent(ways, taken) == pytest.approx(best(ways, request_))


def test_a_dear_step_counts_with_the_cheap_ones_behind_it() -> None:
    """Five for the first and nothing for the next four: one each, less than two."""
    ways = [Way([1] * 5, [5, 0, 0, 0, 0]), Way([1] * 5, [2] * 5)]
    assert share_out(ways, 5) == [5, 0]


def test_steps_are_weighed_by_their_size() -> None:
    ways = [Way([8, 8], [8.0, 16.0]), Way([1, 1, 1], [0.5, 1.5, 3.0])]
    assert share_out(ways, 9) == [1, 1]


@pytest.mark.parametrize(("request_", "steps"), [(3, 0), (4, 0), (5, 1), (11, 1), (13, 2)])
def test_the_nearest_sum_is_taken(request_: int, steps: int) -> None:
    assert share_out([Way([8, 8], [1.0, 2.0])], request_) == [steps]


def test_ties_go_to_the_first_way_and_all_may_be_taken() -> None:
    ways = [Way([1, 1], [1.0, 1.0]), Way([1, 1], [1.0, 1.0])]
    assert share_out(ways, 1) == [1, 0]
    assert share_out(ways, 3) == [2, 1]
    assert share_out(ways, 99) == [2, 2]
    assert share_out([], 5) == []


@pytest.mark.parametrize(("request_", "steps"), [(1, 1), (8, 1), (9, 2), (16, 2), (99, 2)])
def test_at_least_what_is_asked_for(request_: int, steps: int) -> None:
    assert share_out([Way([8, 8], [1.0, 2.0])], request_, least=True) == [steps]


def test_at_least_gives_back_what_is_too_much() -> None:
    """9 are asked for: 3 times 1 and then 8 make 11, of which two ones are not needed."""
    ways = [Way([1, 1, 1], [0.1, 0.2, 0.3]), Way([8], [8.0])]
    assert share_out(ways, 9, least=True) == [1, 1]
    assert share_out(ways, 11, least=True) == [3, 1]
