"""``planish compile`` when all goes well: what it prints, writes, and returns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import planish as package
from planish.cli import EXIT_CODES, main
from planish.commands.compile import default_output

Planish = Callable[..., subprocess.CompletedProcess[str]]
METRIC = """
import numpy as np
import planish

FEEDS = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)

def accuracy(run):
    labels = run({"x": FEEDS})[1]
    right = (labels == 1).astype(float)
    return planish.Scores(right, slices={"first": np.arange(40) < 20})
"""


@pytest.fixture
def folder(tmp_path: Path, made: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: model.onnx (x [batch, 4] -> y, label) and data.npz for it."""
    made.save_model(tmp_path / "model.onnx")
    data = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_screen_and_a_whole_folder(planish: Planish, folder: Path) -> None:
    done = planish("compile", "model.onnx", "--calibration", "data.npz", "-o", "out")
    artifact = package.load(folder / "out")
    assert done.returncode == artifact.exit_code
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == artifact.verdict
    assert lines[-1].split() == ["report", "out/report.md"]
    assert len(lines) <= 40
    assert artifact.manifest["command"] == (
        "planish compile model.onnx --calibration data.npz -o out"
    )
    assert {p.name for p in folder.iterdir()} == {"model.onnx", "data.npz", "out"}
    check = [sys.executable, "-I", str(folder / "out" / "verify.py")]
    assert subprocess.run(check, capture_output=True).returncode == 0


def test_json_is_the_manifest(planish: Planish, folder: Path) -> None:
    done = planish("compile", "model.onnx", "--json", "-o", "out", "-v")
    shown = json.loads(done.stdout)
    assert shown.pop("artifact") == str(folder / "out")
    assert shown == json.loads((folder / "out" / "manifest.json").read_text("utf8"))
    assert shown["exit_code"] == done.returncode
    assert "importing" in done.stderr


def test_a_model_too_small_to_gain(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "model.onnx", "--calibration", "data.npz"]) == 8
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("no-gain (the file is your own, byte for byte), same size, ")
    artifact = package.load("model-host")
    x = np.load("data.npz")["x"]
    y, label = artifact.session().run({"x": x})
    expected, _ = package.load("model-host").session().run({"x": x})
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(label, y.argmax(axis=1))


def test_a_metric_with_slices_reaches_screen_and_report(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "metric.py").write_text(METRIC)
    words = ["--evaluate", "metric.py:accuracy", "--max-drop", "50%", "-o", "out"]
    status = main(["compile", "model.onnx", "--passes", "canonicalize", *words])
    artifact = package.load("out")
    assert status == artifact.exit_code
    assert artifact.manifest["quality"]["verdict"] == "within-budget"
    rows = artifact.manifest["quality"]["rows"]
    assert rows[0]["samples"] == 40
    assert rows[0]["drop"] == 0
    assert any("first" in row["name"] for row in rows)
    screen = capsys.readouterr().out
    assert all(row["name"] in screen and row["name"] in artifact.report for row in rows)


def test_force_replaces_an_artifact(folder: Path) -> None:
    words = ["compile", "model.onnx", "--passes", "canonicalize", "-o", "out"]
    first = main(words)
    (folder / "out" / "stale.txt").touch()
    assert main(words) == 2
    assert (folder / "out" / "stale.txt").exists()
    assert main([*words, "--force"]) == first
    assert not (folder / "out" / "stale.txt").exists()


def test_a_plan_replays_to_the_same_bytes(folder: Path) -> None:
    main(["compile", "model.onnx", "--calibration", "data.npz", "-o", "one"])
    for name in ("two", "three"):
        words = ["compile", "model.onnx", "--calibration", "data.npz", "--plan", "one"]
        assert main([*words, "-o", name]) in EXIT_CODES
    models = [(folder / name / "model.onnx").read_bytes() for name in ("one", "two", "three")]
    assert models[0] == models[1] == models[2]


@pytest.mark.parametrize(
    ("model", "target", "expected"),
    [
        ("a/minilm.onnx", "host", "minilm-host"),
        ("nets.py:minilm", "x86-avx2", "minilm-x86-avx2"),
        ("v1.2.onnx", "mine/box.toml", "v1.2-box"),
    ],
)
def test_the_default_output(model: str, target: str, expected: str) -> None:
    assert default_output(model, target) == expected


@pytest.mark.torch
def test_a_function_gives_a_torch_module(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "nets.py").write_text(
        "import torch\n\ndef net():\n"
        "    layers = torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)\n"
        "    return torch.nn.Sequential(*layers).eval(), (torch.ones(2, 8),)\n"
    )
    status = main(["compile", "nets.py:net", "--passes", "canonicalize"])
    artifact = package.load("net-host")
    assert status == artifact.exit_code, capsys.readouterr()
    assert artifact.manifest["source"] == "nets.py:net"
    assert main(["inspect", "nets.py:net", "--json"]) == 0
