"""Layers inside branches and loops stay float, and captures of what is quantized stay whole."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.ir.facts import FLOAT, QUANTIZED
from planish.ir.graph import all_nodes
from planish.ir.sites import find_sites
from planish.passes.math.affine import affine_params

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)
FEED = {"x": RNG.normal(size=(8, 64)).astype(np.float32), "b": np.array(True)}


def weight(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32) / 8


def text(before: str, then: str, other: str = "q = Neg(h)") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 64] x, bool b) => (float[n, 64] y) {{
      {before}
      y = If (b) <then_branch = t () => (float[n, 64] p) {{ {then} }},
                  else_branch = e () => (float[n, 64] q) {{ {other} }}>
    }}"""


def quantized(graphs: ModuleType, source: str, scheme: str, **tensors: Array) -> Any:
    """The bench after the pass, its outputs on both branches near those of before."""
    model = graphs.parse(source, **tensors)
    feeds = [FEED, FEED | {"b": np.array(False)}]
    before = [graphs.run(model, feed) for feed in feeds]
    bench = graphs.Bench(model, feeds)
    bench.run("quantize", scheme=scheme)
    for feed, expected in zip(feeds, before, strict=True):
        error = np.abs(bench.outputs(feed)["y"] - expected["y"]).max()
        assert error < 0.1 * np.abs(expected["y"]).max()
    return bench


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_layers_in_bodies_are_left_with_a_remark(graphs: ModuleType, scheme: str) -> None:
    source = text("h = MatMul(x, v)", "[inner] p = MatMul(h, w)", "[other] q = MatMul(x, u)")
    tensors = {name: weight(64, 64) for name in "vwu"}
    bench = quantized(graphs, source, scheme, **tensors)
    assert set(bench.refusals().values()) == {"subgraph"}
    assert len(bench.refusals()) == 2
    facts = {s.nested: s.facts for s in find_sites(bench.model, nested=True)}
    assert facts == {False: {QUANTIZED}, True: {FLOAT}}
    assert [n.op_type for n in all_nodes(bench.model) if n.graph is not bench.model.graph] == [
        "MatMul",
        "MatMul",
    ]


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
@pytest.mark.parametrize("inner", ["p = MatMul(h, v)", "p = Mul(h, s)\ns = ReduceSum(v)"])
def test_a_weight_read_outside_and_inside_is_shared(
    graphs: ModuleType, scheme: str, inner: str
) -> None:
    inner = "\n".join(reversed(inner.splitlines()))
    bench = quantized(graphs, text("h = MatMul(x, v)", inner), scheme, v=weight(64, 64))
    assert list(bench.refusals().values()) == ["shared"]
    assert QUANTIZED not in find_sites(bench.model)[0].facts


def test_a_quantization_inside_a_body_serves_only_that_body(graphs: ModuleType) -> None:
    then = """c, s, z = DynamicQuantizeLinear(x)
              d = DequantizeLinear(c, s, z)
              p = Add(d, h)"""
    bench = quantized(graphs, text("h = MatMul(x, v)", then), "dynamic", v=weight(64, 64))
    made = [n for n in bench.model.graph if n.op_type == "DynamicQuantizeLinear"]
    assert len(made) == 1


def test_a_pair_inside_a_body_serves_only_that_body(graphs: ModuleType) -> None:
    low, high = float(FEED["x"].min()), float(FEED["x"].max())
    scale, zero_point = affine_params(low, high, dtype="uint8", symmetric=False)  # as calibrated
    then = "c = QuantizeLinear(x, k, z) d = DequantizeLinear(c, k, z) p = Add(d, h)"
    tensors = {"v": weight(64, 64), "k": np.float32(scale), "z": np.uint8(zero_point)}
    model = graphs.parse(text("h = MatMul(x, v)", then), **tensors)
    bench = graphs.Bench(model, [FEED])
    bench.run("quantize", scheme="static", calibrator="minmax")
    pairs = [n for n in model.graph if n.op_type == "QuantizeLinear"]
    assert len(pairs) == 1


def test_scales_do_not_move_out_of_reach_of_a_body(graphs: ModuleType) -> None:
    source = text(
        "n1 = LayerNormalization(x, g) h = MatMul(n1, v)", "p = MatMul(n1, w)", "q = Add(n1, h)"
    )
    gamma = np.exp(RNG.normal(size=64)).astype(np.float32)
    tensors = {"g": gamma, "v": weight(64, 64), "w": weight(64, 64)}
    model = graphs.parse(source, **tensors)
    feeds = [FEED, FEED | {"b": np.array(False)}]
    before = [graphs.run(model, feed)["y"] for feed in feeds]
    bench = graphs.Bench(model, feeds)
    bench.run("equalize")
    for feed, expected in zip(feeds, before, strict=True):
        np.testing.assert_allclose(bench.outputs(feed)["y"], expected, rtol=1e-4, atol=1e-4)
    assert "subgraph" in bench.refusals().values()


# -- an activation that somebody rounded already ---------------------------------------

ROUNDED = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 64] x) => (float[n, 64] y) {
  c = QuantizeLinear(x, k, z)
  d = DequantizeLinear(c, k, z)
  y = MatMul(d, w)
}"""


def test_an_input_that_is_rounded_already_keeps_its_range(graphs: ModuleType) -> None:
    w = weight(64, 64)
    model = graphs.parse(ROUNDED, k=np.float32(0.031), z=np.uint8(120), w=w)
    feed = {"x": FEED["x"]}
    bench = graphs.Bench(model, [feed])
    bench.run("quantize", scheme="static")
    assert graphs.ops(model).count("QuantizeLinear") == 1
    [site] = find_sites(model)
    assert site.facts == {QUANTIZED}
    codes = np.clip(np.rint(feed["x"] / np.float32(0.031)) + 120, 0, 255)
    exact = ((codes - 120) * np.float32(0.031)).astype(np.float64) @ w.astype(np.float64)
    steps = np.abs(w).max(axis=0) / 127  # weights are off by half a step at most
    bound = 0.5 * np.abs((codes - 120) * 0.031).sum(axis=1, keepdims=True) * steps
    assert (np.abs(bench.outputs(feed)["y"] - exact) <= bound * 1.05).all()


def test_an_input_that_is_rounded_already_is_not_rounded_at_run_time(graphs: ModuleType) -> None:
    tensors = {"k": np.float32(0.031), "z": np.uint8(120), "w": weight(64, 64)}
    model = graphs.parse(ROUNDED, **tensors)
    bench = graphs.Bench(model, [{"x": FEED["x"]}])
    assert bench.run("quantize", scheme="dynamic").edits == []
    assert list(bench.refusals().values()) == ["already-quantized"]
