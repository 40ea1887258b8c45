"""``planish bisect``: the edit that broke a model is found, and what is odd is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from planish.cli import main
from planish.commands.bisect import _lines
from planish.compiler.bisecting import Found, Step
from planish.ir.provenance import Edit

LAYERS, WIDTH, BROKEN = 9, 64, 5
METRIC = """
import numpy as np
def score(run):
    data = np.load("data.npz")
    given = {"x": data["x"][:32]}
    return planish_less(run(given)[0], data["y"][:32])
def planish_less(got, wanted):
    return 100 * (1 - float(np.mean((got - wanted) ** 2) / np.mean(wanted ** 2)))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chain of layers of which one reads a channel that is far larger than the others, and
    ignores it: 8 bits for what it reads leave nothing of the rest."""
    monkeypatch.chdir(tmp_path)
    rng, make = np.random.default_rng(3), onnx.helper
    nodes, held, last = [], [], "x"
    x = rng.normal(size=(64, WIDTH)).astype(np.float32)
    y = x
    for i in range(LAYERS):
        w = (rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
        if i == BROKEN:
            wide = np.ones(WIDTH, np.float32)
            wide[0], w[0] = 1e5, 0
            held.append(numpy_helper.from_array(wide, "wide"))
            nodes.append(make.make_node("Mul", [last, "wide"], ["scaled"]))
            y, last = y * wide, "scaled"
        held.append(numpy_helper.from_array(w, f"layer{i}.weight"))
        nodes.append(make.make_node("MatMul", [last, f"layer{i}.weight"], [f"m{i}"]))
        nodes.append(make.make_node("Tanh", [f"m{i}"], [f"t{i}" if i < LAYERS - 1 else "y"]))
        last, y = f"t{i}", np.tanh(y @ w)
    info = [
        make.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["b", WIDTH]) for n in ("x", "y")
    ]
    graph = make.make_graph(nodes, "g", info[:1], info[1:], held)
    model = make.make_model(graph, ir_version=10, opset_imports=[make.make_opsetid("", 20)])
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    np.savez(tmp_path / "calibration.npz", x=x)
    (tmp_path / "metric.py").write_text(METRIC)
    return tmp_path


PASSES = ["--passes", "canonicalize,quantize", "--target", "x86-avx512-vnni"]
EXCLUDED = ["--passes", f"canonicalize,quantize{{exclude=layer{BROKEN}}}", *PASSES[2:]]
DATA = ["--calibration", "calibration.npz"]


def test_the_edit_that_broke_a_metric_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bound = ["--evaluate", "metric.py:score", "--max-drop", "10"]
    assert main(["bisect", "m.onnx", *PASSES, *DATA, *bound]) == 0
    said = capsys.readouterr().out
    assert f"quantize at layer{BROKEN}, " in said
    assert "all others  holds the bound" in said
    assert "not in order" not in said
    assert f"quantize{{exclude=layer{BROKEN}}}" in said
    assert sorted(p.name for p in folder.iterdir()) == [
        "calibration.npz", "data.npz", "m.onnx", "metric.py"
    ]  # fmt: skip


def test_drift_decides_where_there_is_no_metric(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bisect", "m.onnx", *PASSES, *DATA, "--max-drift", "cosine=0.9", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["culprit"]["site"] == f"layer{BROKEN}"
    assert told["culprit"]["pass"] == "quantize"
    assert told["alone"]
    assert told["without"]["edits"] == told["with"]["edits"] - 1
    assert not told["without"]["broken"]
    assert told["with"]["broken"]
    assert told["edits"] >= LAYERS


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "a pipeline is missing"),
        (["--passes", "quantise"], 2, "did you mean"),
        ([*PASSES, "--max-drop", "1"], 2, "belong together"),
        ([*EXCLUDED, *DATA, "--max-drift", "cosine=0.9"], 2, "nothing to look for"),
        (["--passes", "canonicalize{rules=exact}", "--max-drift", "cosine=0.9"], 2, "no pass"),
        (["--plan", "none.json"], 3, "none.json"),
    ],
)
def test_what_cannot_be_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], words: Any, code: int, said: str
) -> None:
    assert main(["bisect", "m.onnx", *words]) == code
    assert said in capsys.readouterr().err


def test_what_is_not_in_order_is_said() -> None:
    """The search assumes that more edits are never better; where they are, it says so."""
    edit = Edit("1", "quantize", "layer1", "int8-dynamic", loss=0.1)
    steps = [Step(n, broken, f"step {n}", None) for n, broken in
             [(0, False), (2, True), (3, False), (4, True), (9, True)]]  # fmt: skip
    found = Found("quantize", "cosine >= 0.9", 9, steps[0], steps[4], edit, steps[2], steps[3],
                  steps[4], None, (steps[1],))  # fmt: skip
    said = "\n".join(_lines(found))
    assert "not in order: with the first 2 edits it is over the bound" in said
    assert "all others  is still over the bound" in said
    assert "several edits" in said
    blameless = Found("quantize", "cosine >= 0.9", 9, steps[1], steps[4])
    assert "no edit is to blame" in _lines(blameless)[0]


def test_a_pass_without_an_end_ends_the_search(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "endless.py").write_text("""
import planish

def endless(x):
    while True:
        pass

@planish.rewrite_pass("endless", lambda op, x: op.Tanh(x), check=endless)
def endless_pass(op, x):
    "Never."
    return op.Tanh(x)
""")
    own = ["--passes", "canonicalize,endless", "--pass-file", "endless.py"]
    bound = ["--max-drift", "cosine=0.9", "--pass-timeout", "0.3"]
    assert main(["bisect", "m.onnx", *own, *DATA, *bound]) == 1
    assert "took more than 0.3 seconds" in capsys.readouterr().err
