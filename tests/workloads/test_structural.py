"""Every structural model: what becomes of it is written in ``structural.md``, and stays so."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load() -> ModuleType:
    path = Path(__file__).with_name("structural.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


structural = _load()
ROWS = structural.read()
BAD_INPUT, BAD_TARGET, UNVERIFIED = 3, 4, 8  # exit codes
HEARD = 12
"""Lines of a refusal on the screen, at most."""


@pytest.fixture(scope="session")
def entries(tasks: ModuleType) -> Mapping[str, Any]:
    """The models with their feeds, by name."""
    return {entry.name: entry for entry in tasks.structural()}


def test_every_model_has_a_row(entries: Mapping[str, Any]) -> None:
    assert sorted(ROWS) == sorted(entries)
    assert len(ROWS) == 92


def test_the_table_is_written_as_it_is_read() -> None:
    assert structural.written(ROWS.values()) == structural.TABLE.read_text(encoding="utf8")
    assert {row.lossless for row in ROWS.values()} == {"equal", "passed", "refused"}
    assert {row.compile for row in ROWS.values()} == {"compiled", "refused", "–"}
    assert all(bool(row.reason) == (row.compile == "refused") for row in ROWS.values())


@pytest.mark.parametrize("name", ROWS)
def test_structural(entries: Mapping[str, Any], name: str, tmp_path: Path) -> None:
    found = structural.outcome(entries[name], tmp_path)
    assert found == ROWS[name], (
        f"\nwas {ROWS[name]}\nnow {found}\n"
        "where that is right: python tests/workloads/structural.py"
    )


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("control/if_mul.onnx", UNVERIFIED),
        ("external/test_evil_weights.onnx", BAD_INPUT),
        ("ml/lr_mnist_scikit.onnx", BAD_INPUT),
        ("polygraphy/matmul.bf16.onnx", BAD_TARGET),
        ("sequence_optional/sequence_length.onnx", BAD_INPUT),
    ],
)
def test_from_the_command_line(
    entries: Mapping[str, Any], name: str, code: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "planish", "compile", str(entries[name].path)]
    command += ["-o", str(tmp_path / "out"), "--passes", "canonicalize", "--target", "generic"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out").is_dir() == (code == UNVERIFIED)
    if code != UNVERIFIED:
        said = done.stderr.strip().splitlines()
        assert said[0].startswith("error: ")
        assert len(said) <= HEARD
        assert ROWS[name].reason in " ".join(done.stderr.split())
