"""``planish targets check`` and ``planish targets rules`` as a user types them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planish.cli import main
from planish.ir.storage.stream import array_of
from planish.targets.loader import target_names
from planish.targets.rules.table import RULES

Planish = Callable[..., subprocess.CompletedProcess[str]]
VNNI = "x86-avx512-vnni"


@pytest.fixture
def planish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Planish:
    """``planish targets …`` in the folder tmp_path, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        code = main(["targets", *words])
        return subprocess.CompletedProcess(words, code, *capfd.readouterr())

    return run


@pytest.fixture
def slow_model(forms: Any, tmp_path: Path) -> Path:
    """Seven products with a bias and no quantized output."""
    form = forms.Form(forms.FLAT)
    x = form.pair("x")
    for i in range(7):
        y = form.op("MatMul", x, form.weight(name=f"w{i}"), name=f"layer.{i}")
        form.results.append(form.op("Add", y, form.floats("b", forms.N)))
    path = tmp_path / "model.onnx"
    path.write_bytes(form.bytes())
    return path


@pytest.fixture
def clean_model(forms: Any, tmp_path: Path) -> Path:
    path = tmp_path / "clean.onnx"
    path.write_bytes(forms.linear().bytes())
    return path


def test_the_text_groups_findings_and_says_what_to_do(planish: Planish, slow_model: Path) -> None:
    done = planish("check", "model.onnx", "--target", VNNI)
    assert done.returncode == 10
    assert done.stdout.startswith(f"model.onnx on {VNNI}: 0 errors, 7 slow, 0 notes\n")
    assert "slow  bias-output-unquantized: 7 nodes" in done.stdout
    assert "try: quantize the output" in done.stdout
    assert "MatMul layer.0: bias b, its output is" in done.stdout
    assert "layer.6" not in done.stdout
    assert "… and 2 more (--all names them)" in done.stdout
    assert "pair-sums-saturate: the target sums products in 32 bits" in done.stdout
    assert "MatMul layer.6" in planish("check", "model.onnx", "-t", VNNI, "--all").stdout


def test_the_document_has_every_finding(planish: Planish, slow_model: Path) -> None:
    done = planish("check", "model.onnx", "--target", VNNI, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["exit_code"]) == (10, 10)
    assert found["counts"] == {"error": 0, "slow": 7, "note": 0}
    assert [v["node"] for v in found["violations"]] == [f"layer.{i}" for i in range(7)]
    rule = next(rule for rule in RULES if rule.id == "bias-output-unquantized")
    assert {(v["rule"], v["op"], v["reason"], v["fix"]) for v in found["violations"]} == {
        (rule.id, "MatMul", rule.reason, rule.fix)
    }
    assert "pair-sums-saturate" in {idle["rule"] for idle in found["not_applied"]}


def test_a_model_that_breaks_no_rule(planish: Planish, clean_model: Path) -> None:
    done = planish("check", "clean.onnx", "--target", VNNI)
    assert done.returncode == 0
    assert done.stdout.startswith(f"clean.onnx on {VNNI}: breaks no rule\n")


def test_notes_alone_are_no_failure(planish: Planish, forms: Any, tmp_path: Path) -> None:
    (tmp_path / "note.onnx").write_bytes(forms.linear(dtype="uint8").bytes())
    done = planish("check", "note.onnx", "--target", VNNI)
    assert done.returncode == 0
    assert "0 errors, 0 slow, 1 note" in done.stdout


def test_only_the_rules_that_were_named(planish: Planish, slow_model: Path) -> None:
    done = planish("check", "model.onnx", "-t", VNNI, "--rule", "weight-axis", "--json")
    assert (done.returncode, json.loads(done.stdout)["violations"]) == (0, [])


@pytest.mark.parametrize("target", target_names())
def test_every_target_can_be_asked(planish: Planish, clean_model: Path, target: str) -> None:
    done = planish("check", "clean.onnx", "--target", target, "--json")
    assert done.returncode in (0, 10)
    found = json.loads(done.stdout)
    assert found["target"] == target
    asked = len(RULES) - len(found["not_applied"])
    assert asked >= 3


def test_versions_that_no_runtime_takes_are_findings(
    planish: Planish, forms: Any, tmp_path: Path
) -> None:
    form = forms.Form(opset=28, ir_version=14)
    form.op("Relu", "x")
    (tmp_path / "new.onnx").write_bytes(form.bytes())
    done = planish("check", "new.onnx", "--target", VNNI)
    assert done.returncode == 10
    assert "opset 28, at most 26 is taken" in done.stdout
    assert "IR version 14, at most 13 is taken" in done.stdout


def test_the_file_is_left_as_it_is(planish: Planish, slow_model: Path) -> None:
    before = slow_model.read_bytes()
    planish("check", "model.onnx", "--target", VNNI)
    assert slow_model.read_bytes() == before
    assert [path.name for path in slow_model.parent.iterdir()] == ["model.onnx"]


def test_names_that_would_act_on_the_terminal_are_written_out(
    planish: Planish, forms: Any, tmp_path: Path
) -> None:
    form = forms.Form(forms.FLAT)
    y = form.op("MatMul", form.pair("x"), form.weight(), name="\x1b[2Jevil\nerror  fake: 1 node")
    form.op("Add", y, form.floats("b\x1b[31m", forms.N))
    (tmp_path / "evil.onnx").write_bytes(form.bytes())
    for words in ((), ("--json",)):
        done = planish("check", "evil.onnx", "--target", VNNI, *words)
        assert done.returncode == 10
        assert "\x1b" not in done.stdout
        assert "\nerror  fake" not in done.stdout


def test_weights_are_read_only_where_a_rule_needs_them(
    planish: Planish, clean_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def spied(tensor: Any) -> Any:
        sizes.append(tensor.size)
        return array_of(tensor)

    monkeypatch.setattr("planish.ir.graph.array_of", spied)
    planish("check", "clean.onnx", "--target", VNNI)
    assert all(size == 1 for size in sizes)
    planish("check", "clean.onnx", "--target", "x86-avx2")
    assert max(sizes) == 64 * 32


BAD = {
    "missing.onnx": (3, "there is no such model file"),
    "folder": (3, "there is no model.onnx in this folder"),
    "text.onnx": (3, "truncated or not an ONNX model"),
    "empty.onnx": (3, "the model file is empty"),
    "model.py": (2, "only ONNX files can be checked"),
    "model.py:function": (2, "only ONNX files can be checked"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_model(planish: Planish, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.onnx").write_text("not a model\n" * 9)
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "model.py").write_text("def function(): ...\n")
    code, message = BAD[name]
    done = planish("check", name, "--target", VNNI)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "where: " in done.stderr
    assert "try: " in done.stderr


def test_targets_and_rules_that_do_not_exist(planish: Planish, clean_model: Path) -> None:
    done = planish("check", "clean.onnx", "--target", "x86-avx512-vni")
    assert done.returncode == 2
    assert "did you mean 'x86-avx512-vnni'" in done.stderr
    done = planish("check", "clean.onnx", "--rule", "weight-axs")
    assert done.returncode == 2
    assert "unknown rule 'weight-axs'" in done.stderr
    done = planish("check", "clean.onnx", "--target", "x86-avx512-vni", "--json")
    assert json.loads(done.stdout)["exit_code"] == 2


def test_the_rules_are_listed_and_explained(planish: Planish) -> None:
    listed = planish("rules").stdout
    assert all(rule.id in listed for rule in RULES)
    done = planish("rules", "weight-axis", "--target", "nvidia-ampere")
    assert done.returncode == 0
    assert "weight-axis error" in done.stdout
    assert "on nvidia-ampere: a rule of ONNX Runtime on CPUs" in done.stdout
    document = json.loads(planish("rules", "--json", "--target", VNNI).stdout)
    assert [rule["id"] for rule in document["rules"]] == [rule.id for rule in RULES]
    assert set(document["rules"][0]) == {
        "id", "severity", "applies", "reason", "fix", "not_applied",
    }  # fmt: skip
    assert planish("rules", "weight-axs").returncode == 2
