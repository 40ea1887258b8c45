from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from planish.passes.factoring.sharing import MOST, POINTS, costs, ladder, ranks_within


def layer(inputs: int, outputs: int) -> Any:
    return SimpleNamespace(shape=(inputs, outputs), parameters=inputs * outputs)


def test_ranks_that_may_be() -> None:
    assert ladder(37, 8) == [32, 24, 16, 8]
    assert ladder(7, 8) == []


def test_between_ranks_that_are_measured_costs_go_as_the_layers_own_loss() -> None:
    losses = np.linspace(10.0, 1.0, 41) ** 2
    asked = list[int]()

    def change(rank: int) -> float:
        asked.append(rank)
        return float(0.03 * losses[rank])

    found = costs(ladder(40, 8), 8, losses, change)
    assert found == pytest.approx(0.03 * losses[[40, 32, 24, 16, 8]])
    assert sorted(asked) == [8, 24, 40]
    assert len(asked) == len(POINTS)


def test_what_is_measured_is_met_and_costs_never_fall() -> None:
    losses, measured = np.linspace(8.0, 0.1, 41), {40: 0.2, 24: 0.1, 8: 5.0}
    found = costs(ladder(40, 8), 8, losses, measured.__getitem__)
    assert found[0] == pytest.approx(0.2)
    assert found[2] >= 0.2  # 0.1 was measured, less than at a higher rank
    assert found[-1] == pytest.approx(5.0)
    assert found == sorted(found)


def test_one_rank_is_measured_once_and_what_is_not_finite_counts_as_most() -> None:
    asked = list[int]()

    def change(rank: int) -> float:
        asked.append(rank)
        return float("inf")

    assert costs([8], 8, np.ones(9), change) == [MOST]
    assert asked == [8]


def test_the_dear_stay_whole_and_the_request_is_met() -> None:
    groups = [layer(64, 64), layer(64, 64)]
    ladders = [ladder(31, 8)] * 2
    prices = [[100.0, 200.0, 300.0], [1.0, 2.0, 3.0]]
    assert ranks_within(groups, ladders, prices, 2000) == [None, 16]
    assert ranks_within(groups, ladders, prices, 64 * 64 - 128 * 8) == [None, 8]
    assert ranks_within(groups, ladders, prices, 4000) == [24, 8]
    assert ranks_within(groups, ladders, prices, 1e9) == [8, 8]
    assert ranks_within([], [], [], 5) == []
