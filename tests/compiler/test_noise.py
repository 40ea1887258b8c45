"""Outputs that are nothing but rounding are told from outputs that a pass broke."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.quality.noise import is_noise, shaken
from planish.ir.load import load_model
from planish.ir.save import to_bytes
from planish.targets.runtime import open_session

RNG = np.random.default_rng(4)
X = RNG.normal(size=(6, 64)).astype(np.float32)
W = RNG.normal(size=(64, 64)).astype(np.float32)


def build(body: str, dtype: str = "float", opset: int = 17) -> ir.Model:
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({dtype}[6, 64] x) => ({dtype}[a, b] y)'
    )
    proto = onnx.parser.parse_model(f"{text} {{ {body} }}")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(W, "w"))
    return load_model(proto).model


def run(model: ir.Model) -> Mapping[str, Any]:
    session = open_session(to_bytes(model), threads=1, optimize="none")
    return dict(zip(session.output_names, session.run({"x": X}), strict=True))


CANCELS = "p = MatMul(x, w) q = MatMul(x, w) s = Add(p, x) t = Sub(s, x) y = Sub(t, q)"
"""(p + x - x) - p: zero, but for rounding."""


def test_what_cancels_is_noise() -> None:
    model = build(CANCELS)
    before = run(model)["y"]
    assert 0 < np.abs(before).max() < 1e-4
    assert is_noise(model, "y", before, np.zeros_like(before), run)
    assert is_noise(model, "y", before, before[::-1].copy(), run)


@pytest.mark.parametrize("wrong", [1e-2, np.inf, np.nan])
def test_what_is_farther_off_is_not(wrong: float) -> None:
    model = build(CANCELS)
    before = run(model)["y"]
    after = before.copy()
    after[0, 0] += wrong
    assert not is_noise(model, "y", before, after, run)


@pytest.mark.parametrize("factor", [1 + 1e-4, 0.5, -1.0])
def test_a_product_that_is_wrong_is_none(factor: float) -> None:
    model = build("y = MatMul(x, w)")
    before = run(model)["y"]
    assert not is_noise(model, "y", before, (before * factor).astype(np.float32), run)


def test_sums_in_another_order_are_noise() -> None:
    model = build("y = MatMul(x, w)")
    after = np.zeros((6, 64), np.float32)
    for k in RNG.permutation(64):
        after += np.outer(X[:, k], W[k])
    assert is_noise(model, "y", run(model)["y"], after, run)


def test_what_cannot_be_told_is_none() -> None:
    before = np.ones((6, 64), np.float32)
    old = build(CANCELS)
    old.opset_imports[""] = 6
    assert not is_noise(old, "y", before, before + 1e-9, run)  # operators do not broadcast
    codes = build("y = Relu(x)")
    assert not is_noise(codes, "y", before.astype(int), 1 + before.astype(int), run)
    assert not is_noise(codes, "y", before, before[:3], run)
    assert not is_noise(codes, "y", before, before, run)  # nothing differs


def test_each_number_is_one_step_off() -> None:
    """All but constants, and what is a sequence; outputs keep their names."""
    model = build(
        "c = Constant<value_float = 2.0>() i = Constant<value_int = 0>() "
        "s = SequenceConstruct(x, x) a = SequenceAt(s, i) y = Mul(a, c)"
    )
    made = shaken(model, 0)
    assert [v.name for v in made.graph.outputs] == ["y"]
    assert sum(node.op_type == "Mul" for node in made.graph) == 1 + 2
    before, after = run(model)["y"], run(made)["y"]
    ratio = after[before != 0] / before[before != 0]
    assert 0 < np.abs(ratio - 1).max() <= 2.6 * 2.0**-22
    assert sum(node.op_type == "Mul" for node in model.graph) == 1
    np.testing.assert_array_equal(run(shaken(model, 3))["y"], run(shaken(model, 3))["y"])


def test_a_pass_is_not_blamed_for_rounding(graphs: ModuleType) -> None:
    """Folding a batch norm changes the last bits; here nothing else is left of the output."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[2, 8, 4, 4] x) => (float[2, 8, 4, 4] y) {
        a = Conv(x, k) b = BatchNormalization(a, s, t, m, v)
        c = Conv(x, k) d = BatchNormalization(c, s, t, m, v)
        e = Mul(b, b) f = Div(e, d) y = Sub(f, d)
    }"""
    held = {
        "k": RNG.normal(size=(8, 8, 1, 1)), "s": RNG.normal(size=8), "t": RNG.normal(size=8),
        "m": RNG.normal(size=8), "v": RNG.uniform(0.5, 2, 8),
    }  # fmt: skip
    weights = {name: array.astype(np.float32) for name, array in held.items()}
    feeds = [{"x": RNG.normal(size=(2, 8, 4, 4)).astype(np.float32)}]
    bench = graphs.Bench(graphs.parse(text, **weights), feeds)
    assert np.abs(bench.outputs(feeds[0])["y"]).max() < 1e-4
    assert bench.run("canonicalize").edits
    assert "BatchNormalization" not in graphs.ops(bench.model)
    assert "rounding-noise" in {remark.code for remark in bench.context.remarks}
