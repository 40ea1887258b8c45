"""What the rules say of models as tools make them, each confirmed by the runtime's own kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime import quantization
from onnxruntime.quantization import QuantFormat, QuantType

import planish
from planish.ir.load import load_as_written
from planish.targets.census import Census, runtime_census
from planish.targets.loader import load_target
from planish.targets.rules.rule import Violation
from planish.targets.rules.table import check_model

VNNI = "x86-avx512-vnni"
FEEDS = 2

Quantized = Callable[..., Path]


class Feeds(quantization.CalibrationDataReader):  # type: ignore[misc]
    """A few feeds, one after the other."""

    def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
        self.feeds = feeds

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


def slow(path: Path, target: str = VNNI) -> list[Violation]:
    found = check_model(load_as_written(path), load_target(target))
    return [violation for violation in found if violation.severity != "note"]


def float_layers(census: Census) -> set[str]:
    return {row.node_name for row in census.kernels if not row.integer}


@pytest.fixture(scope="module")
def minilm(task: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """``minilm(activation, weight)``: MiniLM by onnxruntime's own quantize_static."""
    folder = tmp_path_factory.mktemp("static")
    source = task("minilm")

    def build(**options: Any) -> Path:
        path = folder / f"{len(list(folder.iterdir()))}.onnx"
        quantization.quantize_static(
            source.model, path, Feeds(iter(list(source.calibration(FEEDS)))), **options
        )
        return path

    return build


def test_static_minilm_as_the_tool_makes_it_by_default(minilm: Quantized) -> None:
    path = minilm()
    found = slow(path)
    signed = {v.node for v in found if v.rule == "signed-and-shared" and v.op == "MatMul"}
    assert signed == float_layers(runtime_census(path, threads=1))
    assert len(signed) == 24  # of 36: queries, keys, values and the first of each feed-forward
    tables = [v.op for v in found if v.rule == "table-dequantized-whole"]
    assert tables == ["Gather"] * 3
    assert {v.rule for v in found} == {
        "signed-and-shared", "table-dequantized-whole", "softmax-range-blown"
    }  # fmt: skip


def test_static_minilm_with_unsigned_activations(minilm: Quantized) -> None:
    path = minilm(activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    blown = slow(path)  # the mask, and the six sums of scores and mask
    assert [v.rule for v in blown] == ["softmax-range-blown"] * 7
    assert {v.value for v in blown} == {"steps of 1.33e+36"}
    census = runtime_census(path, threads=1)
    assert not float_layers(census)
    assert len(census.kernels) == 36


def small_model(folder: Path) -> Path:
    """Two linear layers with a bias and a Relu between, on rows of 64."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(64, 64)), "b1": rng.normal(size=64),
        "w2": rng.normal(size=(64, 32)), "b2": rng.normal(size=32),
    }  # fmt: skip
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g (float["B", 64] x) => (float["B", 32] y) {
            h = MatMul(x, w1)
            a = Add(h, b1)
            r = Relu(a)
            p = MatMul(r, w2)
            y = Add(p, b2)
        }"""
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = f"make_{node.output[0]}"
    for name, value in weights.items():
        tensor = onnx.numpy_helper.from_array(value.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    path = folder / "small.onnx"
    onnx.save(model, path)
    return path


def few_feeds() -> Feeds:
    rng = np.random.default_rng(1)
    return Feeds(iter([{"x": rng.normal(size=(8, 64)).astype(np.float32)} for _ in range(2)]))


def test_operators_of_two_signed_operands(tmp_path: Path) -> None:
    path = tmp_path / "s8s8.onnx"
    quantization.quantize_static(
        small_model(tmp_path), path, few_feeds(), quant_format=QuantFormat.QOperator,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    found = slow(path)
    assert {v.rule for v in found} == {"signed-products"}
    census = runtime_census(path, threads=1)
    assert {v.node for v in found} == {row.node_name for row in census.kernels}
    assert all(row.op == "QLinearMatMul" and row.weight_dtype == "INT8" for row in census.kernels)
    zero_points = {t.dtype for t in census.integer_initializers if t.shape == ()}
    assert zero_points == {"INT8"}  # nothing was turned to uint8
    assert not slow(path, "arm-i8mm")


def test_weights_of_8_bits_may_saturate_without_vnni(tmp_path: Path) -> None:
    source = small_model(tmp_path)
    full, reduced = tmp_path / "full.onnx", tmp_path / "reduced.onnx"
    for path, less in ((full, False), (reduced, True)):
        quantization.quantize_static(
            source, path, few_feeds(), activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, per_channel=True, reduce_range=less,
        )  # fmt: skip
    found = slow(full, "x86-avx2")
    assert [v.rule for v in found if v.severity == "error"] == ["pair-sums-saturate"] * 2
    assert "pair-sums-saturate" not in {v.rule for v in slow(reduced, "x86-avx2")}
    assert "pair-sums-saturate" not in {v.rule for v in slow(full)}


def test_a_product_with_bias_and_no_quantized_output(forms: Any, tmp_path: Path) -> None:
    path = tmp_path / "bias.onnx"
    path.write_bytes(forms.linear(forms.FLAT, bias=(forms.N,)).bytes())
    (found,) = slow(path)
    assert (found.rule, found.node) == ("bias-output-unquantized", "fc")
    (row,) = runtime_census(path, threads=1).kernels
    assert (row.op, row.integer) == ("Gemm", False)


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_a_weight_only_layer_with_a_transposed_weight(
    bits: str, forms: Any, tmp_path: Path
) -> None:
    path = tmp_path / "turned.onnx"
    form = forms.Form(forms.FLAT)
    more = {"block": 32} if bits == "int4" else {}
    w = form.weight((forms.N, forms.K), 1 if more else 0, bits, **more)
    form.op("Gemm", "x", w, form.floats("bias", forms.N), transB=1, name="fc")
    path.write_bytes(form.bytes())
    (found,) = slow(path)
    assert (found.rule, found.node) == ("weight-only-transposed", "fc")
    census = runtime_census(path, threads=1)
    (row,) = census.kernels
    assert (row.op, row.integer) == ("Gemm", False)
    assert "DequantizeLinear" in census.counts


def test_dynamic_quantization_by_the_tool_breaks_no_rule(tmp_path: Path) -> None:
    path = tmp_path / "dynamic.onnx"
    quantization.quantize_dynamic(small_model(tmp_path), path)
    assert not slow(path)
    assert not float_layers(runtime_census(path, threads=1))


def test_what_planish_makes_of_it_breaks_no_rule(tmp_path: Path) -> None:
    """As the rules see it: no layer is written for a kernel that it does not get."""
    rng = np.random.default_rng(1)
    calibration = {"x": rng.normal(size=(64, 64)).astype(np.float32)}
    artifact = planish.compile(
        small_model(tmp_path), VNNI, calibration=calibration, threads=1,
        pipeline="canonicalize,quantize{scheme=static}", goal="size", max_drift="sqnr=1",
    )  # fmt: skip
    path = artifact.path / "model.onnx"
    census = runtime_census(path, threads=1)
    assert census.kernels
    assert not float_layers(census)
    assert not check_model(load_as_written(path), load_target(VNNI))
