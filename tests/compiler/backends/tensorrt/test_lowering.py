"""What TensorRT cannot take is rewritten, or refused with the place and the way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.backends.tensorrt.lowering import lower
from planish.compiler.backends.tensorrt.masks import MASKED
from planish.ir.errors import InputError, TargetError
from planish.ir.graph import constant_array, producer
from planish.ir.rewriter import Rewriter
from planish.ir.verify import violations
from planish.targets.loader import load_target

RANDOM = np.random.default_rng(0)
A100 = load_target("nvidia-a100")
VECTOR = ("float[n, 16] x", "float[n, 16] y")


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def lowered(model: ir.Model) -> list[str]:
    """Lower in place; the codes of what was done."""
    done = lower(Rewriter(model), A100)
    assert list(violations(model)) == []
    return [each.code for each in done]


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("y = com.microsoft.Gelu(x)", {}),
        ("y = com.microsoft.FastGelu(x)", {}),
        ("y = com.microsoft.FastGelu(x, b)", {"b": normal(16)}),
        ("y = com.microsoft.QuickGelu<alpha=1.5>(x)", {}),
        ("y = com.microsoft.SkipLayerNormalization<epsilon=0.001>(x, x, b)", {"b": normal(16)}),
        (
            "n, mean, inverse, s = com.microsoft.SkipLayerNormalization(x, x, b, c, d) "
            "y = Add(n, s)",
            {"b": normal(16), "c": normal(16), "d": normal(16)},
        ),
        (
            "y = com.microsoft.FusedMatMul<alpha=0.5, transB=1>(x, w)",
            {"w": normal(16, 16)},
        ),
    ],
)
def test_contrib_operators_compute_the_same_in_standard_ones(
    body: str, weights: Any, build: Any, run: Any
) -> None:
    model = build(body, weights, *VECTOR)
    x = {"x": normal(5, 16)}
    (before,) = run(model, x)
    assert set(lowered(model)) == {"standard-spelling"}
    assert {node.domain for node in model.graph} == {""}
    np.testing.assert_allclose(run(model, x)[0], before, atol=1e-5)


def test_an_operator_without_a_standard_form_is_refused_by_name(build: Any) -> None:
    model = build("y = com.microsoft.BiasSplitGelu(x, b)", {"b": normal(16)}, *VECTOR)
    next(iter(model.graph)).name = "strange"
    with pytest.raises(TargetError, match=r"no operators com\.microsoft:BiasSplitGelu") as caught:
        lower(Rewriter(model), A100)
    assert "'strange'" in caught.value.where
    assert "default ONNX domain" in caught.value.hint


PAIR = "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)"


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_scales_that_are_not_finite_do_not_even_load(scale: float, build: Any) -> None:
    with pytest.raises(InputError, match="weights are not finite: 's'"):
        build(PAIR, {"s": np.float32(scale), "z": np.int8(0)}, *VECTOR)


@pytest.mark.parametrize(
    ("scale", "what"), [(np.nan, "not finite"), (0.0, "not above 0"), (-0.1, "not above 0")]
)
def test_scales_that_are_no_scales_are_refused(scale: float, what: str, build: Any) -> None:
    """A pass may have made them."""
    model = build(PAIR, {"s": np.float32(1), "z": np.int8(0)}, *VECTOR)
    rewriter = Rewriter(model)
    rewriter.set_tensor(model.graph.initializers["s"], np.asarray(scale, np.float32))
    with pytest.raises(TargetError, match=what) as caught:
        lower(rewriter, A100)
    assert "QuantizeLinear" in caught.value.what
    assert "nvidia-a100" in caught.value.hint


def test_scales_of_run_time_are_refused(build: Any) -> None:
    body = (
        "a = Abs(x) s = ReduceMax<keepdims=0>(a) q = QuantizeLinear(x, s, z) "
        "y = DequantizeLinear(q, s, z)"
    )
    with pytest.raises(TargetError, match="computed at run time"):
        lower(Rewriter(build(body, {"z": np.int8(0)}, *VECTOR)), A100)


# -- masks -----------------------------------------------------------------------------

SCORES = ("float[n, 16] x, bool[n, 16] keep", "float[n, 16] y")


@pytest.mark.parametrize("low", [np.finfo(np.float32).min, -np.inf, -1e9])
def test_masks_are_bounded_and_mask_as_before(low: float, build: Any, run: Any) -> None:
    body = "m = Where(keep, zero, low) s = Add(x, m) y = Softmax(s)"
    model = build(body, {"zero": np.float32(0), "low": np.float32(low)}, *SCORES)
    keep = RANDOM.random((4, 16)) < 0.5
    keep[:, 0] = True
    feeds = {"x": normal(4, 16), "keep": keep}
    (before,) = run(model, feeds)
    assert lowered(model) == ["mask-bounded"]
    constants = [constant_array(v) for v in model.graph.initializers.values()]
    assert min(float(c.min()) for c in constants if c is not None) == MASKED
    np.testing.assert_allclose(run(model, feeds)[0], before, atol=1e-7)
    assert np.all(run(model, feeds)[0][~keep] == 0)


@pytest.mark.parametrize(
    "body",
    [
        "m = Where(keep, zero, low) y = Add(x, m)",  # leaves the graph
        "m = Where(keep, zero, low) s = Add(x, m) t = Softmax(s) u = Exp(m) y = Add(t, u)",
    ],
)
def test_large_constants_that_are_no_masks_stay(body: str, build: Any) -> None:
    model = build(body, {"zero": np.float32(0), "low": np.float32(-1e9)}, *SCORES)
    assert lowered(model) == []


# -- residuals -------------------------------------------------------------------------

IMAGE = ("float[n, 16, 8, 8] x", "float[n, 16, 8, 8] y")
CONV = {
    "s": np.float32(0.05), "z": np.int8(0),
    "w": RANDOM.integers(-127, 127, (16, 16, 1, 1), np.int8),
    "ws": np.full(16, 0.01, np.float32), "wz": np.zeros(16, np.int8),
}  # fmt: skip
QUANTIZED = (
    "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
    "v = DequantizeLinear<axis=0>(w, ws, wz) c = Conv(d, v) "
)


def test_a_residual_is_read_rounded_where_the_convolution_takes_it(build: Any) -> None:
    model = build(QUANTIZED + "y = Add(c, x)", CONV, *IMAGE)
    assert lowered(model) == ["residual-in-8-bits"]
    add = next(node for node in model.graph if node.op_type == "Add")
    made = [producer(v) for v in add.inputs]
    assert [n and n.op_type for n in made] == ["Conv", "DequantizeLinear"]


@pytest.mark.parametrize(
    "tail",
    [
        "r = Relu(x) y = Add(c, r)",  # its other operand has no grid
        "e = Relu(c) f = Add(c, x) y = Add(e, f)",  # others read the convolution: none is fused
        "t = Add(c, b) y = Mul(t, x)",  # a bias is no residual
    ],
)
def test_other_additions_stay_as_they_are(tail: str, build: Any) -> None:
    tensors = CONV | ({"b": normal(1)} if "b" in tail.split("Add(c, ")[1][:2] else {})
    model = build(QUANTIZED + tail, tensors, *IMAGE)
    assert lowered(model) == []
