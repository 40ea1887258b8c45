"""A line of a shown difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .headline import size

Style = Literal["title", "old", "new", "changed", "quiet", "plain"]
LONGEST = 160
"""Characters of one line on a screen."""


@dataclass(frozen=True)
class Line:
    """One line. style: what it is, for who colours it."""

    text: str
    style: Style = "plain"


def signed_size(count: int) -> str:
    """``+1.2 kB``, ``-3.4 MB``; "" for nothing."""
    return f"{'+' if count > 0 else ''}{size(count)}" if count else ""
