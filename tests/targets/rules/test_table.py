"""Each rule: a model that breaks it, a twin that does not, and what the runtime does with both.

A failure of a proof after an update of the runtime means that a fact has changed: mend the rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from planish.ir.errors import InputError, UsageError
from planish.ir.importing.protocheck import NEWEST_IR, NEWEST_OPSET
from planish.ir.load import load_as_written
from planish.passes.math.saturation import can_saturate, conv_rows
from planish.targets.loader import load_target, target_names
from planish.targets.rules.floats import BF16_KERNELS, FP16_KERNELS
from planish.targets.rules.integer import filter_rows, pairs_beyond
from planish.targets.rules.results import uneven
from planish.targets.rules.rule import Violation
from planish.targets.rules.table import ONNXRUNTIME, RULES, check_model, rule_named
from planish.targets.runtime import open_session, optimized_graph

VNNI, AVX2 = "x86-avx512-vnni", "x86-avx2"


@dataclass
class Case:
    """A model that breaks a rule, and a twin.

    proof: what the runtime shows of it. "refused": it does not load. "fails": it does not run.
    "float": a product runs in float, none does in the twin. "op:Cast": the operator is in what
    runs, and not in the twin's. "moved": optimised results move, the twin's do not. "exact": the
    other way around, against float64. "widened": a table is dequantized as a whole. "signed": int8
    activations stay so. "lost": different numbers come out as one. "": of other machines, or of
    speed alone.
    """

    broken: Any
    kept: Any
    proof: str
    target: str = VNNI


Make = Callable[[Any], Case]


def half(f: Any, op: str, dtype: int, *constants: Any) -> Any:
    form = f.Form(dtype=dtype, opset=22)
    form.op(op, "x", *(form.const(f"c{i}", value) for i, value in enumerate(constants)))
    return form


def sandwich(f: Any, op: str) -> Any:
    form = f.Form(f.FLAT)
    y = form.op("MatMul", form.pair("x"), form.floats("w", f.K, f.N), name="fc")
    form.pair(form.op(op, y, form.floats("bias", f.N)))
    return form


def between(f: Any, op: str) -> Any:
    form = f.Form(f.IMAGE)
    form.pair(form.op(op, form.pair("x")), 100, scale=0.07)
    return form


def gathered(f: Any, *, first: bool, dtype: str = "int8") -> Any:
    form = f.Form(("B", "S"), dtype=TensorProto.INT64)
    codes, scale = form.codes("table", (100, 16), dtype), form.const("s", np.float32(0.1))
    if first:
        form.op("DequantizeLinear", form.op("Gather", codes, "x"), scale)
    else:
        form.op("Gather", form.op("DequantizeLinear", codes, scale), "x")
    return form


def shared(f: Any, *, twice: bool) -> Any:
    form = f.Form()
    w, other = form.weight(), "x"
    if not twice:
        other = form.op("Neg", "x")
        second = form.weight(name="other.weight")
    else:
        second = w
    form.results = [form.op("MatMul", "x", w), form.op("MatMul", other, second)]
    return form


def operators(f: Any, dtype: str) -> Any:
    form = f.Form(f.FLAT)
    s, z = form.const("s", np.float32(0.05)), form.const("z", np.zeros((), dtype))
    wz = form.const("wz", np.int8(0))
    q = form.op("QuantizeLinear", "x", s, z)
    y = form.op("QLinearMatMul", q, s, z, form.codes("w", (f.K, f.N)), s, wz, s, z)
    form.op("DequantizeLinear", y, s, z)
    return form


def dynamic_convolution(f: Any) -> Any:
    form = f.Form(f.IMAGE)
    codes = "v0"
    form.op("DynamicQuantizeLinear", "x", outputs=3)
    y = form.op("ConvInteger", codes, form.codes("w", f.IMAGE_WEIGHT, "uint8"), "v0_2")
    form.op("Cast", y, to=TensorProto.FLOAT)
    return form


def unsigned_left(f: Any, dtype: str) -> Any:
    form = f.Form((f.K, f.N))
    form.op("MatMul", form.weight((8, f.K), None, dtype), form.pair("x"))
    return form


def attention(f: Any, *, both: bool) -> Any:
    form = f.Form(f.STATIC)
    y = form.op("Sqrt", "x")
    y = form.pair(y) if both else y
    form.op("MatMul", form.pair("x"), form.op("Transpose", y, perm=[0, 2, 1]))
    return form


def no_zero_point(f: Any, dtype: int) -> Any:
    form = f.Form()
    s = form.const("s", np.float32(0.05))
    q = form.op("QuantizeLinear", "x", s, output_dtype=dtype)
    form.op("MatMul", form.op("DequantizeLinear", q, s), form.weight())
    return form


def read_twice(f: Any, *, rounded: bool) -> Any:
    form = f.Form()
    y = form.op("MatMul", form.pair("x"), form.weight())
    z = form.pair(y)
    form.results = [z, form.op("Neg", z if rounded else y)]
    return form


def read_by(f: Any, count: int, dtype: str) -> Any:
    form = f.Form()
    x = form.pair("x", 0, dtype)
    form.results = [form.op("MatMul", x, form.weight(name=f"w{i}")) for i in range(count)]
    return form


def per_channel_activation(f: Any, size: int) -> Any:
    form = f.Form()
    x = form.pair("x", scale=np.full(size, 0.05, np.float32), axis=2 if size > 1 else 0)
    form.op("MatMul", x, form.weight())
    return form


def fp16_scale(f: Any, dtype: Any) -> Any:
    form = f.Form()
    x = form.op("Cast", "x", to=10) if dtype is np.float16 else "x"
    scale = form.const("ws", np.full(f.N, 0.01, dtype))
    w = form.op("DequantizeLinear", form.codes("w", (f.K, f.N)), scale, axis=1)
    form.op("MatMul", form.pair(x, scale=dtype(0.05)), w)
    return form


def blocked_turned(f: Any, *, turned: bool) -> Any:
    form = f.Form()
    if turned:
        w = form.op("Transpose", form.weight((f.N, f.K), 1, "int4", block=32), perm=[1, 0])
    else:
        w = form.weight((f.K, f.N), 0, "int4", block=32)
    form.op("MatMul", "x", w)
    return form


def fp8(f: Any, dtype: str) -> Any:
    form = f.Form()
    form.op("MatMul", form.pair("x", 0, dtype), form.weight(dtype=dtype))
    return form


def pair_of(f: Any, dtype: str, opset: int = 23) -> Any:
    form = f.Form(opset=opset)
    form.op("Neg", form.pair("x", 0, dtype))
    return form


def ragged(f: Any, size: int) -> Any:
    form = f.Form(("B", size))
    form.op("MatMul", "x", form.floats("w", size, 128))
    return form


def rounded_softmax(f: Any, scale: float) -> Any:
    form = f.Form(f.FLAT)
    form.op("Softmax", form.pair("x", scale=scale))
    return form


def rounded(f: Any, scale: float) -> Any:
    form = f.Form(f.FLAT)
    form.pair("x", scale=scale)
    return form


def uneven_columns(f: Any, least: int) -> Any:
    form = f.Form()
    w = form.weight(axis=None)
    peaks = np.linspace(least, 127, f.N)
    peaks[1:] = least
    drawn = np.random.default_rng(0).uniform(-1, 1, (f.K, f.N))
    form.tensors["fc.weight"] = np.rint(drawn / np.abs(drawn).max(0) * peaks).astype(np.int8)
    form.tensors["fc.weight"][0, 0] = 127
    form.op("MatMul", form.pair("x"), w, name="fc")
    return form


def with_a_float_layer(f: Any, *, there: bool) -> Any:
    form = f.linear()
    form.results = [form.nodes[-1].output[0]]
    if there:
        form.results.append(form.op("MatMul", "x", form.floats("wide", f.K, 128)))
    return form


def fused_product(f: Any, *, fused: bool) -> Any:
    form = f.Form()
    make = form.ms if fused else form.op
    make("FusedMatMul" if fused else "MatMul", "x", form.floats("w", f.K, f.N))
    return form


def residual_norm(f: Any, op: str) -> Any:
    form = f.Form()
    y = form.op(op, form.op("MatMul", "x", form.floats("w", f.K, f.K)), "x")
    scale, bias = form.floats("scale", f.K), form.floats("bias", f.K)
    form.op("LayerNormalization", y, scale, bias, axis=-1)
    return form


def subtracted(f: Any, *, coded: bool) -> Any:
    form = f.Form((f.K, f.K))
    value = form.weight((f.K, f.K), None) if coded else form.floats("w", f.K, f.K)
    form.op("Sub", "x", value)
    return form


def simple(f: Any, op: str = "Relu", **fields: Any) -> Any:
    form = f.Form(**fields)
    form.op(op, "x")
    return form


BF16, FP16 = TensorProto.BFLOAT16, TensorProto.FLOAT16

CASES: dict[str, Make] = {
    "opset-too-new": lambda f: Case(simple(f, opset=27), simple(f, opset=26), "refused"),
    "ir-version-too-new": lambda f: Case(
        simple(f, ir_version=14), simple(f, ir_version=13), "refused"
    ),
    "operator-unknown": lambda f: Case(simple(f, "Frobnicate"), simple(f), "refused"),
    "codes-need-newer-opset": lambda f: Case(
        pair_of(f, "int4", 20), pair_of(f, "int4", 21), "refused"
    ),
    "block-axis-negative": lambda f: Case(
        f.linear(act=False, axis=-2, block=32), f.linear(act=False, axis=0, block=32), "fails"
    ),
    "ragged-channels": lambda f: Case(ragged(f, 60), ragged(f, 64), "", "nvidia-ampere"),
    "bfloat16-refused": lambda f: Case(
        half(f, "Relu", BF16), half(f, "Transpose", BF16), "refused"
    ),
    "float16-widened": lambda f: Case(half(f, "Relu", FP16), half(f, "Transpose", FP16), "op:Cast"),
    "float8-fused": lambda f: Case(fp8(f, "float8e4m3fn"), fp8(f, "int8"), "refused"),
    "float8-weight": lambda f: Case(
        f.linear(act=False, dtype="float8e4m3fn"), f.linear(act=False), "float"
    ),
    "float4-refused": lambda f: Case(pair_of(f, "float4e2m1"), pair_of(f, "int4"), "refused"),
    "float16-scale": lambda f: Case(fp16_scale(f, np.float16), fp16_scale(f, np.float32), "float"),
    "no-integer-products": lambda f: Case(f.linear(), simple(f), "", "nvidia-onnxruntime-cuda"),
    "activation-16-bit": lambda f: Case(f.linear(activation="uint16"), f.linear(), "float"),
    "static-few-bits": lambda f: Case(f.linear(dtype="int4"), f.linear(dtype="int8"), "float"),
    "static-16-bit-weight": lambda f: Case(
        f.linear(dtype="int16"), f.linear(dtype="int8"), "float"
    ),
    "static-blocks": lambda f: Case(f.linear(axis=0, block=32), f.linear(), "fails"),
    "activation-per-channel": lambda f: Case(
        per_channel_activation(f, f.K), per_channel_activation(f, 1), "fails"
    ),
    "weight-axis": lambda f: Case(f.linear(axis=0), f.linear(axis=1), "fails"),
    "transposed-convolution": lambda f: Case(
        f.conv(op="ConvTranspose", axis=1), f.conv(), "float"
    ),
    "conv-output-unquantized": lambda f: Case(f.conv(out=False), f.conv(), "float"),
    "bias-output-unquantized": lambda f: Case(
        f.linear(f.FLAT, bias=(f.N,)), f.linear(f.FLAT, bias=(f.N,), out=True), "float"
    ),
    "gemm-factors": lambda f: Case(
        f.gemm(bias=(f.N,), out=True, beta=0.5), f.gemm(bias=(f.N,), out=True), "float"
    ),
    "activation-not-absorbed": lambda f: Case(
        f.conv(middle="Relu"), f.conv(middle="Relu", out_zero=0), "float"
    ),
    "output-read-unrounded": lambda f: Case(
        read_twice(f, rounded=False), read_twice(f, rounded=True), "float"
    ),
    "zero-point-missing": lambda f: Case(
        no_zero_point(f, TensorProto.INT8), no_zero_point(f, TensorProto.UINT8), "float"
    ),
    "signed-constant-left": lambda f: Case(
        unsigned_left(f, "int8"), unsigned_left(f, "uint8"), "float"
    ),
    "one-operand-quantized": lambda f: Case(
        attention(f, both=False), attention(f, both=True), "float"
    ),
    "signed-and-shared": lambda f: Case(
        read_by(f, 2, "int8"), read_by(f, 1, "int8"), "float"
    ),
    "signed-activations": lambda f: Case(
        f.linear(activation="int8", zero=0), f.linear(), "", "arm-i8mm"
    ),
    "unsigned-weight": lambda f: Case(f.linear(dtype="uint8"), f.linear(dtype="int8"), ""),
    "quantized-unasked": lambda f: Case(sandwich(f, "Add"), sandwich(f, "Sum"), "moved"),
    "float-between-pairs": lambda f: Case(
        between(f, "Tanh"), between(f, "Sigmoid"), "op:Tanh"
    ),
    "weight-only-transposed": lambda f: Case(
        blocked_turned(f, turned=True), blocked_turned(f, turned=False), "float"
    ),
    "weight-only-form": lambda f: Case(
        f.linear(act=False, axis=0, block=8), f.linear(act=False, axis=0, block=16), "float"
    ),
    "weight-only-gemm": lambda f: Case(f.gemm(act=False, alpha=0.5), f.gemm(act=False), "float"),
    "weight-only-shared": lambda f: Case(shared(f, twice=True), shared(f, twice=False), "float"),
    "weight-only-rounded-output": lambda f: Case(
        f.linear(act=False, out=True), f.linear(out=True), "float"
    ),
    "weight-only-convolution": lambda f: Case(f.conv(act=False), f.conv(), "float"),
    "weight-only-int8-activations": lambda f: Case(
        f.linear(act=False), f.linear(act=False, axis=0), "moved"
    ),
    "nbits-form": lambda f: Case(f.nbits(block=512), f.nbits(block=256), "refused"),
    "nbits-8-level": lambda f: Case(f.nbits(8, level=0), f.nbits(8, level=4), "exact"),
    "nbits-2-blocks": lambda f: Case(f.nbits(2, 16), f.nbits(2, 32), "exact"),
    "nbits-8-float-zero-points": lambda f: Case(
        f.nbits(8, zero="float"), f.nbits(8, zero="codes"), "fails"
    ),
    "nbits-float-zero-points": lambda f: Case(
        f.nbits(4, zero="float"), f.nbits(4, zero="codes"), "exact"
    ),
    "table-form": lambda f: Case(f.table(block=8), f.table(block=16), "refused"),
    "table-dequantized-whole": lambda f: Case(
        gathered(f, first=False), gathered(f, first=True), "widened"
    ),
    "table-of-few-bits": lambda f: Case(
        gathered(f, first=True, dtype="int4"), gathered(f, first=True), "refused"
    ),
    "signed-products": lambda f: Case(
        operators(f, "int8"), f.linear(activation="int8", zero=0), "signed"
    ),
    "convolution-integer": lambda f: Case(dynamic_convolution(f), f.conv(), "op:ConvInteger"),
    "pair-sums-saturate": lambda f: Case(
        f.linear(most=127), f.linear(most=64), "", AVX2
    ),
    "softmax-range-blown": lambda f: Case(
        rounded_softmax(f, 1e36), rounded_softmax(f, 0.05), "lost"
    ),
    "scale-unusable": lambda f: Case(rounded(f, 1e-42), rounded(f, 0.05), "lost"),
    "weight-channels-wild": lambda f: Case(uneven_columns(f, 3), uneven_columns(f, 90), ""),
    "machine-specific-file": lambda f: Case(
        f.Single("com.microsoft.nchwc:ReorderInput", ("f1,16,6,6",)), simple(f), ""
    ),
    "optimised-file": lambda f: Case(
        fused_product(f, fused=True), fused_product(f, fused=False),
        "op:com.microsoft:FusedMatMul",
    ),
    "layer-left-float": lambda f: Case(
        with_a_float_layer(f, there=True), with_a_float_layer(f, there=False), "float"
    ),
    "norm-merged-with-add": lambda f: Case(
        residual_norm(f, "Add"), residual_norm(f, "Sum"),
        "op:com.microsoft:SkipLayerNormalization",
    ),
    "constant-dequantized": lambda f: Case(
        subtracted(f, coded=True), subtracted(f, coded=False), "op:DequantizeLinear"
    ),
}  # fmt: skip


def found(form: Any, folder: Any, target: str, rule: str = "") -> list[Violation]:
    path = folder / "model.onnx"
    path.write_bytes(form.bytes())
    rules = (rule_named(rule),) if rule else RULES
    return list(check_model(load_as_written(path), load_target(target), rules=rules))


def floating(form: Any, forms: Any) -> bool:
    """Whether a product runs in float."""
    return not forms.FLOAT_PRODUCTS.isdisjoint(form.census().counts)


def moved(form: Any) -> float:
    """By how much the runtime's optimisations move results, relative to the largest."""
    x = np.random.default_rng(5).normal(size=[{"B": 4, "S": 3}.get(n, n) for n in form.shape])
    feeds = {"x": x.astype(np.float32)}
    (fast,) = open_session(form.bytes(), threads=1).run(feeds)
    (plain,) = open_session(form.bytes(), threads=1, optimize="none").run(feeds)
    return float(np.abs(fast - plain).max() / np.abs(plain).max())


def rounding(form: Any) -> float:
    """Error of a MatMulNBits of default zero points against float64, relative to the largest."""
    (node,) = form.nodes
    bits = {a.name: a.i for a in node.attribute}["bits"]
    packed = form.tensors["codes"]
    parts = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    codes = np.stack(parts, -1).reshape(len(packed), -1)
    weight = (codes.astype(np.float64) - 2 ** (bits - 1)) * np.float64(np.float32(0.01))
    x = np.random.default_rng(5).normal(size=(4, 3, codes.shape[1])).astype(np.float32)
    (got,) = open_session(form.bytes(), threads=1).run({"x": x})
    exact = x.astype(np.float64) @ weight.T
    return float(np.abs(got - exact).max() / np.abs(exact).max())


def whole_table(form: Any) -> bool:
    graph = optimized_graph(form.bytes(), threads=1).graph
    stored = {tensor.name for tensor in graph.initializer}
    return any(n.op_type == "DequantizeLinear" and n.input[0] in stored for n in graph.node)


def lost(form: Any) -> bool:
    """Whether different numbers come out as one."""
    sizes = [2 if isinstance(n, str) else n for n in form.shape]
    x = np.random.default_rng(0).normal(size=sizes)
    (y,) = open_session(form.bytes(), threads=1).run({"x": x.astype(np.float32)})
    return bool(np.ptp(y) < 1e-6)


def unsigned_activations(form: Any) -> bool:
    tensors = form.census().integer_initializers
    return "UINT8" in {tensor.dtype for tensor in tensors if tensor.shape == ()}


def shows(proof: str, form: Any, forms: Any) -> bool:
    """Whether the runtime does to a model what the proof says."""
    if proof in ("refused", "fails"):
        return f"{proof}: " in form.outcome()
    if proof == "float":
        return floating(form, forms)
    if proof == "moved":
        return moved(form) > 1e-4
    if proof == "exact":
        return rounding(form) < 1e-5
    if proof == "widened":
        return whole_table(form)
    if proof == "lost":
        return lost(form)
    if proof == "signed":
        return not unsigned_activations(form)
    return proof.removeprefix("op:") in form.census().counts


@pytest.mark.parametrize("rule", [rule.id for rule in ONNXRUNTIME])
def test_a_model_that_breaks_it_and_a_twin_that_does_not(
    rule: str, forms: Any, tmp_path: Any
) -> None:
    case = CASES[rule](forms)
    broken = found(case.broken, tmp_path, case.target, rule)
    assert broken
    assert {violation.rule for violation in broken} == {rule}
    assert not found(case.kept, tmp_path, case.target, rule)
    if case.proof:
        assert shows(case.proof, case.broken, forms)
        assert not shows(case.proof, case.kept, forms)


def test_every_rule_is_told_apart_and_said_in_full() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert len(ONNXRUNTIME) == len(CASES)
    for rule in RULES:
        assert rule.applies.endswith(".")
        assert rule.reason
        assert rule.fix
        assert not rule.reason.endswith(".")


def test_signs_matter_only_to_layers_with_an_integer_kernel(forms: Any, tmp_path: Path) -> None:
    form = forms.Form(forms.IMAGE)
    x = form.pair("x", 0, "int8")
    filters, turned = form.weight(forms.IMAGE_WEIGHT, 0), (8, 16, 3, 3)
    form.results = [
        form.pair(form.op("Conv", x, filters, name="conv")),
        form.op("ConvTranspose", x, form.weight(turned, 1, name="up"), name="turned"),
    ]
    said = found(form, tmp_path, VNNI)
    assert [v.node for v in said if v.rule == "signed-and-shared"] == ["conv"]
    assert [v.node for v in said if v.rule == "transposed-convolution"] == ["turned"]


@pytest.mark.parametrize("name", target_names())
def test_each_target_says_which_rules_do_not_apply(name: str) -> None:
    target = load_target(name)
    idle = {rule.id: rule.excused(target) for rule in RULES}
    assert idle["opset-too-new"] == ""
    on_cpu = target.runtime.provider == "CPUExecutionProvider"
    assert (idle["weight-axis"] == "") is on_cpu
    assert all(not why.endswith(".") for why in idle.values())


def test_what_is_imported_is_what_the_runtime_takes() -> None:
    runtime = load_target("generic").runtime
    assert (runtime.max_opset, runtime.max_ir_version) == (NEWEST_OPSET, NEWEST_IR)


def test_a_node_without_a_name_goes_by_its_output(forms: Any, tmp_path: Any) -> None:
    form = forms.linear(axis=0)
    form.nodes[-1].name = ""
    (violation,) = found(form, tmp_path, VNNI)
    assert violation.node == form.nodes[-1].output[0]


def test_layers_in_bodies_are_checked_too(forms: Any, tmp_path: Any) -> None:
    form = forms.Form(forms.FLAT)
    w = form.weight((forms.N, forms.K), 0)
    inner = onnx.helper.make_node("Gemm", ["x", w], ["inside"], name="fc", transB=1)
    body = onnx.helper.make_graph([inner], "body", [], [onnx.ValueInfoProto(name="inside")])
    form.op("If", form.const("always", np.bool_(True)), then_branch=body, else_branch=body)
    assert {v.node for v in found(form, tmp_path, VNNI)} == {"fc"}


def without_inputs(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        del node.input[:]


def without_outputs(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        del node.output[:]


def without_axes(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        del tensor.dims[:]


def texts_for_numbers(proto: onnx.ModelProto) -> None:
    for attribute in (a for node in proto.graph.node for a in node.attribute):
        attribute.CopyFrom(onnx.helper.make_attribute(attribute.name, "x"))


def axes_far_away(proto: onnx.ModelProto) -> None:
    for attribute in (a for node in proto.graph.node for a in node.attribute):
        if attribute.type == onnx.AttributeProto.INT:
            attribute.i = 1 << 40


HOSTILE = (without_inputs, without_outputs, without_axes, texts_for_numbers, axes_far_away)


@pytest.mark.parametrize("harm", HOSTILE, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("rule", [rule.id for rule in ONNXRUNTIME])
def test_broken_files_are_refused_or_checked(
    rule: str, harm: Callable[[onnx.ModelProto], None], forms: Any, tmp_path: Any
) -> None:
    proto = CASES[rule](forms).broken.proto()
    harm(proto)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    try:
        model = load_as_written(path)
    except InputError:
        return
    for target in (VNNI, AVX2, "nvidia-ampere"):
        check_model(model, load_target(target))


def test_an_unknown_rule_is_a_clear_error() -> None:
    with pytest.raises(UsageError, match="unknown rule 'weight-axes'") as raised:
        rule_named("weight-axes")
    assert "'weight-axis'" in raised.value.hint


def test_pairs_that_saturate_are_those_of_an_emulation() -> None:
    """Sums in int16 against exact ones, for every extreme pair of activations."""
    codes = np.random.default_rng(7).integers(-128, 128, (9, 40)).astype(np.int8)
    codes[0, :2], codes[1, :2] = (64, -64), (64, -64)  # just within
    columns = codes.T.tolist()
    pairs = [(column[i], column[i + 1]) for column in columns for i in range(0, 8, 2)]
    assert pairs_beyond(codes) == sum(map(saturates, pairs)) > 20


@pytest.mark.parametrize(
    ("op", "constant", "scale", "blown"),
    [("Div", 8.0, 4.0, False), ("Div", 8.0, 10.0, True), ("Mul", 0.125, 4.0, False),
     ("Mul", 0.125, 10.0, True), ("Tanh", None, 10.0, False), ("Neg", None, 10.0, False)],
)  # fmt: skip
def test_steps_are_those_that_the_softmax_reads(
    op: str, constant: float | None, scale: float, blown: bool, forms: Any, tmp_path: Path
) -> None:
    form = forms.Form(forms.FLAT)
    more = [] if constant is None else [form.const("factor", np.float32(constant))]
    form.op("Softmax", form.op(op, form.pair("x", scale=scale), *more))
    assert bool(found(form, tmp_path, VNNI, "softmax-range-blown")) is blown


def test_channels_that_share_a_scale_badly_are_rounded_as_is_said() -> None:
    """The error of one grid against a grid for each channel, by rounding twice."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(512, 24)) * np.r_[np.ones(3), np.full(21, 0.04)]
    step, steps = np.abs(w).max() / 127, np.abs(w).max(0) / 127
    codes = np.rint(w / step).astype(np.int8)
    one = np.sqrt(((codes * step - w) ** 2).mean(0))
    own = np.sqrt(((np.rint(w / steps) * steps - w) ** 2).mean(0))
    said = uneven(codes, -1)
    assert said.startswith("21 of 24 output channels keep 5 bits or fewer")
    times = float(re.search(r"rounded ([\d.]+) times", said)[1])  # type: ignore[index]
    assert times == pytest.approx(np.median(one / own), rel=0.2)
    assert not uneven(np.rint(w[:, 3:] / np.abs(w[:, 3:]).max() * 127).astype(np.int8), -1)
    assert uneven((codes.astype(np.int16) + 128).astype(np.uint8), 1) == said


def test_channels_of_zeros_are_counted_among_all() -> None:
    peaks = np.r_[np.full(2, 127), np.full(10, 3), np.zeros(20, int)]
    said = uneven(np.outer(peaks, np.ones(4)).astype(np.int8), 0)
    assert said.startswith("10 of 32 output channels keep 5 bits or fewer, 20 more hold nothing")
    assert "20 more" not in uneven(np.outer(peaks[:12], np.ones(4)).astype(np.int8), 0)


def test_channels_that_all_keep_six_bits_are_no_finding() -> None:
    peaks = np.r_[127, np.full(31, 20)]  # 6 times as coarse, none below 16
    assert not uneven(np.outer(peaks, np.ones(4)).astype(np.int8), 0)


@pytest.mark.parametrize(
    ("scale", "said"),
    [(0.0, "a scale of 0"), (-0.1, "a scale of -0.1"), (np.inf, "not finite"),
     (np.nan, "not finite"), (1e-40, "denormal"), (1e-30, "")],
)  # fmt: skip
def test_scales_that_are_no_use(scale: float, said: str, forms: Any, tmp_path: Path) -> None:
    violations = found(rounded(forms, scale), tmp_path, VNNI, "scale-unusable")
    assert bool(violations) is bool(said)
    assert all(said in violation.value for violation in violations[:1])


def test_the_order_of_filters_is_that_of_the_proof_in_the_passes() -> None:
    filters = np.random.default_rng(7).integers(-128, 128, (5, 3, 2, 3)).astype(np.int8)
    rows = filter_rows(filters)
    np.testing.assert_array_equal(rows, conv_rows(filters))
    assert pairs_beyond(rows) == can_saturate(rows).sum()


def saturates(pair: tuple[int, int]) -> bool:
    sums = [x * pair[0] + y * pair[1] for x in (0, 255) for y in (0, 255)]
    return any(total != np.clip(total, -32768, 32767) for total in sums)


def test_the_narrow_floats_with_kernels_are_those_of_the_runtime() -> None:
    state = pytest.importorskip("onnxruntime.capi._pybind_state")
    for known, spoken in ((BF16_KERNELS, "bfloat16"), (FP16_KERNELS, "float16")):
        having = {
            found.op_name
            for found in state.get_all_opkernel_def()
            if found.provider == "CPUExecutionProvider" and found.domain == ""
            for types in found.type_constraints.values()
            if f"tensor({spoken})" in types
        }
        untyped = {"Constant", "Size"}
        assert having - known <= {"MemcpyFromHost", "MemcpyToHost"}
        assert known - having <= untyped | {"Where"}
