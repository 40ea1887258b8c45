"""Options of a pass: a frozen dataclass in Python, ``key=value`` pairs as text.

Text keeps three kinds of value apart: none, a string, and a list of strings (``a|b``; ``|`` alone
is the empty list). What a string means is decided by the type of the dataclass's field.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import traceback
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ..ir.errors import UsageError, near

T = TypeVar("T")

Value = str | tuple[str, ...] | None
"""A value as text. A tuple has no or several items: one item is written like a string."""

BARE = re.compile(r"""[^\s\x00-\x1f\x7f{}|,="'\\]+""")
"""What needs no quotes."""
_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_EXAMPLES: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
}


def from_text(options_type: type[T], given: Mapping[str, Value], *, owner: str, where: str) -> T:
    """Build the options from text, strictly typed.

    Field types: bool, int, float, str, ``Literal``, ``tuple[X, ...]`` of these and ``X | None``;
    another one is a TypeError. owner: whose options they are, for messages. Raises UsageError for
    unknown keys (with near names), missing keys, ill-typed values, whatever the dataclass itself
    refuses with a ValueError, and whatever else one that planish did not write raises.
    """
    hints = typing.get_type_hints(options_type)
    known = {f.name: hints[f.name] for f in _fields(options_type) if f.init}
    for key in given:
        if key not in known:
            what = f"{owner} has no option {key!r}"
            raise UsageError(what, where=where, hint=near(key, known))
    values = {key: _converted(key, value, known[key], where) for key, value in given.items()}
    try:
        _check_complete(options_type, values, owner, where)
        return options_type(**values)
    except ValueError as error:
        raise UsageError(f"{owner}: {error}", where=where) from error
    except UsageError:
        raise
    except Exception as error:
        if options_type.__module__.startswith(f"{__package__}."):
            raise
        what = f"the options of {owner} failed with {type(error).__name__}: {error}"
        raise UsageError(
            what, where=_raised_at(error) or where, hint="refuse values with a ValueError"
        ) from error


def unfit(options_type: type[Any]) -> str:
    """Which field of a dataclass no text can be read as, in words; empty where there is none."""
    try:
        hints = typing.get_type_hints(options_type)
    except NameError:  # a type that is written further down
        return ""
    for field in (f for f in _fields(options_type) if f.init):
        if not _is_known(hints[field.name]):
            wanted = hints[field.name]
            shown = wanted.__name__ if type(wanted) is type else str(wanted)
            return f"{field.name!r} of the type {shown}"
    return ""


def to_text(options: object) -> dict[str, Value]:
    """The options that differ from their defaults, in the order of the fields."""
    return {
        field.name: _text(getattr(options, field.name))
        for field in _fields(type(options))
        if field.init and getattr(options, field.name) != _default(field)
    }


def describe(options: object) -> str:
    """``alpha=0.7 sites=a|b``: only what differs from the defaults; parses back to the same."""
    return show_all(to_text(options))


def show_all(values: Mapping[str, Value]) -> str:
    """Pairs as they stand in a pipeline."""
    return " ".join(f"{key}={show(value)}" for key, value in values.items())


def show(value: Value) -> str:
    """A value as text, quoted only where it must be."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if value == "none" else show_item(value)
    if len(value) == 1:
        return show(value[0])
    return "|".join(map(show_item, value)) or "|"


def show_item(text: str) -> str:
    """One string of a list, or a selector."""
    return text if BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _converted(key: str, value: Value, wanted: Any, where: str) -> Any:
    try:
        return convert(value, wanted)
    except ValueError:
        literals = _literals(wanted)
        raise UsageError(
            f"option {key!r} is {show(value)}, it takes {wanted_text(wanted)}",
            where=where,
            hint=near(str(value), literals) if literals else "",
        ) from None


def convert(value: Value, wanted: Any) -> Any:
    """The value as the type ``wanted``; ValueError where the text is not one of that type."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else convert(value, _but_none(arguments))
    if origin is tuple and arguments[1:] == (Ellipsis,):
        items = value if isinstance(value, tuple) else (value,)
        return tuple(convert(item, arguments[0]) for item in items)
    if isinstance(value, tuple):
        raise ValueError(value)
    text = "none" if value is None else value
    if origin is typing.Literal:
        return {_text(choice): choice for choice in arguments}[_member(text, arguments)]
    return _scalar(text, wanted)


def _scalar(text: str, wanted: Any) -> bool | int | float | str:
    if wanted is str:
        return text
    if wanted is bool and text in ("true", "false"):
        return text == "true"
    if wanted is int and _INTEGER.fullmatch(text):
        return int(text)
    if wanted is float and _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    if wanted not in _EXAMPLES:
        raise TypeError(f"an option cannot have the type {wanted}")
    raise ValueError(text)


def _member(text: str, choices: tuple[Any, ...]) -> str:
    if text not in map(_text, choices):
        raise ValueError(text)
    return text


def wanted_text(wanted: Any) -> str:
    """What an option of this type takes, in words."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return f"{wanted_text(_but_none(arguments))}, or none"
    if origin is tuple:
        return f"{wanted_text(arguments[0])}, or several as a|b"
    if origin is typing.Literal:
        return "one of " + ", ".join(str(_text(choice)) for choice in arguments)
    return _EXAMPLES.get(wanted, str(wanted))


def _is_known(wanted: Any) -> bool:
    """Whether ``convert`` knows the type."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        others = [a for a in arguments if a is not type(None)]
        return len(others) == 1 and _is_known(others[0])
    if origin is tuple:
        return arguments[1:] == (Ellipsis,) and _is_known(arguments[0])
    return origin is typing.Literal or any(wanted is known for known in _EXAMPLES)


def _but_none(arguments: tuple[Any, ...]) -> Any:
    others = [a for a in arguments if a is not type(None)]
    if len(others) != 1 or len(others) == len(arguments):
        raise TypeError(f"an option cannot be one of {arguments}: only X | None is known")
    return others[0]


def _literals(wanted: Any) -> list[str]:
    """The choices of a Literal, also inside a list or beside None."""
    if typing.get_origin(wanted) is typing.Literal:
        return [str(_text(choice)) for choice in typing.get_args(wanted)]
    return [text for argument in typing.get_args(wanted) for text in _literals(argument)]


def _text(value: Any) -> Value:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, tuple):
        items = tuple(str(_text(item)) for item in value)
        return items[0] if len(items) == 1 else items
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(float(value)) if isinstance(value, float) else str(value)


def _fields(options_type: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    if not dataclasses.is_dataclass(options_type):
        raise TypeError(f"{options_type.__name__} is not a dataclass")
    return dataclasses.fields(options_type)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _raised_at(error: BaseException) -> str:
    """``file:line`` of the innermost frame that is not ours; dataclasses have none that is."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    mine = [f for f in frames if not f.filename.startswith("<")]
    return f"{mine[-1].filename}:{mine[-1].lineno}" if mine else ""


def _check_complete(
    options_type: type[Any], values: Mapping[str, Any], owner: str, where: str
) -> None:
    for field in _fields(options_type):
        needed = field.init and _default(field) is dataclasses.MISSING
        if needed and field.name not in values:
            raise UsageError(
                f"{owner} needs the option {field.name!r}", where=where, hint=f"add {field.name}=…"
            )
