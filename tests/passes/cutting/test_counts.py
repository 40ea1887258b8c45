from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from planish.passes.cutting.consumers import UnfitError
from planish.passes.cutting.counts import ladder, nearest, shared


def group(units: int, price: float) -> Any:
    return SimpleNamespace(units=units, price=price)


def costs(found: Any) -> Any:
    if found.price < 0:
        raise UnfitError("not-observed", "no data")
    return np.arange(1, found.units) * found.price


@pytest.mark.parametrize(
    ("units", "multiple", "expected"),
    [
        (12, 4, [12, 8, 4]), (10, 4, [10, 8, 4]), (4, 4, [4]), (3, 4, [3]), (1, 1, [1]),
        (3, 1, [3, 2, 1]),
    ],
)  # fmt: skip
def test_counts_that_may_stay(units: int, multiple: int, expected: list[int]) -> None:
    assert ladder(units, multiple) == expected


@pytest.mark.parametrize(("wanted", "count"), [(7, 8), (6, 8), (5.9, 4), (11, 12), (0, 4)])
def test_the_nearest_count_and_of_two_the_larger(wanted: float, count: int) -> None:
    assert nearest([12, 8, 4], wanted) == count


def test_a_request_goes_where_it_costs_least() -> None:
    groups = [group(8, 1.0), group(8, 10.0)]
    each = [np.ones(8)] * 2
    assert shared(groups, [ladder(8, 1)] * 2, each, costs).counts(4) == [4, 8]
    assert shared(groups, [ladder(8, 4)] * 2, each, costs).counts(4) == [4, 8]
    assert shared(groups, [ladder(8, 1)] * 2, each, costs).counts(99) == [1, 1]


def test_what_a_unit_saves_counts() -> None:
    """Of the first group a unit costs a fifth more, and saves twice as much."""
    groups = [group(8, 1.2), group(8, 1.0)]
    request = shared(groups, [ladder(8, 1)] * 2, [2 * np.ones(8), np.ones(8)], costs)
    assert request.counts(3) == [7, 7]
    assert request.counts(5) == [6, 7]
    assert request.part(0) == [8, 8]
    assert request.part(1) == [1, 1]


def test_groups_without_data_keep_what_they_have() -> None:
    groups = [group(8, -1.0), group(8, 1.0)]
    assert shared(groups, [ladder(8, 1)] * 2, [np.ones(8)] * 2, costs).counts(4) == [8, 4]
    assert shared(groups, [ladder(8, 1)] * 2, [np.ones(8), np.zeros(8)], costs).counts(4) == [8, 8]


def test_nothing_to_share_out() -> None:
    assert shared([], [], [], costs).counts(3) == []
    assert shared([group(1, 1.0)], [ladder(1, 1)], [np.ones(1)], costs).counts(0.5) == [1]
