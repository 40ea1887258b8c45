"""The wheel holds exactly the packages of the tree, under one import name, without torch."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

TOP = ("planish", "compiler", "passes", "targets", "ir")


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text("utf8"))


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy: setuptools would pick up leftovers of a build in the tree."""
    source = tmp_path_factory.mktemp("source")
    for name in TOP:
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    target = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", target, source)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which only the wheel was installed."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--target", target, wheel)
    return target


def pip(command: str, *arguments: object) -> None:
    """pip without dependencies and without network; its output is shown when it fails."""
    words = [sys.executable, "-m", "pip", command, "--no-deps", "--no-index", "--quiet"]
    done = subprocess.run([*words, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def run_installed(installed: Path, folder: Path, code: str) -> str:
    """Run code in folder with the wheel and its dependencies, without torch.

    ``-I -S``: neither the working directory nor the links of an editable install are in reach.
    """
    start = f"""
        import sys
        sys.path[:0] = [{str(installed)!r}]
        sys.path += [{sysconfig.get_path("purelib")!r}, {sysconfig.get_path("platlib")!r}]

        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("torch", "onnxscript"):
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

        sys.meta_path.insert(0, Absent())
    """
    program = textwrap.dedent(start) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def expected_files(root: Path) -> set[str]:
    """The wheel's files as the tree would have them."""
    found = set()
    for top in TOP:
        for path in (root / top).rglob("*"):
            parts = path.relative_to(root).parts
            if path.is_file() and "__pycache__" not in parts and not path.name.startswith("."):
                found.add("/".join(parts if top == "planish" else ("planish", *parts)))
    return found


def folder_of(package: str) -> str:
    """Where the table must find a package: planish.passes.math stands in passes/math."""
    first, *rest = package.split(".")
    return "/".join(rest if rest and rest[0] in TOP else [first, *rest])


def python_folders(root: Path) -> set[str]:
    """The folders below the top ones that hold Python files which are no templates."""
    return {
        path.parent.relative_to(root).as_posix()
        for top in TOP
        for path in (root / top).rglob("*.py")
        if not {"__pycache__", "templates"} & set(path.parts)
    }


def test_the_table_lists_every_folder_with_python_files(
    root: Path, project: dict[str, Any]
) -> None:
    table = project["tool"]["setuptools"]["package-dir"]
    assert table == {package: folder_of(package) for package in table}
    assert set(table.values()) == python_folders(root)
    assert sorted(table) == sorted(project["tool"]["setuptools"]["packages"])
    assert all((root / folder / "__init__.py").is_file() for folder in table.values())


def test_the_wheel_holds_the_tree(root: Path, wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected_files(root)
    assert "planish/py.typed" in names


def test_the_wheel_carries_licence_and_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = [name for name in archive.namelist() if ".dist-info/" in name]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "planish = planish.cli:main" in archive.read(entry_points).decode()


def test_nothing_generic_is_importable(installed: Path, tmp_path: Path) -> None:
    code = """
        import importlib.util
        print([name for name in ("ir", "passes", "targets", "compiler", "tests", "docs",
                                 "examples", "benchmarks") if importlib.util.find_spec(name)])
    """
    assert run_installed(installed, tmp_path, code).strip() == "[]"


def test_every_module_imports_without_torch(installed: Path, tmp_path: Path) -> None:
    code = f"""
        import importlib, pkgutil, planish
        assert planish.__file__.startswith({str(installed)!r}), planish.__file__
        names = [m.name for m in pkgutil.walk_packages(planish.__path__, "planish.")]
        for name in names:
            if not name.endswith("__main__"):
                importlib.import_module(name)
        assert not {{"torch", "onnxscript"}} & set(sys.modules)
        print(*names)
    """
    names = run_installed(installed, tmp_path, code).split()
    modules = {path for path in names_in(installed) if not path.endswith("__init__")}
    assert modules <= {name.replace(".", "/") for name in names}


def names_in(installed: Path) -> set[str]:
    """Paths of the installed modules, without the ending."""
    files = (installed / "planish").rglob("*.py")
    packages = [path for path in files if (path.parent / "__init__.py").exists()]
    return {path.relative_to(installed).with_suffix("").as_posix() for path in packages}


def test_importing_planish_does_not_load_torch() -> None:
    code = "import planish, sys; print('torch' in sys.modules, 'onnxscript' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_lock_satisfies_pyproject(root: Path, project: dict[str, Any]) -> None:
    packaging = pytest.importorskip("packaging.requirements")
    pins = dict(
        line.split("==")
        for line in (root / "requirements-dev.txt").read_text("utf8").splitlines()
        if line and not line.startswith("#")
    )
    locked = {canonical(name): version for name, version in pins.items()}
    extras = project["project"]["optional-dependencies"].values()
    for text in [*project["project"]["dependencies"], *(r for extra in extras for r in extra)]:
        requirement = packaging.Requirement(text)
        version = locked.get(canonical(requirement.name))
        assert version, f"{requirement.name} is not in the lock"
        assert requirement.specifier.contains(version), f"{text}: the lock has {version}"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_names_no_host_and_no_local_build(root: Path) -> None:
    paths = sorted(root.glob("requirements-*.txt"))
    assert len(paths) >= 6
    for path in paths:
        for line in path.read_text("utf8").splitlines():
            pin = re.fullmatch(r"[\w.-]+==[\w.]+", line)
            assert line.startswith("#") or pin, f"{path.name}: {line}"
