"""TensorRT's operators as data: which its ONNX parser takes, in which types, since when.

Read from ``operators.toml``, which names its sources.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import onnx_ir as ir

FILE = Path(__file__).resolve().with_name("operators.toml")
DOMAIN = "trt"
"""The domain of operators that only TensorRT has."""

Version: TypeAlias = tuple[int, ...]
Types: TypeAlias = frozenset[ir.DataType]

LATEST: Version = (9999,)


@dataclass(frozen=True)
class Limit:
    """One restriction of an operator: what of it must be how (``operators.toml`` says more).

    until: the version that lifts it, () where none does.
    """

    input: int | None = None
    known: str = ""
    ranks: tuple[int, ...] = ()
    types: Types = frozenset()
    below: int | None = None
    attribute: str = ""
    values: tuple[Any, ...] = ()
    letters: str = ""
    absent: bool = False
    outputs: int | None = None
    opset_below: int | None = None
    by_hand: str = ""
    until: Version = ()


@dataclass(frozen=True)
class Operator:
    """An operator of the table. types: of its data, none where the source gives none.

    since: the first version that has it, () for those of every version. capability: the least
    and the greatest compute capability ("sm100" is 100) that run it, () for all.
    """

    supported: bool = True
    types: Types = frozenset()
    since: Version = ()
    capability: tuple[int, int] | tuple[()] = ()
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True)
class Table:
    """All operators by domain and name. version: of the TensorRT whose table it is."""

    version: str
    opsets: tuple[int, int]
    sources: tuple[str, ...]
    operators: Mapping[tuple[str, str], Operator]


@cache
def table() -> Table:
    """The table that planish ships."""
    with FILE.open("rb") as file:
        return parsed(tomllib.load(file))


def parsed(raw: Mapping[str, Any]) -> Table:
    """The table of a file's content. Raises KeyError, TypeError or ValueError where it is wrong."""
    named = {name: frozenset(map(_type, types)) for name, types in raw["types"].items()}
    limits = _limits(raw["limits"])
    found = {("", name): entry for name, entry in raw["operators"].items()}
    found |= {(DOMAIN, name): entry for name, entry in raw["trt"].items()}
    if strangers := set(limits) - {name for _, name in found}:
        raise KeyError(f"limits of unknown operators: {sorted(strangers)}")
    operators = {
        key: _operator(entry, named, tuple(limits[key[1]])) for key, entry in found.items()
    }
    low, high = raw["opsets"]
    return Table(raw["version"], (low, high), tuple(raw["sources"]), MappingProxyType(operators))


def version(text: str | None) -> Version:
    """``10.15`` as numbers; of None, that there is no newest: ``LATEST``."""
    return LATEST if text is None else tuple(map(int, text.split(".")))


def _operator(
    entry: Mapping[str, Any], named: Mapping[str, Types], limits: tuple[Limit, ...]
) -> Operator:
    given = dict(entry)
    types = given.pop("types", [])
    known = named[types] if isinstance(types, str) else frozenset(map(_type, types))
    since = version(given.pop("since")) if "since" in given else ()
    bounds = given.pop("capability", [])
    capability = (bounds[0], bounds[-1] if len(bounds) > 1 else LATEST[0]) if bounds else ()
    return Operator(types=known, since=since, capability=capability, limits=limits, **given)


def _limits(raw: list[dict[str, Any]]) -> defaultdict[str, list[Limit]]:
    found: defaultdict[str, list[Limit]] = defaultdict(list)
    for entry in raw:
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()
        }
        names = given.pop("operators")
        if "types" in given:
            given["types"] = frozenset(map(_type, given["types"]))
        if "until" in given:
            given["until"] = version(given["until"])
        for name in names:
            found[name].append(Limit(**given))
    return found


def _type(name: str) -> ir.DataType:
    return ir.DataType[name.upper()]
