"""What is committed works everywhere: it names no package registry and no path of one machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Put together here, so that this file does not contain them.
HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("anaconda", "org"),
        ("conda", "io"),
        ("debian", "org"),
        ("ubuntu", "com"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("crates", "io"),
        ("docker", "io"),
        ("ghcr", "io"),
    )
)
HOST = re.compile("|".join(rf"(?<![\w-]){re.escape(host)}\b" for host in HOSTS), re.IGNORECASE)
PATH = re.compile(
    r"(?<![\w.~-])(?:/(?:root|tmp|work|workspace|mnt|media)\b|/(?:home|Users)/(?!somebody\b)\w)"
)
"""Absolute paths below folders that are somebody's own. A test may need one: /home/somebody."""


def out_of_place(text: str) -> list[str]:
    """Registry hosts and machine paths in a text, each with its line."""
    return [
        f"line {text.count(chr(10), 0, found.start()) + 1}: {found[0]}"
        for pattern in (HOST, PATH)
        for found in pattern.finditer(text)
    ]


def committed() -> list[Path]:
    """Files that git tracks here, those deleted in the working tree left out."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    paths = [ROOT / name.decode() for name in done.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


def test_no_committed_text_names_a_registry_or_a_machine_path() -> None:
    paths = committed()
    assert ROOT / "README.md" in paths
    problems = []
    for path in paths:
        try:
            text = path.read_text("utf8")
        except UnicodeDecodeError:
            continue  # not text
        problems += [f"{path.relative_to(ROOT)}, {what}" for what in out_of_place(text)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("host", HOSTS)
def test_a_registry_is_seen(host: str) -> None:
    assert out_of_place(f"\n--index-url https://files.{host}/simple") == [f"line 2: {host}"]
    assert out_of_place(f"see {host}.") == [f"line 1: {host}"]
    assert not out_of_place(f"my-{host}")


@pytest.mark.parametrize("folder", ["root", "tmp", "work", "home/me", "Users/me", "mnt"])
def test_a_machine_path_is_seen(folder: str) -> None:
    assert out_of_place(f'open("/{folder}/x")')
    assert not out_of_place(f"docs/{folder}/x and ../{folder}/x and ~/{folder}/x")


def test_made_up_and_system_paths_are_allowed() -> None:
    assert not out_of_place("/home/somebody/model.py /proc/cpuinfo /usr/bin/env /dev/null")
