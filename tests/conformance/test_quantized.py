"""Models that somebody quantized already: their facts are read off, and nothing is done twice."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import planish
from planish.cli import main
from planish.ir.facts import FLOAT, QUANTIZED
from planish.ir.load import load_model
from planish.ir.sites import find_sites

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(4)
WIDTH = 64
X = RNG.normal(size=(8, WIDTH)).astype(np.float32)
W = (RNG.normal(size=(WIDTH, WIDTH)) / 8).astype(np.float32)
SCALE = np.float32(np.abs(W).max() / 127)
CODES = np.rint(W / SCALE).astype(np.int8)
COMMON = {
    "s": SCALE, "a": np.float32(0.03), "z": np.uint8(120), "n": np.int8(0), "codes": CODES,
    "w": W, "free": W, "o": np.float32(0.05),
}  # fmt: skip
PACKED = RNG.integers(0, 256, size=(WIDTH, 2, 16)).astype(np.uint8)

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qdq": (
        """q = QuantizeLinear(x, a, z) d = DequantizeLinear(q, a, z)
           v = DequantizeLinear(codes, s, n) h = MatMul(d, v)""",
        {},
    ),
    "qdq-blocked-int4": (
        "v = DequantizeLinear<axis = 0, block_size = 32>(small, scales) h = MatMul(x, v)",
        {"small": CODES.astype(ml_dtypes.int4), "scales": np.full((2, WIDTH), 0.1, np.float32)},
    ),
    "qdq-fp8": (
        "v = DequantizeLinear(small, s) h = MatMul(x, v)",
        {"small": W.astype(ml_dtypes.float8_e4m3fn)},
    ),
    "weights-rounded-in-the-graph": (
        "c = QuantizeLinear(w, s, n) v = DequantizeLinear(c, s, n) h = MatMul(x, v)",
        {},
    ),
    "qoperator": (
        """q = QuantizeLinear(x, a, z) p = QLinearMatMul(q, a, z, codes, s, n, o, z)
           h = DequantizeLinear(p, o, z)""",
        {},
    ),
    "dynamic": (
        """q, qs, qz = DynamicQuantizeLinear(x) i = MatMulInteger(q, codes, qz, n)
           f = Cast<to = 1>(i) m = Mul(qs, s) h = Mul(f, m)""",
        {},
    ),
    "dynamic-fused": (
        "h = com.microsoft.DynamicQuantizeMatMul(x, codes, s, n)",
        {},
    ),
    "n-bits": (
        f"h = com.microsoft.MatMulNBits<K = {WIDTH}, N = {WIDTH}, bits = 4, block_size = 32>"
        "(x, packed, scales)",
        {"packed": PACKED, "scales": np.full(2 * WIDTH, 0.1, np.float32)},
    ),
}  # fmt: skip


UNRANKED = ("dynamic-fused", "n-bits")
"""Operators of the runtime, for which ONNX infers no shapes: what follows has no known rank."""


def model(kind: str) -> onnx.ModelProto:
    """A quantized layer of that kind, an activation, and a float layer."""
    body, more = KINDS[kind]
    proto = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (float[n, {WIDTH}] x) => (float[n, {WIDTH}] y) {{
          {body} r = Relu(h) [rest] y = MatMul(r, free)
        }}"""
    )
    used = {name for node in proto.graph.node for name in node.input}
    for name, array in (COMMON | more).items():
        if name in used:
            proto.graph.initializer.append(ir.to_proto(ir.tensor(array, name=name)))
    return proto


def facts(model: ir.Model) -> list[frozenset[str]]:
    return [site.facts for site in find_sites(model).of_kind("linear")]


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
@pytest.mark.parametrize("kind", KINDS)
def test_quantized_layers_are_left_and_the_rest_is_treated(
    graphs: ModuleType, kind: str, scheme: str
) -> None:
    imported = load_model(model(kind)).model
    before = graphs.run(imported, {"x": X})["y"]
    bench = graphs.Bench(imported, [{"x": X}])
    bench.run("canonicalize")
    assert facts(imported) == [{QUANTIZED}, {FLOAT}]
    quantized = [n.name for n in imported.graph]
    edits = bench.run("quantize", scheme=scheme).edits
    if scheme == "static" and kind in UNRANKED:
        assert list(bench.refusals().values()) == ["already-quantized", "unknown-rank"]
        return
    assert list(bench.refusals().values()) == ["already-quantized"]
    assert len(edits) == 1
    assert facts(imported) == [{QUANTIZED}, {QUANTIZED}]
    assert set(quantized) - {n.name for n in imported.graph} <= {"rest"}
    error = np.abs(bench.outputs({"x": X})["y"] - before).max()
    assert error < 0.05 * np.abs(before).max()


def test_inspect_shows_the_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    for kind in KINDS:
        onnx.save(model(kind), path)
        assert main(["inspect", str(path), "--json"]) == 0
        sites = json.loads(capsys.readouterr().out)["sites"]
        found = [site["facts"] for site in sites if site["kind"] == "linear"]
        assert found == [["quantized"], ["float"]]


def test_an_artifact_of_ours_is_compiled_again(tmp_path: Path) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[n, {WIDTH}] x) => (float[n, {WIDTH}] y) {{
      h = MatMul(x, w) r = Relu(h) y = MatMul(r, free) }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(COMMON[n], n) for n in ("w", "free"))
    feeds = [{"x": X + np.float32(i) / 10} for i in range(6)]
    options: dict[str, Any] = {
        "target": "generic", "calibration": feeds, "pipeline": "canonicalize,quantize",
    }  # fmt: skip
    first = planish.compile(proto, output=tmp_path / "first", **options)
    assert len(first.manifest["edits"]) == 2
    again = planish.compile(tmp_path / "first" / "model.onnx", output=tmp_path / "again", **options)
    remarks = again.manifest["remarks"]
    assert again.manifest["edits"] == []
    assert [r["code"] for r in remarks if r["kind"] == "refused"] == ["already-quantized"] * 2
    assert "all 2 layers are quantized already and stay as they are" in again.report
