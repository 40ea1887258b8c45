"""Layouts against bytes taken apart by hand, and against the runtime's own operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from planish.ir.errors import UsageError
from planish.passes.math.blockcodes import BlockCodes, dequantize_blocks
from planish.passes.math.packing import pack_nbits, pack_rows
from planish.targets.runtime import open_session

Array = NDArray[Any]


def coded(
    inputs: int, outputs: int, bits: int, block: int, symmetric: bool, seed: int = 0
) -> BlockCodes:
    """Random codes, scales of both signs, zero points over the whole range."""
    rng = np.random.default_rng(seed)
    blocks = -(-inputs // block)
    codes = rng.integers(0, 2**bits, (inputs, outputs)).astype(np.uint8)
    scale = rng.uniform(0.01, 0.1, (blocks, outputs)) * rng.choice([-1, 1], (blocks, outputs))
    zeros = rng.integers(0, 2**bits, (blocks, outputs)).astype(np.uint8)
    return BlockCodes(codes, scale.astype(np.float32), None if symmetric else zeros, bits, block)


def code_at(row: Array, position: int, bits: int) -> int:
    """The code at a position of a packed row, bit by bit."""
    first = position * bits
    return sum(((int(row[(first + i) // 8]) >> ((first + i) % 8)) & 1) << i for i in range(bits))


def run(
    nodes: list[Any], inputs: list[Any], held: dict[str, Array], feeds: dict[str, Array]
) -> Any:
    """The output y of a graph of the runtime's own operators."""
    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
    dtype = kind[str(held["s"].dtype)]
    graph = helper.make_graph(
        nodes,
        "packed",
        inputs,
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in held.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return open_session(model.SerializeToString(), threads=1).run(feeds)[0]


def product(
    codes: BlockCodes, x: Array, level: int, dtype: type = np.float32
) -> tuple[Array, Array]:
    """MatMulNBits of x [rows, K], and x @ W in float64."""
    inputs, outputs = codes.codes.shape
    packed, scales, zeros = pack_nbits(codes)
    held = {"B": packed, "s": scales.astype(dtype)}
    if zeros is not None:
        held["z"] = zeros
    node = helper.make_node(
        "MatMulNBits", ["x", *held], ["y"], domain="com.microsoft",
        K=inputs, N=outputs, bits=codes.bits, block_size=codes.block, accuracy_level=level,
    )  # fmt: skip
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = helper.make_tensor_value_info("x", kind, ["rows", inputs])
    got = run([node], [value], held, {"x": x.astype(dtype)})
    return got, x.astype(np.float64) @ dequantize_blocks(codes).astype(np.float64)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("inputs", "block"), [(64, 32), (45, 16), (7, 16), (80, 16)])
def test_every_code_and_zero_point_lies_where_the_operator_looks(
    bits: int, inputs: int, block: int
) -> None:
    codes = coded(inputs, 5, bits, block, symmetric=False)
    packed, scales, zeros = pack_nbits(codes)
    blocks = -(-inputs // block)
    assert packed.shape == (5, blocks, block * bits // 8)
    assert scales.shape == (5, blocks)
    assert zeros is not None
    assert zeros.shape == (5, -(-blocks * bits // 8))
    assert codes.zero_point is not None
    for n in range(5):
        for k in range(inputs):
            assert code_at(packed[n, k // block], k % block, bits) == codes.codes[k, n]
        for group in range(blocks):
            assert code_at(zeros[n], group, bits) == codes.zero_point[group, n]
            assert scales[n, group] == codes.scale[group, n]


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("inputs", "outputs", "block"),
    [(64, 8, 32), (172, 33, 32), (45, 3, 16), (7, 5, 16), (96, 16, 32)],
)
def test_the_runtime_multiplies_by_the_weight_that_was_packed(
    inputs: int, outputs: int, block: int, symmetric: bool, bits: int, level: int
) -> None:
    codes = coded(inputs, outputs, bits, block, symmetric, seed=inputs)
    for rows in (1, 9):
        x = np.random.default_rng(rows).standard_normal((rows, inputs)).astype(np.float32)
        got, expected = product(codes, x, level)
        assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_activations_in_half_precision(bits: int) -> None:
    codes = coded(96, 16, bits, 32, symmetric=False)
    x = np.random.default_rng(1).standard_normal((3, 96)).astype(np.float16)
    got, expected = product(codes, x, 1, np.float16)
    assert np.abs(got - expected).max() < 5e-3 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_of_either_sign_with_integer_activations(bits: int) -> None:
    codes = coded(128, 32, bits, 32, symmetric=True)
    x = np.random.default_rng(2).standard_normal((4, 128)).astype(np.float32)
    got, expected = product(codes, x, 4)
    assert np.abs(got - expected).max() < 2e-2 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("width", "block"), [(64, 32), (96, 32), (80, 16), (72, 16)])
def test_the_runtime_gathers_the_rows_that_were_packed(
    width: int, block: int, symmetric: bool, bits: int
) -> None:
    codes = coded(width, 20, bits, block, symmetric)
    packed, scales, zeros = pack_rows(codes)
    assert packed.shape == (20, width * bits // 8)
    held: dict[str, Array] = {"T": packed, "s": scales}
    if zeros is not None:
        held["z"] = zeros
    node = helper.make_node(
        "GatherBlockQuantized", ["T", "ids", "s", *(["z"] if zeros is not None else [])], ["y"],
        domain="com.microsoft", gather_axis=0, quantize_axis=1, block_size=block, bits=bits,
    )  # fmt: skip
    ids = np.array([[0, 19, 7], [3, 3, 12]], np.int64)
    value = helper.make_tensor_value_info("ids", TensorProto.INT64, ["a", "b"])
    got = run([node], [value], held, {"ids": ids})
    assert np.array_equal(got, dequantize_blocks(codes).T[ids])


def test_one_packed_table_serves_rows_and_a_tied_head() -> None:
    codes = coded(64, 12, 4, 32, symmetric=False)
    packed, scales, zeros = pack_nbits(codes)
    rows, row_scales, row_zeros = pack_rows(codes)
    assert np.array_equal(packed.reshape(12, -1), rows)
    assert np.array_equal(scales, row_scales)
    assert zeros is not None
    assert row_zeros is not None
    assert np.array_equal(zeros, row_zeros)


def test_a_large_table_is_packed_part_by_part_the_same() -> None:
    codes = coded(64, 9000, 4, 32, symmetric=False)
    packed, _, _ = pack_nbits(codes)
    for n in (0, 8191, 8192, 8999):
        assert [code_at(packed[n, 1], k, 4) for k in range(32)] == list(codes.codes[32:, n])


@pytest.mark.parametrize(("bits", "block"), [(3, 32), (5, 16), (7, 16), (4, 1), (2, 2)])
def test_what_has_no_packed_form_is_refused(bits: int, block: int) -> None:
    with pytest.raises(UsageError, match="no packed form"):
        pack_nbits(coded(32, 2, bits, block, symmetric=True))


def test_rows_that_end_within_a_byte_are_refused() -> None:
    with pytest.raises(UsageError, match="do not fill bytes"):
        pack_rows(coded(33, 2, 4, 16, symmetric=True))
