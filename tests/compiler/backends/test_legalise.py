"""Legalised graphs run in integer kernels, leave float layers float, and compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.backends.backend import Legalised
from planish.compiler.backends.legalise import legalise
from planish.ir.digest import contents_digest
from planish.ir.errors import TargetError
from planish.ir.graph import constant_array, producer
from planish.ir.load import load_model
from planish.ir.qdq import is_dequantized, static_view, weight_view
from planish.ir.rewriter import Rewriter
from planish.ir.save import to_bytes
from planish.ir.verify import violations
from planish.passes.math.affine import quantize_weight
from planish.targets.census import Census, runtime_census
from planish.targets.runtime import open_session

Arrays = Mapping[str, Any]
K, N = 64, 32
MS = "com.microsoft:"
RANDOM = np.random.default_rng(0)
FLAT = ('float["B", 64] x', 'float["B", 32] y')
STATIC = ("float[2, 4, 64] x", "float[2, 4, 32] y")
DYNAMIC = ('float["B", 4, 64] x', 'float["B", 4, 32] y')
IMAGE = ('float["B", 8, 6, 6] x', 'float["B", 16, "h", "w"] y')
X_SCALE, X_ZERO = 0.03, 128
OUT = "yq = QuantizeLinear(y0, s, z) y = DequantizeLinear(yq, s, z)"


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


WEIGHTS: Arrays = {
    "w": floats(K, N),
    "b": floats(N),
    "conv": floats(16, 8, 3, 3),
    "cb": floats(16),
    "s": np.float32(X_SCALE),
    "z": np.uint8(X_ZERO),
    "zero": np.uint8(0),
}


def build(body: str, ports: tuple[str, str] = FLAT, weights: Arrays | None = None) -> ir.Model:
    """A graph in ONNX's text form; the weights that it names become initializers."""
    header = '<ir_version: 10, opset_import: ["": 21]>'
    proto = onnx.parser.parse_model(f"{header} g ({ports[0]}) => ({ports[1]}) {{ {body} }}")
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array), name)
        for name, array in {**WEIGHTS, **(weights or {})}.items()
    )
    return load_model(proto).model


def quantized(body: str, ports: tuple[str, str] = FLAT, weights: Arrays | None = None) -> Rewriter:
    """The graph with every MatMul quantized as ``quantize{scheme=static}`` writes it."""
    rewriter = Rewriter(build(body, ports, weights))
    for node in list(rewriter.graph):
        x, weight = node.inputs[0], constant_array(node.inputs[-1])
        if node.op_type != "MatMul" or x is None or weight is None:
            continue
        codes, scale = quantize_weight(weight, 1, 7)
        old = node.inputs[1]
        view = static_view(rewriter, x, X_SCALE, X_ZERO, "uint8")
        rewriter.set_input(node, 1, weight_view(rewriter, node, "w", codes, scale, 1))
        rewriter.set_input(node, 0, view)
        rewriter.sweep([old])
    return rewriter


def run(serialized: bytes) -> np.ndarray:
    session = open_session(serialized, optimize="none")
    shape = [2 if not isinstance(d, int) else d for d in session.inputs[0].shape or ()]
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    y: np.ndarray = session.run({session.inputs[0].name: x})[0]
    return y


def legalised(rewriter: Rewriter, rounding: float = 0.0) -> tuple[list[str], Census]:
    """Codes of what was done, and the census; the graph is well formed and computes the same.

    rounding: how far outputs may move, for biases that are rounded to integers.
    """
    before = to_bytes(rewriter.model)
    done: list[Legalised] = legalise(rewriter)
    after = to_bytes(rewriter.model)
    assert violations(rewriter.model) == []
    expected, got = run(before), run(after)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5 + rounding)
    again = contents_digest(rewriter.model)
    assert legalise(rewriter) == []
    assert contents_digest(rewriter.model) == again
    return [item.code for item in done], runtime_census(after)


def bias_step(weight: np.ndarray) -> float:
    """Half a step of the int32 bias: the rounding that int32 biases add at most."""
    return float(0.5 * X_SCALE * (np.abs(weight).max(axis=0) / 63).max())


# -- quantized layers --------------------------------------------------------------------


@pytest.mark.parametrize("rows", ['"B"', "2"])
@pytest.mark.parametrize("shape", [(N,), (1, N), (1,), (1, 1), ()])
@pytest.mark.parametrize("left", [False, True])
def test_a_flat_linear_layer_with_any_bias_is_one_integer_kernel(
    rows: str, shape: tuple[int, ...], left: bool
) -> None:
    ports = (f"float[{rows}, 64] x", f"float[{rows}, 32] y")
    body = "p = MatMul(x, w) y = Add(b, p)" if left else "p = MatMul(x, w) y = Add(p, b)"
    done, census = legalised(quantized(body, ports, {"b": floats(*shape)}), bias_step(WEIGHTS["w"]))
    assert done == ["int32-bias"]
    assert dict(census.counts) == {"QuantizeLinear": 1, f"{MS}QGemm": 1}


def test_the_integer_bias_is_the_one_the_formula_gives() -> None:
    """sum of (x codes - zero) * w codes + rounded bias, times both scales, in float64."""
    rewriter = quantized("p = MatMul(x, w) y = Add(p, b)")
    legalise(rewriter)
    x = np.random.default_rng(2).normal(size=(5, K)).astype(np.float32)
    (got,) = open_session(to_bytes(rewriter.model)).run({"x": x})
    step = np.float64(np.float32(X_SCALE))
    codes = np.clip(np.rint(x.astype(np.float64) / step) + X_ZERO, 0, 255) - X_ZERO
    w_codes, w_scale = quantize_weight(WEIGHTS["w"], 1, 7)
    scale = (np.float32(X_SCALE) * w_scale).astype(np.float64)
    bias = np.rint(WEIGHTS["b"] / scale)
    expected = (codes @ w_codes.astype(np.float64) + bias) * scale
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_before_opset_13_the_bias_is_added_apart() -> None:
    """Its scale is one of each column, which DequantizeLinear did not take then."""
    text = """<ir_version: 6, opset_import: ["" : 11]>
    g (float[2, 64] x) => (float[2, 32] y) {
        c = QuantizeLinear(x, one, zero) d = DequantizeLinear(c, one, zero)
        e = DequantizeLinear(w, one) p = MatMul(d, e) y = Add(p, b)
    }"""
    random = np.random.default_rng(3)
    held = {
        "one": np.float32(0.05), "zero": np.uint8(128), "b": WEIGHTS["b"],
        "w": random.integers(-9, 9, (64, 32)).astype(np.int8),
    }  # fmt: skip
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()
    )
    model = load_model(proto).model
    x = random.normal(size=(2, 64)).astype(np.float32)
    (before,) = open_session(to_bytes(model), optimize="none").run({"x": x})
    assert [done.code for done in legalise(Rewriter(model))] == ["bias-apart"]
    (after,) = open_session(to_bytes(model)).run({"x": x})
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ports", [STATIC, ("float[2, 3, 4, 64] x", "float[2, 3, 4, 32] y")])
def test_where_every_size_is_known_the_bias_is_added_apart(ports: tuple[str, str]) -> None:
    done, census = legalised(quantized("p = MatMul(x, w) y = Add(p, b)", ports))
    assert done == ["bias-apart"]
    assert census.counts[f"{MS}MatMulIntegerToFloat"] == 1
    assert "Gemm" not in census.counts


@pytest.mark.parametrize("shape", [(2, N), (2, 1)])
def test_a_bias_that_differs_by_row_is_added_apart(shape: tuple[int, int]) -> None:
    ports = ("float[2, 64] x", "float[2, 32] y")
    rewriter = quantized("p = MatMul(x, w) y = Add(p, b)", ports, {"b": floats(*shape)})
    done, census = legalised(rewriter)
    assert done == ["bias-apart"]
    assert census.counts[f"{MS}MatMulIntegerToFloat"] == 1


def test_a_layer_on_open_sizes_needs_nothing() -> None:
    done, census = legalised(quantized("p = MatMul(x, w) y = Add(p, b)", DYNAMIC))
    assert done == []
    assert census.counts[f"{MS}MatMulIntegerToFloat"] == 1


@pytest.mark.parametrize("value", [1e12, -1e12])
def test_a_bias_beyond_int32_is_added_apart(value: float) -> None:
    bias = np.where(np.arange(N) == 3, value, 1.0).astype(np.float32)
    done, census = legalised(quantized("p = MatMul(x, w) y = Add(p, b)", FLAT, {"b": bias}))
    assert done == ["bias-apart"]
    assert census.counts[f"{MS}MatMulIntegerToFloat"] == 1


def test_a_bias_that_widens_the_output_is_left_alone_by_the_gemm() -> None:
    ports = ('float["B", 64] x', 'float["B", 5] y')
    rewriter = quantized(
        "p = MatMul(x, w) y = Add(p, b)", ports, {"w": floats(K, 1), "b": floats(5)}
    )
    done, census = legalised(rewriter)
    assert done == ["bias-apart"]
    assert census.counts[f"{MS}MatMulIntegerToFloat"] == 1


def test_a_product_that_is_read_twice_keeps_its_own_value() -> None:
    ports = ('float["B", 64] x', 'float["B", 32] y, float["B", 32] p')
    done, census = legalised(quantized("p = MatMul(x, w) y = Add(p, b)", ports))
    assert done == []
    assert census.counts[f"{MS}MatMulIntegerToFloat"] == 1


@pytest.mark.parametrize(
    "act", ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Softplus", "Gelu", "Erf", "Sqrt"]
)
def test_no_activation_pulls_the_layer_back_into_float(act: str) -> None:
    done, census = legalised(
        quantized(f"p = MatMul(x, w) g = Add(p, b) y = {act}(g)", FLAT, {"b": floats(N) + 9}),
        bias_step(WEIGHTS["w"]),
    )
    assert len(done) == 1
    assert [row.integer for row in census.kernels] == [True]


@pytest.mark.parametrize("act", ["Relu", "Tanh", "Gelu"])
def test_no_activation_in_front_of_a_float_layer_does(act: str) -> None:
    """ONNX Runtime 1.31 makes a float FusedGemm of an integer Gemm, Relu, and a float Gemm."""
    body = f"p = MatMul(x, w) g = Add(p, b) r = {act}(g) y = Gemm(r, v, c)"
    ports = (FLAT[0], 'float["B", 10] y')
    rewriter = Rewriter(build(body, ports, {"v": floats(N, 10), "c": floats(10)}))
    first = rewriter.graph[0]
    codes, scale = quantize_weight(WEIGHTS["w"], 1, 7)
    view = static_view(rewriter, rewriter.graph.inputs[0], X_SCALE, X_ZERO, "uint8")
    rewriter.set_input(first, 1, weight_view(rewriter, first, "w", codes, scale, 1))
    rewriter.set_input(first, 0, view)
    _, census = legalised(rewriter, 10 * bias_step(WEIGHTS["w"]))
    assert [row.integer for row in census.kernels] == [True, False]


@pytest.mark.parametrize(
    "tail",
    [
        "y0 = Relu(g) yq = QuantizeLinear(y0, s, zero) y = DequantizeLinear(yq, s, zero)",
        "r = Relu(g) y0 = Reshape(r, split) yq = QuantizeLinear(y0, s, zero) "
        "y = DequantizeLinear(yq, s, zero)",
    ],
)
def test_a_relu_that_is_rounded_at_once_stays_in_one_kernel(tail: str) -> None:
    rank = 3 if "Reshape" in tail else 2
    ports = (FLAT[0], f"float[{', '.join('abc'[:rank])}] y")
    weights = {"split": np.array([-1, 4, 8])}
    rewriter = quantized(f"p = MatMul(x, w) g = Add(p, b) {tail}", ports, weights)
    done, census = legalised(rewriter, rounding=1.01 * X_SCALE)
    assert done == ["int32-bias"]
    assert census.counts[f"{MS}QGemm"] == 1
    assert "Relu" not in census.counts


# -- float layers between quantized ones -------------------------------------------------

SANDWICHES: Mapping[str, tuple[str, tuple[str, str], Arrays]] = {
    "matmul": ("p = MatMul(d, w) y0 = Add(p, b)", FLAT, {}),
    "matmul, row bias": ("p = MatMul(d, w) y0 = Add(p, b)", FLAT, {"b": floats(1, N)}),
    "matmul, bias left": ("p = MatMul(d, w) y0 = Add(b, p)", FLAT, {}),
    "matmul, relu": ("p = MatMul(d, w) g = Add(p, b) y0 = Relu(g)", FLAT, {}),
    "matmul, known sizes": ("p = MatMul(d, w) y0 = Add(p, b)", STATIC, {}),
    "gemm": ("y0 = Gemm(d, w, b)", FLAT, {}),
    "gemm, no bias": ("y0 = Gemm(d, w)", FLAT, {}),
    "gemm, transposed": ("y0 = Gemm<transB=1>(d, w, b)", FLAT, {"w": floats(N, K)}),
    "gemm, transposed, no bias": ("y0 = Gemm<transB=1>(d, w)", FLAT, {"w": floats(N, K)}),
    "gemm, alpha, beta": ("y0 = Gemm<alpha=0.5, beta=2.0>(d, w, b)", FLAT, {}),
    "gemm, bias by row": (
        "y0 = Gemm(d, w, b)",
        ("float[2, 64] x", "float[2, 32] y"),
        {"b": floats(2, N)},
    ),
    "gemm, scalar bias": ("y0 = Gemm(d, w, b)", FLAT, {"b": floats()}),
    "conv": ("y0 = Conv<pads=[1, 1, 1, 1]>(d, conv, cb)", IMAGE, {}),
    "conv, no bias": ("y0 = Conv(d, conv)", IMAGE, {}),
    "conv, relu": ("c = Conv(d, conv, cb) y0 = Relu(c)", IMAGE, {}),
    "conv, clip": (
        "c = Conv(d, conv, cb) y0 = Clip(c, low, high)",
        IMAGE,
        {"low": np.float32(0), "high": np.float32(6)},
    ),
    "conv, one axis": (
        "y0 = Conv(d, conv, cb)",
        ('float["B", 8, 9] x', 'float["B", 16, "n"] y'),
        {"conv": floats(16, 8, 3)},
    ),
    "depthwise": (
        "y0 = Conv<group=8>(d, conv, cb)",
        ('float["B", 8, 6, 6] x', 'float["B", 8, "h", "w"] y'),
        {"conv": floats(8, 1, 3, 3), "cb": floats(8)},
    ),
    "transposed conv": ("y0 = ConvTranspose(d, conv, cb)", IMAGE, {"conv": floats(8, 16, 3, 3)}),
    "transposed conv, groups, no bias": (
        "y0 = ConvTranspose<group=2>(d, conv)",
        IMAGE,
        {"conv": floats(8, 8, 3, 3)},
    ),
    "pool in front": ("m = MaxPool<kernel_shape=[2, 2]>(d) y0 = Conv(m, conv, cb)", IMAGE, {}),
    "pool behind": ("c = Conv(d, conv, cb) y0 = MaxPool<kernel_shape=[2, 2]>(c)", IMAGE, {}),
    "relu and pool behind": (
        "c = Conv(d, conv, cb) r = Relu(c) y0 = MaxPool<kernel_shape=[2, 2]>(r)",
        IMAGE,
        {},
    ),
    "transpose in front": (
        "t = Transpose<perm=[0, 1, 3, 2]>(d) y0 = Conv(t, conv, cb)",
        IMAGE,
        {},
    ),
    "pad in front": (
        "t = Pad(d, pads) y0 = Conv(t, conv, cb)",
        IMAGE,
        {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
    ),
    "slice in front": (
        "t = Slice(d, from, to, axis) y0 = Conv(t, conv, cb)",
        IMAGE,
        {"from": np.array([0]), "to": np.array([5]), "axis": np.array([2])},
    ),
    "reshape in front": (
        "t = Reshape(d, flat) p = MatMul(t, w) y0 = Add(p, b)",
        (IMAGE[0], FLAT[1]),
        {"flat": np.array([-1, 288]), "w": floats(288, N)},
    ),
    "reshape behind": (
        "g = Gemm(d, w, b) y0 = Reshape(g, split)",
        (FLAT[0], 'float["B", 4, 8] y'),
        {"split": np.array([-1, 4, 8])},
    ),
}


CODES, SCALE = quantize_weight(floats(8, 8, 1, 1), 0, 7)
KERNELS: Arrays = {
    "k": CODES, "ks": SCALE, "kz": np.zeros(8, np.int8), "small": floats(2, 8, 1, 1),
}  # fmt: skip
PLAIN, RELU = "a = Conv(d, v)", "c = Conv(d, v) a = Relu(c)"


def conv_read_twice(conv: str, readers: str, zero: str = "") -> Rewriter:
    """A quantized convolution whose output ``a`` has a pair ``ad``, and its readers."""
    zero = zero or ("zero" if "Relu" in conv else "z")
    text = (
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
        f"v = DequantizeLinear <axis = 0> (k, ks, kz) {conv} "
        f"aq = QuantizeLinear(a, s, {zero}) ad = DequantizeLinear(aq, s, {zero}) {readers}"
    )
    return Rewriter(build(text, (IMAGE[0], 'float["B", "c", 6, 6] y'), KERNELS))


@pytest.mark.parametrize("conv", [PLAIN, RELU])
def test_a_convolution_is_integer_though_a_float_layer_reads_it(conv: str) -> None:
    rewriter = conv_read_twice(conv, "e = Conv(a, small) r = ReduceSum(ad) y = Add(e, r)")
    assert [row.integer for row in runtime_census(to_bytes(rewriter.model)).kernels] == [False] * 2
    (done,) = legalise(rewriter)
    assert done.code == "rounded-for-all"
    assert violations(rewriter.model) == []
    assert legalise(rewriter) == []
    integer = [row.integer for row in runtime_census(to_bytes(rewriter.model)).kernels]
    assert sorted(integer) == [False, True]  # and the float layer was not quantized unasked
    meant = conv_read_twice(conv, "e = Conv(ad, small) r = ReduceSum(ad) y = Add(e, r)")
    np.testing.assert_array_equal(run(to_bytes(rewriter.model)), run(to_bytes(meant.model)))


@pytest.mark.parametrize(
    "readers", ["f = Conv(a, small) r = Exp(a) e = ReduceSum(f) y = Add(r, e)", "y = Add(a, ad)"]
)
def test_a_value_that_others_need_unrounded_stays_so(readers: str) -> None:
    rewriter = conv_read_twice(RELU, readers)
    assert "rounded-for-all" not in [item.code for item in legalise(rewriter)]


def test_a_relu_that_no_grid_absorbs_keeps_the_convolution_float_anyway() -> None:
    readers = "e = Conv(a, small) r = ReduceSum(ad) y = Add(e, r)"
    assert legalise(conv_read_twice(RELU, readers, zero="z")) == []


@pytest.mark.parametrize("name", SANDWICHES)
def test_a_float_layer_between_quantizers_stays_float(name: str) -> None:
    body, ports, weights = SANDWICHES[name]
    out = OUT.replace("z)", "zero)") if "elu(" in body or "Clip" in body else OUT
    text = f"q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) {body} {out}"
    rewriter = Rewriter(build(text, ports, weights))
    done, census = legalised(rewriter)
    assert done == ["kept-float"]
    assert census.foreign_weights(set(rewriter.graph.initializers)) == ()
    assert census.kernels
    assert not any(row.integer for row in census.kernels)
    assert {row.weight_dtype for row in census.kernels} == {"FLOAT"}


@pytest.mark.parametrize(
    ("body", "ports"),
    [
        ("d = Sqrt(x) y0 = Gemm(d, w, b) " + OUT, FLAT),
        ("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Gemm(d, w, b)", FLAT),
        (
            "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y0 = MatMul(d, w) " + OUT,
            FLAT,
        ),
        (
            "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
            "p = MatMul(d, w) y0 = Add(p, b) " + OUT,
            DYNAMIC,
        ),
        ("y = Gemm(x, w, b)", FLAT),
        ("y = Conv(x, conv, cb)", IMAGE),
    ],
)
def test_a_layer_that_the_runtime_leaves_alone_is_left_alone(
    body: str, ports: tuple[str, str]
) -> None:
    rewriter = Rewriter(build(body, ports))
    before = contents_digest(rewriter.model)
    done, census = legalised(rewriter)
    assert done == []
    assert contents_digest(rewriter.model) == before
    assert census.foreign_weights(set(rewriter.graph.initializers)) == ()


def test_what_was_done_names_the_output_and_is_undone_by_rollback() -> None:
    rewriter = quantized("p = MatMul(x, w) y = Add(p, b)")
    before, mark = contents_digest(rewriter.model), rewriter.checkpoint()
    (done,) = legalise(rewriter)
    assert done.value == "y"
    assert "int32" in done.sentence
    gemm = producer(rewriter.graph.outputs[0], "Gemm")
    assert gemm is not None
    assert all(is_dequantized(value) for value in gemm.inputs)
    rewriter.rollback(mark)
    assert contents_digest(rewriter.model) == before


DOUBLE_NORM = """
x32 = Cast<to=1>(x)
mean = ReduceMean<axes=[1]>(x32)
centred = Sub(x32, mean)
square = Pow(centred, two)
variance = ReduceMean<axes=[1]>(square)
shifted = Add(variance, epsilon)
deviation = Sqrt(shifted)
normalised = Div(centred, deviation)
scaled = Mul(normalised, b)
y = Add(scaled, b)
"""


def test_a_normalisation_of_what_was_float64_still_loads() -> None:
    tensors = {"two": np.float32(2), "epsilon": np.float32(1e-5)}
    header = '<ir_version: 8, opset_import: ["": 13]>'
    text = f'{header} g (double["B", 32] x) => (float["B", 32] y) {{ {DOUBLE_NORM} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in {**WEIGHTS, **tensors}.items()
    )
    with pytest.raises(TargetError, match="LayerNormalization"):
        open_session(to_bytes(load_model(proto).model))
    model = load_model(proto).model
    assert [done.code for done in legalise(Rewriter(model))] == ["norm-kept-apart"]
    x = np.random.default_rng(1).normal(size=(5, 32))
    centred = x - x.mean(axis=1, keepdims=True)
    b = WEIGHTS["b"].astype(np.float64)
    wanted = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * b + b
    np.testing.assert_allclose(
        open_session(to_bytes(model)).run({"x": x})[0], wanted, rtol=1e-4, atol=1e-5
    )
