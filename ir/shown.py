"""Names from a model file on a screen or in a page: they may hold anything, and do no harm."""

from __future__ import annotations

import re

LONGEST = 2000
"""Characters of one sentence; what is longer loses its middle."""

_NOT_SHOWN = re.compile(r"[^ -~\n]")


def printable(text: str) -> str:
    """``text`` with what is not to be seen written out: ``\\x1b`` for ESC; line ends stay.

    Terminals act on control characters, and characters of direction turn a line around.
    """
    return _NOT_SHOWN.sub(_written, text)


def inline(text: str) -> str:
    """``printable`` without line ends: a name cannot begin a line of its own."""
    return printable(text).replace("\n", "\\n")


def clipped(text: str, longest: int = LONGEST) -> str:
    """A text that fits on a screen: its middle is left out where it is too long."""
    half = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:half]} … {text[-half:]}"


def json_escaped(text: str) -> str:
    """JSON with what is not to be seen as ``\\u001b``; it still reads as the same document."""
    return _NOT_SHOWN.sub(_as_json, text)


def _written(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def _as_json(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
