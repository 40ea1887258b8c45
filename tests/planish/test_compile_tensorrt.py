"""``planish compile`` for a GPU, as a user starts it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

Planish = Callable[..., subprocess.CompletedProcess[str]]


def save(folder: Path) -> None:
    """x [batch, 64] through one linear layer, and eight samples for it."""
    rng = np.random.default_rng(0)
    header = '<ir_version: 10, opset_import: ["": 20]>'
    ports = '(float["batch", 64] x) => (float["batch", 64] y)'
    proto = onnx.parser.parse_model(f"{header} n {ports} {{ p = MatMul(x, w) y = Relu(p) }}")
    weight = (rng.normal(size=(64, 64)) / 8).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(proto, folder / "model.onnx")
    np.savez(folder / "data.npz", x=rng.normal(size=(64, 64)).astype(np.float32))


def test_a_compile_for_a_gpu(planish: Planish, tmp_path: Path) -> None:
    save(tmp_path)
    words = ("compile", "model.onnx", "-t", "nvidia-a100", "-o", "out", "--calibration", "data.npz")
    done = planish(*words, "--profile", "batch=2:4:16")
    assert done.returncode == 11, done.stderr
    assert "not run on the target" in " ".join(done.stdout.split())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md", "build.sh", "build_engine.py", "manifest.json", "model.onnx", "profiles.json",
        "provider.json", "reference.onnx", "report.html", "report.md", "run.py",
        "run_onnxruntime.py", "samples", "stages", "verify.py",
    }  # fmt: skip
    profile = json.loads((tmp_path / "out" / "profiles.json").read_text())
    assert profile == {"x": {"min": [2, 64], "opt": [4, 64], "max": [16, 64]}}
    assert "chosen-size" not in (tmp_path / "out" / "manifest.json").read_text()
    assert "## Engine" in (tmp_path / "out" / "report.md").read_text()
    done = planish("verify", "out")
    assert (done.returncode, "PASS" in done.stdout) == (0, True)


def test_a_batch_that_nobody_stated_is_told_everywhere(planish: Planish, tmp_path: Path) -> None:
    save(tmp_path)
    words = ("compile", "model.onnx", "-t", "nvidia-a100", "-o", "out", "--calibration", "data.npz")
    done = planish(*words, "--passes", "canonicalize")
    assert done.returncode == 11, done.stderr
    profile = json.loads((tmp_path / "out" / "profiles.json").read_text())
    assert profile == {"x": {"min": [1, 64], "opt": [16, 64], "max": [16, 64]}}
    readme, report = ((tmp_path / "out" / name).read_text() for name in ("README.md", "report.md"))
    for told in (done.stdout, readme, report):
        assert "takes 1 to 16 and refuses more" in " ".join(told.split())
        assert "--profile batch=1:8:64" in " ".join(told.split())
    assert readme.count("refuses more") == 1


def test_a_wrong_profile_is_named(planish: Planish, tmp_path: Path) -> None:
    save(tmp_path)
    words = ("compile", "model.onnx", "-t", "nvidia-a100", "-o", "out", "--calibration", "data.npz")
    done = planish(*words, "--profile", "bacth=2:4:16")
    assert done.returncode == 2
    assert "no input has an axis 'bacth'" in done.stderr
    assert "'batch'" in done.stderr
    assert not (tmp_path / "out").exists()
