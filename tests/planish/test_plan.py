"""``planish plan`` as a user starts it: one screen, one document, exit codes, nothing written."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

import planish
from planish.commands.plan_screen import show

Planish = Callable[..., subprocess.CompletedProcess[str]]
SCREEN = 40
"""Lines of a terminal."""


def network(layers: int, width: int = 64) -> onnx.ModelProto:
    """x [batch, 64] through so many linear layers with biases."""
    rng = np.random.default_rng(0)
    body, value, weights = [], "x", {}
    for i in range(layers):
        weights[f"encoder.{i}.weight"] = rng.normal(size=(width, width)).astype(np.float32) / 8
        weights[f"encoder.{i}.bias"] = rng.normal(size=width).astype(np.float32)
        made = "y" if i == layers - 1 else f"a{i}"
        body += [f'p{i} = MatMul({value}, "encoder.{i}.weight")']
        body += [f'{made} = Add(p{i}, "encoder.{i}.bias")']
        value = made
    ports = f'float["batch", {width}] x', f'float["batch", {width}] y'
    text = f'<ir_version: 10, opset_import: ["": 20]> n ({ports[0]}) => ({ports[1]})'
    proto = onnx.parser.parse_model(f"{text} {{ {' '.join(body)} }}")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in weights.items())
    return proto


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(network(3), tmp_path / "model.onnx")
    return tmp_path


def test_one_screen_and_nothing_written(planish: Planish, folder: Path) -> None:
    before = (folder / "model.onnx").read_bytes()
    done = planish("plan", "model.onnx", "--target", "x86-avx2", "--workload", "batch=256")
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines = done.stdout.splitlines()
    assert first == "plan of model.onnx for x86-avx2, goal latency: nothing is changed"
    assert "pipeline  canonicalize,quantize" in lines
    assert "workload  batch=256" in lines
    assert any(line.startswith("size") and "smaller" in line for line in lines)
    assert any(line.startswith("time      unknown: x86-avx2 has no rates") for line in lines)
    assert "3 x: encoder.0 and 2 more" in done.stdout
    assert "quantize dynamic, 8 bits in DynamicQuantizeMatMul: 36.9 kB saved" in done.stdout
    assert "not tried int8-static (no-calibration: " in done.stdout
    assert "2:4 (no-sparse-kernel)" in done.stdout
    assert [p.name for p in folder.iterdir()] == ["model.onnx"]
    assert (folder / "model.onnx").read_bytes() == before


def test_a_target_without_a_backend_is_planned_for_all_the_same(
    planish: Planish, folder: Path
) -> None:
    done = planish("plan", "model.onnx", "-t", "qualcomm-hexagon", "--goal", "size")
    assert done.returncode == 0
    assert "nothing can be compiled yet: planish has no backend for onnxruntime" in done.stdout
    assert "int8-dynamic (no-dynamic-kernel" in done.stdout


def test_what_cuda_takes_is_planned_for(planish: Planish, folder: Path) -> None:
    done = planish("plan", "model.onnx", "-t", "nvidia-a100-onnxruntime", "--goal", "size")
    assert done.returncode == 0
    assert "canonicalize,weight-only" in done.stdout
    assert "nothing can be compiled yet" not in done.stdout
    assert "fp16 (by-backend)" in done.stdout
    assert "int8-dynamic (no-int8-kernel: onnxruntime" in done.stdout


def test_what_the_backend_for_tensorrt_does_or_lacks_is_said(
    planish: Planish, folder: Path
) -> None:
    done = planish("plan", "model.onnx", "-t", "nvidia-a100")
    assert done.returncode == 0
    assert "nothing can be compiled yet" not in done.stdout
    assert "fp16 (by-backend)" in done.stdout
    assert "fp4 (no-fp4-kernel" in done.stdout
    assert "none yet for fp16" not in done.stdout


def test_json_is_the_plan(planish: Planish, folder: Path) -> None:
    words = ("plan", "model.onnx", "-t", "x86-avx2", "--goal", "size", "--json")
    document = json.loads(planish(*words, "--workload", "batch=1*0.9", "--workload", "batch=64*0.1")
                          .stdout)  # fmt: skip
    assert document["schema"] == "planish-outlook/1"
    assert document["chosen"] == "canonicalize,weight-only"
    assert [w["weight"] for w in document["workloads"]] == [0.9, 0.1]
    (first, *_) = document["outlooks"]
    assert [site["site"] for site in first["sites"]] == [f"encoder.{i}" for i in range(3)]
    assert {site["kernel"] for site in first["sites"]} == {"com.microsoft:MatMulNBits"}


def test_a_big_model_fits_the_screen_and_all_lists_every_site(folder: Path) -> None:
    onnx.save(network(200), folder / "big.onnx")
    plan = planish.plan(folder / "big.onnx", "x86-avx2", workload="batch=64")

    def lines(*, every: bool) -> list[str]:
        text = io.StringIO()
        show(plan, Console(width=160, file=text), every=every)
        return text.getvalue().splitlines()

    assert len(lines(every=False)) <= SCREEN
    assert any("200 x: encoder.0 and 199 more" in line for line in lines(every=False))
    assert sum(line.startswith("encoder.") for line in lines(every=True)) == 200


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--workload", "bach=1"), 2, "no input has an axis 'bach'"),
        (("--workload", "batch=many"), 2, "'batch=many' binds no axis"),
        (("--goal", "speed"), 2, "'speed' is not one of"),
        (("-t", "x86-avx3"), 2, "unknown target 'x86-avx3'"),
        (("--passes", "quantise"), 2, "there is no pass 'quantise'"),
        (("-t", "apple-coreml", "--goal", "size"), 4, "no technique can serve the goal 'size'"),
    ],
)
def test_what_cannot_be_planned(
    planish: Planish, folder: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    done = planish("plan", "model.onnx", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "internal error" not in done.stderr


def test_a_goal_that_no_technique_serves_lists_them_with_codes(
    planish: Planish, folder: Path
) -> None:
    done = planish("plan", "model.onnx", "-t", "apple-coreml", "--goal", "size", "--json")
    error = json.loads(done.stdout)
    assert error["exit_code"] == done.returncode == 4
    for name in ("int8-static", "int8-dynamic", "weight-only-int4", "weight-only-int8"):
        assert name in error["error"]["what"]
    assert "no-int8-kernel" in error["error"]["what"]
    assert "no-nbits-kernel" in error["error"]["what"]


def test_no_such_model(planish: Planish, folder: Path) -> None:
    assert planish("plan", "modell.onnx").returncode == 3


def test_zeros_that_kernels_skip_are_planned_on_request(planish: Planish, tmp_path: Path) -> None:
    onnx.save(network(2, 256), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((40, 256), np.float32))
    asked = ("--passes", "sparsify,low-rank{ratio=0.5 gain=size}", "--calibration", "data.npz")
    done = planish("plan", "model.onnx", "-t", "nvidia-a100", *asked)
    assert "sparsify 2:4" in done.stdout
    assert "up to 1.2 times as fast elsewhere" in done.stdout
    assert "low-rank rank=" not in done.stdout, "zeros come last"
    assert "2:4 (sparsify)" in planish("plan", "model.onnx", "-t", "nvidia-a100").stdout
