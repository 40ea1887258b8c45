"""4-bit floats in blocks against the definition of E2M1, and scales against trying them all."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from planish.ir.errors import InputError, UsageError
from planish.passes.math.float4 import (
    BLOCK,
    REACH,
    dequantize_float4,
    round_e2m1,
    round_float4,
    round_rows,
    tensor_scale,
)
from planish.passes.math.float4_gptq import gptq_float4

Array = NDArray[Any]
POSITIVE = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])  # codes 0 to 7
E2M1 = np.concatenate([-POSITIVE[:0:-1], POSITIVE])
E4M3 = np.arange(1, 127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return (scale * np.random.default_rng(seed).standard_t(4, shape)).astype(np.float32)


def decoded(coded: Any) -> Array:
    """What the codes stand for, in float64, one number at a time."""
    weight = np.empty(coded.codes.shape)
    for k, n in np.ndindex(weight.shape):
        step = float(coded.block_scales[k // 16, n]) * float(coded.scale)
        weight[k, n] = float(coded.codes[k, n]) * step
    return weight


def test_numbers_go_to_the_nearest_code_and_saturate() -> None:
    x = np.random.default_rng(1).uniform(-8, 8, 5000).astype(np.float32)
    found = round_e2m1(x)
    assert set(found.tolist()) == set(E2M1.tolist())
    nearest = np.abs(np.clip(x, -6, 6)[:, None] - E2M1).min(axis=1)
    np.testing.assert_allclose(np.abs(np.clip(x, -6, 6) - found), nearest, atol=1e-6)


def test_ties_go_to_the_even_code() -> None:
    middles = ((POSITIVE[1:] + POSITIVE[:-1]) / 2).astype(np.float32)
    even = [POSITIVE[i if i % 2 == 0 else i + 1] for i in range(7)]
    assert round_e2m1(middles).tolist() == even
    assert round_e2m1(-middles).tolist() == [-x for x in even]
    other = middles.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert round_e2m1(middles).tolist() == other.tolist()  # as another library has it


@pytest.mark.parametrize("search", [True, False])
def test_codes_are_the_nearest_of_their_block(search: bool) -> None:
    w = normal(48, 5, scale=0.3)
    coded = round_float4(w, search=search)
    assert coded.block_scales.shape == (3, 5)
    assert set(coded.codes.astype(np.float64).ravel()) <= set(E2M1)
    for k, n in np.ndindex(w.shape):
        step = float(coded.block_scales[k // 16, n]) * float(coded.scale)
        nearest = np.abs(E2M1 * step - float(w[k, n])).min()
        assert abs(float(coded.codes[k, n]) * step - float(w[k, n])) <= nearest + 1e-6 * step
    np.testing.assert_allclose(dequantize_float4(coded), decoded(coded), rtol=3e-7)


def test_without_a_search_blocks_hold_their_largest_number() -> None:
    w = normal(32, 4, seed=2)
    coded = round_float4(w, search=False)
    assert float(coded.scale) == pytest.approx(np.abs(w).max() / REACH)
    for block, n in np.ndindex(2, 4):
        peak = np.abs(w[16 * block : 16 * block + 16, n]).max()
        wanted = peak / 6 / float(coded.scale)
        nearest = E4M3[np.abs(E4M3 - wanted).argmin()]
        assert float(coded.block_scales[block, n]) == pytest.approx(nearest)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_search_finds_what_trying_every_scale_finds(weighted: bool) -> None:
    """All 126 scales of E4M3 in float64; those that the search leaves out never win by much."""
    w = normal(64, 6, seed=3)
    energy = np.random.default_rng(4).uniform(0.1, 3, 64) if weighted else np.ones(64)
    coded = round_float4(w, importance=energy if weighted else None)
    cost = (energy[:, None] * (decoded(coded) - w) ** 2).reshape(4, 16, 6).sum(axis=1)
    best = np.empty_like(cost)
    for block, n in np.ndindex(4, 6):
        rows = slice(16 * block, 16 * block + 16)
        steps = E4M3[:, None, None] * float(coded.scale)
        errors = np.abs(w[rows, n][None, :, None] - E2M1 * steps).min(axis=2) ** 2
        best[block, n] = (errors * energy[rows]).sum(axis=1).min()
    assert np.all(cost >= best * (1 - 1e-6))
    np.testing.assert_allclose(cost, best, rtol=1e-5)
    plain = round_float4(w, search=False)
    assert (cost.sum()) < 0.97 * (energy[:, None] * (decoded(plain) - w) ** 2).sum()


def test_activations_take_their_scales_from_each_block() -> None:
    x = normal(3, 5, 32, seed=5)
    scale = float(tensor_scale(float(np.abs(x).max())))
    found = round_rows(x, scale)
    for i, j, b in np.ndindex(3, 5, 2):
        block = x[i, j, 16 * b : 16 * b + 16].astype(np.float64)
        wanted = np.abs(block).max() / 6 / scale
        step = E4M3[np.abs(E4M3 - wanted).argmin()] * scale
        nearest = (E2M1 * step)[np.abs(block[:, None] - E2M1 * step).argmin(axis=1)]
        np.testing.assert_allclose(found[i, j, 16 * b : 16 * b + 16], nearest, atol=1e-6)


def test_what_calibration_never_saw_saturates() -> None:
    x = np.full((1, 16), 100.0, np.float32)
    found = round_rows(x, float(tensor_scale(1.0)))
    np.testing.assert_allclose(found, 1.0, rtol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-30, 3e38])
def test_weights_of_any_size(size: float) -> None:
    w = normal(32, 3, seed=6)
    w = (w / np.abs(w).max() * size).astype(np.float32)
    w[16:, 1] = 0
    coded = round_float4(w)
    assert np.all(coded.block_scales.astype(np.float32) > 0)
    assert np.isfinite(coded.scale)
    assert coded.scale > 0
    wide = dequantize_float4(coded)
    assert np.all(np.isfinite(wide))
    assert not wide[16:, 1].any()
    if size >= 1e-30:
        error = np.square(wide.astype(np.float64) - w).sum() / np.square(w.astype(np.float64)).sum()
        assert error < 0.02


def test_zeros_stay_zeros() -> None:
    w = normal(64, 8, seed=7)
    w[::2] = 0
    assert not round_float4(w).codes.astype(np.float32)[::2].any()


def test_bad_weights_are_named() -> None:
    for bad in (np.nan, np.inf):
        w = normal(BLOCK, 2)
        w[3, 1] = bad
        with pytest.raises(InputError, match="NaN"):
            round_float4(w)
        with pytest.raises(InputError, match="not finite"):
            tensor_scale(bad)
    with pytest.raises(UsageError, match="24 inputs do not fall in blocks of 16"):
        round_float4(normal(24, 2))
    with pytest.raises(InputError, match="importance"):
        round_float4(normal(16, 2), importance=np.full(16, -1.0))


# -- with data -----------------------------------------------------------------------------


def correlated(rows: int = 400, inputs: int = 64) -> Array:
    rng = np.random.default_rng(10)
    mixed = rng.normal(size=(rows, 12)) @ rng.normal(size=(12, inputs))
    return np.asarray(mixed + 0.3 * rng.normal(size=(rows, inputs)))


def lost(x: Array, w: Array, coded: Any) -> float:
    return float(np.square(x @ (decoded(coded) - w)).sum())


def test_errors_make_up_for_each_other_on_data() -> None:
    x, w = correlated(), normal(64, 24, seed=11)
    gram = x.T @ x
    plain = round_float4(w, importance=np.diagonal(gram))
    once = gptq_float4(w, gram, sweeps=0)
    coded = gptq_float4(w, gram)
    assert lost(x, w, once) < 0.6 * lost(x, w, plain)
    assert lost(x, w, coded) < lost(x, w, once)
    assert set(coded.codes.astype(np.float64).ravel()) <= set(E2M1)
    np.testing.assert_array_equal(
        coded.block_scales, round_float4(w, importance=np.sqrt(np.diagonal(gram))).block_scales
    )


def test_no_code_of_a_finished_sweep_can_be_bettered_alone() -> None:
    """Brute force over all 15 numbers of every place, in float64, with the damped matrix."""
    x, w = correlated(inputs=16), normal(16, 3, seed=12)
    gram = x.T @ x
    coded = gptq_float4(w, gram, sweeps=30)
    matrix = gram / np.diagonal(gram).mean()
    matrix = matrix + 0.01 * np.eye(16)
    error = w - decoded(coded)
    for n in range(3):
        least = error[:, n] @ matrix @ error[:, n]
        for k in range(16):
            step = float(coded.block_scales[0, n]) * float(coded.scale)
            for number in E2M1:
                tried = error[:, n].copy()
                tried[k] = w[k, n] - number * step
                assert tried @ matrix @ tried >= least * (1 - 1e-6)


def test_inputs_that_do_not_matter_to_each_other_are_rounded_alone() -> None:
    w = normal(32, 4, seed=13)
    coded = gptq_float4(w, np.eye(32))
    np.testing.assert_array_equal(coded.codes, round_float4(w).codes)
    zero = gptq_float4(w, np.zeros((32, 32)))
    np.testing.assert_array_equal(zero.codes, round_float4(w).codes)


def test_data_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="Gram"):
        gptq_float4(normal(16, 2), np.full((16, 16), np.nan))
