"""What several test files share: the evaluation data, the tasks made of it, optional packages.

The data (`tasks.py` and the folders beside it) is looked for in ``$PLANISH_TEST_DATA``, else next
to the repository. Without it the tests that use it are skipped; under ``CI=true`` a test that
could not get its data or its optional package is a failure, so that nothing goes untested unseen.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA_VARIABLE = "PLANISH_TEST_DATA"
OPTIONAL_PACKAGES = ("torch",)  # markers of the same name


# A shell that starts the tests in the background has them ignore the interrupt key, and so would
# every command line that they start and then interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def data_folder() -> Path:
    """The folder with the evaluation data; skips the test where there is none."""
    named = os.environ.get(DATA_VARIABLE)
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if (folder / "tasks.py").is_file():
        return folder
    if named:
        pytest.fail(f"{DATA_VARIABLE} names {named}, which holds no tasks.py", pytrace=False)
    pytest.skip(f"no evaluation data here; set {DATA_VARIABLE} to its folder")


def load_module(path: Path, name: str) -> ModuleType:
    """The Python file at path, imported as name (dataclasses look their module up there)."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def graphs() -> ModuleType:
    """The module ``graphs``: small graphs as text, run and compiled."""
    return load_module(ROOT / "tests" / "graphs.py", "graphs")


@pytest.fixture(scope="session")
def made() -> ModuleType:
    """The module ``made``: a small model, and a result and an artifact of it made by hand."""
    return load_module(ROOT / "tests" / "made.py", "made")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with the evaluation data."""
    return data_folder()


@pytest.fixture(scope="session")
def tasks(data: Path) -> ModuleType:
    """The module ``tasks`` of the evaluation data."""
    return load_module(data / "tasks.py", "tasks")


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that lives as long as the session, for models that are exported once."""
    return tmp_path_factory.mktemp("workdir")


@pytest.fixture(scope="session")
def task(tasks: ModuleType, workdir: Path) -> Callable[[str], Any]:
    """``task("minilm")``: the task of that name, its model exported once a session."""

    @functools.cache
    def build(name: str) -> Any:
        return tasks.TASKS[name](workdir)

    return build


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that reaches the data through any fixture carries the marker ``data``."""
    for item in items:
        if "data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in OPTIONAL_PACKAGES:
        if item.get_closest_marker(name) and importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


def must_run(item: pytest.Item) -> bool:
    """Whether a skip of this test counts as a failure."""
    return under_ci() and any(item.get_closest_marker(n) for n in ("data", *OPTIONAL_PACKAGES))


def under_ci() -> bool:
    """Whether nothing may go untested unseen."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and must_run(item):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and under_ci():  # a whole file, for want of a package it imports
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {reason}"
    return report
