"""Spellings compute the same, apply once, and reach the kernels they are for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.backends.integer_linear import fuse_integer_bias
from planish.compiler.backends.spellings import SPELLINGS, may_apply, sum_before_norm
from planish.ir.digest import contents_digest
from planish.ir.graph import constant_array
from planish.ir.load import load_model
from planish.ir.qdq import static_view, weight_view
from planish.ir.rewriter import Rewriter
from planish.ir.save import to_bytes
from planish.ir.verify import violations
from planish.passes.math.affine import quantize_weight
from planish.targets.census import runtime_census
from planish.targets.runtime import open_session

K, N = 64, 32
MS = "com.microsoft:"
PORTS = ('float["B", "S", 64] x', 'float["B", "S", 32] y')
SQUARE = (PORTS[0], 'float["B", "S", 64] y')
X_SCALE, X_ZERO = 0.03, 120
RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


WEIGHTS: Mapping[str, Any] = {
    "w": floats(K, N),
    "b": floats(N),
    "scale": floats(K),
    "shift": floats(K),
}


def build(
    body: str, ports: tuple[str, str] = PORTS, weights: Mapping[str, Any] | None = None
) -> Rewriter:
    """A graph in ONNX's text form; each MatMul with a constant is quantized statically."""
    header = '<ir_version: 10, opset_import: ["": 21]>'
    proto = onnx.parser.parse_model(f"{header} g ({ports[0]}) => ({ports[1]}) {{ {body} }}")
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array), name)
        for name, array in {**WEIGHTS, **(weights or {})}.items()
    )
    return Rewriter(load_model(proto).model)


def quantize(rewriter: Rewriter) -> Rewriter:
    """Every MatMul with a constant, as ``quantize{scheme=static}`` writes it."""
    for node in list(rewriter.graph):
        x, weight = node.inputs[0], constant_array(node.inputs[-1])
        if node.op_type != "MatMul" or x is None or weight is None:
            continue
        codes, scale = quantize_weight(weight, 1, 7)
        view = static_view(rewriter, x, X_SCALE, X_ZERO, "uint8")
        rewriter.set_input(node, 1, weight_view(rewriter, node, "w", codes, scale, 1))
        rewriter.set_input(node, 0, view)
    return rewriter


def feed(rewriter: Rewriter) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    shape = [d if isinstance(d, int) else 3 for d in rewriter.graph.inputs[0].shape or ()]
    return {"x": random.normal(size=shape).astype(np.float32)}


def check(name: str, rewriter: Rewriter, count: int, rtol: float = 1e-5) -> Mapping[str, int]:
    """Kernels of the graph in that spelling, which computes what it did and applies once."""
    before = open_session(to_bytes(rewriter.model), optimize="none").run(feed(rewriter))
    start, mark = contents_digest(rewriter.model), rewriter.checkpoint()
    assert may_apply(name, rewriter.graph) or count == 0
    assert SPELLINGS[name](rewriter) == count
    assert violations(rewriter.model) == []
    digest = contents_digest(rewriter.model)
    assert SPELLINGS[name](rewriter) == 0
    assert contents_digest(rewriter.model) == digest
    serialized = to_bytes(rewriter.model)
    for level in ("none", "all"):
        after = open_session(serialized, optimize=level).run(feed(rewriter))
        for a, b in zip(before, after, strict=True):
            np.testing.assert_allclose(b, a, rtol=rtol, atol=rtol)
    rewriter.rollback(mark)
    assert contents_digest(rewriter.model) == start
    return runtime_census(serialized).counts


# -- sum before norm ---------------------------------------------------------------------

NORM = "y = LayerNormalization<axis=-1>(r, scale, shift)"


def test_a_residual_sum_is_kept_from_the_slow_fusion() -> None:
    rewriter = build(f"t = Sqrt(x) a = Abs(x) r = Add(a, x) {NORM}", SQUARE)
    assert runtime_census(to_bytes(rewriter.model)).counts[f"{MS}SkipLayerNormalization"] == 1
    counts = check("sum-before-norm", rewriter, 1)
    assert f"{MS}SkipLayerNormalization" not in counts
    assert (counts["Sum"], counts["LayerNormalization"]) == (1, 1)


def test_a_sum_that_is_also_read_elsewhere_or_an_output_is_written_so_too() -> None:
    body = f"a = Abs(x) r = Add(a, x) {NORM} z = Neg(r)"
    ports = (SQUARE[0], 'float["B", "S", 64] y, float["B", "S", 64] r, float["B", "S", 64] z')
    rewriter = build(body, ports)
    check("sum-before-norm", rewriter, 1)
    assert sum_before_norm(rewriter) == 1
    assert [v.name for v in rewriter.graph.outputs] == ["y", "r", "z"]


@pytest.mark.parametrize(
    "body",
    [
        f"r = Add(x, shift) {NORM}",
        f"a = Abs(x) r = Mul(a, x) {NORM}",
        "a = Abs(x) r = Add(a, x) y = Neg(r)",
        f"a = Abs(x) s = Add(a, x) r = Neg(s) {NORM}",
    ],
)
def test_other_additions_stay(body: str) -> None:
    rewriter = build(body, SQUARE)
    before = contents_digest(rewriter.model)
    assert sum_before_norm(rewriter) == 0
    assert contents_digest(rewriter.model) == before


# -- integer bias ------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Add", "Sum"])
def test_the_bias_becomes_part_of_the_integer_kernel(op: str) -> None:
    rewriter = quantize(build(f"p = MatMul(x, w) y = {op}(p, b)"))
    apart = runtime_census(to_bytes(rewriter.model)).counts
    assert (apart[op], apart[f"{MS}MatMulIntegerToFloat"]) == (1, 1)
    counts = check("integer-bias", rewriter, 1)
    assert dict(counts) == {"QuantizeLinear": 1, f"{MS}MatMulIntegerToFloat": 1}


@pytest.mark.parametrize("shape", ["2, 64", '"B", 64', "2, 3, 64", '"B", "S", "T", 64'])
def test_any_number_of_axes(shape: str) -> None:
    ports = (f"float[{shape}] x", f"float[{shape.replace('64', '32')}] y")
    counts = check("integer-bias", quantize(build("p = MatMul(x, w) y = Sum(p, b)", ports)), 1)
    assert counts[f"{MS}MatMulIntegerToFloat"] == 1
    assert "Sum" not in counts


def test_its_numbers_are_those_of_the_formula() -> None:
    """(x codes - zero) @ w codes times both scales, plus the bias, in float64."""
    rewriter = quantize(build("p = MatMul(x, w) y = Add(p, b)"))
    assert fuse_integer_bias(rewriter) == 1
    x = feed(rewriter)["x"]
    (got,) = open_session(to_bytes(rewriter.model)).run({"x": x})
    step = np.float64(np.float32(X_SCALE))
    codes = np.clip(np.rint(x.astype(np.float64) / step) + X_ZERO, 0, 255) - X_ZERO
    w_codes, w_scale = quantize_weight(WEIGHTS["w"], 1, 7)
    expected = codes @ w_codes.astype(np.float64) * step * w_scale.astype(np.float64)
    np.testing.assert_allclose(got, expected + WEIGHTS["b"], rtol=1e-5, atol=1e-5)


def test_layers_that_share_their_input_and_weight() -> None:
    body = """
        p = MatMul(x, w) g = Add(p, b) q = MatMul(x, w) h = Add(q, c) y = Sub(g, h)
    """
    rewriter = quantize(build(body, weights={"c": floats(N)}))
    counts = check("integer-bias", rewriter, 2)
    assert counts[f"{MS}MatMulIntegerToFloat"] == 2
    assert counts["QuantizeLinear"] == 1


@pytest.mark.parametrize(
    ("body", "outputs", "weights"),
    [
        ("p = MatMul(x, w) y = Add(p, b)", PORTS[1], {"b": floats(1)}),
        ("p = MatMul(x, w) y = Add(p, b)", PORTS[1], {"b": floats(1, N)}),
        ("p = MatMul(x, w) y = Mul(p, b)", PORTS[1], {}),
        ("p = MatMul(x, w) y = Add(p, b)", f"{PORTS[1]}, float['B', 'S', 32] p", {}),
        ("p = MatMul(x, w) n = Neg(p) y = Add(p, n)", PORTS[1], {}),
        ("p = MatMul(x, w) y = Sum(p, b, b)", PORTS[1], {}),
    ],
)
def test_what_the_kernel_does_not_take_is_left_alone(
    body: str, outputs: str, weights: Mapping[str, Any]
) -> None:
    ports = (PORTS[0], outputs.replace("'", '"'))
    rewriter = quantize(build(body, ports, weights))
    before = contents_digest(rewriter.model)
    assert fuse_integer_bias(rewriter) == 0
    assert contents_digest(rewriter.model) == before


def test_a_float_layer_is_left_alone() -> None:
    rewriter = build("p = MatMul(x, w) y = Add(p, b)")
    before = contents_digest(rewriter.model)
    assert fuse_integer_bias(rewriter) == 0
    assert contents_digest(rewriter.model) == before


def test_scales_by_row_are_left_alone() -> None:
    """Scales of a square weight fit its rows as well as its columns."""
    rewriter = quantize(build("p = MatMul(x, w) y = Add(p, shift)", SQUARE, {"w": floats(K, K)}))
    (node,) = [n for n in rewriter.graph if n.op_type == "DequantizeLinear" and _axis(n) == 1]
    rewriter.set_attribute(node, "axis", 0)
    assert fuse_integer_bias(rewriter) == 0


def _axis(node: ir.Node) -> int | None:
    return node.attributes["axis"].as_int() if "axis" in node.attributes else None
