"""Targets with kernels for two signed factors: what is written, and that it is right here, too."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from planish.compiler.driver import compile_model

OPTION = "session.qdqisint8allowed"
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", params=["static", "dynamic"])
def made(
    request: pytest.FixtureRequest, kit: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Three linear layers with Relus between them, for Arm; and the scheme."""
    return request.param, compile_model(
        kit.chain(3), "arm-i8mm", output=tmp_path_factory.mktemp("arm") / "out",
        calibration=kit.feeds(), pipeline=f"canonicalize,quantize{{scheme={request.param}}}",
        threads=1,
    )  # fmt: skip


def test_static_activations_are_signed_and_dynamic_ones_what_the_operator_makes(made: Any) -> None:
    scheme, built = made
    model = onnx.load(built.folder / "model.onnx")
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    if scheme == "dynamic":
        assert sum(n.op_type == "MatMulInteger" for n in model.graph.node) == 3
        return
    zeros = [constants[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert [zero.dtype for zero in zeros] == [np.int8] * 3
    assert [int(zero) for zero in zeros[1:]] == [-128, -128]  # behind a Relu nothing is negative


def test_answers_are_those_of_the_codes_with_the_option_and_without(
    made: Any, kit: ModuleType
) -> None:
    """Against int64 products of what is written in the file."""
    scheme, built = made
    path, x = built.folder / "model.onnx", kit.normal(16, 64, seed=7)
    expected = by_hand(onnx.load(path), x) if scheme == "static" else None
    outputs = [answer(path, x, {}), answer(path, x, {OPTION: "1"}), answer(path, x, {OPTION: "0"})]
    for output in outputs[1:]:
        np.testing.assert_allclose(output, outputs[0], atol=2e-3 * np.abs(output).max())
    if expected is not None:
        for output in outputs:
            # One step of a quantizer apart at most, where a rounding falls to the other side.
            np.testing.assert_allclose(output, expected, atol=0.02 * np.abs(expected).max())
            assert np.mean(np.abs(output - expected) > 1e-5 * np.abs(expected).max()) < 0.02


def test_the_option_is_named_and_no_answer_hangs_on_it(made: Any) -> None:
    _, built = made
    assert built.result.session_options == (f"{OPTION}=1",)
    for name in ("manifest.json", "report.md", "README.md"):
        assert f"{OPTION}=1" in (built.folder / name).read_text()
    assert "default options" in (built.folder / "report.md").read_text()
    assert "for aarch64" in built.result.not_on_target
    assert built.result.quality.verdict == "within-budget"


def test_a_model_without_integer_layers_needs_no_option(kit: ModuleType, tmp_path: Path) -> None:
    built = compile_model(
        kit.chain(2), "arm-i8mm", output=tmp_path / "out", calibration=kit.feeds(),
        pipeline="canonicalize", threads=1,
    )  # fmt: skip
    assert built.result.session_options == ()
    assert OPTION not in (built.folder / "README.md").read_text()


def answer(path: Path, x: Array, entries: dict[str, str]) -> Array:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    output: Array = session.run(None, {"x": x})[0]
    return output


def by_hand(model: onnx.ModelProto, x: Array) -> Array:
    """Quantize, multiply codes in int64, scale, add, Relu: node by node from the file."""
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer} | {"x": x}
    codes: dict[str, tuple[Array, Array, Array]] = {}
    for node in model.graph.node:
        a = [known.get(name) for name in node.input]
        (made,) = node.output
        if node.op_type == "QuantizeLinear":
            assert a[0] is not None
            assert a[1] is not None
            assert a[2] is not None
            known[made] = np.clip(np.rint(a[0] / a[1]) + a[2], -128, 127).astype(np.int8)
        elif node.op_type == "DequantizeLinear":
            codes[made] = tuple(np.asarray(v) for v in a)  # type: ignore[assignment]
        elif node.op_type in ("MatMul", "Gemm"):
            (q, s, z), (w, ws, _) = codes[node.input[0]], codes[node.input[1]]
            sums = (q.astype(np.int64) - z) @ w.astype(np.int64)
            if node.op_type == "Gemm":  # its bias in steps of both scales
                assert not node.attribute or {a.name for a in node.attribute} <= {"alpha", "beta"}
                sums = sums + codes[node.input[2]][0].astype(np.int64)
            known[made] = (sums * (float(s) * ws.astype(np.float64))).astype(np.float32)
        elif node.op_type == "Add":
            known[made] = np.asarray(a[0] + a[1])  # type: ignore[operator]
        else:
            assert node.op_type == "Relu"
            known[made] = np.maximum(np.asarray(a[0]), 0)
    return known[model.graph.output[0].name]
