"""``quantize-float4``: what it makes of layers, and the layers that it leaves alone."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.ir.blocked import blocked_weights
from planish.ir.facts import QUANTIZED
from planish.ir.graph import constant_array, scalar
from planish.ir.rounded import rounded_values
from planish.ir.sites import find_sites
from planish.passes.api import Candidate
from planish.passes.math.float4 import REACH, dequantize_float4, round_float4, round_rows
from planish.passes.quantize_float4 import QuantizeFloat4, QuantizeFloat4Options

RNG = np.random.default_rng(8)


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def head(inputs: str, outputs: str, opset: int = 19) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]>\ng ({inputs}) => ({outputs})\n'


LAYER = head("float[n, 64] x", "float[n, 48] y") + "{ a = MatMul(x, w) b = Add(a, c) y = Relu(b) }"
W, C = array(64, 48), array(48)
FEEDS = [{"x": array(40, 64) * np.geomspace(0.1, 3, 64).astype(np.float32)} for _ in range(2)]
PEAK = max(float(np.abs(feed["x"]).max()) for feed in FEEDS)
B200 = "nvidia-b200"


def layer(graphs: ModuleType, text: str = LAYER, target: str = B200, **more: Any) -> Any:
    return graphs.Bench(graphs.parse(text, w=W, c=C), FEEDS, target=target, **more)


@pytest.mark.parametrize("scales", ["search", "max"])
def test_a_layer_is_rounded_on_both_sides(graphs: ModuleType, scales: str) -> None:
    bench = layer(graphs)
    outcome = bench.run("quantize-float4", scales=scales, codes="round")
    (site,) = find_sites(bench.model)
    assert site.name == "linear1"
    assert site.facts == {QUANTIZED}
    (activation,), (weight,) = rounded_values(bench.model), blocked_weights(bench.model)
    assert scalar(activation.scale) == np.float32(PEAK / REACH)
    seen = np.concatenate([feed["x"] for feed in FEEDS]).astype(np.float64)
    energy = (seen**2).mean(axis=0)
    coded = round_float4(W, importance=energy, search=scales == "search")
    stored = constant_array(weight.codes)
    assert stored is not None
    np.testing.assert_array_equal(stored.reshape(48, 64), coded.codes.T)
    x = FEEDS[0]["x"]
    expected = round_rows(x, PEAK / REACH).astype(np.float64) @ dequantize_float4(coded) + C
    np.testing.assert_allclose(bench.outputs({"x": x})["y"], np.maximum(expected, 0), atol=2e-4)
    (edit,) = outcome.edits
    assert (edit.site, edit.setting) == ("linear1", "nvfp4")
    assert edit.saving == 4 * W.size - W.size // 2 - W.size // 16 - 4
    before, after = x[:16].astype(np.float64) @ W + C, expected[:16]
    assert edit.loss == pytest.approx(((after - before) ** 2).sum() / (before**2).sum(), rel=0.02)


def test_the_search_loses_less_than_the_largest_number(graphs: ModuleType) -> None:
    losses = {}
    for scales in ("search", "max"):
        (edit,) = layer(graphs).run("quantize-float4", scales=scales, codes="round").edits
        losses[scales] = edit.loss
    assert losses["search"] < 0.95 * losses["max"]


def test_codes_make_up_for_each_other_where_there_is_data_enough(graphs: ModuleType) -> None:
    mix = array(64, 64) @ np.diag(np.geomspace(3, 0.05, 64)).astype(np.float32) @ array(64, 64)
    many = [{"x": array(200, 64) @ mix} for _ in range(2)]
    losses = {}
    for codes in ("auto", "gptq", "round"):
        bench = graphs.Bench(graphs.parse(LAYER, w=W, c=C), many, target=B200)
        (edit,) = bench.run("quantize-float4", codes=codes).edits
        losses[codes] = edit.loss
    assert losses["auto"] == losses["gptq"] < losses["round"]
    few = [{"x": many[0]["x"][:100]}]
    bench = graphs.Bench(graphs.parse(LAYER, w=W, c=C), few, target=B200)
    bench.run("quantize-float4")
    (weight,) = blocked_weights(bench.model)
    energy = np.square(few[0]["x"].astype(np.float64)).mean(axis=0)
    stored = constant_array(weight.codes)
    assert stored is not None
    np.testing.assert_array_equal(
        stored.reshape(48, 64), round_float4(W, importance=energy).codes.T
    )


def test_layers_that_read_one_value_share_its_rounding(graphs: ModuleType) -> None:
    text = head("float[n, 64] x", "float[n, 48] y") + (
        "{ a = MatMul(x, w) b = MatMul(x, v) y = Add(a, b) }"
    )
    bench = graphs.Bench(graphs.parse(text, w=W, v=array(64, 48)), FEEDS, target=B200)
    assert len(bench.run("quantize-float4").edits) == 2
    assert len(list(rounded_values(bench.model))) == 1
    assert len(list(blocked_weights(bench.model))) == 2


@pytest.mark.parametrize(
    ("target", "more", "code"),
    [
        ("nvidia-a100", {}, "target"),
        ("nvidia-h100", {}, "target"),
        ("x86-avx512-vnni", {}, "target"),
        (B200, {"calibrated": False}, "no-calibration"),
    ],
)
def test_where_it_cannot_apply_it_says_why(
    graphs: ModuleType, target: str, more: Any, code: str
) -> None:
    bench = layer(graphs, target=target, **more)
    assert bench.run("quantize-float4").edits == []
    assert bench.refusals() == {"linear1": code}


def test_older_opsets_have_no_8_bit_floats_for_the_scales(graphs: ModuleType) -> None:
    bench = layer(graphs, LAYER.replace(": 19", ": 18"))
    assert bench.run("quantize-float4").edits == []
    assert bench.refusals() == {"linear1": "opset"}


@pytest.mark.parametrize(
    ("inputs", "outputs", "code"),
    [
        (72, 48, "uneven-shape"),  # 72 is no multiple of 16
        (64, 40, "uneven-shape"),
        (8, 48, "too-small"),
        (64, 8, "too-small"),
    ],
)
def test_blocks_must_fill_both_sides(
    graphs: ModuleType, inputs: int, outputs: int, code: str
) -> None:
    text = head(f"float[n, {inputs}] x", f"float[n, {outputs}] y") + "{ y = MatMul(x, w) }"
    feeds = [{"x": array(8, inputs)}]
    bench = graphs.Bench(graphs.parse(text, w=array(inputs, outputs)), feeds, target=B200)
    assert bench.run("quantize-float4").edits == []
    assert bench.refusals() == {"linear1": code}


def test_activations_with_four_axes_are_left_alone(graphs: ModuleType) -> None:
    text = head("float[n, 2, 3, 64] x", "float[n, 2, 3, 48] y") + "{ y = MatMul(x, w) }"
    bench = graphs.Bench(graphs.parse(text, w=W), [{"x": array(4, 2, 3, 64)}], target=B200)
    bench.run("quantize-float4")
    assert bench.refusals() == {"linear1": "rank"}


def test_one_row_is_no_matrix(graphs: ModuleType) -> None:
    text = head("float[1, 64] x", "float[1, 48] y") + "{ y = MatMul(x, w) }"
    bench = graphs.Bench(graphs.parse(text, w=W), [{"x": array(1, 64)}], target=B200)
    bench.run("quantize-float4")
    assert bench.refusals() == {"linear1": "uneven-shape"}


def test_convolutions_stay(graphs: ModuleType) -> None:
    text = head("float[n, 32, 8, 8] x", "float[n, 32, 8, 8] y") + (
        "{ y = Conv<pads=[1,1,1,1]>(x, w) }"
    )
    feeds = [{"x": array(2, 32, 8, 8)}]
    bench = graphs.Bench(graphs.parse(text, w=array(32, 32, 3, 3)), feeds, target=B200)
    assert bench.run("quantize-float4").edits == []
    assert set(bench.refusals().values()) == {"unsupported-op"}


def test_zeros_in_a_pattern_that_other_kernels_skip_stay(graphs: ModuleType) -> None:
    weight = W.copy()
    weight.reshape(16, 4, 48)[:, :2] = 0
    bench = graphs.Bench(graphs.parse(LAYER, w=weight, c=C), FEEDS, target=B200)
    bench.run("quantize-float4")
    assert bench.refusals() == {"linear1": "sparse"}


def test_excluded_layers_stay(graphs: ModuleType) -> None:
    bench = layer(graphs)
    bench.run("quantize-float4", exclude=("linear1",))
    assert bench.refusals() == {"linear1": "excluded"}


def test_a_plan_needs_no_weights(graphs: ModuleType) -> None:
    """The outline has the shapes of what is built in earnest."""
    bench = layer(graphs)
    pass_ = QuantizeFloat4(QuantizeFloat4Options())
    (candidate,) = pass_.candidates(bench.model, bench.context)
    assert isinstance(candidate, Candidate)
    made = pass_.outline(bench.model, candidate, bench.context).payload.weight
    real = pass_.perturb(bench.model, candidate, bench.context).payload.weight
    assert made.codes.shape == real.codes.shape
    assert made.block_scales.shape == real.block_scales.shape
