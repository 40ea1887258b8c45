"""Ranges of activations: of some times the calibrated one, that which moves the outputs least."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

RNG = np.random.default_rng(17)
TEXT = """<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 64] x) => (float[n, 48] y) { y = MatMul(x, w) }"""
W = RNG.normal(size=(64, 48)).astype(np.float32)
W[0] = 1e-3
FEEDS = [{"x": RNG.normal(size=(40, 64)).astype(np.float32)} for _ in range(2)]
for feed in FEEDS:
    feed["x"][:, 0] *= 60
"""One input is far larger than all others, and nearly nothing hangs on it."""


def bench(graphs: ModuleType, weighs: bool, **options: Any) -> tuple[Any, float, float]:
    """Of a quantized layer: the bench, the scale of what it reads, its error."""
    made = graphs.Bench(graphs.parse(TEXT, w=W), FEEDS, target="nvidia-a100")
    made.context.weighs_outputs = weighs
    before = made.outputs(FEEDS[0])["y"]
    (edit,) = made.run("quantize", scheme="static", **options).edits
    error = ((made.outputs(FEEDS[0])["y"] - before) ** 2).sum() / (before**2).sum()
    scale = float(made.model.graph.initializers["x_scale"].const_value.numpy())
    assert (edit.output_loss is not None) == weighs
    return made, scale, float(error)


def test_a_narrower_range_is_taken_where_little_hangs_on_large_numbers(
    graphs: ModuleType,
) -> None:
    _, wide, before = bench(graphs, True, ranges="values")
    _, narrow, after = bench(graphs, True)
    assert narrow / wide == pytest.approx(0.35)
    assert after < 0.4 * before


def test_nothing_is_tried_where_outputs_are_not_weighed(graphs: ModuleType) -> None:
    _, wide, _ = bench(graphs, False, ranges="values")
    assert bench(graphs, False)[1] == wide


def test_a_range_that_is_best_stays(graphs: ModuleType) -> None:
    """Uniform numbers that all matter alike: to clip them costs more than it gains."""
    text = TEXT.replace("x, w", "x, u")
    data = [{"x": RNG.uniform(-1, 1, size=(40, 64)).astype(np.float32)} for _ in range(2)]
    scales = []
    for ranges in ("values", "outputs"):
        made = graphs.Bench(graphs.parse(text, u=W[:, ::-1].copy()), data, target="nvidia-a100")
        made.context.weighs_outputs = True
        made.run("quantize", scheme="static", ranges=ranges)
        scales.append(float(made.model.graph.initializers["x_scale"].const_value.numpy()))
    assert scales[0] == scales[1]


def test_layers_that_share_an_input_share_its_range(graphs: ModuleType) -> None:
    text = TEXT.replace("y = MatMul(x, w)", "a = MatMul(x, w) b = MatMul(x, v) y = Add(a, b)")
    other = RNG.normal(size=(64, 48)).astype(np.float32)
    made = graphs.Bench(graphs.parse(text, w=W, v=other), FEEDS, target="nvidia-a100")
    made.context.weighs_outputs = True
    made.run("quantize", scheme="static")
    assert graphs.ops(made.model).count("QuantizeLinear") == 1


def test_a_value_that_is_quiet_beside_another_is_fitted_too(graphs: ModuleType) -> None:
    """The loud layer may go back in the end; then the error of the quiet one is what is left."""
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[n, 64] x, float[n, 64] z) => (float[n, 48] y) {
        a = MatMul(x, w) b = MatMul(z, v) y = Add(a, b)
    }"""
    data = [{"x": 30 * feed["x"], "z": feed["x"]} for feed in FEEDS]
    scales = []
    for ranges in ("values", "outputs"):
        made = graphs.Bench(graphs.parse(text, w=W, v=W), data, target="nvidia-a100")
        made.context.weighs_outputs = True
        made.run("quantize", scheme="static", ranges=ranges)
        scales.append(float(made.model.graph.initializers["z_scale"].const_value.numpy()))
    assert scales[1] / scales[0] == pytest.approx(0.35)
