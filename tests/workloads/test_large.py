"""A model that is larger than the memory the compile may take, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from benchmarks.cost import measured
from benchmarks.large import compile_command, limit_of
from benchmarks.large_model import differing_weights, make, plan

SIZE = 3e8
LIMIT = limit_of(SIZE)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("large")
    yield make(folder, plan(SIZE, files=3))
    shutil.rmtree(folder)  # pytest would keep it for three runs


@pytest.fixture(scope="module")
def compiled(
    source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("compiled")
    yield folder / "out", measured(compile_command(source, folder / "out", LIMIT), folder)
    shutil.rmtree(folder)


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf8"))
    return found


def test_the_limit_is_less_than_the_weights() -> None:
    assert LIMIT < plan(SIZE).bytes < SIZE * 1.01


def test_the_peak_of_the_process_is_within_the_limit(compiled: tuple[Path, dict[str, Any]]) -> None:
    _, found = compiled
    assert found["exit_code"] == 0
    assert found["peak_bytes"] <= LIMIT


def test_the_weights_are_those_of_the_source(
    source: Path, compiled: tuple[Path, dict[str, Any]]
) -> None:
    model = compiled[0] / "model.onnx"
    assert differing_weights(source, model, tiles=300) == []
    turned = [n for n in ir.load(model).graph.initializers if n.endswith("_t")]
    assert len(turned) == 6 * plan(SIZE).layers


def test_the_first_line_says_that_nothing_was_run(compiled: tuple[Path, dict[str, Any]]) -> None:
    found = manifest(compiled[0])
    line = found["headline"]
    assert line.startswith("not-measured (not run: running the whole model would take about")
    assert "unverified: no whole model was run" in line
    assert (compiled[0] / "report.md").read_text("utf8").startswith(f"# {line}")
    assert found["exit_code"] == 0
    assert found["quality"]["verdict"] == "unverified"
    assert found["memory"]["bounded"] is True
    assert found["memory"]["limit_bytes"] == LIMIT
    assert found["memory"]["regions"] == {
        "equal": 6 * plan(SIZE).layers, "forms": 3, "not_checked": {}
    }  # fmt: skip


def test_elsewhere_the_answers_are_those_of_the_original(
    source: Path, compiled: tuple[Path, dict[str, Any]]
) -> None:
    words = [sys.executable, str(compiled[0] / "verify.py"), "--original", str(source)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no outputs were recorded where the model was compiled" in done.stdout
    assert "original  y: cosine 1.00000" in done.stdout


def test_an_interrupt_half_way_leaves_nothing(source: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        compile_command(source, tmp_path / "deep" / "out", LIMIT), stderr=subprocess.PIPE
    )
    while not _being_written(tmp_path):
        assert process.poll() is None, "it was done before it could be interrupted"
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    assert b"interrupted" in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def _being_written(folder: Path) -> bool:
    """Whether the file of the weights has been begun."""
    return any(name.endswith(".tmp") for _, _, names in os.walk(folder) for name in names)


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000_000, resource.RLIM_INFINITY))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from planish.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_half_way_leaves_nothing(source: Path, tmp_path: Path) -> None:
    words = compile_command(source, tmp_path / "deep" / "out", LIMIT)[3:]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "there is no room for the model" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_changed_weight_is_seen(source: Path, tmp_path: Path) -> None:
    small = make(tmp_path / "small", plan(2e6))
    copy = make(tmp_path / "copy", plan(2e6))
    assert differing_weights(small, copy) == []
    with (copy.parent / "weights-0.bin").open("r+b") as file:
        file.write(np.float32(3).tobytes())
    assert differing_weights(small, copy) == ["embedding.weight has other numbers"]
