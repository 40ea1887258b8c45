"""A test that could not get its data is skipped at home and fails under CI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PROBE = """
import pytest

def test_with_data(task):
    raise AssertionError("ran without data")

@pytest.mark.data
def test_marked():
    pytest.skip("something is missing")

def test_other():
    pytest.skip("for a reason of its own")
"""


WITHOUT_PACKAGE = """
import pytest

pytest.importorskip("a_package_that_is_not_there")
"""


def outcomes(root: Path, folder: Path, probe: str = PROBE, **variables: str) -> dict[str, int]:
    """How many tests of a probe ended how, in a folder that has no data beside it."""
    tests = folder / "repository" / "tests"
    tests.mkdir(parents=True)
    shutil.copy(root / "tests" / "conftest.py", tests)
    (tests / "test_probe.py").write_text(probe, "utf8")
    kept = {k: v for k, v in os.environ.items() if k not in {"CI", "PLANISH_TEST_DATA"}}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    words += ["-c", str(root / "pyproject.toml"), "--rootdir", str(tests), str(tests)]
    done = subprocess.run(words, env=kept | variables, capture_output=True, text=True)
    summary = done.stdout.splitlines()[-1]
    return {name: int(count) for count, name in re.findall(r"(\d+) (\w+)", summary)}


def test_without_ci_they_are_skipped(root: Path, tmp_path: Path) -> None:
    assert outcomes(root, tmp_path)["skipped"] == 3


def test_under_ci_only_the_other_is_skipped(root: Path, tmp_path: Path) -> None:
    found = outcomes(root, tmp_path, CI="true")
    assert found["skipped"] == 1
    assert found.get("failed", 0) + found.get("error", 0) + found.get("errors", 0) == 2


def test_a_file_for_want_of_a_package(root: Path, tmp_path: Path) -> None:
    assert outcomes(root, tmp_path / "home", WITHOUT_PACKAGE) == {"skipped": 1}
    assert "error" in outcomes(root, tmp_path / "ci", WITHOUT_PACKAGE, CI="true")


def test_a_wrong_folder_is_an_error(root: Path, tmp_path: Path) -> None:
    found = outcomes(root, tmp_path, PLANISH_TEST_DATA=str(tmp_path / "nowhere"))
    assert found["skipped"] == 2
    assert found.get("error", 0) == 1


@pytest.mark.data
def test_the_tasks_load(tasks: ModuleType) -> None:
    assert "minilm" in tasks.TASKS
