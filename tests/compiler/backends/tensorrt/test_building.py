"""Engines that are built where the model is compiled: when, what is read back, what is said.

There is no TensorRT and no GPU here. The inspector's JSON is of the documented form (the first
layer is NVIDIA's own example); in the place of scripts that need a GPU stand functions that answer
as the scripts do, and once a module in tensorrt's place.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from planish.compiler.backends import scripts
from planish.compiler.backends.scripts import ScriptError, compared, script
from planish.compiler.backends.tensorrt import backend, building, presence
from planish.compiler.backends.tensorrt.inspection import read_layers
from planish.compiler.backends.tensorrt.presence import Gpu, find_gpu, how_to_build
from planish.compiler.driver import compile_model
from planish.compiler.reporting.headline import headline
from planish.compiler.result import Engine, Sample
from planish.ir.errors import InputError
from planish.targets.loader import load_target
from planish.targets.runtime import open_session

INT8 = "Thirty-two wide channel vectorized row major Int8 format."
DOCUMENTED = {
    "Name": "node_of_gpu_0/res4_0_branch2a_1 + node_of_gpu_0/res4_0_branch2a_bn_1",
    "LayerType": "CaskConvolution",
    "Inputs": [
        {"Name": "gpu_0/res3_3_branch2c_bn_3", "Dimensions": [16, 512, 28, 28],
         "Format/Datatype": INT8}
    ],
    "Outputs": [
        {"Name": "gpu_0/res4_0_branch2a_bn_2", "Dimensions": [16, 256, 28, 28],
         "Format/Datatype": INT8}
    ],
    "ParameterType": "Convolution", "Kernel": [1, 1], "OutMaps": 256, "Groups": 1,
    "Weights": {"Type": "Int8", "Count": 131072}, "Bias": {"Type": "Float", "Count": 256},
    "AllowSparse": 0, "Activation": "RELU", "HasBias": 1, "HasReLU": 1,
    "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_"
    "vect_c_32_nchw_vect_c_32_tilesize256x128x64_stage4_warpsize4x2x1_g1_tensor16x8x32_simple_"
    "t1r1s1_epifadd",
    "TacticValue": "0x11bde0e1d9f2f35d",
}  # fmt: skip
SPARSE = "sm80_xmma_fprop_sparse_conv_f16f16_f16f16_f16_nhwc_sptensor16x8x32"


def layer(kind: str, *types: str, tactic: str = "", **more: Any) -> dict[str, Any]:
    inputs = [{"Name": f"i{i}", "Format/Datatype": text} for i, text in enumerate(types)]
    return {"Name": kind, "LayerType": kind, "Inputs": inputs, "TacticName": tactic, **more}


LAYERS = {
    "Layers": [
        DOCUMENTED,
        layer("Reformat", "Row major linear FP32"),
        layer("CaskConvolution", "Channel major FP16 format where channel % 8 == 0", tactic=SPARSE),
        layer("gemm", "Half", "Half"),
        layer("CaskGemm", "FP8", "Float"),
        layer("kgen", "Float"),
        layer("MatrixMultiply", "BFloat16"),
        layer("fusion", ""),
    ],
    "Bindings": ["x", "y"],
}


def test_what_the_inspector_says_is_read() -> None:
    found = read_layers(json.dumps(LAYERS))
    assert found.detailed
    precisions = [x.precision for x in found.layers]
    assert precisions == [
        "int8", "float32", "float16", "float16", "fp8", "float32", "bfloat16", "unknown"
    ]  # fmt: skip
    assert found.products == {"bfloat16": 1, "float16": 2, "fp8": 1, "int8": 1, "unknown": 1}
    assert found.sparse == 1
    assert found.sentence() == (
        "of 8 layers of the engine the products are: 1 in bfloat16, 2 in float16, 1 in fp8, "
        "1 in int8, 1 in unknown; 1 took a sparse tactic"
    )
    assert read_layers(json.dumps(LAYERS["Layers"])) == found


def test_names_alone_are_said_to_be_names_alone() -> None:
    found = read_layers(json.dumps({"Layers": ["conv1 + relu1", "fc"], "Bindings": []}))
    assert (found.detailed, found.products, found.sparse) == (False, {}, 0)
    assert "only the names are known" in found.sentence()


@pytest.mark.parametrize("text", ["", "{", "3", "{}", '{"Layers": 3}', "null", "[" * 100_000])
def test_what_is_no_such_json_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        read_layers(text)


@pytest.mark.parametrize(
    "text", ['{"Layers": [3, null, {"Inputs": 3, "Weights": []}, {"Inputs": [null, {}]}]}']
)
def test_layers_of_another_form_are_unknown(text: str) -> None:
    assert {x.precision for x in read_layers(text).layers} == {"unknown"}


# -- when ------------------------------------------------------------------------------

A100, T4 = Gpu("NVIDIA A100-SXM4-80GB", 80), Gpu("Tesla T4", 75)


@pytest.mark.parametrize(
    ("package", "gpu", "target", "said"),
    [
        (False, None, "nvidia-a100", "as tensorrt and an NVIDIA GPU are missing"),
        (False, A100, "nvidia-a100", "as tensorrt is missing"),
        (True, None, "nvidia-a100", "as an NVIDIA GPU is missing"),
        (True, T4, "nvidia-a100", "on Tesla T4 (compute capability 7.5), as nvidia-a100"),
        (True, A100, "nvidia-a100", ""),
        (True, A100, "nvidia-t4", ""),
        (True, A100, "nvidia-h100", "as nvidia-h100-sxm-80gb wants"),
    ],
)
def test_an_engine_is_built_where_both_are_there_and_fit(
    monkeypatch: pytest.MonkeyPatch, package: bool, gpu: Gpu | None, target: str, said: str
) -> None:
    found = object() if package else None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    monkeypatch.setattr(presence, "find_gpu", lambda: gpu)
    sentence = how_to_build(load_target(target))
    assert said in sentence
    assert bool(sentence) is bool(said)
    assert not sentence or sentence.startswith("not built here")


class Driver:
    """Stands for libcuda: one device of a name and a capability, or the failure of one call."""

    def __init__(self, failing: str = "", devices: int = 1) -> None:
        self.failing, self.devices = failing, devices

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name == "cuDeviceGetCount":
                arguments[0]._obj.value = self.devices
            elif name == "cuDeviceGetName":
                arguments[0].value = b"NVIDIA H200"
            elif name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 9, 76: 0}[arguments[1]]
            return int(name == self.failing)

        return call


@pytest.mark.parametrize(
    ("driver", "found"),
    [
        (Driver(), "NVIDIA H200 (compute capability 9.0)"),
        (Driver(devices=0), "None"),
        *[(Driver(name), "None") for name in ("cuInit", "cuDeviceGetCount", "cuDeviceGet",
                                              "cuDeviceGetName", "cuDeviceGetAttribute")],
    ],
)  # fmt: skip
def test_the_gpu_is_what_the_driver_says(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, found: str
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert str(find_gpu()) == found


# -- what comes of it --------------------------------------------------------------------


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compile a small model with scripts that do as told instead of using a GPU."""
    header = '<ir_version: 8, opset_import: ["": 17]>'
    ports = "(float[n, 32] x) => (float[n, 16] y)"
    model = onnx.parser.parse_model(f"{header} g {ports} {{ a = MatMul(x, w) y = Tanh(a) }}")
    model.graph.initializer.append(onnx.numpy_helper.from_array(normal(32, 16), "w"))
    feeds = [{"x": normal(4, 32, seed=i)} for i in range(6)]

    def run(build: Any, answer: Any) -> Any:
        def stand_in(path: Path, words: Any, seconds: int) -> str:
            return str((build if path.name == "build_engine.py" else answer)(path.parent, words))

        for module in (presence, backend):
            monkeypatch.setattr(module, "find_gpu", lambda: A100)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
        for module in (building, scripts):
            monkeypatch.setattr(module, "script", stand_in)
        return compile_model(
            model, "nvidia-a100", output=tmp_path / "out", calibration=feeds, threads=1,
            pipeline="canonicalize",
        )  # fmt: skip

    return run


def built(folder: Path, words: Any) -> str:
    (folder / "model.plan").write_bytes(b"engine")
    (folder / "layers.json").write_text(json.dumps(LAYERS))
    return "TensorRT 10.13.0\nmodel.plan: 6 bytes\n"


def answering(shift: float = 0.0, **left_out: Any) -> Any:
    """What run.py does with --answers, by the reference model."""

    def answer(folder: Path, words: Any) -> str:
        session = open_session(folder / "reference.onnx")
        found: dict[str, Any] = {"milliseconds": np.float64(0.25), "timed": np.str_("x 4x32")}
        output = Path(words[words.index("--answers") + 1])
        for number, path in enumerate(words[words.index("--answers") + 2 :]):
            with np.load(path) as sample:
                (y,) = session.run({"x": sample["feed/x"]})
            found[f"{number}/y"] = y + np.float32(shift)
        np.savez(output, **{k: v for k, v in found.items() if k not in left_out})
        return ""

    return answer


def test_an_engine_that_answers_as_recorded(compiled: Any) -> None:
    made = compiled(built, answering())
    engine = made.result.engine
    assert engine.built == (
        "built here with TensorRT 10.13.0 on NVIDIA A100-SXM4-80GB (compute capability 8.0) and run"
    )
    assert engine.layers == {
        "bfloat16": 1, "float16": 2, "fp8": 1, "int8": 1, "unknown": 1, "sparse": 1
    }  # fmt: skip
    assert any("on 1 sample;" in c and "0.250 ms a run of x 4x32" in c for c in engine.checks)
    assert made.result.shortfall == ""
    assert "failed" not in headline(made.result)
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert {"model.plan", "layers.json"} <= manifest["files"].keys()
    assert manifest["engine"]["layers"]["int8"] == 1
    for name in ("README.md", "report.md"):
        text = (made.folder / name).read_text()
        assert "The engine was built here with TensorRT 10.13.0" in text
        assert "Nothing was run on a GPU" not in text
    assert made.result.speed.verdict == "not-measured"


def test_an_engine_that_answers_otherwise_is_said_first(compiled: Any) -> None:
    made = compiled(built, answering(0.5))
    assert "its engine failed here" in headline(made.result)
    assert made.result.notes[0].startswith("the engine: sample 0, output 'y' differs by")


def no_build(folder: Path, words: Any) -> str:
    raise ScriptError("build_engine.py ended with 1: out of memory")


def no_run(folder: Path, words: Any) -> str:
    raise ScriptError("run.py ended with 1: libcudart is not found")


def test_an_engine_that_cannot_be_built_or_run_is_said(compiled: Any) -> None:
    made = compiled(no_build, answering())
    assert made.result.engine.built.startswith("not built here: build_engine.py failed on NVIDIA")
    assert "out of memory" in made.result.notes[0]
    assert "Nothing was run on a GPU" in (made.folder / "README.md").read_text()


def test_an_engine_that_is_built_and_not_run_is_said(compiled: Any) -> None:
    made = compiled(built, no_run)
    assert made.result.engine.built.endswith(", not run")
    assert "libcudart is not found" in made.result.notes[0]
    assert made.result.engine.layers["int8"] == 1


def test_without_layers_that_is_said(compiled: Any) -> None:
    def blind(folder: Path, words: Any) -> str:
        (folder / "model.plan").write_bytes(b"engine")
        return "TensorRT 11.1.0\n"

    made = compiled(blind, answering())
    assert any("layers is not known" in check for check in made.result.engine.checks)
    assert made.result.engine.layers == {}


def test_answers_that_cannot_be_read_fail(compiled: Any) -> None:
    made = compiled(built, answering(milliseconds=True))
    assert "its answers cannot be read" in made.result.notes[0]


def sample(y: np.ndarray, original: np.ndarray) -> Sample:
    return Sample({}, {"y": y}, {"y": original})


def test_answers_are_held_to_the_record_and_to_the_original() -> None:
    original = normal(64, 64)
    reference = original + 1e-3 * normal(64, 64, seed=1)
    engine = {"y": 0.5}
    known = [sample(reference, original)]
    assert compared(engine, known, [{"y": reference}]).failures == ()
    (missing,) = compared(engine, known, [{}]).failures
    assert "is missing" in missing
    (shape,) = compared(engine, known, [{"y": reference[:3]}]).failures
    assert "(3, 64)" in shape
    (nan,) = compared(engine, known, [{"y": np.full_like(reference, np.nan)}]).failures
    assert "differs by inf" in nan
    (far,) = compared(engine, known, [{"y": original + 0.05 * normal(64, 64, seed=2)}]).failures
    assert "dB near the original" in far  # within the tolerance, but clearly farther
    whole = [Sample({}, {"n": np.arange(3)}, {"n": np.arange(3)})]
    assert compared(engine, whole, [{"n": np.arange(3)}]).failures == ()
    assert compared(engine, whole, [{"n": np.arange(3) + 1}]).failures


def test_a_script_that_fails_or_hangs_is_told(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text("print('first'); print('second')")
    assert script(path, [], 60) == "first\nsecond\n"
    path.write_text("import sys; sys.exit('no such GPU')")
    with pytest.raises(ScriptError, match=r"some\.py ended with 1: no such GPU"):
        script(path, [], 60)
    path.write_text("import time; time.sleep(60)")
    with pytest.raises(ScriptError, match="more than 1 s"):
        script(path, [], 1)


def test_the_kit_itself_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a module in tensorrt's place: build_engine.py writes a plan; run.py finds no CUDA."""
    recorder = Path(__file__).with_name("test_kit.py").read_text().split("'''")[1]
    (tmp_path / "tensorrt.py").write_text(
        recorder.format(version="10.13.0", parses=True, decides=False)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    from planish.compiler.reporting.kit import write_kit

    engine = Engine({"ids": {"min": (1,), "opt": (1,), "max": (1,)}}, False, "10")
    write_kit(engine, tmp_path)
    attempt = building.build_here(tmp_path, engine, [], "some GPU")
    assert attempt.said == "built here with TensorRT 10.13.0 on some GPU, not run"
    assert (tmp_path / "model.plan").read_bytes() == b"engine"
    assert "run.py failed" in attempt.failed
    assert attempt.layers == {}
