"""``quantize-mxfp8``: what it makes of layers, and the layers that it leaves alone."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.ir.blocked import blocked_weights
from planish.ir.facts import QUANTIZED
from planish.ir.rounded import rounded_values
from planish.ir.sites import find_sites
from planish.passes.api import Candidate
from planish.passes.math.mxfp8 import dequantize_mx, round_mx, round_rows_mx
from planish.passes.quantize_mxfp8 import QuantizeMxfp8, QuantizeMxfp8Options

RNG = np.random.default_rng(9)
B200 = "nvidia-b200"


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def head(inputs: str, outputs: str, opset: int = 19) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]>\ng ({inputs}) => ({outputs})\n'


LAYER = head("float[n, 64] x", "float[n, 48] y") + "{ a = MatMul(x, w) b = Add(a, c) y = Relu(b) }"
W, C, X = array(64, 48), array(48), array(40, 64)


def layer(graphs: ModuleType, text: str = LAYER, target: str = B200, **more: Any) -> Any:
    return graphs.Bench(graphs.parse(text, w=W, c=C), [{"x": X}], target=target, **more)


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_layer_is_rounded_on_both_sides_also_without_data(
    graphs: ModuleType, calibrated: bool
) -> None:
    bench = layer(graphs, calibrated=calibrated)
    (edit,) = bench.run("quantize-mxfp8").edits
    (site,) = find_sites(bench.model)
    assert site.facts == {QUANTIZED}
    (activation,), (weight,) = rounded_values(bench.model), blocked_weights(bench.model)
    assert (activation.scale, activation.block) == (None, 32)
    assert (weight.kind, weight.block, weight.sizes) == ("mxfp8", 32, (48, 64))
    expected = round_rows_mx(X).astype(np.float64) @ dequantize_mx(round_mx(W)) + C
    np.testing.assert_allclose(bench.outputs({"x": X})["y"], np.maximum(expected, 0), atol=1e-4)
    before = X[:16].astype(np.float64) @ W + C
    lost = np.square(expected[:16] - before).sum() / np.square(before).sum()
    assert edit.loss == pytest.approx(lost, rel=0.02)
    assert edit.setting == "mxfp8"


@pytest.mark.parametrize("target", ["nvidia-h100", "nvidia-rtx-5090", "generic"])
def test_targets_without_kernels_for_it_are_named(graphs: ModuleType, target: str) -> None:
    """Compute capability 12.0 has FP8 and FP4, and none of these."""
    bench = layer(graphs, target=target)
    assert bench.run("quantize-mxfp8").edits == []
    assert bench.refusals() == {"linear1": "target"}


@pytest.mark.parametrize(
    ("shape", "code"),
    [((80, 48), "uneven-shape"), ((64, 40), "uneven-shape"), ((8, 48), "too-small")],
)
def test_blocks_must_fill_both_sides(graphs: ModuleType, shape: tuple[int, int], code: str) -> None:
    text = head(f"float[n, {shape[0]}] x", f"float[n, {shape[1]}] y") + "{ y = MatMul(x, w) }"
    feeds = [{"x": array(8, shape[0])}]
    bench = graphs.Bench(graphs.parse(text, w=array(*shape)), feeds, target=B200)
    assert bench.run("quantize-mxfp8").edits == []
    assert bench.refusals() == {"linear1": code}


def test_what_else_stays(graphs: ModuleType) -> None:
    bench = layer(graphs, LAYER.replace(": 19", ": 18"))
    bench.run("quantize-mxfp8")
    assert bench.refusals() == {"linear1": "opset"}
    bench = layer(graphs)
    bench.run("quantize-mxfp8", exclude=("linear1",))
    assert bench.refusals() == {"linear1": "excluded"}
    text = head("float[n, 2, 3, 64] x", "float[n, 2, 3, 48] y") + "{ y = MatMul(x, w) }"
    bench = graphs.Bench(graphs.parse(text, w=W), [{"x": array(4, 2, 3, 64)}], target=B200)
    bench.run("quantize-mxfp8")
    assert bench.refusals() == {"linear1": "rank"}
    text = head("float[n, 32, 8, 8] x", "float[n, 32, 8, 8] y") + (
        "{ y = Conv<pads=[1,1,1,1]>(x, w) }"
    )
    feeds = [{"x": array(2, 32, 8, 8)}]
    bench = graphs.Bench(graphs.parse(text, w=array(32, 32, 3, 3)), feeds, target=B200)
    bench.run("quantize-mxfp8")
    assert set(bench.refusals().values()) == {"unsupported-op"}
    weight = W.copy()
    weight.reshape(16, 4, 48)[:, :2] = 0
    bench = graphs.Bench(graphs.parse(LAYER, w=weight, c=C), [{"x": X}], target=B200)
    bench.run("quantize-mxfp8")
    assert bench.refusals() == {"linear1": "sparse"}


def test_a_plan_needs_no_weights(graphs: ModuleType) -> None:
    bench = layer(graphs)
    pass_ = QuantizeMxfp8(QuantizeMxfp8Options())
    (candidate,) = pass_.candidates(bench.model, bench.context)
    assert isinstance(candidate, Candidate)
    made = pass_.outline(bench.model, candidate, bench.context).payload
    real = pass_.perturb(bench.model, candidate, bench.context).payload
    assert (made.codes.shape, made.scales.shape) == (real.codes.shape, real.scales.shape)
