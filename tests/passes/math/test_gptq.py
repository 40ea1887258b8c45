from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from planish.ir.errors import InputError
from planish.passes.math.bias import output_error
from planish.passes.math.blockcodes import BlockCodes, dequantize_blocks
from planish.passes.math.blockwise import round_blocks
from planish.passes.math.descent import descend
from planish.passes.math.gptq import gptq_blocks
from planish.passes.math.scalefit import refit_scales

Array = NDArray[Any]


def problem(
    inputs: int = 40, outputs: int = 7, rows: int = 400, seed: int = 0
) -> tuple[Array, Array]:
    """A weight and the Gram matrix of correlated inputs of very different energy."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((inputs, inputs)) / np.sqrt(inputs) + np.eye(inputs)
    x = rng.standard_normal((rows, inputs)) @ mixing * rng.uniform(0.2, 3.0, inputs)
    return rng.standard_normal((inputs, outputs)).astype(np.float32), x.T @ x / rows


def grids(coded: BlockCodes, k: int, n: int) -> tuple[float, int]:
    group = k // coded.block
    zero = 2 ** (coded.bits - 1) if coded.zero_point is None else int(coded.zero_point[group, n])
    return float(coded.scale[group, n]), zero


def published(w: Array, gram: Array, start: BlockCodes, damp: float) -> Array:
    """Algorithm 1 of the paper, a row of the weight at a time, through the inverse: the codes."""
    order = np.argsort(-np.diagonal(gram), kind="stable")
    hessian = gram[np.ix_(order, order)] + damp * np.mean(np.diagonal(gram)) * np.eye(len(gram))
    inverse = np.linalg.inv(hessian)
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left = w[order].astype(np.float64)
    codes = np.empty(w.shape, np.int64)
    for i, k in enumerate(order):
        for n in range(w.shape[1]):
            step, zero = grids(start, k, n)
            code = min(max(round(left[i, n] / step) + zero, 0), 2**start.bits - 1)
            codes[k, n] = code
            error = (left[i, n] - (code - zero) * step) / upper[i, i]
            for j in range(i, len(order)):
                left[j, n] -= error * upper[i, j]
    return codes


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "block"), [(2, 16), (3, 32), (4, 16), (8, 32)])
def test_codes_are_those_of_the_published_algorithm(bits: int, block: int, symmetric: bool) -> None:
    w, gram = problem(seed=bits)
    layout: dict[str, Any] = {"bits": bits, "block": block, "symmetric": symmetric}
    start = round_blocks(w, **layout, importance=np.sqrt(np.diagonal(gram)))
    coded = gptq_blocks(w, gram, **layout, refit=False, sweeps=0)
    assert np.array_equal(coded.codes, published(w, gram, start, 0.01))
    assert np.array_equal(coded.scale, start.scale)


def test_several_panels_give_the_published_codes() -> None:
    w, gram = problem(300, 2, rows=900)
    start = round_blocks(
        w, bits=4, block=32, symmetric=False, importance=np.sqrt(np.diagonal(gram))
    )
    coded = gptq_blocks(w, gram, bits=4, block=32, symmetric=False, refit=False, sweeps=0)
    assert np.array_equal(coded.codes, published(w, gram, start, 0.01))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_never_worse_than_rounding_and_better_with_every_step(
    bits: int, symmetric: bool, seed: int
) -> None:
    w, gram = problem(80, 24, seed=seed)
    layout: dict[str, Any] = {"bits": bits, "block": 32, "symmetric": symmetric}
    steps = (
        round_blocks(w, **layout, clip=False),
        gptq_blocks(w, gram, **layout, refit=False, sweeps=0),
        gptq_blocks(w, gram, **layout, sweeps=0),
        gptq_blocks(w, gram, **layout),
    )
    errors = [output_error(w, dequantize_blocks(step), gram) for step in steps]
    assert errors == sorted(errors, reverse=True)
    # Damping weighs the codes' own errors, too: little is left of the gain at 8 bits.
    assert errors[-1] < (0.95 if bits == 8 else 0.7) * errors[0]


@pytest.mark.parametrize("inputs", [32, 75])
def test_refitted_scales_are_the_least_squares_solution(inputs: int) -> None:
    w, gram = problem(inputs, 5)
    coded = round_blocks(w, bits=3, block=16, symmetric=False)
    fitted = refit_scales(w, gram, coded)
    assert np.array_equal(fitted.codes, coded.codes)
    root = np.linalg.cholesky(gram).T
    for n in range(5):
        columns = np.zeros((inputs, len(coded.scale)))
        for k in range(inputs):
            columns[k, k // 16] = int(coded.codes[k, n]) - grids(coded, k, n)[1]
        expected = np.linalg.lstsq(root @ columns, root @ w[:, n], rcond=None)[0]
        np.testing.assert_allclose(fitted.scale[:, n], expected, rtol=1e-4)


def test_blocks_without_codes_keep_their_scale() -> None:
    w, gram = problem(48, 3)
    w[16:32] = 0
    coded = round_blocks(w, bits=4, block=16, symmetric=True)
    fitted = refit_scales(w, gram, coded)
    assert np.array_equal(fitted.scale[1], coded.scale[1])
    assert not np.array_equal(fitted.scale[0], coded.scale[0])


@pytest.mark.parametrize("inputs", [20, 150])
def test_one_sweep_sets_each_code_to_the_best_one_given_all_others(inputs: int) -> None:
    w, gram = problem(inputs, 3, seed=2)
    coded = round_blocks(w, bits=2, block=16, symmetric=False)
    expected = coded.codes.astype(np.int64)
    weight = dequantize_blocks(coded).astype(np.float64)
    for k, n in np.ndindex(w.shape):
        step, zero = grids(coded, k, n)
        losses = []
        for code in range(4):
            weight[k, n] = (code - zero) * step
            change = weight[:, n] - w[:, n]
            losses.append(change @ gram @ change)
        expected[k, n] = int(np.argmin(losses))
        weight[k, n] = (expected[k, n] - zero) * step
    assert not np.array_equal(expected, coded.codes)
    assert np.array_equal(descend(w, gram, coded).codes, expected)


def test_an_input_that_is_always_zero_is_rounded_to_nearest() -> None:
    w, gram = problem(64, 6)
    gram[5], gram[:, 5] = 0, 0
    layout: dict[str, Any] = {"bits": 4, "block": 32, "symmetric": False}
    coded = gptq_blocks(w, gram, **layout)
    change = np.abs(dequantize_blocks(coded) - w)[5]
    assert np.all(change <= 0.51 * np.abs(coded.scale[0]) + np.maximum(0, change - 100))
    nothing = gptq_blocks(w, np.zeros((64, 64)), **layout)
    assert np.array_equal(nothing.codes, round_blocks(w, **layout).codes)


def test_the_unit_of_the_gram_matrix_does_not_matter() -> None:
    w, gram = problem()
    layout: dict[str, Any] = {"bits": 4, "block": 16, "symmetric": True}
    mean = gptq_blocks(w, gram, **layout)
    total = gptq_blocks(w, gram * 2.0**40, **layout)
    assert np.array_equal(mean.codes, total.codes)
    assert np.array_equal(mean.scale, total.scale)


def test_fewer_rows_than_inputs_leave_a_singular_matrix_that_serves() -> None:
    w, gram = problem(64, 8, rows=10)
    layout: dict[str, Any] = {"bits": 4, "block": 32, "symmetric": False}
    undamped = gptq_blocks(w, gram, **layout, damp=0.0)
    assert np.all(np.isfinite(undamped.scale))
    rounded = output_error(w, dequantize_blocks(round_blocks(w, **layout)), gram)
    assert output_error(w, dequantize_blocks(undamped), gram) < rounded


def test_damping_grows_tenfold_until_the_matrix_has_a_factor() -> None:
    w, _ = problem()
    indefinite = np.full((40, 40), -1.05 / 39)
    np.fill_diagonal(indefinite, 1.0)
    assert np.linalg.eigvalsh(indefinite)[0] == pytest.approx(1 - 1.05, rel=0.6)
    layout: dict[str, Any] = {"bits": 4, "block": 16, "symmetric": False}
    grown = gptq_blocks(w, indefinite, **layout, damp=0.01)
    enough = gptq_blocks(w, indefinite, **layout, damp=0.1)
    assert np.array_equal(grown.codes, enough.codes)
    assert np.array_equal(grown.scale, enough.scale)


def test_what_is_no_gram_matrix_is_refused() -> None:
    w, gram = problem()
    layout: dict[str, Any] = {"bits": 4, "block": 16, "symmetric": False}
    hole = gram.copy()
    hole[3, 4] = np.nan
    for bad, message in (
        (hole, "finite numbers"),
        (gram[:-1], "40 x 40"),
        (-gram, "negative energy"),
        (np.eye(40) + 50 * (1 - np.eye(40)), "not positive semidefinite"),
    ):
        with pytest.raises(InputError, match=message):
            gptq_blocks(w, bad, **layout)


def test_wide_weights_are_coded_column_by_column_the_same() -> None:
    w, gram = problem(64, 9000)  # several parts
    layout: dict[str, Any] = {"bits": 4, "block": 32, "symmetric": False}
    whole = dequantize_blocks(gptq_blocks(w, gram, **layout))
    few = dequantize_blocks(gptq_blocks(w[:, 8185:8200], gram, **layout))
    np.testing.assert_allclose(whole[:, 8185:8200], few, rtol=1e-5, atol=1e-6)
