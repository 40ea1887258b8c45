"""A pipeline as one line of text that parses and prints back.

::

    pipeline = step { "," step }
    step     = name [ "@" selector { "|" selector } ] [ "{" [ option { " " option } ] "}" ]
    option   = key "=" ( "|" | value { "|" value } )

A value or selector with a space or any of ``{ } | , = " ' \\`` in it stands in double quotes and
is escaped as in JSON. ``none`` without quotes is no value, ``|`` alone an empty list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

from ..ir.errors import UsageError
from ..passes.options import BARE, Value, describe, from_text, show_all, show_item, to_text

__all__ = ["Pipeline", "Step", "describe", "parse", "resolve", "step_for"]

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPACE = re.compile(r"\s*")
_SHOWN = 60
"""Characters shown on either side of an error."""


@dataclass(frozen=True)
class Step:
    """One pass with its options as text; ``selector``: the sites it may touch (none: all)."""

    name: str
    selector: tuple[str, ...] = ()
    options: Mapping[str, Value] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        at = "@" + "|".join(map(show_item, self.selector)) if self.selector else ""
        return self.name + at + (f"{{{show_all(self.options)}}}" if self.options else "")


class Pipeline(tuple[Step, ...]):
    """Steps in order; ``str`` gives the text that parses to it."""

    __slots__ = ()

    def __str__(self) -> str:
        return ",".join(map(str, self))


def parse(text: str) -> Pipeline:
    """The pipeline that the text describes. Raises UsageError that points at the place."""
    scanner = _Scanner(text)
    steps = [_step(scanner)]
    while scanner.accept(","):
        steps.append(_step(scanner))
    if not scanner.at_end():
        scanner.fail("expected a comma or the end", "steps are separated by commas")
    return Pipeline(steps)


def resolve(step: Step, options_type: type[T]) -> T:
    """The step's options as the pass's dataclass.

    Raises UsageError for unknown keys (with near names) and ill-typed values.
    """
    return from_text(options_type, step.options, owner=step.name, where=f"pipeline step {step}")


def step_for(name: str, options: object, selector: tuple[str, ...] = ()) -> Step:
    """The step that resolves to ``options``; what is default stays unsaid."""
    return Step(name, selector, to_text(options))


class _Scanner:
    """A place in a text. Spaces between tokens do not count."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.skip_space()

    def skip_space(self) -> bool:
        """Whether there was any."""
        before = self.place
        found = _SPACE.match(self.text, self.place)
        self.place = found.end() if found else before
        return self.place > before

    def at_end(self) -> bool:
        return self.place == len(self.text)

    def sees(self, character: str) -> bool:
        return self.text.startswith(character, self.place)

    def accept(self, character: str) -> bool:
        """Step over the character and the spaces after it, if it stands here."""
        if not self.sees(character):
            return False
        self.place += len(character)
        self.skip_space()
        return True

    def take(self, pattern: re.Pattern[str], what: str, hint: str) -> str:
        """Step over what the pattern matches; an error where it does not."""
        found = pattern.match(self.text, self.place)
        if found is None:
            self.fail(f"expected {what}", hint)
        self.place = found.end()
        return found.group()

    def quoted(self) -> str:
        """Step over a string in double quotes."""
        try:
            value, self.place = json.JSONDecoder().raw_decode(self.text, self.place)
        except json.JSONDecodeError as error:
            closing = "Unterminated" in error.msg
            self.fail("the quotes are not closed" if closing else error.msg, "escape as in JSON")
        return str(value)

    def fail(self, what: str, hint: str, place: int | None = None) -> NoReturn:
        """Raise UsageError with a caret under the place."""
        at = self.place if place is None else place
        start = max(0, at - _SHOWN)
        line = re.sub(r"\s", " ", self.text[start : at + _SHOWN])
        found = "the end" if at >= len(self.text) else repr(self.text[at])
        caret = " " * (at - start) + "^"
        where = f"column {at + 1} of the pipeline, at {found}\n    {line}\n    {caret}"
        raise UsageError(what, where=where, hint=hint)


def _step(scanner: _Scanner) -> Step:
    name = scanner.take(_NAME, "the name of a pass", "a pipeline reads name{key=value},name,…")
    selector = tuple(_items(scanner, _selector)) if scanner.accept("@") else ()
    scanner.skip_space()
    options = _options(scanner) if scanner.accept("{") else {}
    scanner.skip_space()
    return Step(name, selector, options)


def _options(scanner: _Scanner) -> dict[str, Value]:
    options: dict[str, Value] = {}
    start = scanner.place - 1
    while not scanner.accept("}"):
        if scanner.at_end():
            scanner.fail("the brace is not closed", "add }", start)
        place = scanner.place
        key = scanner.take(_KEY, "an option's name", "options are key=value, separated by spaces")
        scanner.skip_space()
        if key in options:
            scanner.fail(f"the option {key!r} stands here twice", "leave one of them out", place)
        if not scanner.accept("="):
            scanner.fail(f"expected = after {key!r}", "options are key=value")
        options[key] = _value(scanner)
        if not scanner.skip_space() and not scanner.sees("}") and not scanner.at_end():
            scanner.fail(
                "expected a space or }",
                "options are separated by spaces, several values by |, others are quoted",
            )
    return options


def _value(scanner: _Scanner) -> Value:
    if scanner.sees("|"):
        scanner.place += 1
        return ()
    bare = not scanner.sees('"')
    items = _items(scanner, _item)
    if len(items) > 1:
        return tuple(items)
    return None if bare and items[0] == "none" else items[0]


def _items(scanner: _Scanner, one: Callable[[_Scanner], str]) -> list[str]:
    items = [one(scanner)]
    while scanner.sees("|"):
        scanner.place += 1
        items.append(one(scanner))
    return items


def _item(scanner: _Scanner) -> str:
    if scanner.sees('"'):
        return scanner.quoted()
    return scanner.take(BARE, "a value", 'put it in double quotes: key="a value"')


def _selector(scanner: _Scanner) -> str:
    if scanner.sees('"'):
        return scanner.quoted()
    return scanner.take(BARE, "a site or a pattern", "write name@encoder.layer.0 or name@encoder.*")
