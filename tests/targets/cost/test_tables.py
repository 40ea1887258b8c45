"""Interpolation against functions whose values are known everywhere."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from planish.targets.cost.tables import Grid, grid, of_threads

AXES = ((1.0, 4.0, 64.0), (8.0, 128.0), (2.0, 32.0, 512.0))


def power(m: float, k: float, n: float) -> float:
    """A product of powers: linear in logarithms, so interpolation has no error."""
    return float(3.0 * m**0.9 * k**0.5 * n**1.1)


def filled() -> Grid:
    found = grid(tuple((*key, power(*key)) for key in product(*AXES)))
    assert found is not None
    return found


@pytest.mark.parametrize("key", list(product(*AXES)))
def test_a_measured_point_is_read_as_it_is(key: tuple[float, float, float]) -> None:
    found = filled().at(key)
    assert found.value == pytest.approx(power(*key), rel=1e-12)
    assert found.inside


def test_between_points_a_power_law_is_exact() -> None:
    table = filled()
    drawn = np.random.default_rng(0)
    for _ in range(50):
        m, k, n = (float(np.exp(drawn.uniform(np.log(a[0]), np.log(a[-1])))) for a in AXES)
        found = table.at((m, k, n))
        assert found.value == pytest.approx(power(m, k, n), rel=1e-9)
        assert found.inside


def test_above_the_grid_time_grows_with_the_size_and_is_no_longer_inside() -> None:
    table = filled()
    edge = power(64, 128, 512)
    found = table.at((128, 128, 1024))
    assert found.value == pytest.approx(4 * edge)
    assert not found.inside


def test_below_the_grid_time_stays_as_at_the_edge() -> None:
    found = filled().at((1, 2, 2))
    assert found.value == pytest.approx(power(1, 8, 2))
    assert not found.inside


def test_a_missing_point_is_filled_in_proportion_and_is_not_inside() -> None:
    rows = [(*key, power(*key)) for key in product(*AXES) if key != (64.0, 128.0, 512.0)]
    table = grid(tuple(rows))
    assert table is not None
    near = max(
        (k for k in product(*AXES) if k != (64.0, 128.0, 512.0)), key=lambda k: k[0] * k[1] * k[2]
    )
    ratio = 64 * 128 * 512 / (near[0] * near[1] * near[2])
    found = table.at((64, 128, 512))
    assert found.value == pytest.approx(power(*near) * ratio)
    assert not found.inside
    assert table.at((4, 128, 32)).inside


def test_no_rows_are_no_grid() -> None:
    assert grid(()) is None


def test_a_grid_without_axes_holds_one_number() -> None:
    one = grid(((0.5,),))
    assert one is not None
    assert (one.at(()).value, one.at(()).inside) == (0.5, True)


@pytest.mark.parametrize(
    ("threads", "kept", "exact"),
    [(1, 10.0, True), (2, 10.0, False), (4, 40.0, True), (9, 40.0, False)],
)
def test_rows_of_the_nearest_count_of_threads_below(threads: int, kept: float, exact: bool) -> None:
    rows = ((1.0, 7.0, 10.0), (4.0, 7.0, 40.0))
    assert of_threads(rows, threads) == (((7.0, kept),), exact)


def test_no_rows_have_no_threads() -> None:
    assert of_threads((), 2) == ((), False)
