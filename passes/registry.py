"""Which passes there are: our own, those that were imported, those of files in use.

A pass is known for the process once its module is imported. One of a file that was given for a
compile is known only while that file is in use (``borrowing``), so that two compiles in one
process may use two files. What installed distributions offer is imported when it is asked for by
name.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..ir.entrypoints import PASSES, Offer, offers
from ..ir.errors import UsageError, near

if TYPE_CHECKING:
    from .api import Pass

Passes = Mapping[str, "type[Pass]"]

_REGISTRY: dict[str, type[Pass]] = {}
_BORROWED: ContextVar[Passes] = ContextVar("borrowed", default=MappingProxyType({}))
_COLLECTING: ContextVar[tuple[Path, dict[str, type[Pass]]] | None] = ContextVar(
    "collecting", default=None
)


def register(cls: type[Pass]) -> type[Pass]:
    """Class decorator: make a pass known by its name; a clash is an error naming both."""
    return enter(cls, _line_of(sys._getframe(1)))


def enter(cls: type[Pass], place: str) -> type[Pass]:
    """As ``register``, for a pass that is written at ``place`` (``file:line``)."""
    if not _named(cls):
        raise UsageError(
            f"the pass {cls.__name__} has no name, or one that a pipeline cannot spell",
            where=place,
            hint="give it one: name = 'my-pass' (letters, digits, - and _)",
        )
    _check_made(cls, place)
    cls.place = place
    collecting = _COLLECTING.get()
    if collecting is not None and _is_below(collecting[0], place):
        _add(collecting[1], cls, again=False)
    else:
        _add(_REGISTRY, cls, again=True)
    return cls


def own() -> dict[str, type[Pass]]:
    """Planish's own passes by name, sorted; every module of this package is looked into."""
    _import_own()
    return dict(sorted((n, c) for n, c in _REGISTRY.items() if is_own(c)))


def registered() -> dict[str, type[Pass]]:
    """All known passes by name, sorted: our own, imported ones, and those that are in use."""
    _import_own()
    return dict(sorted({**_REGISTRY, **_BORROWED.get()}.items()))


def offered() -> dict[str, Offer]:
    """What installed distributions offer and nobody has asked for yet, by name."""
    return {n: o for n, o in offers(PASSES, taken=own()).items() if n not in registered()}


def available() -> dict[str, type[Pass]]:
    """As ``registered``, with all that installed distributions offer; imports them."""
    found = {name: _taken(offer) for name, offer in offered().items()}
    return dict(sorted({**registered(), **found}.items()))


def pass_class(name: str) -> type[Pass]:
    """The pass of that name. Raises UsageError with the nearest names."""
    known = registered()
    if name in known:
        return known[name]
    others = offered()
    if name in others:
        return _taken(others[name])
    hint = near(name, [*known, *others])
    hint += f"{'' if hint.endswith('?') else '.'} A pass of your own needs --pass-file FILE."
    raise UsageError(f"there is no pass {name!r}", hint=hint)


def is_own(cls: type[Pass]) -> bool:
    """Whether planish wrote the pass."""
    return cls.__module__.startswith(f"{__package__}.")


def place_of(cls: type[Pass]) -> str:
    """``file:line`` where the pass is written; the module where that is not known."""
    return cls.place or cls.__module__


@contextmanager
def collecting(folder: Path) -> Iterator[dict[str, type[Pass]]]:
    """Passes that are registered meanwhile by files below ``folder``, which stay unknown."""
    found: dict[str, type[Pass]] = {}
    token = _COLLECTING.set((folder, found))
    try:
        yield found
    finally:
        _COLLECTING.reset(token)


@contextmanager
def borrowing(passes: Iterable[type[Pass]]) -> Iterator[None]:
    """These passes are known, too, meanwhile. Raises UsageError where a name is taken."""
    _import_own()
    found = dict(_BORROWED.get())
    for cls in passes:
        known = _REGISTRY.get(cls.name)
        if known is not None and known is not cls and not _same_file(known, cls):
            raise _clash(known, cls)
        _add(found, cls, again=False)
    token = _BORROWED.set(found)
    try:
        yield
    finally:
        _BORROWED.reset(token)


def _add(known: dict[str, type[Pass]], cls: type[Pass], *, again: bool) -> None:
    """again: a module that is run once more, as in a notebook, replaces what it defined."""
    other = known.get(cls.name)
    known_again = again and other is not None and other.__module__ == cls.__module__
    if other is not None and other is not cls and not known_again:
        raise _clash(other, cls)
    known[cls.name] = cls


def _same_file(one: type[Pass], other: type[Pass]) -> bool:
    """Whether one is the other, of a file that was imported, too."""
    files = [Path(cls.place.rpartition(":")[0]).resolve() for cls in (one, other)]
    return bool(one.place and other.place) and files[0] == files[1]


def _clash(one: type[Pass], other: type[Pass]) -> UsageError:
    whose = "planish's own" if is_own(one) else f"{one.__name__} at {place_of(one)}"
    return UsageError(
        f"two passes are called {one.name!r}: {whose}, and {other.__name__} at {place_of(other)}",
        where=f"{place_of(one)} and {place_of(other)}",
        hint="rename one of them",
    )


def _taken(offer: Offer) -> type[Pass]:
    """The pass that an installed distribution offers; known by its name from now on."""
    found: Any = offer.load()
    name = getattr(found, "name", None)
    made: type[Pass] = found
    if not inspect.isclass(found) or not hasattr(found, "candidates") or not _named(found):
        said = f"it is a {type(found).__name__}, not a pass"
    elif name != offer.name:
        said = f"the pass there is called {name!r}"
    else:
        if not made.place:
            made.place = offer.place
        _REGISTRY.setdefault(offer.name, made)
        return _REGISTRY[offer.name]
    raise UsageError(
        f"{offer.distribution} offers a pass {offer.name!r}, but {said}",
        where=f"entry point {offer.place} of the group {offer.group}",
        hint=f"mend or uninstall {offer.distribution}",
    )


def _check_made(cls: Any, place: str) -> None:
    """Raise UsageError for a class that lacks what every pass has."""
    from .api import Pass, Semantics
    from .options import unfit

    if not (inspect.isclass(cls) and issubclass(cls, Pass)):
        what, hint = "is no pass", "derive it from Pass"
    elif not isinstance(getattr(cls, "semantics", None), Semantics):
        what, hint = "promises nothing", "say semantics = Semantics.EXACT, REASSOCIATES or LOSSY"
    elif not dataclasses.is_dataclass(cls.Options):
        what, hint = "has Options that are no dataclass", "write @dataclass(frozen=True) above them"
    elif field := unfit(cls.Options):
        what = f"has the option {field}, which a pipeline cannot spell"
        hint = "bool, int, float, str, Literal, tuple[X, ...] of these, and X | None can be spelled"
    elif missing := [h for h in ("candidates", "lower") if getattr(cls, h) is getattr(Pass, h)]:
        what, hint = f"has no {missing[0]}()", "planish new pass NAME --kind lossy shows one"
    else:
        return
    raise UsageError(f"{cls.__name__} {what}", where=place, hint=hint)


def _import_own() -> None:
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            importlib.import_module(f"{__package__}.{module.name}")


def _named(cls: Any) -> bool:
    name = getattr(cls, "name", None)
    return isinstance(name, str) and name[:1].isalpha() and set(name) <= _LETTERS


_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def _line_of(frame: Any) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _is_below(folder: Path, place: str) -> bool:
    return Path(place.rpartition(":")[0]).is_relative_to(folder)
