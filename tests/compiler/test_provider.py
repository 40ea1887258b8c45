"""provider.json: what is asked of ONNX Runtime's providers for which model, and where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from planish.compiler.reporting.provider import PROVIDER, RUN, with_cuda, with_tensorrt
from planish.compiler.result import Engine, Provider

OPEN = {"x": {"min": (1, 4), "opt": (2, 4), "max": (8, 4)}}
FIXED = {"x": {"min": (2, 4), "opt": (2, 4), "max": (2, 4)}}


def save(folder: Path, body: str, ports: str, **tensors: np.ndarray) -> None:
    header = '<ir_version: 10, opset_import: ["": 21, "trt": 1, "com.microsoft": 1]>'
    model = onnx.parser.parse_model(f"{header} g {ports} {{ {body} }}")
    for name, array in tensors.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, folder / "model.onnx")


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / PROVIDER).read_text())
    assert (folder / RUN).stat().st_mode & 0o111
    return found


def tensorrt(folder: Path, engine: Engine) -> Provider:
    result: Any = SimpleNamespace(engine=engine, provider=Provider(tolerance={"y": 0.5}))
    return with_tensorrt(result, folder)


def cuda(folder: Path) -> Provider:
    result: Any = SimpleNamespace(engine=None, provider=Provider(min_version="1.40"))
    return with_cuda(result, folder)


def test_types_stand_in_the_graph_and_are_asked_for_on_request_only(tmp_path: Path) -> None:
    body = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w)"
    ports = "(float16[n, 4] x) => (float16[n, 4] y)"
    save(tmp_path, body, ports, s=np.ones((), np.float16), z=np.zeros((), np.int8),
         w=np.ones((4, 4), np.float16))  # fmt: skip
    found = tensorrt(tmp_path, Engine(OPEN, True, "10", open_axes=1))
    written = document(tmp_path)
    options = written["provider_options"]
    assert {options[f"trt_{name}_enable"] for name in ("fp16", "bf16", "int8")} == {"0"}
    assert written["weakly_typed"] == {"trt_fp16_enable": "1", "trt_int8_enable": "1"}
    assert written["session_entries"] == {"session.disable_quant_qdq": "1"}
    assert options["trt_sparsity_enable"] == "1"
    assert [options[f"trt_profile_{w}_shapes"] for w in ("min", "opt", "max")] == [
        "x:1x4", "x:2x4", "x:8x4"
    ]  # fmt: skip
    assert found.tolerance == {"y": 0.5}
    assert all(isinstance(value, str) for value in options.values())


def test_fixed_floats_ask_for_less(tmp_path: Path) -> None:
    save(tmp_path, "y = Relu(x)", "(float[2, 4] x) => (float[2, 4] y)")
    tensorrt(tmp_path, Engine(FIXED, False, "10"))
    written = document(tmp_path)
    assert (written["weakly_typed"], written["session_entries"]) == ({}, {})
    assert not any("profile" in key or "sparsity" in key for key in written["provider_options"])


def test_operators_that_only_tensorrt_has_are_not_for_onnx_runtime(tmp_path: Path) -> None:
    save(tmp_path, "y = trt.TRT_Something(x)", "(float[2, 4] x) => (float[2, 4] y)")
    found = tensorrt(tmp_path, Engine(FIXED, False, "10"))
    assert "domain trt" in found.missing
    assert found.name == ""
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("name", ["input:0", "a,b"])
def test_names_that_the_provider_would_split_are_not_written(tmp_path: Path, name: str) -> None:
    save(tmp_path, "y = Relu(x)", "(float[n, 4] x) => (float[n, 4] y)")
    found = tensorrt(tmp_path, Engine({name: OPEN["x"]}, False, "10", open_axes=1))
    assert found.name == ""
    assert repr(name) in found.missing
    assert "rename this input" in found.missing
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_names_with_fixed_shapes_are_never_told(tmp_path: Path) -> None:
    save(tmp_path, "y = Relu(x)", "(float[2, 4] x) => (float[2, 4] y)")
    assert tensorrt(tmp_path, Engine({"input:0": FIXED["x"]}, False, "10")).missing == ""


@pytest.mark.parametrize(("size", "search"), [("n", "HEURISTIC"), ("2", "EXHAUSTIVE")])
def test_convolutions_are_timed_once_a_shape(tmp_path: Path, size: str, search: str) -> None:
    ports = f"(float[{size}, 3, 8, 8] x) => (float[{size}, 4, 6, 6] y)"
    save(tmp_path, "y = Conv(x, k)", ports, k=np.ones((4, 3, 3, 3), np.float32))
    cuda(tmp_path)
    written = document(tmp_path)
    assert written["provider_options"]["cudnn_conv_algo_search"] == search
    assert (written["provider"], written["min_version"]) == ("CUDAExecutionProvider", "1.40")


def test_without_convolutions_nothing_is_asked_of_cudnn(tmp_path: Path) -> None:
    save(tmp_path, "y = Relu(x)", "(float[n, 4] x) => (float[n, 4] y)")
    cuda(tmp_path)
    assert document(tmp_path)["provider_options"] == {"device_id": "0"}
