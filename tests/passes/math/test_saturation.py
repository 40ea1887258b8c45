"""16-bit sums of two products: every claim against sums that are really made and clipped."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from planish.ir.errors import InputError
from planish.passes.math.affine import quantize_weight
from planish.passes.math.saturation import (
    bits_kept,
    can_saturate,
    conv_filters,
    conv_patches,
    conv_rows,
    extremes,
    safe_codes,
    saturating_product,
    sums_in_pairs,
    worst_pair,
)

Codes = NDArray[np.int8]
CODES = hnp.arrays(np.int8, st.tuples(st.integers(1, 7), st.integers(1, 3)))
WEIGHTS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 4)),
    elements=st.floats(-100, 100, width=32),
)


def vpmaddubsw(a: NDArray[np.uint8], q: Codes) -> NDArray[np.int64]:
    """a [M, K] @ q [K, N] as the instruction does it: one pair after the other, saturating."""
    total = np.zeros((len(a), q.shape[1]), np.int64)
    for k in range(0, len(q), 2):
        pair = a[:, k : k + 2].astype(np.int64) @ q[k : k + 2].astype(np.int64)
        total += np.minimum(np.maximum(pair, -32768), 32767)
    return total


def corners(q: Codes, largest: int) -> NDArray[np.int64]:
    """Sums of each pair for activations of 0 and ``largest``, all four ways: [4, pairs, N]."""
    even = np.zeros((len(q) + len(q) % 2, q.shape[1]), np.int64)
    even[: len(q)] = q
    return np.stack(
        [x * even[::2] + y * even[1::2] for x, y in itertools.product((0, largest), repeat=2)]
    )


@settings(max_examples=200)
@given(CODES, st.integers(0, 255))
@example(np.array([[64], [64]], np.int8), 255)
@example(np.array([[65], [64]], np.int8), 255)
@example(np.array([[-64], [-65]], np.int8), 255)
def test_a_pair_can_saturate_exactly_when_some_activations_take_it_out(
    q: Codes, largest: int
) -> None:
    sums = corners(q, largest)
    low, high = extremes(q, largest)
    np.testing.assert_array_equal(low, sums.min(axis=0))
    np.testing.assert_array_equal(high, sums.max(axis=0))
    out = (sums > 32767) | (sums < -32768)
    np.testing.assert_array_equal(can_saturate(q, largest), out.any(axis=0))


def test_a_range_of_each_row_is_a_tighter_proof() -> None:
    q = np.array([[127], [127]], np.int8)
    assert can_saturate(q).all()
    assert not can_saturate(q, 129).any()
    assert can_saturate(q, 130).all()
    assert not can_saturate(q, np.array([255, 3])).any()
    assert can_saturate(q, np.array([255, 4])).all()


def test_the_worst_pair_is_named() -> None:
    q = np.zeros((6, 3), np.int8)
    assert worst_pair(q) is None
    q[2:4, 1], q[4:6, 2] = (100, 30), (-128, -128)
    assert worst_pair(q) == (-65280, 4, 2)
    assert worst_pair(q[:4]) == (33150, 2, 1)
    assert worst_pair(np.zeros((0, 3), np.int8)) is None


@settings(max_examples=200)
@given(WEIGHTS)
def test_codes_hold_for_every_activation_and_keep_seven_bits(w: NDArray[np.float32]) -> None:
    codes, scale = safe_codes(w)
    sums = corners(codes, 255)
    assert sums.max() <= 32767
    assert sums.min() >= -32768
    peaks = np.abs(w).max(axis=0)
    assert (scale[peaks > 0] <= peaks[peaks > 0] / 64 * (1 + 1e-6) + 1e-37).all()
    error = np.abs(w.astype(np.float64) - codes * scale.astype(np.float64))
    assert (error <= 1.01 * scale + 1e-37).all()


def test_eight_bits_stay_where_no_pair_is_in_the_way() -> None:
    """One large weight beside small ones, or large ones of unlike sign."""
    w = np.array([[1.0, 1.0, 0.5], [0.001, -1.0, 0.5], [0.2, 0.3, 0.1]], np.float32)
    codes, scale = safe_codes(w)
    plain, steps = quantize_weight(w, 1)
    np.testing.assert_array_equal(codes[:, :2], plain[:, :2])
    np.testing.assert_array_equal(scale[:2], steps[:2])
    np.testing.assert_array_equal(codes[:, 2], [64, 64, 13])


def test_most_of_the_eighth_bit_is_kept_on_random_weights() -> None:
    w = np.random.default_rng(0).normal(size=(384, 64)).astype(np.float32)

    def error(codes: Codes, scale: NDArray[np.float32]) -> float:
        return float(((w - codes * scale) ** 2).sum())

    safe, seven, eight = safe_codes(w), quantize_weight(w, 1, 7), quantize_weight(w, 1, 8)
    assert error(*safe) < 0.5 * error(*seven)
    assert error(*safe) < 2.0 * error(*eight)
    assert 7.5 < bits_kept(safe[0]) < 8.0
    assert (bits_kept(seven[0]), bits_kept(eight[0])) == (7.0, 8.0)


def test_of_two_that_round_up_too_far_the_further_one_is_rounded_down() -> None:
    codes, scale = safe_codes(np.array([[60.7, 60.6], [67.3, 67.4]], np.float32))
    np.testing.assert_allclose(scale, 1.0)
    np.testing.assert_array_equal(codes, [[61, 61], [67, 67]])
    codes, _ = safe_codes(np.array([[60.5001, -60.5001], [67.4999, -67.4999]], np.float32))
    assert (np.abs(codes).sum(axis=0) <= 128).all()


def test_columns_of_zeros_take_the_largest_scale_and_nothing_else_moves() -> None:
    w = np.array([[0.0, 2.0, 0.0], [0.0, -4.0, 0.0]], np.float32)
    codes, scale = safe_codes(w)
    np.testing.assert_array_equal(scale, np.full(3, 4 / 127, np.float32))
    np.testing.assert_array_equal(codes[:, [0, 2]], 0)
    assert safe_codes(np.zeros((2, 2), np.float32))[1].tolist() == [1.0, 1.0]


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        safe_codes(np.array([[np.nan], [1.0]], np.float32))


def test_a_large_weight_is_coded_as_its_parts_are() -> None:
    w = np.random.default_rng(1).normal(size=(2048, 700)).astype(np.float32)
    codes, scale = safe_codes(w)
    for part in (slice(0, 13), slice(505, 530)):
        alone, steps = safe_codes(w[:, part])
        np.testing.assert_array_equal(codes[:, part], alone)
        np.testing.assert_array_equal(scale[part], steps)


@settings(max_examples=100)
@given(CODES, st.integers(0, 2**32 - 1))
def test_the_emulated_product_is_that_of_the_instruction(q: Codes, seed: int) -> None:
    a = np.random.default_rng(seed).integers(0, 256, (5, len(q)), dtype=np.uint8)
    a[0] = 255
    np.testing.assert_array_equal(saturating_product(a, q), vpmaddubsw(a, q))


def test_filters_are_walked_by_position_then_channel() -> None:
    """The order of MLAS: K1 ... Kn, then C; written out by loops."""
    filters = np.arange(4 * 3 * 2 * 5).reshape(4, 3, 2, 5)
    rows = conv_rows(filters)
    walked = [filters[:, c, y, x] for y in range(2) for x in range(5) for c in range(3)]
    np.testing.assert_array_equal(rows, walked)
    np.testing.assert_array_equal(conv_filters(rows, filters.shape), filters)


def test_only_channels_that_stand_alone_are_not_summed_in_pairs() -> None:
    assert sums_in_pairs((8, 4, 3, 3), 1)
    assert sums_in_pairs((8, 1, 3, 3), 4)  # two outputs a channel: a product of matrices
    assert not sums_in_pairs((8, 1, 3, 3), 8)


@pytest.mark.parametrize(
    ("kernel", "pads", "strides", "dilations"),
    [
        ((3, 2), (1, 0, 2, 1), (2, 1), (1, 2)),
        ((1, 1), (0, 0, 0, 0), (1, 1), (1, 1)),
        ((4,), (2, 1), (3,), (2,)),
    ],
)
def test_patches_times_rows_are_a_convolution(
    kernel: tuple[int, ...],
    pads: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> None:
    """Against the reference evaluator of onnx, in float64."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (2, 3, *(11, 9)[: len(kernel)])).astype(np.float64)
    w = rng.integers(-9, 9, (5, 3, *kernel)).astype(np.float64)
    body = (
        f"conv (double[{','.join(map(str, x.shape))}] x, double[{','.join(map(str, w.shape))}] w)"
    )
    listed = f"pads={list(pads)}, strides={list(strides)}, dilations={list(dilations)}"
    text = f'<ir_version: 9, opset_import: ["" : 20]> {body} => (y) {{ y = Conv<{listed}>(x, w) }}'
    (expected,) = ReferenceEvaluator(onnx.parser.parse_model(text)).run(None, {"x": x, "w": w})
    assert isinstance(expected, np.ndarray)
    rows = conv_patches(x, kernel, pads, strides, dilations, 0) @ conv_rows(w)
    found = np.moveaxis(rows.reshape(2, *expected.shape[2:], 5), -1, 1)
    np.testing.assert_array_equal(found, expected)
    corner = conv_patches(x, kernel, pads, strides, dilations, 77)[0]
    assert (77 in corner) is any(pads[: len(kernel)])
