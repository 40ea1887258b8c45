from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from planish.ir.errors import InputError, UsageError
from planish.passes.math.blockcodes import BlockCodes, dequantize_blocks
from planish.passes.math.blockwise import round_blocks
from planish.passes.math.gptq import gptq_blocks
from planish.passes.math.hqq import hqq_blocks

Array = NDArray[Any]


def decoded(coded: BlockCodes) -> Array:
    """What the codes stand for, one weight at a time."""
    weight = np.empty(coded.codes.shape)
    for k, n in np.ndindex(weight.shape):
        group = k // coded.block
        zero = 2 ** (coded.bits - 1) if coded.zero_point is None else coded.zero_point[group, n]
        weight[k, n] = (int(coded.codes[k, n]) - int(zero)) * float(coded.scale[group, n])
    return weight


def cost(w: Array, coded: BlockCodes, energy: Array) -> Array:
    """Weighted squared error of every block, [blocks, N]."""
    squared = energy[:, None] * (decoded(coded) - w) ** 2
    return np.add.reduceat(squared, np.arange(0, len(w), coded.block), axis=0)


def sample(inputs: int = 45, outputs: int = 6, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_t(4, (inputs, outputs)).astype(np.float32)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("clip", [True, False])
def test_every_code_is_the_nearest_that_its_grid_has(
    bits: int, symmetric: bool, clip: bool
) -> None:
    w = sample(seed=bits)
    coded = round_blocks(w, bits=bits, block=16, symmetric=symmetric, clip=clip)
    assert coded.scale.shape == (3, 6)
    assert (coded.zero_point is None) == symmetric
    for k, n in np.ndindex(w.shape):
        zero = 2 ** (bits - 1) if coded.zero_point is None else int(coded.zero_point[k // 16, n])
        step = float(coded.scale[k // 16, n])
        nearest = min(abs((q - zero) * step - float(w[k, n])) for q in range(2**bits))
        got = abs((int(coded.codes[k, n]) - zero) * step - float(w[k, n]))
        assert got <= nearest + 1e-5 * abs(step)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_without_a_search_grids_reach_every_weight(bits: int) -> None:
    w = sample(seed=bits)
    symmetric = round_blocks(w, bits=bits, block=16, symmetric=True, clip=False)
    asymmetric = round_blocks(w, bits=bits, block=16, symmetric=False, clip=False)
    assert asymmetric.zero_point is not None
    for group, n in itertools.product(range(3), range(6)):
        members = [float(v) for v in w[16 * group : 16 * (group + 1), n]]
        extreme = max(members, key=abs)
        assert float(symmetric.scale[group, n]) == pytest.approx(-extreme / 2 ** (bits - 1))
        low, high = min(0.0, *members), max(0.0, *members)
        step = (high - low) / (2**bits - 1)
        assert float(asymmetric.scale[group, n]) == pytest.approx(step)
        assert int(asymmetric.zero_point[group, n]) == round(-low / step)
    rows = np.abs(w).argmax(axis=0)
    assert np.all(symmetric.codes[rows, range(6)] == 0)  # the extreme of the column and block


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_search_finds_what_a_finer_search_of_all_scales_finds(
    bits: int, symmetric: bool
) -> None:
    w, energy = sample(32, 5, seed=bits), np.random.default_rng(9).uniform(0.1, 4, 32)
    coded = round_blocks(w, bits=bits, block=16, symmetric=symmetric, importance=energy)
    plain = round_blocks(w, bits=bits, block=16, symmetric=symmetric, clip=False)
    found = cost(w, coded, energy)
    assert np.all(found <= cost(w, plain, energy) * (1 + 1e-6))
    least = np.full(found.shape, math.inf)
    for group, n in np.ndindex(found.shape):
        rows = slice(16 * group, 16 * (group + 1))
        zero = 2 ** (bits - 1) if plain.zero_point is None else int(plain.zero_point[group, n])
        for share in np.linspace(0.2, 1.2, 1001):
            step = float(plain.scale[group, n]) * share
            codes = np.clip(np.rint(w[rows, n] / step), -zero, 2**bits - 1 - zero)
            squared = energy[rows] * (codes * step - w[rows, n]) ** 2
            least[group, n] = min(least[group, n], float(squared.sum()))
    assert found.sum() <= 1.02 * least.sum()


def test_weights_that_inputs_of_much_energy_meet_are_kept_best() -> None:
    w = sample(64, 40, seed=3)
    energy = np.where(np.arange(64) % 8 == 0, 100.0, 1.0)
    weighted = decoded(round_blocks(w, bits=3, block=32, symmetric=False, importance=energy)) - w
    plain = decoded(round_blocks(w, bits=3, block=32, symmetric=False)) - w
    important = energy > 1
    assert np.sum(weighted[important] ** 2) < 0.7 * np.sum(plain[important] ** 2)
    assert np.sum(weighted[~important] ** 2) > np.sum(plain[~important] ** 2)


def test_decoding_computes_in_float32_what_the_runtime_computes() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 16, (37, 5)).astype(np.uint8)
    scale = rng.standard_normal((3, 5)).astype(np.float32)
    zeros = rng.integers(0, 16, (3, 5)).astype(np.uint8)
    coded = BlockCodes(codes, scale, zeros, 4, 16)
    weight = dequantize_blocks(coded)
    assert weight.dtype == np.float32
    for k, n in np.ndindex(weight.shape):
        shifted = np.float32(int(codes[k, n]) - int(zeros[k // 16, n]))
        assert weight[k, n] == shifted * scale[k // 16, n]
    symmetric = dataclasses.replace(coded, zero_point=None)
    assert np.array_equal(dequantize_blocks(symmetric), decoded(symmetric).astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 5),
    block=st.sampled_from([1, 16, 32, 64]),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    clip=st.booleans(),
    size=st.sampled_from([1e-44, 1e-30, 1.0, 1e30]),
)
def test_any_shape_and_size_of_weights(
    inputs: int, outputs: int, block: int, bits: int, symmetric: bool, clip: bool, size: float
) -> None:
    w = (np.random.default_rng(inputs).standard_normal((inputs, outputs)) * size).astype(np.float32)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        coded = round_blocks(w, bits=bits, block=block, symmetric=symmetric, clip=clip)
    assert np.all(np.isfinite(coded.scale))
    assert np.all(np.abs(coded.scale) >= np.finfo(np.float32).tiny)
    assert int(coded.codes.max()) < 2**bits
    spread = np.repeat(np.abs(coded.scale), block, axis=0)[:inputs].astype(np.float64)
    steps = np.abs(decoded(coded) - w) / spread
    assert steps.max() <= (2.0 ** (bits - 1) if clip else 1.01)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["round", "gptq", "hqq"])
def test_zeros_and_constants_are_exact(symmetric: bool, method: str) -> None:
    w = np.zeros((48, 3), np.float32)
    w[:, 1], w[:, 2] = 0.3, -7.0
    layout: dict[str, Any] = {"bits": 4, "block": 32, "symmetric": symmetric}
    coded = {
        "round": lambda: round_blocks(w, **layout),
        "gptq": lambda: gptq_blocks(w, np.eye(48), **layout),
        "hqq": lambda: hqq_blocks(w, **layout),
    }[method]()
    np.testing.assert_allclose(dequantize_blocks(coded), w, rtol=1e-6)
    assert not dequantize_blocks(coded)[:, 0].any()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_coded_as_their_float32_values(dtype: type) -> None:
    w: Array = sample(40, 4).astype(dtype)
    gram = np.eye(40) + 0.1
    methods: tuple[Callable[[Array], BlockCodes], ...] = (
        lambda x: round_blocks(x, bits=4, block=16, symmetric=False),
        lambda x: gptq_blocks(x, gram, bits=4, block=16, symmetric=False),
        lambda x: hqq_blocks(x, bits=4, block=16),
    )
    for code in methods:
        got, expected = code(w), code(w.astype(np.float32))
        assert np.array_equal(got.codes, expected.codes)
        np.testing.assert_allclose(got.scale, expected.scale, rtol=1e-6)


def test_wide_weights_are_coded_column_by_column_the_same() -> None:
    w = sample(100, 9000, seed=5)  # several parts
    whole = round_blocks(w, bits=4, block=32, symmetric=False)
    few = round_blocks(w[:, 8000:8010], bits=4, block=32, symmetric=False)
    assert np.array_equal(whole.codes[:, 8000:8010], few.codes)
    assert np.array_equal(dequantize_blocks(whole)[:, 8000:8010], dequantize_blocks(few))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    w = sample(32, 2)
    w[3, 1] = bad
    methods: tuple[Callable[[], BlockCodes], ...] = (
        lambda: round_blocks(w, bits=4, block=16, symmetric=True),
        lambda: gptq_blocks(w, np.eye(32), bits=4, block=16, symmetric=True),
        lambda: hqq_blocks(w, bits=4, block=16),
        lambda: round_blocks(w.astype(np.float64) * 1e300, bits=4, block=16, symmetric=True),
    )
    for code in methods:
        with pytest.raises(InputError, match="NaN"):
            code()


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_widths_outside_two_to_eight_bits_are_refused(bits: int) -> None:
    with pytest.raises(UsageError, match="2 to 8 bits"):
        round_blocks(sample(), bits=bits, block=16, symmetric=True)
    with pytest.raises(UsageError, match="at least one"):
        round_blocks(sample(), bits=4, block=0, symmetric=True)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (0, 4)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="no weight to code"):
        round_blocks(np.ones(shape, np.float32), bits=4, block=16, symmetric=True)
    with pytest.raises(InputError, match="no weight to code"):
        round_blocks(np.ones((4, 4), np.int32), bits=4, block=16, symmetric=True)


@pytest.mark.parametrize("importance", [[1.0], [-1.0] * 45, [np.nan] * 45])
def test_importance_that_does_not_fit_is_refused(importance: list[float]) -> None:
    with pytest.raises(InputError, match="importance must be 45"):
        round_blocks(sample(), bits=4, block=16, symmetric=True, importance=importance)


def test_importance_of_nothing_is_as_if_none_were_given() -> None:
    nothing = round_blocks(sample(), bits=4, block=16, symmetric=True, importance=np.zeros(45))
    plain = round_blocks(sample(), bits=4, block=16, symmetric=True)
    assert np.array_equal(nothing.codes, plain.codes)


def test_inputs_that_calibration_never_lit_keep_some_say() -> None:
    w = np.ones((16, 1), np.float32)
    w[7] = -100.0
    energy = np.ones(16)
    energy[0] = 0.0
    w[0] = 30.0
    coded = round_blocks(w, bits=8, block=16, symmetric=False, importance=energy)
    assert abs(decoded(coded)[0, 0] - 30.0) < 1.0


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_scales_above_zero_reach_both_extremes(bits: int) -> None:
    w = sample(48, seed=bits)
    coded = round_blocks(w, bits=bits, block=16, symmetric=True, signed=False, clip=False)
    for group, n in itertools.product(range(3), range(6)):
        members = [float(v) for v in w[16 * group : 16 * (group + 1), n]]
        reached = max(max(members) / (2 ** (bits - 1) - 1), -min(members) / 2 ** (bits - 1))
        assert float(coded.scale[group, n]) == pytest.approx(reached)
    assert np.all(np.abs(decoded(coded) - w) <= (0.5 + 1e-5) * np.repeat(coded.scale, 16, axis=0))


@pytest.mark.parametrize("bits", [2, 4])
def test_no_method_makes_scales_below_zero_where_none_are_taken(bits: int) -> None:
    """Also where least squares, all blocks together, would: inputs that are nearly alike."""
    rng = np.random.default_rng(bits)
    w = sample(48, 40, seed=bits)
    x = rng.normal(size=(200, 1)) + 0.02 * rng.normal(size=(200, 48))
    form: dict[str, Any] = {"bits": bits, "block": 16, "symmetric": True}
    signed = gptq_blocks(w, x.T @ x, **form)
    assert np.any(signed.scale < 0)
    for coded in (
        round_blocks(w, **form, signed=False),
        gptq_blocks(w, x.T @ x, **form, signed=False),
        hqq_blocks(w, **form, signed=False),
    ):
        assert np.all(coded.scale > 0)
        assert coded.zero_point is None
    nearest = round_blocks(w, **form, signed=False)
    fitted = gptq_blocks(w, x.T @ x, **form, signed=False)
    lost = [np.square(x @ (decoded(c) - w)).sum() for c in (fitted, nearest)]
    assert lost[0] < lost[1]


def test_all_codes_of_the_search_are_the_nearest_with_scales_above_zero() -> None:
    w = sample(64, seed=9)
    plain = round_blocks(w, bits=4, block=16, symmetric=True, signed=False, clip=False)
    coded = round_blocks(w, bits=4, block=16, symmetric=True, signed=False)
    for k, n in np.ndindex(w.shape):
        step = float(coded.scale[k // 16, n])
        nearest = min(abs((q - 8) * step - float(w[k, n])) for q in range(16))
        assert abs((int(coded.codes[k, n]) - 8) * step - float(w[k, n])) <= nearest + 1e-5 * step
    energy = np.ones(64)
    assert np.all(cost(w, coded, energy) <= cost(w, plain, energy) * (1 + 1e-5))
