"""GELU in whatever order it is spelled out, and what only looks like it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest

from planish.compiler.backends.activations import fuse_activations
from planish.compiler.backends.spellings import may_apply
from planish.ir.digest import contents_digest
from planish.ir.load import load_model
from planish.ir.rewriter import Rewriter
from planish.ir.save import to_bytes
from planish.ir.verify import violations
from planish.targets.runtime import open_session

X = np.random.default_rng(2).normal(size=(3, 7, 64)).astype(np.float32) * 3
NUMBERS = {
    "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "c": 0.044715,
    "k": math.sqrt(2 / math.pi), "r": math.sqrt(0.5), "d": math.sqrt(2),
    "wrong": 0.05, "ck": 0.044715 * math.sqrt(2 / math.pi), "ones": np.ones(64),
}  # fmt: skip

ORDERS = [  # of x + 0.044715 x^3
    "a = Mul(c, x) b = Mul(x, a) e = Mul(x, b) f = Add(x, e) g = Mul(k, f)",
    "a = Mul(x, x) b = Mul(a, x) e = Mul(b, c) f = Add(e, x) g = Mul(f, k)",
    "a = Pow(x, three) e = Mul(a, c) f = Add(x, e) g = Mul(f, k)",
    "a = Mul(x, x) b = Mul(a, c) e = Add(b, one) f = Mul(e, x) g = Mul(f, k)",
    "a = Pow(x, two) b = Mul(a, ck) e = Add(k, b) g = Mul(x, e)",
]
ENDS = [  # of x (1 + t) / 2
    "u = Add(one, t) v = Mul(half, u) y = Mul(x, v)",
    "u = Add(t, one) v = Mul(u, x) y = Mul(v, half)",
    "h = Mul(x, half) u = Add(t, one) y = Mul(h, u)",
    "h = Mul(x, half) v = Mul(h, t) y = Add(h, v)",
    "u = Add(t, one) v = Mul(u, x) y = Div(v, two)",
]
ERF = ["g = Mul(x, r)", "g = Div(x, d)"]


def build(body: str, dtype: str = "float") -> Rewriter:
    kind = np.float32 if dtype == "float" else np.float64
    header, port = '<ir_version: 10, opset_import: ["": 20]>', f'{dtype}["B", "S", 64]'
    proto = onnx.parser.parse_model(f"{header} g ({port} x) => ({port} y) {{ {body} }}")
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(number, kind), name)
        for name, number in NUMBERS.items()
        if name in words
    )
    return Rewriter(load_model(proto).model)


def outputs(rewriter: Rewriter) -> np.ndarray[Any, Any]:
    (y,) = open_session(to_bytes(rewriter.model), optimize="none").run({"x": X})
    return y


def gelu(x: np.ndarray[Any, Any], function: str) -> np.ndarray[Any, Any]:
    """In float64, by its definition."""
    x = x.astype(np.float64)
    if function == "Tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("function", "start", "op"),
    [*(("Tanh", order, "FastGelu") for order in ORDERS), *(("Erf", e, "Gelu") for e in ERF)],
)
def test_the_arithmetic_decides_not_the_order(function: str, start: str, op: str, end: str) -> None:
    rewriter = build(f"{start} t = {function}(g) {end}")
    before, mark = contents_digest(rewriter.model), rewriter.checkpoint()
    assert may_apply("fused-activation", rewriter.graph)
    assert fuse_activations(rewriter) == 1
    assert [(n.domain, n.op_type) for n in rewriter.graph] == [("com.microsoft", op)]
    assert violations(rewriter.model) == []
    np.testing.assert_allclose(outputs(rewriter), gelu(X, function), rtol=1e-5, atol=2e-6)
    assert fuse_activations(rewriter) == 0
    rewriter.rollback(mark)
    assert contents_digest(rewriter.model) == before


def test_x_may_be_computed_itself() -> None:
    """What is computed from z is a polynomial in x, too, but not that of a GELU."""
    body = f"{ORDERS[0]} t = Tanh(g) {ENDS[0]}".replace("x)", "z)").replace("(x,", "(z,")
    rewriter = build(f"z = Mul(x, two) {body}")
    assert fuse_activations(rewriter) == 1
    np.testing.assert_allclose(outputs(rewriter), gelu(2 * X, "Tanh"), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    "body",
    [
        ORDERS[0].replace("(c,", "(wrong,") + " t = Tanh(g) " + ENDS[0],  # another constant
        ORDERS[0] + " t = Tanh(g) u = Add(t, one) y = Mul(u, x)",  # twice a GELU
        ORDERS[0] + " t = Tanh(g) u = Sub(one, t) v = Mul(half, u) y = Mul(x, v)",  # of -x
        ORDERS[0] + " t = Sigmoid(g) " + ENDS[0],
        "g = Mul(x, r) t = Tanh(g) " + ENDS[0],  # what erf is taken of
        "g = Mul(x, k) t = Erf(g) " + ENDS[0],
        "n = Neg(x) g = Mul(n, r) t = Erf(g) " + ENDS[0],
        "g = Mul(x, r) t = Erf(g) u = Mul(t, ones) v = Add(u, one) w = Mul(x, half) y = Mul(v, w)",
        "g = Pow(x, half) t = Tanh(g) " + ENDS[0],
        "t = Tanh(x) y = Mul(t, x)",
    ],
)
def test_what_only_looks_like_it_stays(body: str) -> None:
    rewriter = build(body)
    before = contents_digest(rewriter.model)
    assert fuse_activations(rewriter) == 0
    assert contents_digest(rewriter.model) == before


def test_what_is_read_elsewhere_stays() -> None:
    text = ORDERS[0] + " t = Tanh(g) u = Add(one, t) v = Mul(half, u) w = Mul(x, v) y = Add(w, t)"
    assert fuse_activations(build(text)) == 0, "the value of tanh is read twice"
    text = ORDERS[0] + " t = Tanh(g) u = Add(one, t) v = Mul(half, u) w = Mul(x, v) y = Add(w, e)"
    rewriter = build(text)
    assert fuse_activations(rewriter) == 1
    kept = [n.op_type for n in rewriter.graph]
    assert kept == ["Mul", "Mul", "Mul", "FastGelu", "Add"], "the cube is read by another"


def test_float64_has_no_kernel() -> None:
    assert fuse_activations(build(ORDERS[0] + " t = Tanh(g) " + ENDS[0], "double")) == 0


def test_a_spelled_out_gelu_is_one_kernel_where_the_runtime_does_not_see_it() -> None:
    """The order in which JAX writes it."""
    rewriter = build(ORDERS[0] + " t = Tanh(g) " + ENDS[0])
    seen = open_session(to_bytes(rewriter.model)).run({"x": X})[0]
    fuse_activations(rewriter)
    np.testing.assert_allclose(outputs(rewriter), seen, rtol=1e-5, atol=2e-6)
