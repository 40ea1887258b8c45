"""How a compile deals with passes that fail, and how long a pass of others may take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..ir.errors import PlanishError, UsageError, near

OnFailure = Literal["stop", "skip"]
CHOICES: tuple[str, ...] = get_args(OnFailure)
TIMEOUT = 300.0
"""Seconds that one call into a pass may take by default, analyses that it asks for left out."""


@dataclass(frozen=True)
class Conduct:
    """on_failure: stop the compile, or skip the pass. timeout: seconds for one call into a pass
    that planish did not write, 0 for any. failed: by stage of a pipeline, what a pass that was
    skipped failed with; it is not tried again."""

    on_failure: OnFailure = "stop"
    timeout: float = TIMEOUT
    failed: dict[str, PlanishError] = field(default_factory=dict)

    @classmethod
    def checked(cls, on_failure: str, timeout: Any) -> Conduct:
        """Raises UsageError for values that do not exist."""
        if on_failure not in CHOICES:
            what = f"on_pass_failure cannot be {on_failure!r}"
            raise UsageError(what, hint=near(on_failure, CHOICES))
        if not isinstance(timeout, (int, float)) or not 0 <= timeout < 1e8:
            what = f"a pass cannot take {timeout!r} seconds at most"
            raise UsageError(what, hint="give seconds, 0 for any time")
        return cls("skip" if on_failure == "skip" else "stop", float(timeout))


_CONDUCT: ContextVar[Conduct | None] = ContextVar("conduct", default=None)


def conduct() -> Conduct:
    """What holds now."""
    found = _CONDUCT.get()
    return Conduct() if found is None else found


@contextmanager
def conducting(wanted: Conduct) -> Iterator[None]:
    """Meanwhile this holds."""
    token = _CONDUCT.set(wanted)
    try:
        yield
    finally:
        _CONDUCT.reset(token)
