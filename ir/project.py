"""What the project in the working folder says of planish: a table in its ``pyproject.toml``.

::

    [tool.planish]
    pass-files = ["passes/div_to_mul.py"]
    targets = ["targets"]

Paths are relative to that file. Only the nearest ``pyproject.toml`` of the working folder and its
parents is looked at, and only one that belongs to the user who runs planish, or to root: a file
that somebody else left in a shared folder is nobody's wish.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError, near

FILE, TABLE = "pyproject.toml", "tool.planish"
KEYS = ("pass-files", "targets")
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Project:
    """What the table says. file: None where there is none."""

    file: Path | None = None
    pass_files: tuple[Path, ...] = ()
    targets: tuple[Path, ...] = ()


def find_project(folder: Path | None = None) -> Project:
    """The project of a folder, by default the working folder.

    Raises UsageError where the table cannot be read: bad TOML, unknown keys, missing files, or a
    file that belongs to somebody else.
    """
    start = (folder or Path.cwd()).resolve()
    file = next((p / FILE for p in (start, *start.parents) if (p / FILE).is_file()), None)
    table = {} if file is None else _table(file)
    if file is None or not table:
        return Project()
    _check_owner(file)
    for key in table:
        if key not in KEYS:
            raise UsageError(
                f"unknown key {key!r}", where=f"{file}, table {TABLE}", hint=near(key, KEYS)
            )
    return Project(file, *(_paths(file, table, key) for key in KEYS))


def _table(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UsageError("the file is larger than 1 MB", where=str(file))
        found: Any = tomllib.loads(file.read_text("utf8"))
    except OSError as error:
        raise UsageError(f"cannot read the file: {error.strerror}", where=str(file)) from error
    except ValueError as error:  # bad TOML, or not UTF-8
        raise UsageError(f"not a TOML file: {error}", where=str(file)) from error
    for key in TABLE.split("."):
        found = found.get(key, {}) if isinstance(found, dict) else {}
    if not isinstance(found, dict):
        raise UsageError(f"{TABLE} is no table", where=str(file))
    return found


def _paths(file: Path, table: dict[str, Any], key: str) -> tuple[Path, ...]:
    value, where = table.get(key, []), f"{file}, table {TABLE}, key {key!r}"
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError("must be a list of paths", where=where, hint=f'{key} = ["…"]')
    paths = tuple(file.parent / item for item in value)
    for path in paths:
        if not path.exists():
            raise UsageError(f"there is no {str(path)!r}", where=where, hint="mend the path")
    return paths


def _check_owner(file: Path) -> None:
    owner = file.stat().st_uid
    if owner not in (os.getuid(), 0):
        raise UsageError(
            f"{file} belongs to another user (number {owner}), so what it names is not loaded",
            where=f"{file}, table {TABLE}",
            hint="copy the file to a folder of your own, or work in another folder",
        )
