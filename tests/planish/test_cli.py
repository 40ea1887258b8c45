"""The commands but compile: what they print, and how they fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import planish as package
from planish import cli
from planish.cli import EXIT_CODES, main
from planish.ir.errors import PlanishError, UsageError, VerifyError
from planish.passes.api import registered
from planish.targets.loader import target_names

Planish = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = ("compile", "inspect", "verify", "passes", "targets")


@pytest.fixture
def artifact(made: ModuleType, tmp_path: Path) -> Path:
    made.artifact(tmp_path / "out")
    return tmp_path / "out"


def document(capsys: pytest.CaptureFixture[str]) -> Any:
    """The one JSON document on stdout."""
    return json.loads(capsys.readouterr().out)


def test_version_and_bare_call(planish: Planish) -> None:
    done = planish("--version")
    assert (done.returncode, done.stdout) == (0, f"planish {package.__version__}\n")
    done = planish()
    assert done.returncode == 2
    assert all(command in done.stdout for command in COMMANDS)


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        assert f"Usage: planish {command}" in capsys.readouterr().out


def test_help_and_documentation_name_the_same_exit_codes(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (root / "docs" / "cli.md").read_text("utf8")
    rows = re.findall(r"^\| (\d+) \|", page.partition("## Exit codes")[2], re.MULTILINE)
    assert [int(row) for row in rows] == list(EXIT_CODES)
    main(["--help"])
    shown = " ".join(capsys.readouterr().out.split()).replace("- ", "-")  # broken at a hyphen
    assert all(f"{code} {text}" in shown for code, text in EXIT_CODES.items())


def test_the_documentation_names_every_option(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["compile", "--help"])
    options = set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", capsys.readouterr().out, re.MULTILINE))
    page = (root / "docs" / "cli.md").read_text("utf8")
    assert {"--max-drop", "--bisect-limit", "--json"} <= options
    assert [o for o in options - {"--help"} if not re.search(rf"{o}[` ]", page)] == []


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["complie", "m"], "No such command 'complie'", "planish --help"),
        (["compile"], "MODEL", "planish compile --help"),
        (["compile", "m", "--targt", "x"], "--targt", "planish compile --help"),
        (["compile", "m", "--threads", "-1"], "--threads", "planish compile --help"),
        (["compile", "m", "--goal", "speed"], "speed", "planish compile --help"),
        (["compile", "m", "--passes", "a", "--plan", "b"], "cannot be combined", "--plan"),
        (["passes"], "Missing command", "planish passes --help"),
        (["passes", "show", "quantise"], "quantise", "'quantize'"),
        (["targets", "show", "x86-avx"], "unknown target 'x86-avx'", "'x86-avx2'"),
        (["targets", "show", "none.toml"], "none.toml", ""),
        (["inspect", "m.onnx", "--workload", "batch"], "m.onnx", ""),
    ],
)
def test_usage_errors(
    words: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(words)
    captured = capsys.readouterr()
    assert status == (3 if "m.onnx" in words else 2)
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert hint in captured.err


def test_an_error_is_one_json_document_too(planish: Planish) -> None:
    for words in (["targets", "show", "nope", "--json"], ["compile", "--json", "--nope"]):
        done = planish(*words)
        shown = json.loads(done.stdout)
        assert shown["exit_code"] == done.returncode == 2
        assert shown["error"]["kind"] == "UsageError"
        assert "nope" in shown["error"]["what"]
        assert shown["error"]["hint"]
        assert done.stderr.startswith("error: ")


def test_targets_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[1:]]
    assert (names[0], sorted(names)) == ("host", sorted(target_names()))
    assert main(["targets", "list", "--json"]) == 0
    assert [t["name"] for t in document(capsys)["targets"]] == names
    assert main(["targets", "show", "x86-avx2"]) == 0
    assert re.search(r"int8\.weight_bits +7 ", capsys.readouterr().out)
    assert main(["targets", "show", "x86-avx2", "--json"]) == 0
    shown = document(capsys)
    assert shown["int8"]["weight_bits"] == 7
    assert isinstance(shown["executable_here"], bool)


def test_passes_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(registered())
    assert {"canonicalize", "quantize"} <= set(registered())
    assert main(["passes", "list", "--json"]) == 0
    assert all(p["summary"] for p in document(capsys)["passes"])


@pytest.mark.parametrize("name", ["canonicalize", "quantize"])
def test_a_pass_is_shown_from_its_own_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    cls = registered()[name]
    assert main(["passes", "show", name]) == 0
    text = capsys.readouterr().out
    assert " ".join(str(cls.__doc__).split()) in " ".join(text.split())
    assert main(["passes", "show", name, "--json"]) == 0
    shown = document(capsys)
    assert shown["semantics"] == cls.semantics.value
    for option in shown["options"]:
        assert f"{option['name']}={option['default']}" in text


def test_inspect_lists_sites_and_totals(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(artifact / "model.onnx")
    assert main(["inspect", model]) == 0
    text = capsys.readouterr().out
    assert "input  x: FLOAT[batch, 4]" in text
    assert "1 site, 3 nodes, 15 parameters, 60 B" in text
    assert main(["inspect", model, "--workload", "batch=2", "--json"]) == 0
    shown = document(capsys)
    (site,) = shown["sites"]
    assert (site["shape"], site["parameters"], site["bytes"]) == ([4, 3], 15, 60)
    assert site["flops"] == 2 * (4 * 3 * 2) + 2 * 3  # a multiply-add is two; the bias
    assert shown["totals"]["parameters"] == 15
    assert shown["inputs"] == [{"name": "x", "dtype": "FLOAT", "shape": ["batch", 4]}]


@pytest.mark.parametrize("workload", ["bach=1", "batch", "batch=x", "batch=0"])
def test_a_wrong_workload_is_refused(
    artifact: Path, workload: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(artifact / "model.onnx"), "--workload", workload]) == 2
    error = capsys.readouterr().err
    assert "where: --workload" in error
    assert "batch" in error.partition("try:")[2]


def test_verify_passes(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(artifact)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("PASS")
    assert main(["verify", str(artifact), "--json"]) == 0
    shown = document(capsys)
    assert (shown["passed"], shown["failures"], shown["samples"]) == (True, [], 3)


def test_verify_fails_with_code_3(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (artifact / "samples" / "0000.npz").unlink()
    assert main(["verify", str(artifact)]) == 3
    assert "samples/0000.npz is missing" in capsys.readouterr().out
    assert main(["verify", str(artifact), "--json"]) == 3
    assert document(capsys)["failures"] == ["file samples/0000.npz is missing"]


def test_verify_says_what_it_compares_with(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = str(artifact / "model.onnx")
    assert main(["verify", str(artifact), "--original", original]) == 0
    assert f"{original} answers anew" in capsys.readouterr().out
    assert main(["verify", str(artifact), "--original", "nothing.onnx"]) == 3
    said = capsys.readouterr().err
    assert "nothing.onnx" in said
    assert "compile the model again" not in said


def test_verify_runs_none_of_the_artifacts_code(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (artifact / "verify.py").write_text("raise SystemExit('executed')")
    assert main(["verify", str(artifact)]) == 3
    assert "file verify.py has" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "nothing-here", "out/model.onnx", "out/samples"])
def test_verify_says_what_is_no_artifact(
    artifact: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifact.parent / name
    assert main(["verify", str(folder)]) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(folder) in error


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(words: list[str], terminal: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)


def test_an_internal_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, ZeroDivisionError("a\nb"))
    assert main(["targets", "list", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("internal error: ZeroDivisionError: a b\n  where: test_cli.py:")
    assert "Traceback" not in captured.err
    assert "-v" in captured.err
    shown = json.loads(captured.out)
    assert (shown["exit_code"], shown["error"]["kind"]) == (1, "InternalError")


def test_the_traceback_comes_with_v(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("deep down")

    monkeypatch.setattr("planish.commands.targets.load_target", fail)
    assert main(["targets", "show", "host"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert main(["targets", "show", "host", "-v"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "internal error: ZeroDivisionError: deep down" in error


@pytest.mark.parametrize(
    ("error", "status"),
    [(PlanishError("x"), 1), (UsageError("x"), 2), (VerifyError(["x"]), 1)],
)
def test_known_errors_keep_their_code(
    error: PlanishError, status: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    raising(monkeypatch, error)
    assert main([]) == status
    assert capsys.readouterr().err == f"error: {error}\n"


def test_an_interrupt_says_that_nothing_was_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    assert main(["compile", "m", "--json"]) == 130
    captured = capsys.readouterr()
    assert captured.err == "interrupted, nothing was written\n"
    assert json.loads(captured.out)["exit_code"] == 130


@pytest.mark.parametrize(
    "words",
    [["targets", "show", "host"], ["targets", "show", "host", "--json"], ["--help"], ["--version"]],
)
def test_output_that_nobody_reads_ends_quietly(words: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "planish", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_an_error_that_nobody_reads_ends_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "planish", "inspect", "no-such.onnx", "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=writer, text=True)
    os.close(writer)
    assert process.communicate()[0] == ""
    assert process.wait() == 141


def test_the_public_names() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert package.InputError.exit_code == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
@pytest.mark.parametrize(
    "words", [["passes", "list"], ["passes", "list", "--json"], ["--help"]], ids=" ".join
)
def test_a_full_disk_is_said_without_a_traceback(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "planish", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the disk is full")
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
