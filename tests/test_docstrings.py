"""Everything public says what it is for, and every pass under the same headings."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from planish.commands.passes import HEADINGS, options_of, sections
from planish.passes.api import Pass, registered

LAYERS = ("ir", "targets", "passes", "compiler")


def modules() -> Iterator[str]:
    """Dotted names of the modules of the layers, packages without text left out."""
    for layer in LAYERS:
        package = importlib.import_module(f"planish.{layer}")
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.ispkg:
                yield found.name


def undocumented(module: ModuleType) -> Iterator[str]:
    """Public names of a module that nothing is said of; methods inherit what a base says."""
    if not inspect.getdoc(module):
        yield module.__name__
    for name, thing in vars(module).items():
        defined = (inspect.isclass(thing) or inspect.isfunction(thing)) and (
            thing.__module__ == module.__name__
        )
        if not defined or name.startswith("_"):
            continue
        if not own_doc(thing):
            yield f"{module.__name__}.{name}"
        if inspect.isclass(thing):
            yield from (f"{module.__name__}.{name}.{m}" for m in silent_members(thing))


def own_doc(thing: Any) -> str:
    """The docstring, unless the language wrote it: a dataclass's repeats its signature."""
    doc = str(thing.__doc__ or "")
    return "" if doc.startswith(f"{thing.__name__}(") else doc


def silent_members(cls: type) -> Iterator[str]:
    """Public methods and properties defined by a class that have no docstring of their own or of
    a base class.
    """
    kinds = (classmethod, staticmethod, property)
    for name, member in vars(cls).items():
        described = inspect.isfunction(member) or isinstance(member, kinds)
        if described and not name.startswith("_") and not inspect.getdoc(getattr(cls, name)):
            yield name


def test_modules_of_every_layer_are_found() -> None:
    assert {name.split(".")[1] for name in modules()} == set(LAYERS)
    assert "planish.passes.math.affine" in modules()


@pytest.mark.parametrize("name", list(modules()))
def test_what_is_public_has_a_docstring(name: str) -> None:
    missing = list(undocumented(importlib.import_module(name)))
    assert not missing, "no docstring: " + ", ".join(missing)


@pytest.mark.parametrize("name", registered())
def test_a_pass_has_the_headings_in_order(name: str) -> None:
    said = sections(registered()[name])
    assert [heading for heading in said if heading in HEADINGS] == list(HEADINGS)
    assert all(said.values())
    assert "" not in said, f"text before the first heading: {said['']}"


@pytest.mark.parametrize("name", registered())
def test_every_option_of_a_pass_has_a_meaning(name: str) -> None:
    assert [o["name"] for o in options_of(registered()[name]) if not o["meaning"]] == []


def test_what_says_nothing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    text = '''
"""A module."""
import dataclasses
from typing import NamedTuple

def told(): "Does."
def silent(): pass
def _private(): pass

@dataclasses.dataclass
class Plain:
    x: int

class Row(NamedTuple):
    x: int

class Base:
    """A base."""
    def run(self): "Runs."
    def stop(self): pass
    @property
    def size(self): return 0

class Child(Base):
    """A child."""
    def run(self): pass
    @classmethod
    def make(cls): pass
'''
    module = ModuleType("made")
    monkeypatch.setitem(sys.modules, "made", module)
    exec(text, vars(module))
    assert list(undocumented(module)) == [
        "made.silent", "made.Plain", "made.Row", "made.Base.stop", "made.Base.size",
        "made.Child.make",
    ]  # fmt: skip


def test_sections_are_told_apart() -> None:
    class Example(Pass):
        """Do something.

        What it does: this,
        and That as well: more.
        What stays, and why: all.
        Example: ``x``
        """

    assert sections(Example) == {
        "What it does": "this, and That as well: more.",
        "What stays, and why": "all.",
        "Example": "``x``",
    }
