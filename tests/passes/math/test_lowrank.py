from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.errors import InputError
from planish.passes.math.bias import bias_correction_linear
from planish.passes.math.lowrank import (
    channel_scales,
    down_to,
    energy_rank,
    factors,
    hartley,
    most_rank,
    output_energies,
    output_pca,
    principal,
    second_moments,
    share_rank,
    shared_ranks,
    up_to,
)

Array = np.ndarray[Any, Any]


def problem(inputs: int, outputs: int, rows: int = 400, seed: int = 0) -> tuple[Array, Array]:
    """Rows x whose channels are correlated and have means, and a weight."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, inputs)) * np.geomspace(3, 0.05, inputs)
    x = mixed @ rng.normal(size=(inputs, inputs)) + rng.normal(size=inputs)
    return x, rng.normal(size=(inputs, outputs))


def moments(x: Array, *, centred: bool = True) -> Array:
    return second_moments(x.T @ x, x.sum(axis=0), len(x), centred=centred)


def whitened(w: Array, c: Array, rank: int) -> Array:
    """SVD-LLM: the truncated SVD of L^T W, with C = L L^T."""
    root = np.linalg.cholesky(c)
    u, s, v = np.linalg.svd(root.T @ w, full_matrices=False)
    return np.asarray(np.linalg.solve(root.T, (u[:, :rank] * s[:rank]) @ v[:rank]))


def energy(w: Array, c: Array) -> float:
    return float(np.trace(w.T @ c @ w))


SHAPES = [(24, 10), (10, 24), (16, 16), (1, 5), (5, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_whitened_svd(shape: tuple[int, int]) -> None:
    x, w = problem(*shape)
    c = moments(x)
    spectrum = output_pca(w, c)
    assert spectrum.energies.sum() == pytest.approx(energy(w, c))
    alone = output_energies(w, c)
    np.testing.assert_allclose(alone, spectrum.energies, atol=1e-9 * energy(w, c))
    for rank in range(1, min(shape) + 1):
        first, second = factors(w, spectrum.basis[:, :rank])
        assert (first.shape, second.shape) == ((shape[0], rank), (rank, shape[1]))
        lost = energy(w - first @ second, c)
        assert lost == pytest.approx(energy(w - whitened(w, c, rank), c), abs=1e-9 * energy(w, c))
        assert lost == pytest.approx(spectrum.energies[rank:].sum(), abs=1e-9 * energy(w, c))
        assert spectrum.loss(rank) == pytest.approx(lost / energy(w, c), abs=1e-9)


def test_no_projection_of_that_rank_does_better() -> None:
    """Against least squares: for any A, the best B is fitted to the outputs themselves."""
    x, w = problem(12, 7)
    y = x @ w + 3.0
    rank, rng = 3, np.random.default_rng(1)
    basis = output_pca(w, moments(x)).basis[:, :rank]
    first, second = factors(w, basis)
    shift = bias_correction_linear(w, first @ second, x.mean(axis=0))
    lost = ((x @ first @ second + 3.0 + shift - y) ** 2).sum()
    ours = fitted(x @ first, y)
    assert lost == pytest.approx(ours, rel=1e-6)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(20):
            other = first + size * np.abs(first).mean() * rng.normal(size=first.shape)
            assert fitted(x @ other, y) >= ours * (1 - 1e-9)


def fitted(h: Array, y: Array) -> float:
    """What the best linear map with a constant from h leaves of y."""
    columns = np.concatenate([h, np.ones((len(h), 1))], axis=1)
    solution = np.linalg.lstsq(columns, y, rcond=None)[0]
    return float(((columns @ solution - y) ** 2).sum())


def test_outputs_that_weigh_more_lose_less() -> None:
    """Against the whitened SVD of the weight with its outputs scaled."""
    x, w = problem(12, 9, seed=5)
    scale, c = np.geomspace(10, 0.1, 9), moments(x)
    first, second = factors(w, output_pca(w * scale, c).basis[:, :4], scale)
    lost = energy((w - first @ second) * scale, c)
    assert lost == pytest.approx(energy(w * scale - whitened(w * scale, c, 4), c), rel=1e-6)
    unweighed, other = factors(w, output_pca(w, c).basis[:, :4])
    assert lost < energy((w - unweighed @ other) * scale, c)


def test_what_errors_weigh_is_never_nothing() -> None:
    np.testing.assert_allclose(channel_scales([4.0, 0.0]) ** 2, [2.01, 0.01])
    assert (channel_scales(np.zeros(3)) == 1).all()


def test_without_a_bias_moments_about_zero_lose_least() -> None:
    x, w = problem(12, 7, seed=3)
    x += 4.0
    lost = {}
    for centred in (False, True):
        basis = output_pca(w, moments(x, centred=centred)).basis[:, :2]
        first, second = factors(w, basis)
        lost[centred] = float(((x @ (w - first @ second)) ** 2).sum())
    assert lost[False] < lost[True]


@pytest.mark.parametrize("shape", [(24, 10), (10, 24)])
def test_a_singular_covariance_loses_nothing_beyond_its_rank(shape: tuple[int, int]) -> None:
    x, w = problem(*shape, rows=6)
    spectrum = output_pca(w, moments(x))
    assert (spectrum.energies >= 0).all()
    assert spectrum.loss(5) < 1e-12  # six rows less their mean
    assert np.isfinite(spectrum.basis).all()
    k = min(shape)
    np.testing.assert_allclose(spectrum.basis.T @ spectrum.basis, np.eye(k), atol=1e-9)


def test_activations_that_are_all_the_same_leave_nothing_to_lose() -> None:
    _, w = problem(8, 6)
    spectrum = output_pca(w, np.zeros((8, 8)))
    assert spectrum.loss(1) == 0.0
    assert energy_rank(spectrum.energies, 0.9) == 1


def test_a_ridge_keeps_what_no_row_says_anything_about() -> None:
    x, w = problem(8, 8, rows=3)
    w[:, 5] *= 100
    plain = second_moments(x.T @ x, x.sum(axis=0), 3, centred=True)
    ridged = second_moments(x.T @ x, x.sum(axis=0), 3, centred=True, ridge=0.01)
    np.testing.assert_allclose(ridged - plain, 0.01 * np.trace(plain) / 8 * np.eye(8), atol=1e-12)
    assert np.linalg.matrix_rank(plain) == 2
    assert np.linalg.matrix_rank(ridged) == 8


def test_without_moments_it_is_the_svd_of_the_weight() -> None:
    for shape in SHAPES:
        _, w = problem(*shape)
        found = output_pca(w).energies
        np.testing.assert_allclose(found, np.linalg.svd(w, compute_uv=False) ** 2, rtol=1e-9)


def test_outputs_that_were_observed_give_the_same() -> None:
    x, w = problem(20, 9)
    y = x @ w
    ours, theirs = output_pca(w, moments(x)), principal(moments(y))
    np.testing.assert_allclose(ours.energies, theirs.energies, rtol=1e-9)


def test_numbers_that_are_not_finite_are_refused() -> None:
    _, w = problem(4, 4)
    with pytest.raises(InputError, match="not finite"):
        output_pca(w, np.full((4, 4), np.nan))
    w[0, 0] = np.inf
    with pytest.raises(InputError, match="not finite"):
        output_pca(w)


# -- the basis between the factors -----------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 8, 24, 120])
def test_the_turn_is_orthogonal_and_shares_out_the_first_evenly(size: int) -> None:
    made = hartley(size)
    np.testing.assert_allclose(made @ made.T, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(made[0], size**-0.5)


def test_what_passes_between_the_factors_has_one_range() -> None:
    x, w = problem(32, 32, rows=2000)
    x = x - x.mean(axis=0)
    basis = output_pca(w, moments(x)).basis[:, :8]
    first, _ = factors(w, basis)
    turned, plain = (x @ first).std(axis=0), (x @ w @ basis).std(axis=0)
    assert plain.max() / plain.min() > 3
    assert turned.max() / turned.min() < 1.2
    assert (turned**2).sum() == pytest.approx((plain**2).sum())


# -- ranks -----------------------------------------------------------------------------


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_the_most_that_pays_is_the_last_that_pays(inputs: int, outputs: int) -> None:
    most = most_rank((inputs, outputs))
    assert most * (inputs + outputs) < inputs * outputs
    assert (most + 1) * (inputs + outputs) >= inputs * outputs


def test_the_figures_of_known_layers() -> None:
    assert most_rank((384, 384)) == 191
    assert most_rank((384, 1536)) == 307
    assert share_rank(0.8, (384, 384)) == pytest.approx(153.6)
    assert (down_to(8, 153.6), down_to(8, 3), down_to(8, 16.0)) == (152, 8, 16)
    assert (up_to(8, 153), up_to(8, 160)) == (160, 160)


def test_a_share_of_the_variance_takes_the_fewest_directions() -> None:
    energies = np.array([8.0, 1.0, 0.5, 0.5])
    ranks = [energy_rank(energies, share) for share in (0.1, 0.8, 0.81, 0.9, 0.95, 0.99)]
    assert ranks == [1, 1, 2, 2, 3, 4]


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(64, 2000), st.integers(64, 2000)), min_size=1, max_size=8),
    st.floats(0.5, 0.99),
    st.sampled_from([1, 8, 16]),
)
def test_a_share_of_all_parameters_is_met_from_below(
    shapes: list[tuple[int, int]], share: float, multiple: int
) -> None:
    whole = sum(a * b for a, b in shapes)
    ranks = shared_ranks(shapes, share * whole, multiple)
    made = sum(r * (a + b) for r, (a, b) in zip(ranks, shapes, strict=True))
    assert all(r % multiple == 0 for r in ranks)
    assert made <= share * whole or all(r == multiple for r in ranks)
    left = share * whole - made
    steps = [
        multiple * (a + b)
        for r, (a, b) in zip(ranks, shapes, strict=True)
        if r + multiple <= most_rank((a, b)) and r < share_rank(share, (a, b))
    ]
    assert not steps or left < max(steps) * len(shapes)


def test_equal_layers_share_out_what_rounding_leaves() -> None:
    assert shared_ranks([(384, 384)] * 6, 0.8 * 6 * 384**2, 8) == [160, *[152] * 5]
