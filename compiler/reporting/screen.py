"""A result on one screen of a terminal, or as plain text in a pipe."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...ir.shown import inline
from ..result import CompileResult
from . import summary
from .artifact import REPORT
from .headline import headline
from .html.writing import PAGE

# So that everything fits 40 lines; the report has all of it.
MOST_ROWS = 9
MOST_GROUPS = 6
MOST_SETTINGS = 2

_GOOD = frozenset({"faster", "within-budget"})
_BAD = frozenset({"slower", "over-budget"})


def screen(result: CompileResult, console: Console, folder: Path | None = None) -> None:
    """Print the verdict, the table, what was done, what was not and why, where the report is."""
    console.print(Text(headline(result), style=f"bold {colour(result)}"), soft_wrap=True)
    console.print()
    console.print(table(summary.rows(result), plain=not console.is_terminal))
    section(console, "done", done_lines(result) or ["nothing"])
    section(console, "left alone", [left_sentence(group) for group in summary.left(result)])
    section(console, "in float", float_lines(result))
    section(console, "note", [*result.kernels.surprises, *summary.notes(result)])
    if folder is not None:
        console.print()
        if (folder / PAGE).is_file():
            section(console, "page", [str(folder / PAGE)])
        section(console, "report", [str(folder / REPORT)])


def colour(result: CompileResult) -> str:
    """Red where a verdict is a failure, green where both are good, else yellow."""
    verdicts = {result.speed.verdict, result.quality.verdict}
    if verdicts & _BAD:
        return "red"
    return "green" if verdicts <= _GOOD else "yellow"


def table(rows: list[summary.Row], *, plain: bool) -> Table:
    """Before, after, ratio; the rows that do not fit are counted in the last one."""
    grid = Table(box=box.ASCII if plain else box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "before", "after", "change"):
        grid.add_column(Text(name), justify="left" if name in ("", "change") else "right")
    for row in rows[:MOST_ROWS]:
        grid.add_row(*map(Text, (inline(row.name), row.before, row.after, row.change)))
    if len(rows) > MOST_ROWS:
        grid.add_row(Text(f"{len(rows) - MOST_ROWS} more rows in the report"), "", "", "")
    return grid


def section(console: Console, label: str, lines: Iterable[str]) -> None:
    """Lines behind a label; what does not fit is counted."""
    known = list(lines)
    shown = known[:MOST_GROUPS]
    if len(known) > MOST_GROUPS:
        shown.append(f"{len(known) - MOST_GROUPS} more in the report")
    for number, line in enumerate(shown):
        words = Text.assemble((f"{'' if number else label:<11}", "bold"), " ".join(line.split()))
        console.print(words, soft_wrap=True)


def done_lines(result: CompileResult) -> list[str]:
    """One line a pass and setting; one line a pass where it used more settings than two."""
    lines: list[str] = []
    for name, found in itertools.groupby(summary.done(result), lambda group: group.pass_name):
        groups = list(found)
        if len(groups) > MOST_SETTINGS:
            edits = tuple(edit for group in groups for edit in group.edits)
            groups = [summary.Done(name, f"with {len(groups)} settings", edits)]
        lines.extend(group.sentence for group in groups)
    return lines


def left_sentence(group: summary.Left) -> str:
    """``12 x too-small (quantize): …; site, site and 10 more``."""
    reason = group.sentences[0].rstrip(".")
    others = len(group.sentences) - 1
    more = f" (and {others} other reasons)" if others else ""
    places = f"; {summary.some(group.sites)}" if any(group.sites) else ""
    return f"{len(group.remarks)} x {group.code} ({group.pass_name}): {reason}{more}{places}"


def float_lines(result: CompileResult) -> list[str]:
    """Sites that run in float kernels, grouped by reason."""
    groups: dict[str, list[str]] = {}
    for site in summary.float_kernels(result):
        groups.setdefault(site.reason or site.kernel, []).append(site.site)
    return [
        f"{len(sites)} x {reason.rstrip('.')}; {summary.some(sites)}"
        for reason, sites in groups.items()
    ]
