"""Passes that users bring: files, classes, and what their project names."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..ir.errors import InputError, PlanishError, UsageError
from ..ir.project import find_project
from ..passes.api import Pass
from ..passes.registry import borrowing
from .data.usercode import load_module

MAX_BYTES = 4 << 20
"""No source text is larger."""


@dataclass(frozen=True)
class PassFile:
    """A file that was loaded. passes: in the order in which it registers them.

    named_by: the project's file that names it; None where the user gave it.
    """

    path: Path
    passes: tuple[type[Pass], ...]
    named_by: Path | None = None

    def __str__(self) -> str:
        names = ", ".join(cls.name for cls in self.passes)
        by = "" if self.named_by is None else f", named by {self.named_by}"
        return f"{self.path} ({names}){by}"


def load_pass_file(path: Path | str, named_by: Path | None = None) -> PassFile:
    """The passes that a Python file registers; the file is run once for the same text.

    Raises InputError where the file cannot be read or run, or holds no pass, UsageError where two
    of its passes have one name; each names the file and, where there is one, the line.
    """
    file = Path(path).resolve()
    _check(file, named_by)
    try:
        module, passes = load_module(file)
        if not passes:
            why = _why_none(module)
            raise InputError("there is no pass in the file", where=str(file), hint=why)
    except PlanishError as error:
        if named_by is not None:  # nobody gave the file: it would not be known why it is run
            told = f"{named_by} names the file, under pass-files of [tool.planish]"
            error.hint = "; ".join(filter(None, [error.hint, told]))
        raise
    return PassFile(file, passes, named_by)


def loaded(things: Any = (), *, project: bool = False) -> tuple[PassFile, ...]:
    """Files (paths), pass classes and modules of them, one or several. project: those too that it
    names."""
    if isinstance(things, (str, Path, ModuleType)) or inspect.isclass(things):
        things = (things,)
    found = [_one(thing) for thing in things]
    if project:
        known = find_project()
        given = {file.path for file in found}
        others = [p for p in known.pass_files if p.resolve() not in given]
        found += [load_pass_file(path, known.file) for path in others]
    return tuple(found)


@contextmanager
def using(files: Iterable[PassFile]) -> Iterator[None]:
    """The passes of these files are known meanwhile. Raises UsageError where names clash."""
    with borrowing(dict.fromkeys(cls for file in files for cls in file.passes)):
        yield


def source_digest(cls: type[Pass]) -> str:
    """SHA-256 of the file that a pass is written in, "" where there is none."""
    file = Path(cls.place.rpartition(":")[0])
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _one(thing: Any) -> PassFile:
    if isinstance(thing, PassFile):
        return thing
    if isinstance(thing, (str, Path)):
        return load_pass_file(thing)
    if inspect.isclass(thing) and issubclass(thing, Pass):
        return PassFile(Path(thing.place.rpartition(":")[0]), (thing,))
    if isinstance(thing, ModuleType):
        passes = tuple(v for v in vars(thing).values() if _is_ready(v))
        if passes:
            return PassFile(Path(str(thing.__file__)), passes)
    raise UsageError(
        f"{thing!r} is neither a Python file nor a pass",
        hint="give paths of files, classes of passes, or modules that hold registered ones",
    )


def _check(file: Path, named_by: Path | None) -> None:
    where = f"{named_by}, key 'pass-files'" if named_by else str(file)
    if file.is_dir() or (file.exists() and file.suffix != ".py"):
        kind = "a folder" if file.is_dir() else "no Python file"
        raise UsageError(
            f"{file.name} is {kind}", where=where, hint="a pass file is Python and ends in .py"
        )
    if file.exists() and file.stat().st_size > MAX_BYTES:
        raise InputError("a pass file is never larger than 4 MB", where=where)


def _is_ready(thing: Any) -> bool:
    """Whether it is a pass that was registered."""
    return inspect.isclass(thing) and issubclass(thing, Pass) and bool(thing.place)


def _why_none(module: ModuleType) -> str:
    own = [v for v in vars(module).values() if inspect.isclass(v) and issubclass(v, Pass)]
    named = [v.__name__ for v in own if v.__module__ == module.__name__ and not v.place]
    if named:
        return f"write @register above class {named[0]}: it comes from planish.passes.api"
    return (
        "planish new pass NAME writes one to start from; @register, @rewrite_pass and adapt() "
        "make a pass known"
    )
