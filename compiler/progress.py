"""Progress of a compile: what the driver reports, and two ways of showing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars


class Progress(Protocol):
    """What long work calls. A phase lasts until the next one begins."""

    def phase(self, name: str, total: int | None = None) -> None:
        """Begin a phase of ``total`` steps; None where their number is not known."""
        ...

    def advance(self) -> None:
        """One step of the present phase is done."""
        ...

    def note(self, text: str) -> None:
        """Something that the user may want to know and that lasts."""
        ...


class Silent(Progress):
    """Shows nothing; for scripts and pipes."""

    def phase(self, name: str, total: int | None = None) -> None:
        pass

    def advance(self) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Notes(Silent):
    """Phases and notes as plain lines: what ``-v`` shows where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def phase(self, name: str, total: int | None = None) -> None:
        steps = "" if total is None else f" ({total})"
        self._line(f"{name}{steps} …")

    def note(self, text: str) -> None:
        self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Live(Progress):
    """A bar with the elapsed time for the present phase, notes above it. A context manager."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[steps]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._open = ExitStack()

    def __enter__(self) -> Live:
        self._open.enter_context(self._bars)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def phase(self, name: str, total: int | None = None) -> None:
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        self._bars.add_task(name, total=total, steps=_steps(0, total))

    def advance(self) -> None:
        for task in self._bars.tasks:
            done = int(task.completed) + 1
            total = None if task.total is None else int(task.total)
            self._bars.update(task.id, completed=done, steps=_steps(done, total))

    def note(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)


def _steps(done: int, total: int | None) -> str:
    return "" if total is None else f"{done}/{total}"


@contextmanager
def progress_on(console: Console, *, live: bool, verbose: bool = False) -> Iterator[Progress]:
    """Bars where they are wanted and the console is a terminal; else lines, or nothing.

    live: progress is wanted. verbose: notes are wanted even where progress is not.
    """
    if live and console.is_terminal:
        with Live(console) as bars:
            yield bars
    elif live or verbose:
        yield Notes(console)
    else:
        yield Silent()
