"""TOML values against the types of dataclass fields: does one fit, and what is it in Python.

Types: text, whole number, number, truth, Literal, dataclass (a table), tuples of these (lists),
each also with ``| None`` for what may be left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_ONE = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
_MANY = {str: "texts", int: "whole numbers", float: "numbers", bool: "truths"}
_LONGEST = 60


@cache
def hints_of(cls: Any) -> dict[str, Any]:
    """Types of a dataclass's fields by name."""
    return get_type_hints(cls)


def bare(hint: Any) -> Any:
    """The type without ``| None``."""
    if get_origin(hint) in (UnionType, Union):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    return hint


def table_class(hint: Any) -> Any:
    """The dataclass that a table of that type becomes, or None where it is no table."""
    return bare(hint) if is_dataclass(bare(hint)) else None


def row_class(hint: Any) -> Any:
    """The dataclass of the rows where the type is a list of tables, else None."""
    hint = bare(hint)
    return table_class(get_args(hint)[0]) if get_origin(hint) is tuple else None


def unsuitable(value: Any, hint: Any) -> str | None:
    """What ``value`` must be, where it does not fit the type; else None. Rows are not entered."""
    hint = bare(hint)
    if get_origin(hint) is Literal:
        fits = any(type(value) is type(known) and value == known for known in get_args(hint))
    elif get_origin(hint) is tuple:
        fits = isinstance(value, list) and all(_items_fit(value, hint))
    elif is_dataclass(hint):
        fits = isinstance(value, dict)
    elif hint is float:
        fits = type(value) in (int, float) and _finite(value)
    else:
        fits = type(value) is hint
    return None if fits else _wanted(hint)


def convert(value: Any, hint: Any) -> Any:
    """A fitting value as the field holds it: dataclasses, tuples, floats."""
    hint = bare(hint)
    if is_dataclass(hint):
        return build(hint, value)
    if get_origin(hint) is tuple:
        return tuple(convert(v, h) for v, h in zip(value, _item_types(value, hint), strict=True))
    return float(value) if hint is float else value


def build(cls: Any, table: dict[str, Any]) -> Any:
    """The dataclass of a table that was checked."""
    hints = hints_of(cls)
    return cls(**{name: convert(value, hints[name]) for name, value in table.items()})


def quoted(value: Any) -> str:
    """A value for a message, on one line."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python prints
        return "a number of too many digits"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _item_types(value: list[Any], hint: Any) -> list[Any]:
    types = get_args(hint)
    return [types[0]] * len(value) if types[-1] is Ellipsis else list(types)


def _items_fit(value: list[Any], hint: Any) -> Iterator[bool]:
    types = _item_types(value, hint)
    yield len(types) == len(value)
    for item, item_type in zip(value, types, strict=False):
        yield unsuitable(item, item_type) is None


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _wanted(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(repr(known) for known in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a list of {_plural(hint)}"
    return "a table" if is_dataclass(hint) else _ONE[hint]


def _plural(hint: Any) -> str:
    types = get_args(hint)
    if len(types) == 1 or types[-1] is not Ellipsis:
        return f"{len(types)} values"
    item = bare(types[0])
    if get_origin(item) is tuple:
        return f"lists of {_plural(item)}"
    return "tables" if is_dataclass(item) else _MANY.get(item) or _wanted(item)
