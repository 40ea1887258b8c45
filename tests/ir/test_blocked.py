"""Roundings in blocks that a graph spells: computed as defined, and found again, alone."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.blocked import blocked_weight, blocked_weights
from planish.ir.facts import QUANTIZED
from planish.ir.rewriter import Rewriter
from planish.ir.rounded import rounded_values, rounded_view
from planish.ir.sites import find_sites
from planish.passes.math.float4 import dequantize_float4, round_float4, round_rows
from planish.passes.math.mxfp8 import dequantize_mx, round_mx, round_rows_mx

RNG = np.random.default_rng(3)
F8 = ml_dtypes.float8_e4m3fn


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def text(ports: str, body: str = "y = MatMul(x, w)") -> str:
    return f'<ir_version: 10, opset_import: ["" : 19]>\ng {ports} {{ {body} }}'


FLAT, DEEP = "(float[n, 32] x) => (float[n, 16] y)", "(float[n, s, 32] x) => (float[n, s, 16] y)"


def rounded(graphs: ModuleType, ports: str = FLAT, scale: float = 0.002) -> tuple[Any, np.ndarray]:
    weight = normal(32, 16)
    model = graphs.parse(text(ports), w=weight)
    product = next(iter(model.graph))
    rewriter = Rewriter(model)
    rewriter.set_input(product, 0, rounded_view(rewriter, product.inputs[0], scale, 16))
    return model, weight


@pytest.mark.parametrize(("ports", "shape"), [(FLAT, (7, 32)), (DEEP, (2, 5, 32))])
@pytest.mark.parametrize("optimize", ["none", "all"])
def test_the_runtime_computes_the_rounding(
    graphs: ModuleType, ports: str, shape: tuple[int, ...], optimize: str
) -> None:
    model, weight = rounded(graphs, ports)
    x = normal(*shape)
    x.reshape(-1, 32)[0, :16] = 0.0
    x.reshape(-1, 32)[1, 0] = 50.0  # beyond 2688 * 0.002: it saturates, and so do others with it
    x.reshape(-1, 32)[2, 16:] *= 1e-7  # below the least scale: nothing is left
    got = graphs.run(model, {"x": x}, optimize)["y"]
    expected = round_rows(x, 0.002).astype(np.float64) @ weight
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_feed_without_rows_passes_through(graphs: ModuleType) -> None:
    model, _ = rounded(graphs, DEEP)
    assert graphs.run(model, {"x": normal(2, 0, 32)})["y"].shape == (2, 0, 16)


@pytest.mark.parametrize(("scale", "block"), [(0.002, 16), (None, 32)])
def test_an_empty_batch_stays_empty(graphs: ModuleType, scale: float | None, block: int) -> None:
    model = graphs.parse(text(DEEP), w=normal(32, 16))
    product = next(iter(model.graph))
    rewriter = Rewriter(model)
    rewriter.set_input(product, 0, rounded_view(rewriter, product.inputs[0], scale, block))
    assert len(list(rounded_values(model))) == 1
    for shape in ((0, 5, 32), (2, 0, 32)):
        got = graphs.run(model, {"x": np.zeros(shape, np.float32)})["y"]
        assert got.shape == (*shape[:2], 16)


def test_what_is_spelled_is_found_and_shared(graphs: ModuleType) -> None:
    model, _ = rounded(graphs)
    (found,) = rounded_values(model)
    assert (found.x.name, found.block, len(found.nodes)) == ("x", 16, 20)
    rewriter, before = Rewriter(model), len(model.graph)
    assert rounded_view(rewriter, found.x, 0.002, 16) is found.y
    assert len(model.graph) == before
    assert rounded_view(rewriter, found.x, 0.003, 16) is not found.y
    assert len(list(rounded_values(model))) == 2


@pytest.mark.parametrize(
    ("name", "number"),
    [("high", 5.0), ("two", 2.5), ("half", 0.25), ("reach", 0.1), ("tiny", 1e-3)],
)
def test_other_numbers_are_another_rounding(graphs: ModuleType, name: str, number: float) -> None:
    model, _ = rounded(graphs)
    value = model.graph.initializers[f"x_{name}"]
    value.const_value = ir.tensor(np.float32(number))
    assert list(rounded_values(model)) == []


def test_a_rounding_that_is_cut_open_is_none(graphs: ModuleType) -> None:
    """Half of it was replaced: what is left must not be taken for the whole."""
    model, _ = rounded(graphs)
    whole = next(n for n in model.graph if n.op_type == "Round")
    whole.outputs[0].replace_all_uses_with(whole.inputs[0])
    assert list(rounded_values(model)) == []


def test_a_reshape_alone_is_no_rounding(graphs: ModuleType) -> None:
    model = graphs.parse(
        text("(float[n, 32] x) => (float[n, 2, 16] y)", "y = Reshape(x, s)"),
        s=np.array([0, -1, 16]),
    )
    assert list(rounded_values(model)) == []


def stored(graphs: ModuleType, codes: np.ndarray, scales: np.ndarray, *one: float) -> Any:
    model = graphs.parse(text(FLAT), w=normal(32, 16))
    product = next(iter(model.graph))
    rewriter = Rewriter(model)
    rewriter.set_input(product, 1, blocked_weight(rewriter, product, "w", codes, scales, *one))
    return model


def test_weights_in_4_bit_floats(graphs: ModuleType) -> None:
    coded = round_float4(normal(32, 16))
    model = stored(graphs, coded.codes.T, coded.block_scales.T, float(coded.scale))
    (found,) = blocked_weights(model)
    assert (found.sizes, found.block) == ((16, 32), 16)
    assert found.inner is not None
    x = normal(4, 32)
    expected = x.astype(np.float64) @ dequantize_float4(coded)
    for optimize in ("none", "all"):
        got = graphs.run(model, {"x": x}, optimize)["y"]
        np.testing.assert_allclose(got, expected, atol=1e-4)
    (site,) = find_sites(model)
    assert site.facts == {QUANTIZED}


def test_weights_in_int4(graphs: ModuleType) -> None:
    codes = RNG.integers(-8, 8, (16, 32), np.int8)
    scales = (0.1 + RNG.random((16, 2))).astype(np.float32)
    model = stored(graphs, codes, scales)
    (found,) = blocked_weights(model)
    assert (found.sizes, found.block, found.inner) == ((16, 32), 16, None)
    x = normal(4, 32)
    expected = x.astype(np.float64) @ (codes * np.repeat(scales, 16, axis=1)).T
    for optimize in ("none", "all"):
        got = graphs.run(model, {"x": x}, optimize)["y"]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


def test_codes_that_int4_does_not_hold_are_no_int4(graphs: ModuleType) -> None:
    codes = np.full((16, 32), 9, np.int8)
    model = stored(graphs, codes, np.ones((16, 2), np.float32))
    assert list(blocked_weights(model)) == []


# -- powers of two -------------------------------------------------------------------------


@pytest.mark.parametrize("optimize", ["none", "all"])
def test_the_runtime_finds_the_power_of_two_exactly(graphs: ModuleType, optimize: str) -> None:
    """Also where the largest number of a block makes a power, or is the next float to one."""
    model = graphs.parse(text("(float[n, 32] x) => (float[n, 32] y)", "y = Identity(x)"))
    node = next(iter(model.graph))
    rewriter = Rewriter(model)
    rewriter.set_input(node, 0, rounded_view(rewriter, node.inputs[0], None, 32))
    (found,) = rounded_values(model)
    assert (found.scale, found.block) == (None, 32)
    peaks = np.float32(448) * np.ldexp(np.float32(1), np.arange(-120, 100)).astype(np.float32)
    edges = np.concatenate([np.nextafter(peaks, np.float32(0)), peaks,
                            np.nextafter(peaks, np.float32(np.inf))])  # fmt: skip
    x = normal(len(edges), 32)
    x *= edges[:, None] / np.abs(x).max(axis=1, keepdims=True)
    x[np.arange(len(x)), np.abs(x).argmax(axis=1)] = edges
    x = np.concatenate([x, np.zeros((1, 32), np.float32)])
    got = graphs.run(model, {"x": x}, optimize)["y"]
    np.testing.assert_array_equal(got, round_rows_mx(x))


def test_weights_with_powers_of_two(graphs: ModuleType) -> None:
    coded = round_mx(normal(32, 16))
    model = stored(graphs, coded.codes.T, coded.scales.T)
    (found,) = blocked_weights(model)
    assert (found.kind, found.sizes, found.block) == ("mxfp8", (16, 32), 32)
    x = normal(4, 32)
    got = graphs.run(model, {"x": x})["y"]
    np.testing.assert_allclose(got, x.astype(np.float64) @ dequantize_mx(coded), atol=1e-4)
    other = stored(graphs, coded.codes.T, 1.5 * coded.scales.T)
    assert list(blocked_weights(other)) == []
