"""Which kernel computes each layer of a file, and why float ones are float."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.backends.kernels import UNEXPLAINED, UNFUSED, WIDENED, count_kernels
from planish.compiler.result import Kernels, SiteKernel
from planish.ir.load import load_model
from planish.ir.provenance import Remark
from planish.ir.save import save_model
from planish.passes.math.affine import quantize_weight
from planish.targets.loader import load_target

PORTS = ('float["B", "S", 64] x', 'float["B", "S", 64] y')
MS = "com.microsoft:"
RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def integers(name: str, axis: int = 1) -> Mapping[str, np.ndarray]:
    codes, scale = quantize_weight(floats(64, 64), axis, 7)
    return {name: codes, f"{name}_s": scale}


def build(body: str, weights: Mapping[str, Any], ports: tuple[str, str] = PORTS) -> ir.Model:
    header = '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>'
    proto = onnx.parser.parse_model(f"{header} g ({ports[0]}) => ({ports[1]}) {{ {body} }}")
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()
    )
    return load_model(proto).model


def counted(
    folder: Path, model: ir.Model, remarks: tuple[Remark, ...] = (), **options: Any
) -> Kernels:
    save_model(model, folder / "model.onnx")
    return count_kernels(folder / "model.onnx", model, remarks, threads=1, **options)


def test_a_quantized_layer_in_float_is_explained_by_the_rule_that_it_breaks(
    tmp_path: Path,
) -> None:
    model = build(
        f'{ENTER} {FIRST} y = Add(p, "a.bias")',
        {**QDQ, **integers("a.weight"), "a.bias": floats(64)},
        ('float["B", 64] x', 'float["B", 64] y'),
    )
    (plain,) = counted(tmp_path, model).sites
    assert plain.reason == UNFUSED
    (told,) = counted(tmp_path, model, target=load_target("x86-avx512-vnni")).sites
    assert told.reason.startswith(f"{UNFUSED}: the runtime merges MatMul and Add to a Gemm")
    assert not told.integer


QDQ = {"s": np.float32(0.05), "z": np.uint8(128)}
ENTER = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
FIRST = 'w1 = DequantizeLinear<axis=1>("a.weight", "a.weight_s") p = MatMul(d, w1)'


def test_integer_and_float_layers_side_by_side(tmp_path: Path) -> None:
    model = build(
        f'{ENTER} {FIRST} r = Erf(p) y = MatMul(r, "b.weight")',
        {**QDQ, **integers("a.weight"), "b.weight": floats(64, 64)},
    )
    refused = Remark("refused", "quantize", "b", "excluded", "left float on request")
    kernels = counted(tmp_path, model, (refused,))
    assert kernels.sites == (
        SiteKernel("a", f"{MS}MatMulIntegerToFloat", True),
        SiteKernel("b", "MatMul", False, "left float on request"),
    )
    assert kernels.counts[f"{MS}MatMulIntegerToFloat"] == 1
    assert kernels.surprises == ()


def test_dynamic_layers_are_integer(tmp_path: Path) -> None:
    body = """
        q, s, z = DynamicQuantizeLinear(x) p = MatMulInteger(q, "a.weight", z)
        r = Cast<to=1>(p) t = Mul(s, "a.weight_s") y = Mul(r, t)
    """
    kernels = counted(tmp_path, build(body, integers("a.weight")))
    (site,) = kernels.sites
    assert site.integer
    assert site.kernel in (f"{MS}DynamicQuantizeMatMul", f"{MS}MatMulIntegerToFloat")
    assert kernels.surprises == ()


def test_reasons_come_from_remarks_of_refusals_and_vetoes(tmp_path: Path) -> None:
    model = build('y = MatMul(x, "a.weight")', {"a.weight": floats(64, 64)})

    def reason(*remarks: Remark, **options: str) -> str:
        (site,) = counted(tmp_path, model, remarks, **options).sites
        assert not site.integer
        return site.reason

    assert reason() == UNEXPLAINED
    assert reason(otherwise="it did not pay") == "it did not pay"
    vetoed = Remark("missed", "quantize", "a", "region-differs", "the lowered region differs")
    assert reason(vetoed, otherwise="it did not pay") == "the lowered region differs"
    other = Remark("refused", "quantize", "b", "too-small", "too small")
    applied = Remark("applied", "equalize", "a", "alpha", "done")
    assert reason(other, applied) == UNEXPLAINED


def test_a_quantized_layer_that_runs_in_float_is_a_surprise(tmp_path: Path) -> None:
    """On two axes the runtime merges product and bias into a float Gemm: not legalised."""
    ports = ('float["B", 64] x', 'float["B", 64] y')
    model = build(
        f"{ENTER} {FIRST} y = Add(p, bias)",
        {**QDQ, **integers("a.weight"), "bias": floats(64)},
        ports,
    )
    other = Remark("refused", "quantize", "a", "c", "of another build")
    kernels = counted(tmp_path, model, (other,))
    assert [(site.integer, site.reason) for site in kernels.sites] == [(False, UNFUSED)]
    (surprise,) = kernels.surprises
    assert surprise == "a was quantized but runs in the float kernel Gemm"


def test_a_float_layer_that_the_runtime_quantizes_is_a_surprise(tmp_path: Path) -> None:
    ports = ('float["B", 64] x', 'float["B", 64] y')
    leave = "yq = QuantizeLinear(g, s, z) y = DequantizeLinear(yq, s, z)"
    model = build(
        f'{ENTER} g = Gemm(d, "a.weight", bias) {leave}',
        {**QDQ, "a.weight": floats(64, 64), "bias": floats(64)},
        ports,
    )
    (surprise,) = counted(tmp_path, model).surprises
    assert "the runtime quantized" in surprise
    assert "int8[64, 64]" in surprise


def test_a_shared_weight_is_integer_only_where_all_its_uses_are(tmp_path: Path) -> None:
    body = f"""
        {ENTER} w1 = DequantizeLinear<axis=1>("a.weight", "a.weight_s")
        p = MatMul(d, w1) r = Erf(p) t = MatMul(r, w1) y = Add(p, t)
    """
    kernels = counted(tmp_path, build(body, {**QDQ, **integers("a.weight")}))
    (site,) = kernels.sites
    assert (site.kernel, site.integer) == (f"MatMul+{MS}MatMulIntegerToFloat", False)
    assert kernels.surprises == (
        f"a was quantized but runs in the float kernel MatMul+{MS}MatMulIntegerToFloat",
    )


def test_convolutions_whose_weights_the_runtime_repacks_are_float(tmp_path: Path) -> None:
    ports = ('float["B", 16, 8, 8] x', 'float["B", 16, "h", "w"] y')
    model = build('y = Conv(x, "stem.weight")', {"stem.weight": floats(16, 16, 3, 3)}, ports)
    (site,) = counted(tmp_path, model).sites
    assert (site.site, site.integer, site.reason) == ("stem", False, UNEXPLAINED)


@pytest.mark.parametrize("relu", [False, True])
def test_integer_convolutions(tmp_path: Path, relu: bool) -> None:
    codes, scale = quantize_weight(floats(16, 16, 3, 3), 0, 7)
    act = "r = Relu(c)" if relu else "r = Identity(c)"
    body = f"""
        {ENTER} w1 = DequantizeLinear<axis=0>("stem.weight", scale) c = Conv(d, w1) {act}
        yq = QuantizeLinear(r, s, low) y = DequantizeLinear(yq, s, low)
    """
    weights = {**QDQ, "stem.weight": codes, "scale": scale, "low": np.uint8(0)}
    ports = ('float["B", 16, 8, 8] x', 'float["B", 16, "h", "w"] y')
    kernels = counted(tmp_path, build(body, weights, ports))
    (site,) = kernels.sites
    assert site.integer
    assert "QLinearConv" in site.kernel
    assert kernels.surprises == ()


def test_tables_and_blocks_are_no_layers(tmp_path: Path) -> None:
    ports = ('int64["B", "S"] ids', 'float["B", "S", 64] y')
    model = build('y = Gather("table", ids)', {"table": floats(9, 64)}, ports)
    assert counted(tmp_path, model).sites == ()


def test_a_pass_that_only_enables_gives_no_reason_for_float(tmp_path: Path) -> None:
    model = build('y = MatMul(x, "b.weight")', {"b.weight": floats(64, 64)})
    (site,) = counted(tmp_path, model).sites

    def reason(*passes: str) -> str:
        remarks = tuple(Remark("refused", name, site.site, "c", f"by {name}") for name in passes)
        return counted(tmp_path, model, remarks).sites[0].reason

    assert reason("equalize") == UNEXPLAINED
    assert reason("quantize", "equalize") == "by quantize"
    assert reason("a-pass-of-the-users") == "by a-pass-of-the-users"


@pytest.mark.parametrize(("level", "integer"), [(4, True), (1, False)])
def test_weights_of_few_bits_may_be_multiplied_in_float(
    tmp_path: Path, level: int, integer: bool
) -> None:
    """At other levels than 4 the kernel keeps activations as they are: what was asked for."""
    model = build(
        "y = com.microsoft.MatMulNBits <K = 64, N = 64, bits = 4, block_size = 32,"
        f' accuracy_level = {level}> (x, "a.packed", "a.scale")',
        {"a.packed": np.zeros((64, 2, 16), np.uint8), "a.scale": floats(64, 2)},
    )
    (site,), surprises = counted(tmp_path, model).sites, counted(tmp_path, model).surprises
    assert (site.kernel, site.integer) == (f"{MS}MatMulNBits", integer)
    assert site.reason == ("" if integer else WIDENED)
    assert surprises == ()
