"""``planish explain-match``: what is said of matches, refusals and partial matches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.cli import main

PATTERNS = """
import planish

def fits(op, x, c):
    return op.Div(x, c)

def other_number(op, x):
    return op.Div(x, 3.0)

def other_operator(op, x, c):
    return op.Relu(op.Mul(x, c))

def other_attribute(op, x):
    return op.Transpose(x, perm=[0, 1])

def missing_attribute(op, x):
    return op.Relu(x, alpha=1.0)

def other_uses(op, x):
    return op.Exp(op.Relu(x))

def computed(op, x, a, b):
    return op.MatMul(op.Relu(x), a)

def too_few_inputs(op, a, b):
    return op.Gemm(a, b)

def twice(op, x):
    return op.Div(x, x)

def turned(op, x, r):
    return op.Add(op.Relu(x), op.Exp(r))

def gelu(op, x):
    return op.Add(op.Erf(x), x)

def absent(op, x):
    return op.Erf(x)

def raising(op, x):
    raise ValueError("no pattern")

def never(c):
    return "never is never"

@planish.rewrite_pass("refused", fits, check=never)
def refused(op, x, c):
    return op.Div(x, c)

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    weights = {"w": np.eye(4), "c": np.array([2.0]), "bias": np.ones(4)}
    model = ir.from_onnx_text(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[4, 4] x) => (float[4, 4] y, float[4, 4] z) {
            p = MatMul(x, w) q = Div(p, c) r = Relu(q) e = Exp(r) y = Add(e, r)
            t = Transpose<perm = [1, 0]>(x) z = Gemm(t, w, bias)
        }""",
        initializers=[ir.tensor(a.astype(np.float32), name=n) for n, a in weights.items()],
    )
    ir.save(model, tmp_path / "model.onnx")
    (tmp_path / "patterns.py").write_text(PATTERNS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], name: str) -> dict[str, Any]:
    words = ["explain-match", "model.onnx", f"patterns.py:{name}", "--as-imported", "--json"]
    assert main(words) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_matches_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "fits")
    assert len(found["matches"]) == 1
    assert found["place"] == f"{folder / 'patterns.py'}:4"
    assert (found["refused"], found["beside"]) == ([], "")


@pytest.mark.parametrize(
    ("name", "matched", "reason", "stopped"),
    [
        ("other_number", 1, "is not a scalar, expecting 3.0", "Div"),
        ("other_operator", 1, "operator: expected Mul, got Div", "Div"),
        ("other_attribute", 0, "expected [0, 1], got (1, 0)", "Transpose"),
        ("computed", 1, "an operator is expected to compute it", "MatMul"),
        ("too_few_inputs", 1, "Number of inputs (3) is greater than expected (2)", "Gemm"),
        ("twice", 1, "bound to two different values", "Div"),
    ],
)
def test_the_nearest_partial_match_says_why_it_stopped(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, matched: int, reason: str,
    stopped: str,
) -> None:  # fmt: skip
    found = told(capsys, name)
    assert found["matches"] == []
    nearest = found["nearest"][0]
    assert len(nearest["matched"]) == matched
    assert reason in nearest["reason"]
    assert stopped in nearest["root"] + nearest["stopped"]


def test_a_value_that_others_read_is_a_refusal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ((_, code, sentence),) = told(capsys, "other_uses")["refused"]
    assert code == "used-elsewhere"
    assert "'r', inside the match, is read by Add" in sentence


@pytest.mark.parametrize("name", ["refused"])
def test_what_check_says_is_a_refusal(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    ((_, code, sentence),) = told(capsys, name)["refused"]
    assert (code, sentence) == ("check", "never is never")


def test_an_operator_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the model has no node of Erf; there are MatMul 1" in told(capsys, "absent")["beside"]


def test_operands_are_to_be_swapped_only_where_the_other_one_fits(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "operands of Add stand the other way" in told(capsys, "turned")["nearest"][0]["advice"]
    found = told(capsys, "gelu")
    assert [attempt["advice"] for attempt in found["nearest"]] == [""]
    assert found["lacking"] == ["Erf"]


def test_operators_that_the_model_lacks_come_first(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain-match", "model.onnx", "patterns.py:gelu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "  lacking  the model has no node of Erf"
    assert main(["explain-match", "model.onnx", "patterns.py:absent"]) == 0
    assert capsys.readouterr().out.count("has no node of Erf") == 1


@pytest.mark.parametrize(
    ("pattern", "status", "said"),
    [
        ("patterns.py:raising", 2, "ValueError: no pattern"),
        ("patterns.py:missing_attribute", 2, "Relu has no attribute 'alpha'"),
        ("patterns.py:fit", 3, "did you mean 'fits'?"),
        ("patterns.py:number", 2, "is a int"),
        ("patterns.py", 2, "write file.py:name"),
        ("gone.py:fits", 3, "cannot read the Python file"),
    ],
)
def test_patterns_that_are_none(
    folder: Path, capsys: pytest.CaptureFixture[str], pattern: str, status: int, said: str
) -> None:
    assert main(["explain-match", "model.onnx", pattern]) == status
    assert said in capsys.readouterr().err


def test_the_screen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain-match", "model.onnx", "patterns.py:other_operator"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("other_operator (2 nodes, ")
    assert lines[1] == "  matches  0"
    assert lines[2] == "  lacking  the model has no node of Mul"
    assert "1 of 2 nodes, from Relu" in lines[3]
    assert "stopped at Div" in lines[4]
