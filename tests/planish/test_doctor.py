"""``planish doctor`` as a user starts it: what it says, as text and JSON, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import planish as package
from benchmarks import doctor_models
from planish.cli import main
from planish.compiler.doctor import examine, feeding
from planish.ir.errors import InputError

WIDTH = 96


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test takes times: as few rounds as there are."""
    defaults = {**(examine.examine.__kwdefaults__ or {}), "seconds": 0.02}
    monkeypatch.setattr(examine.examine, "__kwdefaults__", defaults)
    monkeypatch.chdir(tmp_path)


def doctor(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> tuple[str, str]:
    assert main(["doctor", *words, "--threads", "1"]) == status
    found = capsys.readouterr()
    return found.out, found.err


def save(
    path: Path, nodes: list[onnx.NodeProto], x: onnx.ValueInfoProto, *, opset: int = 20,
    ir_version: int = 10, tensors: dict[str, np.ndarray] | None = None, output: str = "y",
) -> str:  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [x], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in (tensors or {}).items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("my.ops", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=ir_version), path)
    return str(path)


def rows(*shape: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("x", TensorProto.FLOAT, shape or None)


def node(op: str, **more: Any) -> list[onnx.NodeProto]:
    return [helper.make_node(op, ["x"], ["y"], name="only", **more)]


def broken(path: Path) -> str:
    return str(doctor_models.with_biases(path, int32=False, width=WIDTH, count=2))


def test_text_names_the_cause_the_node_and_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, _ = doctor(capsys, broken(tmp_path / "m.onnx"), status=10)
    lines = text.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'm.onnx'} on host: ")
    assert lines[0].endswith("1 cause of slowness")
    assert "0 of 2 layers with stored weights run in integer kernels" in lines
    assert any(line.startswith("1. slow  bias-output-unquantized: 2 nodes, ") for line in lines)
    assert any("Gemm Gemm_v3: bias b0, its output is read by Gelu" in line for line in lines)
    command = next(line for line in lines if line.strip().startswith("run: "))
    assert command.split("run: ")[1] == (
        f"planish doctor {tmp_path / 'm.onnx'} --target host --fix m-fixed.onnx"
    )
    assert "where the time goes:" in lines


def test_the_command_that_it_names_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, _ = doctor(capsys, broken(tmp_path / "m.onnx"), status=10)
    words = next(line for line in text.splitlines() if "run: planish doctor" in line).split()[2:]
    text, _ = doctor(capsys, *words[1:], status=10)
    assert "mended: m-fixed.onnx, " in text
    assert "done: bias-output-unquantized, 2 nodes" in text
    assert "healthy" in doctor(capsys, "m-fixed.onnx")[0]
    with pytest.raises(AssertionError):
        doctor(capsys, *words[1:])  # it is there already
    assert "it is there already" in capsys.readouterr().err


def test_json_holds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = doctor(capsys, broken(tmp_path / "m.onnx"), "--json", status=10)
    found = json.loads(out)
    assert not err
    assert found["schema"] == 1
    (cause,) = found["causes"]
    assert (cause["rule"], cause["severity"]) == ("bias-output-unquantized", "slow")
    assert {place["node"] for place in cause["places"]} == {"Gemm_v3", "Gemm_v8"}
    assert cause["ms"] > 0
    assert cause["places"][0]["runs_as"]
    assert found["run"]["basis"] == "measured"
    assert {row["op"] for row in found["run"]["spent"]} >= {"Gemm", "DequantizeLinear"}
    assert (found["integer_layers"], found["layers"], found["exit_code"]) == (0, 2, 10)


def test_an_artifact_is_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: ModuleType
) -> None:
    made.artifact(tmp_path / "artifact")
    folder = str(tmp_path / "artifact")
    assert "nothing is quantized, nothing is wrong" in doctor(capsys, folder)[0]
    assert main(["targets", "check", folder]) == 0
    assert "breaks no rule" in capsys.readouterr().out
    assert main(["inspect", folder]) == 0
    assert "linear" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    for words in (["doctor", "empty"], ["targets", "check", "empty"], ["inspect", "empty"]):
        assert main(words) == 3
        assert "there is no model.onnx in this folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "status", "said"),
    [
        (lambda p: save(p, node("Frob", domain="my.ops"), rows("b", 4)), 10,
         "onnxruntime refuses the model: it knows no operator my.ops:Frob"),
        (lambda p: save(p, node("Relu"), rows("b", 4), opset=28, ir_version=14), 10,
         "Unsupported model IR version: 14"),
        (lambda p: save(p, node("Relu"), rows()), 0, "its rank is unknown"),
        (lambda p: save(p, [helper.make_node("MatMul", ["x", "w"], ["y"])], rows("b", "k"),
                        tensors={"w": np.zeros((7, 3), np.float32)}), 0,
         "the feeds were generated: give sizes with --workload, or data of its own with "
         "--calibration"),
        (lambda p: save(p, [], rows("b", 4), output="x"), 0, "the graph holds no node"),
    ],
    ids=["custom op", "too new", "no rank", "sizes", "empty graph"],
)  # fmt: skip
def test_what_cannot_be_run_gets_its_rules_and_the_reason(
    make: Callable[[Path], str], status: int, said: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    text, _ = doctor(capsys, make(tmp_path / "m.onnx"), status=status)
    assert said in text
    if "holds no node" not in said:
        assert " on host: not run; " in text.splitlines()[0]
        assert "not run here: " in text
        assert "no times are known" in text


def test_a_refusal_that_no_rule_knows_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("LeakyRelu", ["x"], ["z"])]
    path = save(tmp_path / "m.onnx", nodes, rows("b", 4))
    proto = onnx.load(path)
    proto.graph.node[1].input.append("x")  # two inputs where one is taken
    onnx.save(proto, path)
    text, _ = doctor(capsys, path, status=10)
    assert "1. error  unexplained: the model" in text
    assert "onnxruntime refuses the model" in text


def test_files_that_are_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.onnx").write_text("hello", "utf8")
    assert "not an ONNX model" in doctor(capsys, "text.onnx", status=3)[1]
    assert "there is no such model file" in doctor(capsys, "none.onnx", status=3)[1]
    assert "only ONNX files can be examined" in doctor(capsys, "code.py:model", status=2)[1]
    weights = {"w": np.ones((64, 64), np.float32)}
    path = save(tmp_path / "big.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])],
                rows("b", 64), tensors=weights)  # fmt: skip
    proto = onnx.load(path)
    onnx.save(proto, path, save_as_external_data=True, location="big.data", size_threshold=10)
    (tmp_path / "big.data").unlink()
    assert "the file is missing" in doctor(capsys, "big.onnx", status=3)[1]


def test_data_that_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "wrong.npz", other=np.zeros((3, WIDTH), np.float32))
    path = broken(tmp_path / "m.onnx")
    assert "'x'" in doctor(capsys, path, "--calibration", "wrong.npz", status=3)[1]
    assert "no input has an axis" in doctor(capsys, path, "--workload", "seq=3", status=2)[1]
    np.savez(tmp_path / "right.npz", x=np.zeros((3, WIDTH), np.float32))
    assert "right.npz" in doctor(capsys, path, "--calibration", "right.npz", status=10)[0]
    assert "batch=5" in doctor(capsys, path, "--workload", "batch=5", status=10)[0]


def test_a_model_beyond_memory_is_checked_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "limit_of", lambda asked: (1 << 20, "for a test"))
    text, _ = doctor(capsys, broken(tmp_path / "m.onnx"), status=10)
    assert "running it would take about" in text
    assert "bias-output-unquantized" in text


def test_from_python(tmp_path: Path) -> None:
    found = package.doctor(broken(tmp_path / "m.onnx"), threads=1, progress=False)
    assert isinstance(found, package.Diagnosis)
    assert found.causes[0].rule == "bias-output-unquantized"
    assert str(found).splitlines()[0].endswith("1 cause of slowness")
    with pytest.raises(InputError):
        package.doctor(tmp_path / "none.onnx")
