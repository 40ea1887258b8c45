"""Reads target files: TOML, one target a file, ``extends`` another; errors name file and line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from ..ir.errors import TargetError, UsageError, near
from .schema import HINTS, HOST, LIMITS, NAMING, Target
from .tomltypes import build, hints_of, quoted, row_class, table_class, unsuitable

CATALOG = Path(__file__).resolve().parent / "catalog"

MAX_BYTES = 1 << 20

Table = dict[str, Any]

_PROBED = "resolved"
_OWN = ("name", "summary", "kind", "aliases", "notes")  # never inherited: of this very file
_HEADER = re.compile(r"\s*\[\[?([^\[\]]+)\]")
_ASSIGNMENT = re.compile(r"\s*([^=#\[\]]+?)\s*=")
_KEY_PART = re.compile(r"\"([^\"]*)\"|'([^']*)'|([\w-]+)")
_LINE_IN_MESSAGE = re.compile(r"\(at line (\d+)")


@dataclass(frozen=True)
class TargetFile:
    """A file as it stands: its text (for line numbers) and what TOML makes of it."""

    path: Path
    text: str
    table: Table

    def wrong(self, what: str, key: tuple[str, ...], hint: str = "") -> TargetError:
        """The error that names this file and the line of ``key``."""
        return TargetError(what, where=self.place(key), hint=hint)

    def aliases(self) -> list[str]:
        """Further names that the file claims; what is no text is left to the checks."""
        claimed = self.table.get("aliases", [])
        return [a for a in claimed if isinstance(a, str)] if isinstance(claimed, list) else []

    def place(self, key: tuple[str, ...]) -> str:
        """``file:line`` of ``key``, of the table around it, or the file alone."""
        line = line_of(self.text, key) or line_of(self.text, key[:-1])
        return f"{self.path}:{line}" if line else str(self.path)


def catalog_files() -> dict[str, Path]:
    """Files of the catalogue by target name."""
    return {path.stem: path for path in sorted(CATALOG.glob("*.toml"), key=lambda path: path.stem)}


def catalog_names() -> dict[str, Path]:
    """Files of the catalogue by name, then by alias."""
    return dict(_names_of(tuple(catalog_files().items())))


@cache
def _names_of(files: tuple[tuple[str, Path], ...]) -> dict[str, Path]:
    """By name and alias. Raises TargetError where two files claim one name."""
    links = [(name, _read(path)) for name, path in files]
    claims = [(name, link, ("name",)) for name, link in links]
    claims += [(a, link, ("aliases",)) for _, link in links for a in link.aliases()]
    known: dict[str, TargetFile] = {}
    for name, link, key in claims:
        if name in known:
            what = f"two targets are called {name!r}"
            raise link.wrong(what, key, f"choose another name: {known[name].path} has this one")
        known[name] = link
    return {name: link.path for name, link in known.items()}


def read_target(path: Path) -> Target:
    """The target of a file, with everything it extends.

    Raises UsageError when there is no such file, TargetError (file and line) for bad TOML,
    unknown keys, wrong types or values, missing fields, and for files that extend each other.
    """
    chain = _chain(path)
    for link in chain:
        _check_table(link, link.table, Target, ())
        _check_sources(link)
    _check_names(chain)
    merged: Table = {}
    for link in chain:
        merged = _merge(merged, link.table)
    _check_complete(chain[-1], merged, Target, ())
    target: Target = build(Target, merged)
    return target


def line_of(text: str, key: tuple[str, ...]) -> int | None:
    """1-based line that sets ``key`` (table names, then the key) or is the first inside of it."""
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = here = _split(header[1])
        elif assignment := _ASSIGNMENT.match(line):
            here = table + _split(assignment[1])
        else:
            continue
        if here[: len(key)] == key:
            return number
    return None


def _split(dotted: str) -> tuple[str, ...]:
    return tuple("".join(parts) for parts in _KEY_PART.findall(dotted))


def _chain(path: Path) -> list[TargetFile]:
    """The file and what it extends, root first."""
    chain = [_read(path)]
    seen = [path.resolve()]
    while (parent := chain[0].table.get("extends")) is not None:
        if not isinstance(parent, str):
            raise chain[0].wrong("'extends' must be a text", ("extends",))
        base = _parent_path(chain[0], parent)
        if base.resolve() in seen:
            loop = " -> ".join(p.name for p in [*seen, base])
            raise chain[0].wrong(f"target files extend each other: {loop}", ("extends",))
        seen.append(base.resolve())
        chain.insert(0, _read(base))
    return chain


def _parent_path(link: TargetFile, parent: str) -> Path:
    known = catalog_names()
    if parent in known:
        return known[parent]
    path = link.path.parent / parent
    if parent.endswith(".toml") and path.is_file():
        return path
    raise link.wrong(f"extends {parent!r}, which is no target", ("extends",), near(parent, known))


def _read(path: Path) -> TargetFile:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise TargetError("a target file is never larger than 1 MB", where=str(path))
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            "there is no such target file",
            where=str(path),
            hint="give an existing .toml file, or a name that `planish targets list` shows",
        ) from None
    except OSError as error:
        raise TargetError(
            f"cannot read the target file: {error.strerror}", where=str(path)
        ) from error
    except UnicodeDecodeError as error:
        raise TargetError("the target file is not text in UTF-8", where=str(path)) from error
    try:
        return TargetFile(path, text, _parsed(text))
    except RecursionError as error:
        raise TargetError("the target file is nested too deeply", where=str(path)) from error
    except ValueError as error:  # TOMLDecodeError, and numbers of too many digits
        line = _LINE_IN_MESSAGE.search(str(error))
        where = f"{path}:{line[1]}" if line else str(path)
        raise TargetError(f"the target file is not TOML: {error}", where=where) from error


@lru_cache(maxsize=64)
def _parsed(text: str) -> Table:
    """Files are extended by many others: each is parsed once. Nobody changes the tables."""
    return tomllib.loads(text)


def _check_table(link: TargetFile, table: Table, cls: type, prefix: tuple[str, ...]) -> None:
    known = {name: hint for name, hint in hints_of(cls).items() if name != _PROBED}
    for name, value in table.items():
        key = (*prefix, name)
        dotted = ".".join(key)
        if name not in known:
            raise link.wrong(f"unknown key {dotted!r}", key, near(name, known))
        if dotted == "sources":
            continue
        if table_class(known[name]) and not isinstance(value, dict):
            raise link.wrong(f"{dotted!r} must be a table", key)
        _check_value(link, key, value, known[name])
        for inner, inner_cls in _tables_in(value, known[name]):
            _check_table(link, inner, inner_cls, key)


def _check_value(link: TargetFile, key: tuple[str, ...], value: Any, hint: Any) -> None:
    dotted = ".".join(key)
    wanted = unsuitable(value, hint)
    if wanted is None and dotted in LIMITS:
        holds, what = LIMITS[dotted]
        wanted = None if holds(value) else what
    if wanted is not None:
        hint = HINTS[dotted]() if dotted in HINTS else ""
        raise link.wrong(f"{dotted!r} is {quoted(value)}, must be {wanted}", key, hint)


def _tables_in(value: Any, hint: Any) -> list[tuple[Table, Any]]:
    """Tables of a field's value, each with its dataclass: none, one, or the rows of a list."""
    if cls := table_class(hint):
        return [(value, cls)]
    return [(row, cls) for row in value] if (cls := row_class(hint)) else []


def _check_names(chain: list[TargetFile]) -> None:
    """No file has the name or alias of a file that it extends, of the catalogue, or of the host."""
    taken = {HOST: "the machine that compiles, which is probed"}
    taken |= {name: str(path) for name, path in catalog_names().items()}
    for link in (link for link in chain if link.path.resolve().parent != CATALOG):
        claims = [("name", link.table.get("name")), *(("aliases", a) for a in link.aliases())]
        for key, name in claims:
            if name in taken:
                what = f"two targets are called {name!r}"
                raise link.wrong(what, (key,), f"choose another name: {taken[name]} has this one")
            if isinstance(name, str):
                taken[name] = str(link.path)


def _check_sources(link: TargetFile) -> None:
    sources = link.table.get("sources", {})
    if not isinstance(sources, dict):
        raise link.wrong("'sources' must be a table", ("sources",))
    paths = _figure_paths()
    for path, text in sources.items():
        key = ("sources", path)
        if path not in paths:
            hint = near(path, paths) + ' (write the path in quotes: "int8.weight_bits" = "…")'
            raise link.wrong(f"a source for {path!r}, which is no field", key, hint)
        if not isinstance(text, str) or not text.strip():
            raise link.wrong(f"the source of {path!r} must be a text", key)


@cache
def _figure_paths() -> frozenset[str]:
    """Paths of what can have a source."""
    paths = _field_paths(Target)
    return frozenset(p for p in paths if p not in NAMING and not p.startswith("measured."))


def _field_paths(cls: Any, prefix: str = "") -> list[str]:
    paths: list[str] = []
    for name, hint in hints_of(cls).items():
        inner = table_class(hint)
        paths += _field_paths(inner, f"{prefix}{name}.") if inner else [prefix + name]
    return paths


def _merge(base: Table, own: Table) -> Table:
    """``own`` over ``base``. A figure that is set anew drops the source of the old one."""
    inherited = {k: v for k, v in base.items() if k not in (*_OWN, "extends")}
    merged = dict(inherited)
    for name, value in own.items():
        both = isinstance(value, dict) and isinstance(inherited.get(name), dict)
        merged[name] = {**inherited[name], **value} if both else value
    replaced = set(_set_paths(own))
    sources = {k: v for k, v in base.get("sources", {}).items() if k not in replaced}
    return {**merged, "sources": {**sources, **own.get("sources", {})}}


def _set_paths(table: Mapping[str, Any]) -> list[str]:
    paths = []
    for name, value in table.items():
        paths += [f"{name}.{key}" for key in value] if isinstance(value, dict) else [name]
    return paths


def _check_complete(link: TargetFile, table: Table, cls: Any, prefix: tuple[str, ...]) -> None:
    hints = hints_of(cls)
    for item in fields(cls):
        key = (*prefix, item.name)
        optional = item.default is not MISSING or item.default_factory is not MISSING
        if item.name not in table and not optional and not table_class(hints[item.name]):
            raise TargetError(
                f"the target file sets no {'.'.join(key)!r}",
                where=str(link.path),
                hint="set it, or extend a target that does: " + ", ".join(catalog_files()),
            )
        if item.name in table or not optional:
            value = table.get(item.name, {})
            for inner, inner_cls in _tables_in(value, hints[item.name]):
                _check_complete(link, inner, inner_cls, key)
