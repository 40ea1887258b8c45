"""``quantize-float8``: what it makes of layers, and the layers that it leaves alone."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from planish.ir.graph import constant_array, scalar
from planish.passes.quantize_float8 import MOST_TAPS

RNG = np.random.default_rng(8)
F8 = ml_dtypes.float8_e4m3fn


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def head(inputs: str, outputs: str, opset: int = 19) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]>\ng ({inputs}) => ({outputs})\n'


LAYER = head("float[n, 64] x", "float[n, 48] y") + "{ a = MatMul(x, w) b = Add(a, c) y = Relu(b) }"
W, C = array(64, 48), array(48)
FEEDS = [{"x": array(40, 64)} for _ in range(2)]
PEAK = max(float(np.abs(feed["x"]).max()) for feed in FEEDS)


def layer(graphs: ModuleType, text: str = LAYER, target: str = "nvidia-h100", **more: Any) -> Any:
    return graphs.Bench(graphs.parse(text, w=W, c=C), FEEDS, target=target, **more)


def rounded(x: np.ndarray, peak: float) -> np.ndarray:
    scale = np.float32(peak / 448)
    return np.clip(x / scale, -448, 448).astype(F8).astype(np.float64) * scale


def test_a_layer_becomes_a_product_between_pairs(graphs: ModuleType) -> None:
    bench = layer(graphs)
    outcome = bench.run("quantize-float8", codes="round")
    assert graphs.ops(bench.model) == [
        "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul", "Add", "Relu",
    ]  # fmt: skip
    x = FEEDS[0]["x"]
    expected = rounded(x, PEAK) @ rounded(W, float(np.abs(W).max())) + C
    np.testing.assert_allclose(bench.outputs({"x": x})["y"], np.maximum(expected, 0), atol=1e-4)
    (edit,) = outcome.edits
    assert (edit.site, edit.setting, edit.saving) == ("linear1", "e4m3", 3 * W.size)
    before, after = x[:16].astype(np.float64) @ W + C, expected[:16]
    assert edit.loss == pytest.approx(((after - before) ** 2).sum() / (before**2).sum(), rel=0.02)
    tensors = bench.model.graph.initializers
    codes = constant_array(tensors["linear1.weight_quantized"])
    assert codes is not None
    assert codes.dtype == F8
    assert scalar(tensors["x_scale"]) == pytest.approx(PEAK / 448)


def test_a_convolution_in_8_bit_floats(graphs: ModuleType) -> None:
    text = head("float[n, 24, 8, 8] x", "float[n, 24, 8, 8] y") + (
        "{ y = Conv<pads=[1,1,1,1]>(x, w) }"
    )
    feeds = [{"x": array(2, 24, 8, 8)}]
    bench = graphs.Bench(graphs.parse(text, w=array(24, 24, 3, 3)), feeds, target="nvidia-ada")
    before = bench.outputs(feeds[0])["y"]
    outcome = bench.run("quantize-float8")
    assert len(outcome.edits) == 1
    after = bench.outputs(feeds[0])["y"]
    assert 0 < np.square(after - before).sum() / np.square(before).sum() < 2e-3


@pytest.mark.parametrize(
    ("target", "more", "code"),
    [
        ("nvidia-a100", {}, "target"),
        ("x86-avx512-vnni", {}, "target"),
        ("nvidia-h100", {"calibrated": False}, "no-calibration"),
    ],
)
def test_where_it_cannot_apply_it_says_why(
    graphs: ModuleType, target: str, more: Any, code: str
) -> None:
    bench = layer(graphs, target=target, **more)
    assert bench.run("quantize-float8").edits == []
    assert bench.refusals() == {"linear1": code}


def test_older_opsets_have_no_8_bit_floats(graphs: ModuleType) -> None:
    bench = layer(graphs, LAYER.replace(": 19", ": 18"))
    assert bench.run("quantize-float8").edits == []
    assert bench.refusals() == {"linear1": "opset"}


@pytest.mark.parametrize(
    ("shape", "group", "code"),
    [
        ((24, 16, 3, 3), 1, "too-small"),  # not more than 16 channels
        ((24, 24, 7, 7), 1, "too-small"),  # 49 taps
        ((28, 28, 3, 3), 1, "uneven-shape"),
        ((24, 1, 3, 3), 24, "too-small"),
    ],
)
def test_convolutions_without_a_kernel(
    graphs: ModuleType, shape: tuple[int, ...], group: int, code: str
) -> None:
    inputs = shape[1] * group
    text = head(f"float[n, {inputs}, 9, 9] x", "float[n, m, h, v] y") + (
        f"{{ y = Conv<group={group}>(x, w) }}"
    )
    feeds = [{"x": array(2, inputs, 9, 9)}]
    bench = graphs.Bench(graphs.parse(text, w=array(*shape)), feeds, target="nvidia-h100")
    bench.run("quantize-float8")
    assert set(bench.refusals().values()) == {code}
    assert MOST_TAPS < 49


def test_excluded_layers_stay(graphs: ModuleType) -> None:
    bench = layer(graphs)
    bench.run("quantize-float8", exclude=("linear1",))
    assert bench.refusals() == {"linear1": "excluded"}


CORRELATED = [{"x": array(400, 8) @ array(8, 64) + 1} for _ in range(2)]


def test_codes_chosen_together_lose_less_and_the_bias_keeps_the_mean(graphs: ModuleType) -> None:
    """On inputs that are nearly of rank 8, and whose mean is not zero."""
    losses, means = {}, {}
    for codes in ("round", "gptq"):
        bench = graphs.Bench(
            graphs.parse(LAYER.replace("y = Relu(b)", "y = Identity(b)"), w=W, c=C),
            CORRELATED, target="nvidia-h100",
        )  # fmt: skip
        (edit,) = bench.run("quantize-float8", codes=codes).edits
        losses[codes] = edit.loss
        x = np.concatenate([feed["x"] for feed in CORRELATED])
        kept = rounded(x, float(np.abs(x).max())).astype(np.float32)
        wanted = kept.astype(np.float64) @ W + C
        means[codes] = np.abs((bench.outputs({"x": x})["y"] - wanted).mean(axis=0)).max()
    assert losses["gptq"] < 0.8 * losses["round"]
    assert means["gptq"] < 0.2 * means["round"]


def test_a_layer_without_a_bias(graphs: ModuleType) -> None:
    text = head("float[n, 64] x", "float[n, 48] y") + "{ y = MatMul(x, w) }"
    bench = graphs.Bench(graphs.parse(text, w=W), CORRELATED, target="nvidia-h100")
    (edit,) = bench.run("quantize-float8").edits
    assert 0 < edit.loss < 1e-2
