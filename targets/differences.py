"""What differs between two targets: figures, and with them the techniques that have kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .schema import Figure, Target
from .techniques import Support, support


@dataclass(frozen=True)
class Difference:
    """A figure of two targets that is not the same; None where a target does not know it."""

    path: str
    first: Any
    second: Any
    first_source: str = ""
    second_source: str = ""


def different_figures(first: Target, second: Target) -> tuple[Difference, ...]:
    """Figures that differ in value, in the order of the fields; sources do not count."""
    ours, theirs = _by_path(first), _by_path(second)
    rows = [_difference(path, ours, theirs) for path in _in_order(ours, theirs)]
    rows.append(Difference("measured", _measured(first), _measured(second)))
    return tuple(row for row in rows if row.first != row.second)


def different_techniques(first: Target, second: Target) -> tuple[tuple[Support, Support], ...]:
    """Techniques that one target supports and the other refuses, or refuses for another reason."""
    pairs = zip(support(first), support(second), strict=True)
    return tuple((a, b) for a, b in pairs if a.code != b.code)


def _by_path(target: Target) -> dict[str, Figure]:
    return {figure.path: figure for figure in target.figures()}


def _in_order(ours: dict[str, Figure], theirs: dict[str, Figure]) -> list[str]:
    """All paths: those of the first as they stand, each of the second behind its table."""
    paths = list(ours)
    for path in theirs:
        if path not in ours:
            table = path.partition(".")[0]
            same = [i for i, known in enumerate(paths) if known.partition(".")[0] == table]
            paths.insert(same[-1] + 1 if same else len(paths), path)
    return paths


def _difference(path: str, ours: dict[str, Figure], theirs: dict[str, Figure]) -> Difference:
    unknown = Figure(path, None, "")
    first, second = ours.get(path, unknown), theirs.get(path, unknown)
    return Difference(path, first.value, second.value, first.source, second.source)


def _measured(target: Target) -> str | None:
    found = target.measured
    return None if found is None else f"{found.date}, {found.cpu}, {found.runtime}"
