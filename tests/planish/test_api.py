"""The Python face: compile, load, what the artifact offers, what is left behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

import planish
from planish.compiler.reporting.manifest import plan_from


@pytest.fixture
def model(made: ModuleType, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    made.save_model(path)
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary folders are made, empty at first."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_compile_gives_an_artifact(model: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    artifact = planish.compile(model, "host", calibration={"x": x}, output=tmp_path / "out")
    assert artifact.path == tmp_path / "out"
    assert artifact.exit_code in (0, 8)
    assert artifact.verdict.startswith(("faster: ", "no-gain"))
    assert artifact.report.startswith(f"# {artifact.verdict}")
    assert artifact.manifest["source"] == str(model)
    y, label = artifact.session(threads=1).run({"x": x})
    before, _ = planish.load(tmp_path / "out").session().run({"x": x})
    np.testing.assert_array_equal(y, before)
    np.testing.assert_array_equal(label, y.argmax(axis=1))


def test_without_an_output_it_is_temporary_until_saved(
    model: Path, tmp_path: Path, temporary: Path
) -> None:
    artifact = planish.compile(str(model), "generic", seed=3)
    assert artifact.path.is_relative_to(temporary)
    saved = artifact.save(tmp_path / "kept")
    del artifact
    gc.collect()
    assert list(temporary.iterdir()) == []
    assert saved.verdict == planish.load(tmp_path / "kept").verdict
    done = subprocess.run(
        [sys.executable, "-I", tmp_path / "kept" / "verify.py"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_failure_leaves_nothing(model: Path, temporary: Path) -> None:
    with pytest.raises(planish.UsageError, match="nope"):
        planish.compile(model, "host", pipeline="nope")
    assert list(temporary.iterdir()) == []


def test_a_model_in_memory_compiles(model: Path, tmp_path: Path) -> None:
    artifact = planish.compile(ir.load(model), "host", output=tmp_path / "out")
    assert artifact.manifest["speed"]["verdict"] in ("faster", "no-gain")


def test_a_plan_replays_the_choices(model: Path, tmp_path: Path) -> None:
    first = planish.compile(model, pipeline="canonicalize", output=tmp_path / "one")
    again = planish.compile(model, plan=first.manifest, output=tmp_path / "two")
    assert plan_from(first.path) == plan_from(again.path)
    assert (first.path / "model.onnx").read_bytes() == (again.path / "model.onnx").read_bytes()


def test_the_model_is_never_replaced_by_the_output(model: Path) -> None:
    with pytest.raises(planish.UsageError, match=r"holds 'model\.onnx'"):
        planish.compile(model, output=model.parent, force=True)
    assert model.exists()


def test_load_refuses_what_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(planish.InputError, match=r"no manifest\.json"):
        planish.load(tmp_path)
