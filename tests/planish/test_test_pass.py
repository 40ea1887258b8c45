"""``planish test-pass`` on passes of a user's own: what it finds, and what its author reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from planish.cli import main

PASSES = """
import planish
from planish.ir.graph import constant_array, is_constant
from planish.passes.api import Semantics

def division(op, x, c):
    return op.Div(x, c)

def stored(c):
    return None if is_constant(c) else "the divisor is computed"

@planish.rewrite_pass("div-to-mul", division, check=stored{semantics})
def div_to_mul(op, x, c):
    "Multiply by the reciprocal instead of dividing by a stored number."
    return op.Mul(x, op.initializer(1 / constant_array(c), "reciprocal"))

def thrice(op, x):
    return op.Celu(op.Celu(op.Celu(x)))

@planish.rewrite_pass("one-celu", thrice)
def one_celu(op, x):
    "There is no such graph."
    return op.Celu(x)
"""
LINE = 1 + PASSES.splitlines().index("def div_to_mul(op, x, c):")
MODEL = """<ir_version: 10, opset_import: ["" : 20]>
g (float[n] x) => (float[n] y) <float c = {3.0}> { h = Relu(x) d = Div(h, c) y = Exp(d) }"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "passes.py").write_text(PASSES.replace("{semantics}", ""))
    (tmp_path / "near.py").write_text(
        PASSES.replace("{semantics}", ", semantics=Semantics.REASSOCIATES")
    )
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "model.onnx")
    return tmp_path


def test_a_promise_too_much_is_told_with_the_line_and_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["test-pass", "passes.py:div-to-mul", "--generated", "25", "--keep", "kept"]
    assert main(words) == 9
    said = capsys.readouterr().out
    assert "bits in div-to-mul" in said
    assert "1 node, shrunk from" in said
    assert f"passes.py:{LINE}" in said or f"passes.py:{LINE - 1}" in said
    assert "next: where the edit reassociates" in said
    (again,) = {line for line in said.splitlines() if "again: planish" in line}
    assert "--pass-file" in again
    assert main(again.split("planish ", 1)[1].split()) == 9
    assert main(["test-pass", "near.py:div-to-mul", "--model", "kept/01-bits/model.onnx"]) == 0


def test_a_file_stands_for_all_its_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test-pass", "near.py", "--model", "model.onnx", "--json"]) == 7
    first, second = json.loads(capsys.readouterr().out)["passes"]
    assert first["pipeline"] == "canonicalize,div-to-mul"
    assert first["edits by step"] == {"div-to-mul": 1}
    assert first["failures"] == first["edited nothing"] == []
    assert second["edited nothing"] == ["one-celu"]


def test_without_cases_graphs_are_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from planish.compiler.harness import authored

    monkeypatch.setattr(authored, "GENERATED", 12)
    monkeypatch.setattr("planish.commands.test_pass.DEFAULT_SUITE", "onnx-light")
    assert main(["test-pass", "near.py:div-to-mul", "--case", "transformer-generated-0"]) == 0
    assert "1 case checked" in capsys.readouterr().out


ENDLESS = """
def endless(x):
    while True:
        pass

@planish.rewrite_pass("endless", lambda op, x: op.Relu(x), check=endless)
def endless_pass(op, x):
    "Never."
    return op.Relu(x)
"""


def test_a_pass_without_an_end_is_told_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "endless.py").write_text(PASSES.replace("{semantics}", "") + ENDLESS)
    words = ["test-pass", "endless.py:endless", *["--model", "model.onnx"] * 2]
    assert main([*words, "--pass-timeout", "0.3", "--keep", "kept", "--json"]) == 9
    told = json.loads(capsys.readouterr().out)
    (failure,) = told["failures"]
    assert failure["rule"] == "termination"
    assert "took more than 0.3 seconds" in failure["sentence"]
    assert told["checked"] == 1
    assert told["edited nothing"] == []  # it failed: it is not that nothing is known of it
    (shrunk,) = told["shrunk"]
    assert shrunk["nodes"] == 3
    assert "--pass-timeout" in shrunk["next"][-1]
    assert (folder / "kept" / "01-termination" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["passes.py:div-to"], 2, "did you mean"),
        (["none.py"], 3, "cannot read the Python file"),
        (["model.py"], 3, "there is no pass in the file"),
        (["div-to-mul"], 2, "div-to-mul"),
        (["div-to-mul", "--pass-file", "passes.py", "--model", "model.onnx"], 0, "1 edit"),
    ],
)
def test_what_does_not_exist_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], words: Any, code: int, said: str
) -> None:
    (folder / "model.py").write_text("x = 1")
    assert main(["test-pass", *words]) == code
    captured = capsys.readouterr()
    assert said in captured.out + captured.err
