"""``planish new pass``: what it writes works as it stands, and it overwrites nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from planish.cli import main
from planish.commands.passes import HEADINGS, sections
from planish.compiler.userpasses import load_pass_file
from planish.scaffold import KINDS

NAMES = {"rewrite": "sub-to-add", "lossy": "fewer-bits", "adapt": "only-once"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tests_that_are_written_pass(folder: Path) -> None:
    for kind, name in NAMES.items():
        assert main(["new", "pass", name, "--kind", kind]) == 0
    (folder / "passes.py").write_text("raise RuntimeError\n")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"CI": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_say_what_they_are(folder: Path, kind: str) -> None:
    name = NAMES[kind]
    assert main(["new", "pass", name, "--kind", kind, "-o", "deep/down", "--json"]) == 0
    module = name.replace("-", "_")
    made = {p.name for p in (folder / "deep" / "down").iterdir()}
    assert made == {f"{module}.py", f"test_{module}.py", f"{module}.md"}
    (cls,) = load_pass_file(folder / "deep" / "down" / f"{module}.py").passes
    assert cls.name == name
    if kind != "adapt":
        assert [h for h in sections(cls) if h in HEADINGS] == list(HEADINGS)
    for path in (folder / "deep" / "down").iterdir():
        assert "{{" not in path.read_text()
        assert not any(line != line.rstrip() for line in path.read_text().splitlines())


def test_what_is_there_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "test_my_pass.py").write_text("mine\n")
    assert main(["new", "pass", "my-pass"]) == 2
    assert "test_my_pass.py" in capsys.readouterr().err
    assert [p.name for p in folder.iterdir()] == ["test_my_pass.py"]
    assert (folder / "test_my_pass.py").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("My Pass", "is no name for a pass"),
        ("../evil", "is no name for a pass"),
        ("a" * 61, "is no name for a pass"),
        ("quantize", "there is a pass 'quantize' already"),
        ("class", "is a word of Python"),
        ("select", "stand in the way of the module select"),
        ("numpy", "stand in the way of the module numpy"),
    ],
)
def test_names_that_cannot_be(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    assert main(["new", "pass", name, "--json"]) == 2
    assert said in json.loads(capsys.readouterr().out)["error"]["what"]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("candidate", "lossy"), ("refusal", "lossy"), ("options", "lossy"), ("pass", "lossy"),
        ("is-constant", "rewrite"), ("constant-array", "rewrite"), ("check", "rewrite"),
        ("pattern", "rewrite"), ("semantics", "adapt"),
    ],
)  # fmt: skip
def test_names_that_the_file_needs_itself(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    assert main(["new", "pass", name, "--kind", kind]) == 2
    assert "word" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_name_that_only_another_kind_needs(folder: Path) -> None:
    assert main(["new", "pass", "candidate"]) == 0


def test_a_folder_that_cannot_be_written_to(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "file").write_text("")
    assert main(["new", "pass", "my-pass", "-o", "file"]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_an_unknown_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "pass", "my-pass", "--kind", "magic"]) == 2
    assert "magic" in capsys.readouterr().err
