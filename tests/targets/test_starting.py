"""The draft of a target file: it holds, changes nothing, and says all that can be changed."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from planish.ir.errors import TargetError, UsageError
from planish.targets.differences import different_figures
from planish.targets.loader import load_target
from planish.targets.starting import starting_file, write_starting_file
from planish.targets.tomlfile import catalog_files

COMMENTED = re.compile(r"^# (?=\w+ = )", re.MULTILINE)


@pytest.mark.parametrize("base", ["generic", "x86-amx", "nvidia-a100", "qualcomm-hexagon"])
def test_the_draft_holds_and_changes_nothing(base: str, tmp_path: Path) -> None:
    path = write_starting_file("mine", base, str(tmp_path / "mine.toml"))
    target = load_target(path)
    assert (target.name, target.kind, target.extends) == ("mine", "machine", base)
    assert different_figures(load_target(base), target) == ()
    assert all(figure.source for figure in target.figures())


@pytest.mark.parametrize("base", sorted(catalog_files()))
def test_its_comments_are_what_is_inherited(base: str) -> None:
    target = load_target(base)
    table = tomllib.loads(COMMENTED.sub("", starting_file("mine", target, base)))
    for figure in target.figures():
        value = table
        for part in figure.path.split("."):
            value = value[part]
        wanted = list(figure.value) if isinstance(figure.value, tuple) else figure.value
        assert value == wanted, figure.path
    assert {"cores", "clock_ghz"} <= set(table)


def test_the_host_stands_for_its_class(tmp_path: Path) -> None:
    path = write_starting_file("mine", "host", str(tmp_path / "mine.toml"))
    assert load_target(path).extends == load_target("host").resolved
    assert "host" not in path.read_text().split('kind = "machine"')[1].split("#")[0]


def test_a_file_is_extended_from_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inner").mkdir()
    write_starting_file("base", "generic", "base.toml")
    for output in ("inner/leaf.toml", str(tmp_path / "leaf.toml")):
        path = write_starting_file("leaf", "base.toml", output)
        assert load_target(path).extends in ("../base.toml", "base.toml")
        assert load_target(path).min_gemm == load_target("generic").min_gemm


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists already") as caught:
        write_starting_file("mine", "generic", str(path))
    assert (caught.value.where, path.read_text()) == (str(path), "mine")
    link = tmp_path / "link.toml"
    link.symlink_to(tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="exists already"):
        write_starting_file("mine", "generic", str(link))
    assert not (tmp_path / "absent.toml").exists()


@pytest.mark.parametrize(
    ("name", "extends", "output", "said"),
    [
        ("Mine", "generic", "a.toml", "no name for a target"),
        ("../mine", "generic", "a.toml", "no name for a target"),
        ("generic", "generic", "a.toml", "there is a target 'generic' already"),
        ("nvidia-a100", "generic", "a.toml", "there is a target 'nvidia-a100' already"),
        ("host", "generic", "a.toml", "there is a target 'host' already"),
        ("mine", "generik", "a.toml", "unknown target 'generik'"),
        ("mine", "absent.toml", "a.toml", "no such target file"),
        ("mine", "generic", "a.txt", "no name of a target file"),
        ("mine", "generic", "absent/a.toml", "cannot write"),
    ],
)
def test_what_cannot_be_started(
    name: str, extends: str, output: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        write_starting_file(name, extends, output)
    assert list(tmp_path.iterdir()) == []


def test_a_draft_cannot_be_called_as_what_it_extends(tmp_path: Path) -> None:
    write_starting_file("mine", "generic", str(tmp_path / "base.toml"))
    path = tmp_path / "leaf.toml"
    with pytest.raises(TargetError, match="two targets are called 'mine'"):
        load_target(write_starting_file("mine", str(tmp_path / "base.toml"), str(path)))


def test_every_field_of_the_schema_is_offered() -> None:
    target = load_target("generic")
    text = starting_file("mine", target, "generic")
    for name in ("min_gemm", *(f"[{t}]" for t in ("int8", "floats", "weight_only", "multiples"))):
        assert name in text
    for item in dataclasses.fields(target.memory):
        assert item.name in text
