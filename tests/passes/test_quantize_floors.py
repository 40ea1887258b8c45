"""Scales of weights that are next to nothing, where the floats around a layer are float16."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from planish.ir.graph import constant_array
from planish.passes.math.affine import quantize_weight
from planish.passes.math.blockcodes import BlockCodes, dequantize_blocks
from planish.passes.math.blockwise import round_blocks
from planish.passes.quantizing.floors import (
    LEAST,
    float8_scale,
    int8_weight,
    least_scale,
    raised_blocks,
)
from planish.targets.loader import load_target

RNG = np.random.default_rng(3)
NORMAL = float(np.finfo(np.float16).tiny)
"""float16's least normal number."""
DEAD = (3, 17)
GPU, CPU = "nvidia-a100", "x86-avx512-vnni"


def normal(*shape: int, scale: float = 1.0) -> Any:
    return (scale * RNG.normal(size=shape)).astype(np.float32)


def with_dead_channels(most: float = 1e-4) -> Any:
    """[16, 32, 3, 3], two outputs of which are at most so large."""
    weight = normal(32, 32, 3, 3, scale=0.1)
    for channel in DEAD:
        weight[channel] *= most / np.abs(weight[channel]).max()
    return weight


def scales(bench: Any) -> Any:
    (name,) = [n for n in bench.model.graph.initializers if n.endswith("weight_scale")]
    found = constant_array(bench.model.graph.initializers[name])
    assert found is not None
    return found


def convolution(graphs: ModuleType, weight: Any, target: str) -> Any:
    text = '<ir_version: 10, opset_import: ["" : 20]>\ng (float[n, 32, 6, 6] x) => '
    text += "(float[n, 32, 4, 4] y) { c = Conv(x, w, b) y = Relu(c) }"
    feeds = [{"x": normal(4, 32, 6, 6)}]
    return graphs.Bench(graphs.parse(text, w=weight, b=normal(32)), feeds, target=target)


@pytest.mark.parametrize(
    ("target", "least"),
    [(GPU, NORMAL), ("nvidia-h100", NORMAL), ("nvidia-t4", NORMAL), (CPU, 0.0),
     ("nvidia-a100-sxm-80gb-onnxruntime", 0.0), ("arm-i8mm", 0.0)],
)  # fmt: skip
def test_the_least_scale_is_that_of_the_target_s_floats(target: str, least: float) -> None:
    assert least_scale(load_target(target)) == least
    assert NORMAL == LEAST


def test_dead_channels_get_a_scale_that_float16_holds(graphs: ModuleType) -> None:
    """Others keep theirs, and the loss that is declared is that of what is in the graph."""
    weight = with_dead_channels()
    bench = convolution(graphs, weight, GPU)
    before = bench.outputs(bench.feeds[0])["y"]
    outcome = bench.run("quantize", scheme="static", bias_correction=False)
    found = scales(bench)
    alive = np.delete(np.arange(32), DEAD)
    peaks = np.abs(weight).max(axis=(1, 2, 3))
    np.testing.assert_array_equal(found[list(DEAD)], np.float32(NORMAL))
    np.testing.assert_allclose(found[alive], peaks[alive] / 127, rtol=1e-6)
    codes = constant_array(bench.model.graph.initializers["conv1.weight_quantized"])
    assert codes is not None
    np.testing.assert_array_equal(codes[list(DEAD)], np.rint(weight[list(DEAD)] / NORMAL))
    after = bench.outputs(bench.feeds[0])["y"]
    loss = np.square(before - after).sum() / np.square(before).sum()
    assert outcome.edits[0].loss == pytest.approx(loss, rel=0.2)
    assert loss < 1e-3


def test_elsewhere_dead_channels_keep_their_scales(graphs: ModuleType) -> None:
    weight = with_dead_channels()
    bench = convolution(graphs, weight, CPU)
    bench.run("quantize", scheme="static")
    np.testing.assert_allclose(scales(bench), np.abs(weight).max(axis=(1, 2, 3)) / 127, rtol=1e-6)


def test_a_layer_of_small_weights_alone_keeps_its_scales(graphs: ModuleType) -> None:
    """Coarser steps would cost it bits: it stays in float32, and a rule says so."""
    weight = normal(32, 32, 3, 3, scale=1e-4)
    codes, scale = int8_weight(weight, 0, 8, NORMAL)
    plain = quantize_weight(weight, 0)
    np.testing.assert_array_equal(scale, plain[1])
    np.testing.assert_array_equal(codes, plain[0])
    assert scale.max() < NORMAL


@pytest.mark.parametrize("most", [3e-7, 2e-4])
def test_what_raising_costs(most: float) -> None:
    """The dead channels of folded batch norms, as trained nets have them: far below 8 bits."""
    weight = with_dead_channels(most).astype(np.float64)
    codes, scale = int8_weight(weight.astype(np.float32), 0, 8, NORMAL)
    assert scale.min() == NORMAL
    error = np.square(weight - codes * scale[:, None, None, None].astype(np.float64))
    added = error[list(DEAD)].sum() / np.square(weight).sum()
    assert added < 1e-8
    assert np.sqrt(error[list(DEAD)].max()) <= NORMAL / 2


def rounded8(weight: Any, scale: Any) -> Any:
    return (weight / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale


def test_a_float8_weight_of_small_numbers() -> None:
    """E4M3 keeps its digits with a scale that is larger than need be, until it runs out of them."""
    small = normal(64, 64, scale=2e-3)
    plain = float8_scale(small, 0.0)
    assert plain == np.float32(np.abs(small).max() / 448)
    raised = float8_scale(small, NORMAL)
    assert NORMAL <= raised < 2 * NORMAL
    assert np.log2(raised / plain) in (1.0, 2.0, 3.0)
    normals = np.abs(small) > 2**-6 * raised
    assert normals.mean() > 0.99
    before, after = rounded8(small, plain), rounded8(small, raised)
    np.testing.assert_array_equal(after[normals], before[normals])
    tiny = normal(64, 64, scale=1e-7)
    assert float8_scale(tiny, NORMAL) == np.float32(np.abs(tiny).max() / 448)
    assert float8_scale(np.zeros((4, 4), np.float32), NORMAL) == 1.0


def test_a_float8_layer_on_a_target_of_float16(graphs: ModuleType) -> None:
    bench = convolution(graphs, normal(32, 32, 3, 3, scale=2e-3), "nvidia-h100")
    outcome = bench.run("quantize-float8", codes="round")
    assert NORMAL <= scales(bench) < 2 * NORMAL
    assert 0 < outcome.edits[0].loss < 3e-3


@pytest.fixture
def blocks() -> tuple[Any, BlockCodes]:
    """A weight [256, 24] with a block of next to nothing, in int4 of two blocks."""
    weight = normal(256, 24, scale=0.1)
    weight[:128, 5] *= 1e-4
    coded = round_blocks(weight, bits=4, block=128, symmetric=True, signed=False)
    return weight, coded


def test_a_dead_block_of_int4(blocks: tuple[Any, BlockCodes]) -> None:
    weight, coded = blocks
    assert coded.scale[0, 5] < NORMAL
    raised = raised_blocks(weight, coded, NORMAL)
    assert raised.scale[0, 5] == np.float32(NORMAL)
    expected = np.clip(np.rint(weight[:128, 5] / NORMAL), -8, 7) * NORMAL
    np.testing.assert_allclose(dequantize_blocks(raised)[:128, 5], expected, rtol=1e-6)
    others = np.ones(coded.codes.shape, bool)
    others[:128, 5] = False
    np.testing.assert_array_equal(raised.codes[others], coded.codes[others])


@pytest.mark.parametrize("shrink", [lambda w: w, lambda w: w * np.float32(1e-4)])
def test_blocks_that_stay(shrink: Callable[[Any], Any]) -> None:
    """Where no scale is small, and where all are."""
    weight = shrink(normal(256, 24, scale=0.1))
    coded = round_blocks(weight, bits=4, block=128, symmetric=True, signed=False)
    assert raised_blocks(weight, coded, NORMAL) is coded


def test_int4_layers_are_rounded_so(graphs: ModuleType, blocks: tuple[Any, BlockCodes]) -> None:
    text = '<ir_version: 10, opset_import: ["" : 20]>\ng (float[n, 256] x) => (float[n, 24] y) '
    text += "{ y = MatMul(x, w) }"
    for target, least in ((GPU, NORMAL), ("nvidia-l4-onnxruntime", 0.0)):
        bench = graphs.Bench(graphs.parse(text, w=blocks[0]), [{"x": normal(8, 256)}], target)
        bench.run("weight-only", block=128, symmetric=True)
        found = np.abs(scales(bench)).min()
        assert (found == np.float32(least)) if least else (found < NORMAL)
