"""Errors that a user can act on: what failed, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

from .shown import clipped, printable


class PlanishError(Exception):
    """Root of every error planish raises on purpose.

    what: one sentence, what failed. where: the file, pass, site, node or line it concerns.
    hint: what to do next. ``exit_code`` is the status of the command line.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = _shown(what)
        self.where = _shown(where)
        self.hint = _shown(hint)

    def __str__(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"  where: {_shown(self.where)}")
        if self.hint:
            parts.append(f"  try:   {_shown(self.hint)}")
        return "\n".join(parts)


def _shown(sentence: str) -> str:
    """Fit for a screen: names in it may come from a file that wants to do harm."""
    return printable(clipped(sentence))


class UsageError(PlanishError):
    """A name, an option or a combination of arguments that does not exist."""

    exit_code = 2


class InputError(PlanishError):
    """A model, a calibration set or an evaluation function that cannot be used."""

    exit_code = 3


class VerifyError(PlanishError):
    """A graph that breaks a structural rule; ``violations`` names each rule and place."""

    exit_code = 1

    def __init__(self, violations: Iterable[str], *, where: str = "") -> None:
        self.violations = tuple(violations)
        super().__init__(
            "the graph is not well formed: " + "; ".join(self.violations[:8]), where=where
        )


class PassError(PlanishError):
    """A pass that failed; the model is as it was before the pass."""

    exit_code = 1


class EndlessError(PassError):
    """A pass that would not come to an end."""


class OvertimeError(EndlessError):
    """A pass that took longer than it was given: trying again takes as long."""


class TargetError(PlanishError):
    """The target or its backend cannot do what was asked, or a target file is wrong."""

    exit_code = 4


def near(name: str, known: Iterable[str]) -> str:
    """A hint naming the known names closest to ``name``, else all of them."""
    names = sorted(set(known))
    matches = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if matches:
        return "did you mean " + " or ".join(repr(m) for m in matches) + "?"
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"known names: {shown}" if names else "none are known"
