"""TensorRT's rules: each with a model that breaks it alone and a twin that just keeps it.

Nothing here runs TensorRT: the rules are those of its headers, its parser and its documents, and
these tests say only that the checker applies them as written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from planish.ir.errors import InputError
from planish.ir.load import load_as_written
from planish.targets.loader import load_target, target_names
from planish.targets.rules.rule import Violation
from planish.targets.rules.table import RULES, TENSORRT, check_model, rule_named
from planish.targets.schema import Target

A100, T4, H100, B200 = "nvidia-a100", "nvidia-t4", "nvidia-h100", "nvidia-b200"
FP8, FP4 = "float8e4m3fn", "float4e2m1"
OLD = """
name = "old-tensorrt"
summary = "An Ampere GPU with an old TensorRT"
kind = "machine"
extends = "nvidia-ampere"

[runtime]
max_version = "10.9"
"""


@dataclass
class Case:
    """A model that breaks a rule, and a twin. target: also a TOML text."""

    broken: Any
    kept: Any
    target: str = A100


Make = Callable[[Any], Case]
CASES: dict[str, Make] = {}


def case(rule: str) -> Callable[[Make], Make]:
    """Keeps the function as the case of a rule."""

    def keep(make: Make) -> Make:
        assert rule not in CASES
        CASES[rule] = make
        return make

    return keep


def layer(f: Any, **options: Any) -> Any:
    """A linear layer as TensorRT wants it: int8, symmetric, a scale for each output channel."""
    return f.linear(**{"activation": "int8", "zero": 0} | options)


def wide(f: Any, shape: Any = None) -> Any:
    """A form on rows of 64, or on images."""
    return f.Form(shape or f.DYNAMIC)


def add_weight(form: Any, **options: Any) -> str:
    name: str = form.weight(**options)
    return name


def signed(form: Any, value: str, **options: Any) -> str:
    """An int8 pair with zero point 0."""
    name: str = form.pair(value, **{"zero": 0, "dtype": "int8"} | options)
    return name


def conv_form(f: Any, channels: int = 16, kernel: int = 3, dtype: str = "int8") -> Any:
    """x [B, channels, 8, 8] -> Q, DQ -> Conv with a dequantized weight."""
    form = f.Form(("B", channels, 8, 8))
    x = signed(form, "x", dtype=dtype)
    w = form.weight((16, channels, kernel, kernel), 0, dtype)
    form.op("Conv", x, w, name="conv")
    return form


# -- operators -----------------------------------------------------------------------------

case("trt-opset-too-old")(lambda f: Case(plain(f, opset=8), plain(f, opset=9)))
case("trt-operator-unknown")(lambda f: Case(contrib(f, "FastGelu"), plain(f)))
case("trt-operator-unsupported")(lambda f: Case(plain(f, "Det", f.Form((4, 4))), plain(f)))


def plain(f: Any, op: str = "Relu", form: Any = None, **fields: Any) -> Any:
    form = form or f.Form(**fields)
    form.op(op, "x")
    return form


def contrib(f: Any, op: str) -> Any:
    form = f.Form()
    form.ms(op, "x")
    return form


@case("trt-integer-operator")
def _(f: Any) -> Case:
    form = f.Form(f.FLAT)
    s, z = form.const("s", np.float32(0.05)), form.const("z", np.int8(0))
    codes = form.op("QuantizeLinear", "x", s, z)
    y = form.op("MatMulInteger", codes, form.codes("w", (f.K, f.N)))
    form.op("Cast", y, to=TensorProto.FLOAT)
    return Case(form, layer(f))


case("trt-operator-too-new")(
    lambda f: Case(plain(f, "Swish", opset=24), plain(f, "HardSwish", opset=24), OLD)
)
case("trt-operator-version")(
    lambda f: Case(plain(f, "Swish", opset=24), plain(f, "HardSwish", opset=24))
)


@case("trt-operator-hardware")
def _(f: Any) -> Case:
    broken = f.single("trt:TRT_MXFP8DynamicQuantize", "f4,64")
    return Case(broken, f.single("trt:TRT_DynamicQuantize", "f4,64"), H100)


@case("trt-operator-opset")
def _(f: Any) -> Case:
    def made(opset: int) -> Any:
        return f.single("trt:TRT_INT4QuantizeLinear", "f4,64", np.float32(1), opset=opset)

    return Case(made(21), made(20))


# -- limits (every one of them: test_tensorrt_table.py) ------------------------------------

case("trt-input-computed")(
    lambda f: Case(f.single("CumSum", "f4,8", "i"), f.single("CumSum", "f4,8", np.int64(0)))
)


@case("trt-input-rank")
def _(f: Any) -> Case:
    heads = {"q_num_heads": 4, "kv_num_heads": 4}
    flat, four = ("f2,8,64",) * 3, ("f2,4,8,16",) * 3
    return Case(
        f.single("Attention", *flat, opset=24, **heads), f.single("Attention", *four, opset=24)
    )


@case("trt-input-type")
def _(f: Any) -> Case:
    def made(ids: str) -> Any:
        return f.single("RotaryEmbedding", "f2,4,8,16", "f64,8", "f64,8", ids, opset=23)

    return Case(made("n2,8"), made("i2,8"))


@case("trt-input-value")
def _(f: Any) -> Case:
    def made(k: int) -> Any:
        return f.single("TopK", "f4,9000", np.array([k], np.int64), outputs=2)

    return Case(made(3840), made(3839))


@case("trt-attribute")
def _(f: Any) -> Case:
    def made(mode: str) -> Any:
        return f.single("Resize", "f1,8,6,6", "", np.array([1, 1, 2, 2], np.float32), mode=mode)

    return Case(made("cubic"), made("linear"))


@case("trt-operands-not-taken")
def _(f: Any) -> Case:
    def made(outputs: int) -> Any:
        return f.single("MaxPool", "f1,8,6,6", outputs=outputs, kernel_shape=[2, 2])

    return Case(made(2), made(1))


case("trt-by-hand")(
    lambda f: Case(
        f.single("RandomNormal", shape=[4]), f.single("ConstantOfShape", np.array([4], np.int64))
    )
)

# -- single operators ----------------------------------------------------------------------


@case("trt-recurrent-directions")
def _(f: Any) -> Case:
    def made(second: str) -> Any:
        w, r = np.ones((2, 4, 8), np.float32), np.ones((2, 4, 4), np.float32)
        return f.single("RNN", "f5,2,8", w, r, hidden_size=4, direction="bidirectional",
                        activations=["Tanh", second])  # fmt: skip

    return Case(made("Relu"), made("Tanh"))


@case("trt-deformable-padding")
def _(f: Any) -> Case:
    def made(pads: list[int]) -> Any:
        return f.single("DeformConv", "f1,2,5,5", np.ones((2, 2, 1, 1), np.float32), "f1,2,6,6",
                        pads=pads)  # fmt: skip

    return Case(made([0, 0, 1, 1]), made([1, 1, 1, 1]))


@case("trt-resize-axes")
def _(f: Any) -> Case:
    def made(axes: list[int]) -> Any:
        return f.single("Resize", "f1,8,6,6", "", "", "i2", axes=axes)

    return Case(made([2, 3]), made([0, 1]))


case("trt-axis-not-fixed")(lambda f: Case(f.single("Hardmax", "f4,N"), f.single("Hardmax", "fN,4")))


@case("trt-complex-signal")
def _(f: Any) -> Case:
    def made(parts: int) -> Any:
        window = np.ones(16, np.float32)
        return f.single("STFT", f"f1,64,{parts}", np.int64(8), window, onesided=0)

    return Case(made(2), made(1))


def branches(f: Any, one: str, other: str, axes: int = 2) -> Any:
    """An If whose branches give x and, with fewer axes where asked, x again."""
    form = f.Form((2, 4))
    then = helper.make_graph(
        [helper.make_node("Identity", ["x"], [one], name="then")], "then", [],
        [helper.make_tensor_value_info(one, TensorProto.FLOAT, (2, 4))],
    )  # fmt: skip
    op = ("Relu", "ReduceMax")[axes == 1]
    keep: dict[str, Any] = {"keepdims": 0, "axes": [1]} if axes == 1 else {}
    otherwise = helper.make_graph(
        [helper.make_node(op, ["x"], [other], name="else", **keep)], "else", [],
        [helper.make_tensor_value_info(other, TensorProto.FLOAT, (2, 4)[:axes])],
    )  # fmt: skip
    form.opset = 17
    least = form.op("ReduceMax", "x", axes=[0, 1], keepdims=0)
    positive = form.op("Greater", least, form.const("zero", np.float32(0)))
    form.op("If", positive, then_branch=then, else_branch=otherwise)
    return form


case("trt-branch-ranks")(lambda f: Case(branches(f, "a", "b", 1), branches(f, "a", "b")))
case("trt-branch-names")(lambda f: Case(branches(f, "a", "a"), branches(f, "a", "b")))


def looped(f: Any, *, grows: bool = False, collects: bool = False, turns: str = "fixed") -> Any:
    """A Loop that carries x, doubled in length where it grows."""
    form = f.Form((2, 4))
    same = helper.make_node("Identity", ["go"], ["go_on"])
    inner = helper.make_node("Relu", ["state"], ["next"], name="step")
    if grows:
        inner = helper.make_node("Concat", ["state", "state"], ["next"], name="step", axis=0)
    outputs = ["go_on", "next"]
    nodes = [same, inner]
    if collects:
        nodes.append(helper.make_node("Neg", ["next"], ["row"]))
        outputs.append("row")
    bool_, float_ = TensorProto.BOOL, TensorProto.FLOAT
    body = helper.make_graph(
        nodes, "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ()),
         helper.make_tensor_value_info("go", bool_, ()),
         helper.make_tensor_value_info("state", float_, (2, 4))],
        [helper.make_tensor_value_info(
            n, bool_ if n == "go_on" else float_, () if n == "go_on" else (4 if grows else 2, 4))
         for n in outputs],
    )  # fmt: skip
    count = form.const("turns", np.int64(3))
    if turns == "counted":
        count = form.op("Cast", form.op("ReduceMax", "x", keepdims=0), to=TensorProto.INT64)
    form.op("Loop", count, "", "x", outputs=len(outputs) - 1, body=body)
    return form


case("trt-loop-shape")(lambda f: Case(looped(f, grows=True), looped(f)))
case("trt-loop-length")(
    lambda f: Case(looped(f, collects=True, turns="counted"), looped(f, collects=True))
)

# -- types ---------------------------------------------------------------------------------

case("trt-type-unknown")(lambda f: Case(f.single("Abs", "w4"), f.single("Abs", "n4")))
case("trt-operator-type")(lambda f: Case(f.single("Mish", "z4"), f.single("Mish", "h4")))


@case("trt-quantizer-input")
def _(f: Any) -> Case:
    def made(dtype: int) -> Any:
        form = f.Form(dtype=dtype)
        s, z = form.const("s", np.float32(0.05)), form.const("z", np.int8(0))
        x = form.op("DequantizeLinear", form.op("QuantizeLinear", "x", s, z), s, z)
        form.op("MatMul", x, form.weight())
        return form

    return Case(made(TensorProto.INT32), made(TensorProto.FLOAT))


@case("trt-uint8-inside")
def _(f: Any) -> Case:
    def made(op: str) -> Any:
        form = f.Form((4, 8), dtype=TensorProto.UINT8)
        x = form.op("Transpose", "x") if op else "x"
        form.op("Cast", x, to=TensorProto.FLOAT)
        return form

    return Case(made("Transpose"), made(""))


case("trt-double")(lambda f: Case(f.single("Relu", "d4"), f.single("Relu", "f4")))
case("trt-mixed-types")(
    lambda f: Case(f.single("Add", "f4,8", "h4,8"), f.single("Add", "f4,8", "f4,8"))
)


@case("trt-float32-stays")
def _(f: Any) -> Case:
    return Case(f.single("MatMul", "f4,64", "f64,64"), f.single("MatMul", "h4,64", "h64,64"))


@case("trt-scale-float32")
def _(f: Any) -> Case:
    def made(least: float) -> Any:
        form = layer(f)
        (name,) = [name for name in form.tensors if name.endswith("weight.scale")]
        form.tensors[name] = form.tensors[name].copy()
        form.tensors[name][3] = least
        return form

    return Case(made(1e-6), made(2.0**-14))


def cast_constant(f: Any, most: float) -> Any:
    return f.single("Cast", np.array([1, -np.inf, -most], np.float32), to=TensorProto.FLOAT16)


case("trt-float16-overflow")(lambda f: Case(cast_constant(f, 65536), cast_constant(f, 65504)))


@case("trt-weight-not-finite")
def _(f: Any) -> Case:
    def made(value: float) -> Any:
        w = np.ones((64, 64), np.float16)
        w[3, 5] = value
        return f.single("MatMul", "h4,64", w)

    return Case(made(np.inf), made(65504))


# -- codes ---------------------------------------------------------------------------------

case("trt-zero-point")(lambda f: Case(layer(f, zero=3), layer(f)))


@case("trt-zero-point-computed")
def _(f: Any) -> Case:
    def made(*, computed: bool) -> Any:
        form = f.Form()
        s, z = form.const("s", np.float32(0.05)), form.const("z", np.int8(0))
        if computed:
            z = form.op("Cast", form.op("ReduceMin", "x", keepdims=0), to=TensorProto.INT8)
        x = form.op("DequantizeLinear", form.op("QuantizeLinear", "x", s, z), s, z)
        form.op("MatMul", x, form.weight())
        return form

    return Case(made(computed=True), made(computed=False))


case("trt-uint8-codes")(lambda f: Case(f.linear(zero=0, dtype="uint8"), layer(f)))
case("trt-code-type")(lambda f: Case(layer(f, activation="int16", dtype="int16"), layer(f)))


@case("trt-bias-quantized")
def _(f: Any) -> Case:
    def made(*, codes: bool) -> Any:
        form = f.Form(f.FLAT)
        x, w = signed(form, "x"), form.weight()
        bias = form.floats("bias", f.N)
        if codes:
            stored = form.const("codes", np.arange(f.N, dtype=np.int32))
            bias = form.op("DequantizeLinear", stored, form.const("bs", np.float32(1e-3)))
        form.op("Gemm", x, w, bias, name="fc")
        return form

    return Case(made(codes=True), made(codes=False))


@case("trt-zero-point-missing")
def _(f: Any) -> Case:
    def made(**attributes: Any) -> Any:
        form = f.Form()
        s = form.const("s", np.float32(0.05))
        x = form.op("DequantizeLinear", form.op("QuantizeLinear", "x", s, **attributes), s)
        form.op("MatMul", x, form.weight())
        return form

    return Case(made(), made(output_dtype=TensorProto.INT8))


def scaled(f: Any, value: float) -> Any:
    form = f.Form()
    form.op("MatMul", signed(form, "x", scale=value), form.weight())
    return form


case("trt-scale-value")(lambda f: Case(scaled(f, 0.0), scaled(f, 1e-30)))


@case("trt-scale-computed")
def _(f: Any) -> Case:
    def made(*, computed: bool) -> Any:
        form = f.Form()
        s, z = form.const("s", np.float32(0.05)), form.const("z", np.int8(0))
        if computed:
            s = form.op("ReduceMax", "x", keepdims=0)
        x = form.op("DequantizeLinear", form.op("QuantizeLinear", "x", s, z), s, z)
        form.op("MatMul", x, form.weight())
        return form

    return Case(made(computed=True), made(computed=False))


@case("trt-scale-type")
def _(f: Any) -> Case:
    def made(dtype: Any) -> Any:
        form = f.Form(dtype=TensorProto.FLOAT16)
        z, one = form.const("z", np.int8(0)), form.const("one", np.float16(0.05))
        codes = form.op("QuantizeLinear", "x", form.const("s", dtype(0.05)), z)
        scale = form.const("ws", np.full(f.N, 0.01, np.float16))
        w = form.op("DequantizeLinear", form.codes("w", (f.K, f.N)), scale, axis=1)
        form.op("MatMul", form.op("DequantizeLinear", codes, one, z), w)
        return form

    return Case(made(np.float32), made(np.float16))


@case("trt-zero-point-size")
def _(f: Any) -> Case:
    def made(count: int) -> Any:
        form = f.Form()
        w = form.op(
            "DequantizeLinear", form.codes("w", (f.K, f.N)),
            form.const("ws", np.full(f.N, 0.01, np.float32)),
            form.const("wz", np.zeros(count, np.int8)), axis=1,
        )  # fmt: skip
        form.op("MatMul", signed(form, "x"), w)
        return form

    return Case(made(1), made(f.N))


@case("trt-scale-shape")
def _(f: Any) -> Case:
    def made(count: int) -> Any:
        form = f.Form()
        zeros = form.const("wz", np.zeros(count, np.int8))
        scale = form.const("ws", np.full(count, 0.01, np.float32))
        w = form.op("DequantizeLinear", form.codes("w", (f.K, f.N)), scale, zeros, axis=1)
        form.op("MatMul", signed(form, "x"), w)
        return form

    return Case(made(f.N - 1), made(f.N))


@case("trt-activation-per-channel")
def _(f: Any) -> Case:
    def made(count: int) -> Any:
        form = f.Form()
        scale = np.full(count, 0.05, np.float32)
        form.op("MatMul", signed(form, "x", scale=scale, axis=2), form.weight())
        return form

    return Case(made(f.K), made(1))


@case("trt-codes-elsewhere")
def _(f: Any) -> Case:
    def made(*, first: bool) -> Any:
        form = f.Form(("B", 2), dtype=TensorProto.INT64)
        codes, scale = form.codes("table", (100, 64)), form.const("s", np.float32(0.1))
        zero = form.const("z", np.int8(0))
        if first:
            rows = form.op("DequantizeLinear", form.op("Gather", codes, "x"), scale, zero)
        else:
            rows = form.op("Gather", form.op("DequantizeLinear", codes, scale, zero), "x")
        form.op("Relu", rows)
        return form

    return Case(made(first=True), made(first=False))


@case("trt-dequantizer-unused")
def _(f: Any) -> Case:
    form = layer(f)
    form.results = [form.nodes[-1].output[0]]
    scale = form.const("other_scale", np.float32(1))
    form.op("DequantizeLinear", form.codes("other", (4, 4)), scale)
    return Case(form, layer(f))


# -- layers --------------------------------------------------------------------------------

case("trt-weight-axis")(lambda f: Case(layer(f, axis=0), layer(f, axis=1)))


@case("trt-operands-differ")
def _(f: Any) -> Case:
    return Case(layer(f, activation=FP8, dtype="int8"), layer(f, activation=FP8, dtype=FP8), H100)


@case("trt-operand-in-float")
def _(f: Any) -> Case:
    def made(*, both: bool) -> Any:
        form = f.Form()
        w = form.weight() if both else form.floats("w", f.K, f.N)
        form.op("MatMul", signed(form, "x"), w)
        return form

    return Case(made(both=False), made(both=True))


case("trt-weight-only")(lambda f: Case(layer(f, act=False), layer(f)))


@case("trt-pair-without-layer")
def _(f: Any) -> Case:
    def made(*, paired: bool) -> Any:
        form = layer(f)
        y = form.nodes[-1].output[0]
        form.op("Softmax", signed(form, y) if paired else y)
        return form

    return Case(made(paired=True), made(paired=False))


def residual(f: Any, *, main: bool, skip: bool) -> Any:
    """x -> Q, DQ -> Conv (-> Q, DQ) -> Add with x (-> Q, DQ) -> Q, DQ -> Conv."""
    form = f.Form(("B", 16, 8, 8))
    other = signed(form, "x")
    y = form.op("Conv", other, form.weight((16, 16, 3, 3), 0), name="conv", pads=[1] * 4)
    total = form.op("Add", signed(form, y) if main else y, other if skip else "x", name="sum")
    form.op("Conv", signed(form, total), form.weight((16, 16, 3, 3), 0, name="w2"), name="next")
    return form


case("trt-residual-pair")(
    lambda f: Case(residual(f, main=True, skip=True), residual(f, main=False, skip=True))
)
case("trt-residual-float")(
    lambda f: Case(residual(f, main=False, skip=False), residual(f, main=False, skip=True))
)


@case("trt-narrow-layer")
def _(f: Any) -> Case:
    return Case(conv_form(f, channels=8), conv_form(f, channels=16))


@case("trt-matrix-vector")
def _(f: Any) -> Case:
    def made(rows: int) -> Any:
        return layer(f, shape=(2, rows, f.K))

    return Case(made(1), made(2))


@case("trt-quantized-attention")
def _(f: Any) -> Case:
    form = f.Form(f.STATIC)
    q = signed(form, form.op("Sqrt", "x"))
    form.op("MatMul", signed(form, "x"), form.op("Transpose", q, perm=[0, 2, 1]))
    return Case(form, layer(f))


@case("trt-float8-convolution")
def _(f: Any) -> Case:
    return Case(conv_form(f, 32, 3, FP8), twice_as_wide(f), H100)


def twice_as_wide(f: Any) -> Any:
    form = f.Form(("B", 32, 8, 8))
    form.op("Conv", signed(form, "x", dtype=FP8), form.weight((32, 32, 3, 3), 0, FP8))
    return form


# -- few bits ------------------------------------------------------------------------------


@case("trt-block-type")
def _(f: Any) -> Case:
    return Case(layer(f, axis=0, block=32), layer(f))


@case("trt-block-axis")
def _(f: Any) -> Case:
    def made(axis: int) -> Any:
        form = f.Form((2, 3, 4, 64))
        w = form.weight((128, 64, 32), axis, "int4", block=16, name="w")
        form.op("Mul", form.op("ReduceSum", "x", keepdims=0), w)
        return form

    return Case(made(0), made(1))


@case("trt-int4-activation")
def _(f: Any) -> Case:
    def made(dtype: str) -> Any:
        form = f.Form((2, 64))
        form.op("GlobalMaxPool", form.op("Unsqueeze", signed(form, "x", dtype=dtype), axes(form)))
        return form

    return Case(made("int4"), made("int8"))


def axes(form: Any) -> str:
    name: str = form.const("axes", np.array([2], np.int64))
    return name


@case("trt-four-bits-odd")
def _(f: Any) -> Case:
    def made(columns: int) -> Any:
        form = f.Form((2, 3))
        codes, scale = form.codes("t", (3, columns), "int4"), form.const("s", np.float32(0.1))
        form.op("Relu", form.op("DequantizeLinear", codes, scale))
        return form

    return Case(made(5), made(6))


def int4(
    f: Any, block: int = 128, axis: int = 0, *, turned: bool = False, act: bool = False
) -> Any:
    form = f.Form(("B", 256))
    shape = (32, 256) if turned else (256, 32)
    w = form.weight(shape, 1 - axis if turned else axis, "int4", block=block)
    w = form.op("Transpose", w, perm=[1, 0]) if turned else w
    form.op("MatMul", signed(form, "x") if act else "x", w)
    return form


case("trt-int4-form")(lambda f: Case(int4(f, 64), int4(f, 128)))
case("trt-int4-static")(lambda f: Case(int4(f, act=True), int4(f)))
case("trt-float8-lacking")(lambda f: Case(layer(f, activation=FP8, dtype=FP8), layer(f)))


def fp4(f: Any, *, levels: int, block: int = 16) -> Any:
    """A dequantized FP4 weight [64, 32] in blocks along axis 0."""
    form = f.Form(("B", 64), opset=23)
    count = 64 // block
    scale = form.const("s", np.full((count, 32), 1, f.dtype_of(FP8) if levels == 2 else np.float32))
    if levels == 2:
        scale = form.op("DequantizeLinear", scale, form.const("global", np.float32(0.01)))
    codes = form.const("w", np.ones((64, 32), f.dtype_of(FP4)))
    w = form.op("DequantizeLinear", codes, scale, axis=0, block_size=block)
    form.op("Relu", w)
    return form


case("trt-float4-scales")(lambda f: Case(fp4(f, levels=1), fp4(f, levels=2), B200))


@case("trt-float4-activation")
def _(f: Any) -> Case:
    def made(*, dynamic: bool) -> Any:
        form = fp4(f, levels=2)
        del form.nodes[-1]
        w = form.nodes[-1].output[0]
        one = form.const("one", np.float32(0.1))
        if dynamic:
            codes = form.op("trt:TRT_FP4DynamicQuantize", "x", one, outputs=2, axis=-1)
            scale = form.op("DequantizeLinear", f"{codes}_1", one)
            x = form.op("DequantizeLinear", codes, scale, axis=-1, block_size=16)
        else:
            x = signed(form, "x", dtype=FP4)
        form.op("MatMul", x, w)
        return form

    return Case(made(dynamic=False), made(dynamic=True), B200)


@case("trt-float4-operand")
def _(f: Any) -> Case:
    """As it is written for half precision: a Cast stands between the widening and the product."""

    def made(*, both: bool) -> Any:
        form = fp4(f, levels=2)
        del form.nodes[-1]
        w, x = form.nodes[-1].output[0], "x"
        if both:
            one = form.const("one", np.float32(0.1))
            codes = form.op("trt:TRT_FP4DynamicQuantize", "x", one, outputs=2, axis=-1)
            scale = form.op("DequantizeLinear", f"{codes}_1", one)
            x = form.op("DequantizeLinear", codes, scale, axis=-1, block_size=16)
        halves = [form.op("Cast", name, to=TensorProto.FLOAT16) for name in (x, w)]
        form.op("Cast", form.op("MatMul", *halves), to=TensorProto.FLOAT)
        return form

    return Case(made(both=False), made(both=True), B200)


@case("trt-dynamic-blocks")
def _(f: Any) -> Case:
    def made(width: int) -> Any:
        return f.single("trt:TRT_FP4DynamicQuantize", f"f4,{width}", np.float32(1), axis=-1)

    return Case(made(40), made(48), B200)


# -- shapes --------------------------------------------------------------------------------

case("trt-shape-length")(
    lambda f: Case(f.single("Reshape", "f4,8", "=iN"), f.single("Reshape", "f4,8", "=i2"))
)
case("trt-dynamic-shape")(lambda f: Case(f.single("Relu", "fB,8"), f.single("Relu", "f4,8")))
case("trt-shape-input")(
    lambda f: Case(
        f.single("Expand", "f1,8", "i2"), f.single("Expand", "f1,8", np.array([4, 8], np.int64))
    )
)

# -- zeros ---------------------------------------------------------------------------------


def zeroed(inputs: int, channels: int, axis: int = 0, dtype: Any = np.float16) -> Any:
    """A weight [inputs, channels] with two zeros in every four along an axis, and only there."""
    rng = np.random.default_rng(3)
    rows = np.ones((inputs * channels // 4, 4))
    np.put_along_axis(rows, np.argsort(rng.random(rows.shape), axis=1)[:, :2], 0, axis=1)
    return (rows.reshape(inputs, channels) if axis else rows.reshape(channels, inputs).T).astype(
        dtype
    )


def product(f: Any, weight: Any) -> Any:
    return f.single("MatMul", f"h4,{len(weight)}", weight)


def dense(inputs: int = 256, channels: int = 256) -> Any:
    return np.ones((inputs, channels), np.float16)


case("sparse-no-kernel")(lambda f: Case(product(f, zeroed(256, 256)), product(f, dense()), T4))
case("sparse-shape")(lambda f: Case(product(f, zeroed(240, 256)), product(f, zeroed(256, 256))))
case("sparse-axis")(lambda f: Case(product(f, zeroed(256, 256, 1)), product(f, zeroed(256, 256))))


@case("sparse-codes")
def _(f: Any) -> Case:
    def made(*, codes: bool) -> Any:
        form = f.Form(("B", 256))
        scale, zero = (
            form.const("ws", np.full(256, 0.1, np.float32)),
            form.const("wz", np.zeros(256, np.int8)),
        )
        w = form.const("w", zeroed(256, 256, dtype=np.int8 if codes else np.float32))
        w = w if codes else form.op("QuantizeLinear", w, scale, zero, axis=1)
        w = form.op("DequantizeLinear", w, scale, zero, axis=1)
        form.op("MatMul", signed(form, "x"), w)
        return form

    return Case(made(codes=True), made(codes=False))


@case("sparse-no-pattern")
def _(f: Any) -> Case:
    weight = dense()
    weight.reshape(-1)[np.random.default_rng(5).permutation(weight.size)[: weight.size // 2]] = 0
    return Case(product(f, weight), product(f, zeroed(256, 256)))


# -- the tests -----------------------------------------------------------------------------


def target_of(name: str, folder: Path) -> Target:
    if "\n" not in name:
        return load_target(name)
    path = folder / "target.toml"
    path.write_text(name)
    return load_target(path)


def found(form: Any, folder: Path, target: str) -> list[Violation]:
    path = folder / "model.onnx"
    path.write_bytes(form.bytes())
    return list(check_model(load_as_written(path), target_of(target, folder)))


def failures(violations: list[Violation]) -> set[str]:
    return {violation.rule for violation in violations if violation.severity != "note"}


@pytest.mark.parametrize("rule", [rule.id for rule in TENSORRT])
def test_a_model_that_breaks_it_alone_and_a_twin_that_keeps_it(
    rule: str, forms: Any, tmp_path: Path
) -> None:
    made = CASES[rule](forms)
    broken = found(made.broken, tmp_path, made.target)
    assert rule in {violation.rule for violation in broken}
    assert failures(broken) == ({rule} if rule_named(rule).severity != "note" else set())
    kept = found(made.kept, tmp_path, made.target)
    assert rule not in {violation.rule for violation in kept}
    assert not failures(kept)


def test_codes_that_a_cast_makes_are_none_of_a_quantizer(forms: Any, tmp_path: Path) -> None:
    form = forms.Form()
    codes = form.op("Cast", "x", to=TensorProto.INT8, name="cast")
    x = form.op("DequantizeLinear", codes, form.const("s", np.float32(0.1)))
    form.op("MatMul", x, form.weight())
    assert [v.node for v in found(form, tmp_path, A100) if v.severity == "error"] == ["cast"]


def test_block_scaled_graphs_as_nvidia_writes_them_pass(forms: Any, tmp_path: Path) -> None:
    """NVFP4 and MXFP8 of activations and weights, and int4 weights, on GPUs that have them."""
    fp4 = CASES["trt-float4-activation"](forms).kept
    assert not failures(found(fp4, tmp_path, B200))
    assert failures(found(fp4, tmp_path, H100)) == {"trt-operator-hardware", "float4-refused"}
    assert failures(found(fp4, tmp_path, "nvidia-rtx-5090")) == set()
    mxfp8 = forms.single("trt:TRT_MXFP8DynamicQuantize", "h4,64", outputs=2)
    assert not failures(found(mxfp8, tmp_path, B200))
    assert failures(found(mxfp8, tmp_path, "nvidia-rtx-5090")) == {"trt-operator-hardware"}
    weights = CASES["trt-int4-form"](forms).kept
    assert not failures(found(weights, tmp_path, A100))
    assert failures(found(weights, tmp_path, T4)) == {"trt-weight-only"}


def test_every_rule_has_a_pair_and_is_said_in_full() -> None:
    assert sorted(CASES) == sorted(rule.id for rule in TENSORRT)
    assert set(TENSORRT) <= set(RULES)
    assert all(rule.id.startswith(("trt-", "sparse-")) for rule in TENSORRT)


def without_inputs(node: onnx.NodeProto) -> None:
    del node.input[:]


def without_outputs(node: onnx.NodeProto) -> None:
    del node.output[:]


def texts_for_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        attribute.CopyFrom(helper.make_attribute(attribute.name, "x"))


def far_away(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.INT:
            attribute.i = 1 << 40


HARMS = (without_inputs, without_outputs, texts_for_attributes, far_away)


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_broken_files_are_refused_or_checked(
    harm: Callable[[onnx.NodeProto], None], forms: Any, tmp_path: Path
) -> None:
    for make in CASES.values():
        made = make(forms)
        proto = made.broken.proto()
        for node in proto.graph.node:
            harm(node)
        path = tmp_path / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        try:
            model = load_as_written(path)
        except InputError:
            continue
        check_model(model, target_of(made.target, tmp_path))


@pytest.mark.parametrize("name", target_names())
def test_targets_of_another_runtime_are_not_asked(name: str) -> None:
    target = load_target(name)
    asked = [rule.id for rule in TENSORRT if not rule.excused(target)]
    assert bool(asked) is (target.runtime.name == "tensorrt")


def test_what_a_target_declares_decides(tmp_path: Path) -> None:
    """Its figures, that is: a file of one's own under any name gets the same rules."""
    text = OLD.replace('"old-tensorrt"', '"somebodys-box"').replace("ampere", "hopper")
    own = target_of(text, tmp_path)
    idle = {rule.id for rule in TENSORRT if rule.excused(own)}
    assert "trt-operator-too-new" not in idle
    assert "trt-float8-convolution" not in idle
    assert {"trt-float8-lacking", "sparse-no-kernel"} <= idle
