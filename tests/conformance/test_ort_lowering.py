"""What ONNX Runtime makes of the graphs that planish writes, on its default options.

The backend and the catalogue rely on these facts (found with onnxruntime 1.31.1). A failure here
after an update of the runtime means that a fact has changed, not that a test is wrong: look at the
backend's spellings and at the sources of the target files first. Weights use 7 bits, so that
results are exact also where 16-bit sums saturate.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.ir.errors import TargetError
from planish.targets.census import Census, runtime_census
from planish.targets.loader import load_target
from planish.targets.runtime import open_session

K, N = 64, 32
MS = "com.microsoft:"
Shape: TypeAlias = Sequence[int | str]
FLAT: Shape = ("B", K)
DYNAMIC: Shape = ("B", "S", K)
STATIC: Shape = (2, 4, K)
IMAGE: Shape = ("B", 8, 6, 6)
ACT_SCALE, OUT_SCALE = 0.05, 0.5

Array = np.ndarray[Any, Any]


@dataclass
class Graph:
    """A graph under construction; methods add nodes and return the name of the result."""

    shape: Shape
    dtype: int = TensorProto.FLOAT
    opset: int = 21
    ir_version: int = 10
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)

    def op(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, inputs, [out], name=name or f"n_{out}", **attributes)
        )
        return out

    def const(self, name: str, value: Any) -> str:
        self.tensors[name] = np.asarray(value)
        return name

    def quantize(self, value: str, scale: float, zero: Any) -> str:
        """QuantizeLinear and DequantizeLinear, per tensor."""
        s = self.const(f"{value}_scale", np.float32(scale))
        z = self.const(f"{value}_zero", zero)
        return self.op("DequantizeLinear", self.op("QuantizeLinear", value, s, z), s, z)

    def weight(self, name: str, value: Array, axis: int) -> str:
        """An int8 initializer and its DequantizeLinear, symmetric per channel."""
        scale = self.const(f"{name}.scale", channel_scales(value.shape[axis]))
        zero = self.const(f"{name}.zero", np.zeros(value.shape[axis], np.int8))
        return self.op("DequantizeLinear", self.const(name, value), scale, zero, axis=axis)

    def serialized(self, *outputs: str) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", self.dtype, self.shape)],
            [onnx.ValueInfoProto(name=name) for name in outputs or (self.nodes[-1].output[0],)],
            [numpy_helper.from_array(value, name) for name, value in self.tensors.items()],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version)
        data: bytes = proto.SerializeToString()
        return data

    def census(self, *outputs: str, **entries: str) -> Census:
        return runtime_census(
            self.serialized(*outputs),
            entries={key.replace("__", "."): value for key, value in entries.items()},
        )

    def run(self, x: Array) -> Array:
        return open_session(self.serialized()).run({"x": x})[0]


def channel_scales(channels: int) -> Array:
    return (0.01 + 0.001 * np.arange(channels)).astype(np.float32)


def integers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-63, 64, shape).astype(np.int8)


def floats(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def linear(
    shape: Shape = DYNAMIC, *, bias: bool = False, out: bool = False, zero: int = 128
) -> Graph:
    """x -> Q, DQ -> MatMul int8 weight (-> Add) (-> Q, DQ | Sqrt)."""
    g = Graph(shape)
    y = g.op(
        "MatMul",
        g.quantize("x", ACT_SCALE, np.uint8(zero)),
        g.weight("fc.weight", integers(K, N), axis=1),
        name="fc/MatMul",
    )
    if bias:
        y = g.op("Add", y, g.const("fc.bias", floats(N)), name="fc/Add")
    if out:
        g.quantize(y, OUT_SCALE, np.uint8(128))
    return g


def conv(*, out: bool, relu: bool = False, zero: int = 128) -> Graph:
    g = Graph(IMAGE)
    y = g.op(
        "Conv",
        g.quantize("x", ACT_SCALE, np.uint8(128)),
        g.weight("conv.weight", integers(16, 8, 3, 3), axis=0),
        g.const("conv.bias", floats(16)),
        name="conv/Conv",
        pads=[1, 1, 1, 1],
    )
    y = g.op("Relu", y) if relu else y
    if out:
        g.quantize(y, OUT_SCALE, np.uint8(zero))
    return g


def the_weights_kernel(census: Census, weight: str) -> str:
    (row,) = census.by_weight()[weight]
    return row.op


def dequantized_input(x: Array, zero: int = 128) -> Array:
    """float64 values of x after uint8 quantization: the reference of every static layer here."""
    steps = np.rint(x.astype(np.float64) / np.float32(ACT_SCALE)) + zero
    values: Array = (np.clip(steps, 0, 255) - zero) * np.float64(np.float32(ACT_SCALE))
    return values


def dense_weight() -> Array:
    return integers(K, N).astype(np.float64) * channel_scales(N)


# -- static linear layers ------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_on_three_dynamic_axes_is_matmul_integer_to_float(bias: bool) -> None:
    census = linear(bias=bias).census()
    assert the_weights_kernel(census, "fc.weight") == MS + "MatMulIntegerToFloat"
    assert census.counts.get("Add", 0) == bias
    assert "DequantizeLinear" not in census.counts


def test_its_numbers_are_those_of_the_quantized_model() -> None:
    x = floats(2, 3, K)
    exact = dequantized_input(x) @ dense_weight()
    np.testing.assert_allclose(linear().run(x), exact, rtol=1e-5, atol=1e-5)


def test_a_quantized_output_makes_it_qlinear_matmul() -> None:
    census = linear(out=True).census()
    assert the_weights_kernel(census, "fc.weight") == "QLinearMatMul"


@pytest.mark.parametrize("shape", [FLAT, STATIC])
def test_a_bias_on_known_rows_without_a_quantized_output_falls_back_to_float(
    shape: Shape,
) -> None:
    (row,) = linear(shape, bias=True).census().by_weight()["fc.weight"]
    assert (row.op, row.integer) == ("Gemm", False)


@pytest.mark.parametrize("shape", [FLAT, STATIC])
def test_a_quantized_output_or_no_bias_keeps_it_integer(shape: Shape) -> None:
    with_output = linear(shape, bias=True, out=True).census()
    assert the_weights_kernel(with_output, "fc.weight") == MS + "QGemm"
    without_bias = linear(shape).census()
    assert the_weights_kernel(without_bias, "fc.weight") == MS + "MatMulIntegerToFloat"


def test_an_int32_bias_makes_gemm_an_integer_kernel_with_float_output() -> None:
    g = Graph(FLAT)
    scale = (np.float32(ACT_SCALE) * channel_scales(N)).astype(np.float32)
    bias = np.arange(N, dtype=np.int32) * 100
    b = g.op("DequantizeLinear", g.const("fc.bias", bias), g.const("fc.bias.scale", scale), axis=0)
    w = g.weight("fc.weight", integers(K, N), axis=1)
    g.op("Gemm", g.quantize("x", ACT_SCALE, np.uint8(128)), w, b, name="fc/Gemm")
    assert the_weights_kernel(g.census(), "fc.weight") == MS + "QGemm"
    assert "DequantizeLinear" not in g.census().counts
    x = floats(5, K)
    exact = dequantized_input(x) @ dense_weight() + bias * scale.astype(np.float64)
    np.testing.assert_allclose(g.run(x), exact, rtol=1e-5, atol=1e-5)


def test_a_transposed_weight_is_integer_but_loses_its_name() -> None:
    g = Graph(DYNAMIC)
    w = g.op("Transpose", g.weight("fc.weight", integers(N, K), axis=0), perm=[1, 0])
    g.op("MatMul", g.quantize("x", ACT_SCALE, np.uint8(128)), w, name="fc/MatMul")
    census = g.census()
    (row,) = census.kernels
    assert row.integer
    assert row.weight_shape == (K, N)
    assert row.weight_names != ("fc.weight",)
    assert [t.shape for t in census.foreign_weights({"fc.weight"})] == [(K, N)]


def test_one_quantizer_may_feed_several_layers() -> None:
    g = Graph(DYNAMIC)
    x = g.quantize("x", ACT_SCALE, np.uint8(128))
    outputs = [
        g.op("MatMul", x, g.weight(f"{part}.weight", integers(K, N, seed=i), axis=1))
        for i, part in enumerate("qkv")
    ]
    assert g.census(*outputs).counts == {MS + "MatMulIntegerToFloat": 3, "QuantizeLinear": 1}


def test_names_of_layers_and_weights_survive() -> None:
    for g in (linear(), linear(bias=True), linear(out=True)):
        (row,) = g.census().kernels
        assert (row.node_name, row.weight_names) == ("fc/MatMul", ("fc.weight",))
    (row,) = conv(out=True).census().kernels
    assert row.node_name.startswith("conv/Conv")
    assert row.weight_names == ("conv.weight",)


def test_a_low_rank_pair_needs_a_quantizer_in_the_middle() -> None:
    def chain(middle: bool) -> list[str]:
        g = Graph(DYNAMIC)
        x = g.quantize("x", ACT_SCALE, np.uint8(128))
        h = g.op("MatMul", x, g.weight("in.weight", integers(K, 16), axis=1))
        h = g.quantize(h, OUT_SCALE, np.uint8(128)) if middle else h
        g.op("MatMul", h, g.weight("out.weight", integers(16, N), axis=1))
        return [row.op for row in g.census().kernels]

    assert chain(middle=True) == ["QLinearMatMul", MS + "MatMulIntegerToFloat"]
    assert chain(middle=False) == [MS + "MatMulIntegerToFloat", MS + "MatMulNBits"]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 only")
def test_signed_activations_become_unsigned_on_x86() -> None:
    g = Graph(DYNAMIC)
    w = g.weight("fc.weight", integers(K, N), axis=1)
    g.op("MatMul", g.quantize("x", ACT_SCALE, np.int8(0)), w)
    census = g.census()
    assert the_weights_kernel(census, "fc.weight") == MS + "MatMulIntegerToFloat"
    scalars = {t.dtype for t in census.integer_initializers if t.shape == ()}
    assert scalars == {"UINT8"}


def test_8_bit_weights_are_exact_where_the_target_says_so() -> None:
    if load_target("host").int8.saturates:
        pytest.skip("this machine may saturate, as its target says")
    k = 1024
    g = Graph(["B", k])
    s = g.const("s", np.float32(1))
    x = g.op("DequantizeLinear", g.op("QuantizeLinear", "x", s, g.const("z", np.uint8(0))), s, "z")
    w = g.op("DequantizeLinear", g.const("w", np.full((k, N), -128, np.int8)), s)
    g.op("MatMul", x, w)
    y = g.run(np.full((4, k), 255, np.float32))
    np.testing.assert_array_equal(y, np.full((4, N), -128.0 * 255 * k, np.float32))


# -- dynamic linear layers -----------------------------------------------------------------------


def dynamic(layers: int, *, bias: bool = True) -> tuple[Graph, list[str]]:
    """DynamicQuantizeLinear once, then for each layer MatMulInteger, Cast, Mul, Mul (, Add)."""
    g = Graph(DYNAMIC)
    g.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="dql"))
    outputs = []
    for i in range(layers):
        w = g.const(f"{i}.weight", integers(K, N, seed=i))
        scale = g.const(f"{i}.scale", channel_scales(N))
        product = g.op("MatMulInteger", "q", w, "z", name=f"{i}/MatMul")
        y = g.op("Cast", product, to=TensorProto.FLOAT)
        y = g.op("Mul", y, g.op("Mul", "s", scale))
        outputs.append(g.op("Add", y, g.const(f"{i}.bias", floats(N))) if bias else y)
    return g, outputs


@pytest.mark.parametrize("bias", [False, True])
def test_one_dynamic_layer_is_one_kernel(bias: bool) -> None:
    g, outputs = dynamic(1, bias=bias)
    assert g.census(*outputs).counts == {MS + "DynamicQuantizeMatMul": 1}


def test_dynamic_layers_on_one_input_share_its_quantization() -> None:
    g, outputs = dynamic(3)
    census = g.census(*outputs)
    assert census.counts == {MS + "MatMulIntegerToFloat": 3, "DynamicQuantizeLinear": 1}
    assert sorted(census.by_weight()) == ["0.weight", "1.weight", "2.weight"]


def test_dynamic_numbers_are_those_of_the_formula() -> None:
    g, _ = dynamic(1)
    x = floats(2, 3, K)
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32((high - low) / 255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    steps = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.float64)
    exact = (steps - zero) * np.float64(scale) @ dense_weight() + floats(N)
    np.testing.assert_allclose(g.run(x), exact, rtol=1e-4, atol=1e-3)


# -- convolutions --------------------------------------------------------------------------------


def test_a_convolution_is_integer_only_with_a_quantized_output() -> None:
    (row,) = conv(out=True).census().by_weight()["conv.weight"]
    assert (row.op.removeprefix(MS), row.integer) == ("QLinearConv", True)
    (row,) = conv(out=False).census().by_weight()["conv.weight"]
    assert (row.op, row.integer) == ("Conv", False)
    assert load_target("generic").int8.conv_needs_output_quant


def test_a_relu_disappears_only_at_the_lowest_zero_point() -> None:
    (row,) = conv(out=True, relu=True, zero=0).census().by_weight()["conv.weight"]
    assert (row.op.removeprefix(MS), row.integer) == ("QLinearConv", True)
    census = conv(out=True, relu=True, zero=128).census()
    assert not any(row.integer for row in census.kernels)
    assert load_target("generic").int8.relu_absorbed_only_at_zero


def test_an_addition_between_quantizers_is_integer() -> None:
    g = Graph(IMAGE)
    a = g.quantize("x", ACT_SCALE, np.uint8(128))
    b = g.quantize(g.op("Sqrt", "x"), 0.02, np.uint8(0))
    g.quantize(g.op("Add", a, b), OUT_SCALE, np.uint8(100))
    counts = g.census().counts
    assert counts[MS + "QLinearAdd"] == 1
    assert "Add" not in counts


# -- float layers that the runtime quantizes by itself ---------------------------------------------


def sandwich(kind: str, *, out: bool = True, shape: Shape = FLAT) -> Graph:
    """A layer with a float weight, DequantizeLinear in front of it, QuantizeLinear behind it."""
    g = Graph(IMAGE if kind == "Conv" else shape)
    x = g.quantize("x", ACT_SCALE, np.uint8(128))
    w = g.const("weight", floats(16, 8, 3, 3) if kind == "Conv" else floats(K, N))
    if kind == "Conv":
        y = g.op("Conv", x, w, name="layer")
    elif kind.startswith("Gemm"):
        y = g.op("Gemm", x, w, g.const("bias", floats(N)), name="layer")
    else:
        y = g.op("MatMul", x, w, name="layer")
        y = g.op("Add", y, g.const("bias", floats(N))) if kind == "MatMul+Add" else y
    y = g.op("Relu", y) if kind.endswith("+Relu") else y
    if out:
        g.quantize(y, OUT_SCALE, np.uint8(0 if kind.endswith("+Relu") else 128))
    return g


@pytest.mark.parametrize("kind", ["Gemm", "Gemm+Relu", "MatMul+Add", "Conv"])
def test_a_float_layer_between_quantizers_gets_an_integer_weight_nobody_asked_for(
    kind: str,
) -> None:
    census = sandwich(kind).census()
    (made,) = census.foreign_weights(set())
    assert made.dtype == "INT8"
    assert made.shape == ((16, 8, 3, 3) if kind == "Conv" else (K, N))
    (row,) = census.kernels
    assert row.integer
    assert row.weight_names == (made.name,)


@pytest.mark.parametrize(
    ("kind", "out", "shape"),
    [
        ("Gemm", False, FLAT),
        ("Conv", False, IMAGE),
        ("MatMul", True, FLAT),
        ("MatMul", True, DYNAMIC),
        ("MatMul+Add", True, DYNAMIC),
    ],
)
def test_float_layers_that_stay_float(kind: str, out: bool, shape: Shape) -> None:
    census = sandwich(kind, out=out, shape=shape).census()
    assert census.foreign_weights(set()) == ()
    assert [row.integer for row in census.kernels] == [False]


def test_a_session_entry_keeps_float_layers_float() -> None:
    census = sandwich("Gemm").census(
        optimization__disable_specified_optimizers="WeightBiasQuantization"
    )
    assert census.foreign_weights(set()) == ()


# -- weight-only and embeddings --------------------------------------------------------------------


def test_a_weight_only_linear_is_given_integer_activations() -> None:
    g = Graph(DYNAMIC)
    g.op("MatMul", "x", g.weight("fc.weight", integers(K, N), axis=1), name="fc")
    (row,) = g.census().kernels
    assert (row.op, row.integer, row.node_name) == (MS + "MatMulNBits", True, "fc")
    (row,) = g.census(session__qdq_matmulnbits_accuracy_level="1").kernels
    assert (row.op, row.integer) == (MS + "MatMulNBits", False)


def test_an_embedding_dequantizes_rows_when_gathered_first_else_the_whole_table() -> None:
    for gather_first in (True, False):
        g = Graph(["B", "S"], dtype=TensorProto.INT64)
        scale = g.const("scale", np.float32(0.02))
        table = g.const("table", integers(100, 16))
        if gather_first:
            g.op("DequantizeLinear", g.op("Gather", table, "x"), scale)
        else:
            g.op("Gather", g.op("DequantizeLinear", table, scale), "x")
        proto = [node.op_type for node in g.nodes]
        assert g.census().counts == dict.fromkeys(sorted(proto), 1)
        ids = np.array([[3, 99]])
        exact = integers(100, 16)[ids] * np.float32(0.02)
        np.testing.assert_allclose(g.run(ids), exact, rtol=1e-6)


# -- fusions in float, limits ----------------------------------------------------------------------


@pytest.mark.parametrize(("op", "fused"), [("Add", True), ("Sum", False)])
def test_a_residual_sum_written_as_sum_is_not_fused_with_the_normalisation(
    op: str, fused: bool
) -> None:
    g = Graph(DYNAMIC)
    y = g.op(op, "x", g.op("Sqrt", "x"))
    g.op(
        "LayerNormalization",
        y,
        g.const("scale", floats(K)),
        g.const("shift", floats(K)),
        axis=-1,
    )
    assert (MS + "SkipLayerNormalization" in g.census().counts) is fused


def test_gelu_keeps_its_bias_behind_an_integer_layer() -> None:
    g = linear(bias=True)
    g.op("Gelu", g.nodes[-1].output[0])
    assert g.census().counts == {
        MS + "BiasGelu": 1,
        MS + "MatMulIntegerToFloat": 1,
        "QuantizeLinear": 1,
    }


@pytest.mark.parametrize(
    ("field_name", "limit"), [("opset", "max_opset"), ("ir_version", "max_ir_version")]
)
def test_the_limits_in_the_catalogue_are_the_runtimes(field_name: str, limit: str) -> None:
    most = getattr(load_target("generic").runtime, limit)

    def relu(value: int) -> Graph:
        g = Graph(DYNAMIC)
        setattr(g, field_name, value)
        g.op("Relu", "x")
        return g

    assert relu(most).census().counts == {"Relu": 1}
    with pytest.raises(TargetError):
        relu(most + 1).census()
