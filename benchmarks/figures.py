"""What a benchmark found: a table to read, and figures held against a bar."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One figure. met: whether it reaches ``bar``; None where it could not be taken.

    note: what a reader should know beside it, such as an interval, or why there is no figure.
    command: what takes this figure again.
    """

    name: str
    value: str
    bar: str
    met: bool | None
    note: str = ""
    command: str = ""

    @property
    def word(self) -> str:
        """``pass``, ``miss`` or ``skip``."""
        return "skip" if self.met is None else "pass" if self.met else "miss"


@dataclass(frozen=True)
class Outcome:
    """The result of one benchmark: a table of text cells, and its figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()

    def with_command(self, command: str) -> Outcome:
        """The same with ``command`` written to every figure that names none."""
        figures = (f if f.command else replace(f, command=command) for f in self.figures)
        return replace(self, figures=tuple(figures))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: rows as objects by column."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        figures = [asdict(f) | {"result": f.word} for f in self.figures]
        return {"title": self.title, "rows": rows, "figures": figures, "notes": list(self.notes)}


def at_most(name: str, value: float, bound: float, unit: str = "", note: str = "") -> Figure:
    """A figure that passes at or below ``bound``; NaN misses."""
    return Figure(
        name, quantity(value, unit), f"≤ {quantity(bound, unit)}", bool(value <= bound), note
    )


def at_least(name: str, value: float, bound: float, unit: str = "", note: str = "") -> Figure:
    """A figure that passes at or above ``bound``; NaN misses."""
    return Figure(
        name, quantity(value, unit), f"≥ {quantity(bound, unit)}", bool(value >= bound), note
    )


def above(name: str, value: float, bound: float, unit: str = "", note: str = "") -> Figure:
    """A figure that passes above ``bound`` only; NaN misses."""
    return Figure(
        name, quantity(value, unit), f"> {quantity(bound, unit)}", bool(value > bound), note
    )


def holds(name: str, condition: bool, value: str, bar: str, note: str = "") -> Figure:
    """A statement that is true or not; ``value`` says what was found."""
    return Figure(name, value, bar, condition, note)


def skipped(name: str, bar: str, why: str) -> Figure:
    """A figure that could not be taken here."""
    return Figure(name, "–", bar, None, why)


def quantity(value: float, unit: str = "") -> str:
    """A number to four significant digits with its unit: ``2.71x``, ``23.4 MB``."""
    text = f"{value:.4g}"
    return text + unit if unit in ("", "x", "%") else f"{text} {unit}"


def interval(low: float, high: float) -> str:
    """``95 % from 2.66 to 2.75``."""
    return f"95 % from {low:.4g} to {high:.4g}"


def show(outcome: Outcome, console: Console) -> None:
    """Print one benchmark's table and notes."""
    console.print(f"\n{outcome.title}", markup=False, highlight=False, style="bold")
    table = Table()
    for index, column in enumerate(outcome.columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in outcome.rows:
        table.add_row(*row)
    console.print(table)
    for note in outcome.notes:
        console.print(f"  {note}", markup=False, highlight=False)


def summarise(figures: Sequence[Figure], console: Console) -> None:
    """Print one line a figure, with the command that takes it again, and the counts."""
    for figure in figures:
        note = f" ({figure.note})" if figure.note else ""
        bar = f" [{figure.bar}]" if figure.bar else ""
        line = f"{figure.word}  {figure.name}: {figure.value}{bar}{note}  $ {figure.command}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(counts(figures), markup=False, highlight=False)


def counts(figures: Iterable[Figure]) -> str:
    """``11 pass, 1 miss, 0 skip``."""
    words = [figure.word for figure in figures]
    return ", ".join(f"{words.count(word)} {word}" for word in ("pass", "miss", "skip"))
