"""Imports go only downwards, and heavy or optional packages load only where they are used."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LAYERS = ("ir", "targets", "passes", "compiler", "planish")  # lowest first
ROOT = Path(__file__).resolve().parent.parent
SESSIONS = "planish.targets.runtime"  # the only place that opens ONNX Runtime sessions


@dataclass(frozen=True)
class Import:
    """An imported module or name, absolute and dotted; eager: runs as its file is imported."""

    name: str
    line: int
    eager: bool
    level: int


def package_files() -> Iterator[tuple[str, Path]]:
    """Dotted module name and path of each Python file of the packages."""
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            if not (path.parent / "__init__.py").exists():
                continue  # a template, not a module
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts if layer == "planish" else ("planish", *parts))
            yield name.removesuffix(".__init__"), path


def imports(source: str, module: str, *, is_package: bool) -> list[Import]:
    """Every import in source, relative ones resolved against the dotted name module."""
    found: list[Import] = []

    def visit(node: ast.AST, eager: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, eager, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve(node, module, is_package=is_package)
            for alias in node.names:
                found.append(Import(f"{base}.{alias.name}", node.lineno, eager, node.level))
        for child in ast.iter_child_nodes(node):
            visit(child, eager and not is_deferred(node, child))

    visit(ast.parse(source), True)
    return found


def is_deferred(node: ast.AST, child: ast.AST) -> bool:
    """Whether child does not run when the file is imported: a function's body, typing only."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return True
    typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    return typing_only and child in node.body  # type: ignore[attr-defined]


def resolve(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    kept = parts[: len(parts) - node.level + is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def layer_of(name: str) -> str | None:
    """The layer of a dotted name within planish; None for a foreign module."""
    parts = name.split(".")
    if parts[0] != "planish":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "planish"


def upward(module: str, found: list[Import]) -> list[str]:
    """Imports of a higher layer than the module's own."""
    own = LAYERS.index(layer_of(module) or "")
    return [
        f"line {i.line}: {module} imports {i.name}"
        for i in found
        if (layer := layer_of(i.name)) and LAYERS.index(layer) > own
    ]


def by_accident(module: str, found: list[Import]) -> list[str]:
    """Imports that name our packages without being relative."""
    return [
        f"line {i.line}: {module} imports {i.name}; make it relative"
        for i in found
        if not i.level and i.name.split(".")[0] in LAYERS
    ]


def undeclared(
    module: str, found: list[Import], required: set[str], optional: set[str]
) -> list[str]:
    """Imports that pyproject.toml does not list, and eager imports of optional packages."""
    known = set(sys.stdlib_module_names) | {"planish"}
    problems = []
    for i in found:
        name = i.name.split(".")[0]
        if name in known | required or (name in optional and not i.eager):
            continue
        reason = "is optional: import it where it is used" if name in optional else "is undeclared"
        problems.append(f"line {i.line}: {module} imports {name}, which {reason}")
    return problems


def declared() -> tuple[set[str], set[str]]:
    """Import names of the required packages and of those in extras that users install."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w.-]", r)[0].replace("-", "_").lower() for r in requirements}

    extras = project["optional-dependencies"]
    drawn = {name for name in names(extras["test"]) if name == "hypothesis"}  # harness/generator
    return names(project["dependencies"]), names(extras["torch"]) | drawn


def test_every_layer_has_modules() -> None:
    assert {layer_of(name) for name, _ in package_files()} == set(LAYERS)


@pytest.mark.parametrize(("module", "path"), list(package_files()), ids=lambda v: str(v))
def test_imports_of_a_module(module: str, path: Path) -> None:
    found = imports(path.read_text("utf8"), module, is_package=path.name == "__init__.py")
    problems = [
        *upward(module, found),
        *by_accident(module, found),
        *undeclared(module, found, *declared()),
    ]
    if module != SESSIONS:
        problems += [f"line {i.line}: use {SESSIONS}" for i in found if of_onnxruntime(i)]
    assert not problems, "\n".join(problems)


def of_onnxruntime(found: Import) -> bool:
    return found.name.split(".")[0] == "onnxruntime"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from ..passes import api", {"planish.passes.api"}),
        ("from .. import passes", {"planish.passes"}),
        ("def f():\n    from ..compiler.policy import pick", {"planish.compiler.policy.pick"}),
    ],
)
def test_an_upward_import_is_seen(source: str, names: set[str]) -> None:
    found = imports(source, "planish.ir.sites", is_package=False)
    assert {i.name for i in found} == names
    assert len(upward("planish.ir.sites", found)) == 1


def test_a_downward_import_is_allowed() -> None:
    found = imports("from ...ir.sites import Site", "planish.passes.math.affine", is_package=False)
    assert [i.name for i in found] == ["planish.ir.sites.Site"]
    assert not upward("planish.passes.math.affine", found)


def test_a_package_resolves_its_own_relative_imports() -> None:
    found = imports("from .sites import Site", "planish.ir", is_package=True)
    assert [i.name for i in found] == ["planish.ir.sites.Site"]


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import torch", 1),
        ("class A:\n    import torch", 1),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", 1),
        ("def f():\n    import torch", 0),
        ("if TYPE_CHECKING:\n    import torch", 0),
        (
            "if TYPE_CHECKING:\n    x = 1\nelse:\n    import torch",
            1,
        ),
        ("import yaml", 1),
        ("def f():\n    import yaml", 1),
        ("import numpy", 0),
    ],
)
def test_an_eager_or_undeclared_import_is_seen(source: str, count: int) -> None:
    found = imports(source, "planish.ir.sites", is_package=False)
    assert len(undeclared("planish.ir.sites", found, {"numpy"}, {"torch"})) == count


def test_a_bare_import_is_seen() -> None:
    found = imports("from ir.sites import Site", "planish.passes.api", is_package=False)
    assert len(by_accident("planish.passes.api", found)) == 1
