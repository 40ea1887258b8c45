"""``inspect --axes`` through the real command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

Array = Callable[..., np.ndarray]
TEXT = """<ir_version: 10, opset_import: ["": 20]>
g (float[b, s, 8] x) => (float[b, s, 8] y) {
    h = MatMul(x, up)
    hb = Add(h, bias)
    e = Gelu(hb)
    y = MatMul(e, down)
}"""


def planish(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "planish", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(graphs: ModuleType, array: Array, tmp_path: Path) -> Path:
    made = graphs.parse(TEXT, up=array(8, 16), bias=array(16), down=array(16, 8))
    ir.save(made, tmp_path / "m.onnx")
    return tmp_path


def test_the_table(folder: Path) -> None:
    done = planish("inspect", "m.onnx", "--axes", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "group units width cut with them" in rows
    assert "block1.ffn.up.neurons 16 1 block1.ffn.down" in rows
    assert "block1.ffn.down.features 8 signature the axis reaches the output 'y'" in rows
    assert "groups that can be cut: 1 of neurons; layers whose outputs cannot be: 1" in done.stdout


def test_the_document(folder: Path) -> None:
    done = planish("inspect", "m.onnx", "--axes", "--json", folder=folder)
    assert done.returncode == 0
    first, second = json.loads(done.stdout)["axes"]
    assert (first["name"], first["kind"]) == ("block1.ffn.up.neurons", "neurons")
    assert (first["units"], first["width"], first["code"]) == (16, 1, "")
    assert {"value": "down", "axis": 0, "role": "consumes", "size": 16} in first["members"]
    assert (second["code"], second["members"]) == ("signature", [])


def test_without_the_option_nothing_changes(folder: Path) -> None:
    assert "cut" not in planish("inspect", "m.onnx", folder=folder).stdout
    assert "axes" not in json.loads(planish("inspect", "m.onnx", "--json", folder=folder).stdout)
