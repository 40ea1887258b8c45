from __future__ import annotations

import numpy as np
import pytest

from planish.passes.math.moments import Moments, channel_moments, matching

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 6)])
def test_moments_are_those_of_all_places_of_all_arrays(shape: tuple[int, ...]) -> None:
    """Also far from zero, where squares of single floats would lose the variance."""
    arrays = [(1000 + RNG.normal(size=(n, *shape[1:]))).astype(np.float32) for n in (4, 9)]
    together = np.concatenate(arrays).astype(np.float64)
    axes = tuple(axis for axis in range(len(shape)) if axis != 1)
    found = channel_moments(arrays)
    np.testing.assert_allclose(found.mean, together.mean(axis=axes), rtol=1e-9)
    np.testing.assert_allclose(found.variance, together.var(axis=axes), rtol=1e-5)


def test_factor_and_summand_give_the_wanted_moments() -> None:
    x = RNG.normal(size=(500, 4)) * [1, 2, 3, 4] + [0, 5, -5, 1]
    wanted = Moments(np.array([1.0, 2, 3, 4]), np.array([4.0, 3, 2, 1]))
    factor, summand = matching(wanted, channel_moments([x]))
    moved = x * factor + summand
    np.testing.assert_allclose(moved.mean(axis=0), wanted.mean)
    np.testing.assert_allclose(moved.var(axis=0), wanted.variance)


def test_a_channel_of_which_nothing_is_left_is_only_moved() -> None:
    """And one that was constant is not made so by force."""
    wanted = Moments(np.array([1.0, 2.0, 3.0]), np.array([4.0, 4.0, 0.0]))
    found = Moments(np.array([0.0, 0.5, 1.0]), np.array([0.0, 1e-6, 2.0]))
    factor, summand = matching(wanted, found)
    np.testing.assert_array_equal(factor, [1, 1, 1])
    np.testing.assert_array_equal(summand, [1, 1.5, 2])
