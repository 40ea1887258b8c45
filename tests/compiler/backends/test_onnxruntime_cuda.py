"""Whole compiles for ONNX Runtime's CUDA provider: types, packed weights, options, what is refused.

No GPU is here: the model runs on the CPU provider, and the script that would run it on the GPU is
run against a stand-in for the package, which claims the provider and computes on the CPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from planish.compiler.backends import providers
from planish.compiler.driver import compile_model
from planish.compiler.prepare import _profile
from planish.compiler.reporting.headline import headline
from planish.ir.errors import TargetError, UsageError
from planish.ir.load import load_as_written
from planish.ir.signature import Signature
from planish.targets.loader import load_target
from planish.targets.rules.table import check_model
from planish.targets.runtime import open_session

TARGET = "nvidia-a100-onnxruntime"
T = onnx.TensorProto
BODY = """
  e = Gather(table, ids)  n = LayerNormalization<axis=-1>(e, g, b)
  a = MatMul(n, w0)  a1 = Add(a, b0)  h = Erf(a1)
  c = MatMul(h, w1)  d = Add(c, e)  s = Softmax<axis=-1>(d)  y = MatMul(s, w2)
"""


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def parsed(body: str, ports: str, tensors: dict[str, np.ndarray]) -> onnx.ModelProto:
    header = '<ir_version: 8, opset_import: ["": 17]>'
    model = onnx.parser.parse_model(f"{header} g {ports} {{ {body} }}")
    for name, array in tensors.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


@pytest.fixture(scope="module")
def words() -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    """A table, a block with a norm and an activation, and a head."""
    tensors = {
        "table": normal(500, 64), "g": normal(64, seed=1), "b": normal(64, seed=2),
        "w0": normal(64, 128, seed=3, scale=0.1), "b0": normal(128, seed=4),
        "w1": normal(128, 64, seed=5, scale=0.1), "w2": normal(64, 64, seed=6),
    }  # fmt: skip
    random = np.random.default_rng(7)
    feeds = [{"ids": random.integers(0, 500, (2, 12))} for _ in range(8)]
    return parsed(BODY, "(int64[n, s] ids) => (float[n, s, 64] y)", tensors), feeds


def make(folder: Path, model: Any, data: Any, **options: Any) -> Any:
    given = {"calibration": data, "threads": 1, "max_drift": "sqnr=5", **options}
    return compile_model(model, TARGET, output=folder / "out", **given)


@pytest.fixture(scope="module")
def half(words: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make(tmp_path_factory.mktemp("half"), *words, pipeline="canonicalize")


@pytest.fixture(scope="module")
def packed(words: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    pipeline = "canonicalize,weight-only{bits=8 block=32 exclude=linear1}"
    return make(tmp_path_factory.mktemp("packed"), *words, pipeline=pipeline)


def test_floats_are_half_precision_within_the_rules(half: Any, words: Any) -> None:
    folder, result = half.folder, half.result
    model = onnx.load(folder / "model.onnx")
    assert {tensor.data_type for tensor in model.graph.initializer} == {T.FLOAT16}
    assert [v.type.tensor_type.elem_type for v in model.graph.output] == [T.FLOAT]
    assert check_model(load_as_written(folder / "model.onnx"), load_target(TARGET)) == ()
    assert [e.pass_name for e in result.edits] == ["onnxruntime-cuda"]
    feed = words[1][0]
    (wanted,) = open_session(words[0].SerializeToString()).run(feed)
    for name in ("model.onnx", "reference.onnx"):
        (got,) = open_session(folder / name).run(feed)
        assert np.abs(got - wanted).max() < 5e-3 * np.abs(wanted).max()
    assert "not run on the target" in headline(result)
    assert "run there, by verify.py" in result.not_on_target
    assert result.engine is None
    assert result.provider.name == "CUDAExecutionProvider"
    assert any("onnx.checker" in check for check in result.provider.checks)


def test_packed_weights_meet_half_precision(packed: Any, words: Any) -> None:
    folder = packed.folder
    model = onnx.load(folder / "model.onnx")
    ops = [node.op_type for node in model.graph.node]
    assert ops.count("MatMulNBits") == 2
    assert ops.count("GatherBlockQuantized") == 1
    types = {i.name: i.data_type for i in model.graph.initializer}
    scales = [name for name in types if "_scale" in name]
    assert len(scales) == 3
    assert {types[name] for name in scales} == {T.FLOAT16}
    assert T.FLOAT not in types.values()
    assert check_model(load_as_written(folder / "model.onnx"), load_target(TARGET)) == ()
    feed = words[1][0]
    (wanted,) = open_session(folder / "reference.onnx").run(feed)
    (got,) = open_session(folder / "model.onnx").run(feed)
    assert np.abs(got - wanted).max() < 5e-3 * np.abs(wanted).max()


def test_8_bit_pairs_are_refused_with_a_code(words: Any, tmp_path: Path) -> None:
    for scheme in ("static", "dynamic"):
        options = {"pipeline": f"canonicalize,quantize{{scheme={scheme}}}"}
        built = make(tmp_path / scheme, *words, **options)
        refused = [r for r in built.result.remarks if r.kind == "refused"]
        assert len(refused) == 4
        assert {r.code for r in refused} == {"target"}
        assert all("no integer kernels" in r.sentence for r in refused)
        ops = {n.op_type for n in onnx.load(built.folder / "model.onnx").graph.node}
        assert not ops & {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


def test_a_model_that_is_quantized_already_is_refused(words: Any, tmp_path: Path) -> None:
    built = compile_model(
        words[0], "x86-avx512-vnni", output=tmp_path / "int8", calibration=words[1], threads=1,
        pipeline="canonicalize,quantize{scheme=static}", max_drift="sqnr=5",
    )  # fmt: skip
    with pytest.raises(TargetError, match="multiplies no 8-bit integers") as caught:
        make(tmp_path, built.folder / "model.onnx", words[1], pipeline="canonicalize")
    assert "compile the float model" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_what_float16_does_not_hold_stays_float32(tmp_path: Path) -> None:
    weight = normal(32, 32)
    model = parsed(
        "a = MatMul(x, w) big = Mul(a, k) r = Mul(big, back) y = MatMul(r, w)",
        "(float[n, 32] x) => (float[n, 32] y)",
        {"w": weight, "k": np.array([3e4], np.float32), "back": np.array([1 / 3e4], np.float32)},
    )
    feeds = [{"x": normal(4, 32, seed=i)} for i in range(6)]
    built = make(tmp_path, model, feeds, pipeline="canonicalize")
    assert any(r.code == "out-of-range" for r in built.result.remarks)
    (edit,) = built.result.edits
    assert edit.details["float32 nodes (range)"] >= 1
    (wanted,) = open_session(model.SerializeToString()).run(feeds[0])
    (got,) = open_session(built.folder / "model.onnx").run(feeds[0])
    assert np.isfinite(got).all()
    assert np.abs(got - wanted).max() < 5e-3 * np.abs(wanted).max()


def test_operators_without_a_half_precision_kernel_stay_float32(tmp_path: Path) -> None:
    grid = np.clip(normal(1, 8, 8, 2), -1, 1)
    body = "c = Conv<pads=[1,1,1,1]>(x, k) y = GridSample(c, grid)"
    ports = "(float[1, 4, 8, 8] x) => (float[1, 16, 8, 8] y)"
    model = parsed(body, ports, {"k": normal(16, 4, 3, 3), "grid": grid})
    feeds = [{"x": normal(1, 4, 8, 8, seed=i)} for i in range(6)]
    built = make(tmp_path, model, feeds, pipeline="canonicalize")
    nodes = {n.op_type: n for n in onnx.load(built.folder / "model.onnx").graph.node}
    types = {
        v.name: v.type.tensor_type.elem_type
        for v in onnx.load(built.folder / "model.onnx").graph.value_info
    }
    assert types.get(nodes["GridSample"].input[0]) == T.FLOAT
    document = json.loads((built.folder / "provider.json").read_text())
    assert document["provider_options"]["cudnn_conv_algo_search"] == "EXHAUSTIVE"


def test_without_data_floats_stay_as_they_are(words: Any, tmp_path: Path) -> None:
    built = compile_model(words[0], TARGET, output=tmp_path / "out", pipeline="canonicalize")
    assert [r.code for r in built.result.remarks if r.pass_name == "onnxruntime-cuda"] == [
        "no-calibration"
    ]
    types = {i.data_type for i in onnx.load(built.folder / "model.onnx").graph.initializer}
    assert types == {T.FLOAT}


@pytest.mark.parametrize("name", [TARGET, "nvidia-a100"])
def test_a_model_too_large_to_run_is_refused(name: str) -> None:
    asked: Any = SimpleNamespace(profile=None, target=load_target(name))
    room: Any = SimpleNamespace(fits=False, reason="it takes 9 GB")
    with pytest.raises(TargetError, match="checked by running the whole model: it takes 9 GB"):
        _profile(asked, Signature((), ()), (None, None), (), room, {})  # type: ignore[arg-type]


def test_a_profile_is_for_engines(words: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--profile is for engines"):
        make(tmp_path, *words, profile="n=1:2:4")


def script(folder: Path, name: str, path: str = "") -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(folder / name)]
    environment = {"PYTHONPATH": path, "PATH": "/usr/bin"}
    return subprocess.run(words, env=environment, capture_output=True, text=True)


def test_without_a_gpu_the_reference_is_checked_and_that_is_said(packed: Any) -> None:
    verified = script(packed.folder, "verify.py")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "not run on the GPU: onnxruntime" in verified.stdout
    assert "no CUDAExecutionProvider" in verified.stdout
    assert verified.stdout.rstrip().endswith("PASS")
    run = script(packed.folder, "run_onnxruntime.py")
    assert run.returncode == 2
    assert run.stdout.startswith("NOT RUN: onnxruntime")


STAND_IN = """
import importlib.util, sys
from pathlib import Path

here = str(Path(__file__).resolve().parent)
sys.path = [p for p in sys.path if p != here]
me = sys.modules.pop("onnxruntime")
import onnxruntime as real

sys.modules["onnxruntime"] = me
__version__ = "{version}"
SessionOptions = real.SessionOptions


def get_available_providers():
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


class InferenceSession(real.InferenceSession):
    def __init__(self, path, options=None, providers=()):
        self.wanted = providers
        super().__init__(path, options, providers=["CPUExecutionProvider"])

    def get_providers(self):
        first = self.wanted[0][0] if isinstance(self.wanted[0], tuple) else self.wanted[0]
        return [first, "CPUExecutionProvider"] if {starts} else ["CPUExecutionProvider"]

    def run(self, names, feeds):
        return [array + {shift} for array in super().run(names, feeds)]
"""


@pytest.mark.parametrize(
    ("version", "starts", "shift", "status", "said"),
    [
        ("1.31.1", True, 0.0, 0, "provider  CUDAExecutionProvider"),
        ("1.31.1", True, 1.0, 1, "FAILED"),
        ("1.31.1", False, 0.0, 2, "could not start CUDAExecutionProvider"),
        ("1.30.2", True, 0.0, 2, "1.31 or newer is needed"),
    ],
)
def test_where_the_provider_is_the_model_runs_with_it(
    packed: Any, tmp_path: Path, version: str, starts: bool, shift: float, status: int, said: str
) -> None:
    text = STAND_IN.replace("{version}", version).replace("{starts}", str(starts))
    (tmp_path / "onnxruntime.py").write_text(text.replace("{shift}", str(shift)))
    run = script(packed.folder, "run_onnxruntime.py", str(tmp_path))
    assert (run.returncode, said in run.stdout) == (status, True), run.stdout + run.stderr
    verified = script(packed.folder, "verify.py", str(tmp_path))
    assert verified.returncode == (1 if status == 1 else 0), verified.stdout + verified.stderr
    assert ("checked instead" in verified.stdout) is (status == 2)


@pytest.mark.parametrize(
    ("starts", "shift", "said", "ran"),
    [
        (True, 0.0, "with CUDAExecutionProvider was run on", True),
        (True, 1.0, "differs by", True),
        (False, 0.0, "was not run here: run_onnxruntime.py ended with 2", False),
    ],
)
def test_a_compile_where_the_provider_is_runs_the_model_with_it(
    words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: bool, shift: float,
    said: str, ran: bool,
) -> None:  # fmt: skip
    text = STAND_IN.replace("{version}", "1.31.1").replace("{starts}", str(starts))
    (tmp_path / "onnxruntime.py").write_text(text.replace("{shift}", str(shift)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(providers, "available_providers", lambda: ("CUDAExecutionProvider",))
    made = make(tmp_path, *words, pipeline="canonicalize")
    result = made.result
    assert result.provider.ran is ran
    assert any(said in text for text in (*result.provider.checks, *result.notes))
    assert ("failed with its provider" in headline(result)) is bool(shift)
    card = (made.folder / "README.md").read_text()
    assert ("it was not run on a GPU" in card) is not ran


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"provider": 3}', '{"provider_options": [], "weakly_typed": {}}']
)
def test_a_broken_provider_file_is_said(packed: Any, tmp_path: Path, text: str) -> None:
    for name in ("run_onnxruntime.py", "manifest.json"):
        (tmp_path / name).write_bytes((packed.folder / name).read_bytes())
    (tmp_path / "provider.json").write_text(text)
    run = script(tmp_path, "run_onnxruntime.py")
    assert run.returncode == 1
    assert "provider.json cannot be used" in run.stdout


def test_the_card_tells_how_to_run_it(packed: Any) -> None:
    card = (packed.folder / "README.md").read_text()
    assert '("CUDAExecutionProvider", options)' in card
    assert "it was not run on a GPU" in card
    manifest = json.loads((packed.folder / "manifest.json").read_text())
    assert manifest["provider"]["name"] == "CUDAExecutionProvider"
    assert set(manifest["provider"]["tolerance"]) == {"y"}
