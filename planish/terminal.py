"""Where a command writes: its result to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from .compiler.reporting.manifest import dumps, encode_in_order
from .ir.shown import printable

PIPE_WIDTH = 160


@dataclass
class Terminal:
    """What the command was asked for, known as soon as its options are parsed.

    json: one JSON document on stdout instead of text. verbose: notes, and tracebacks.
    """

    json: bool = False
    verbose: bool = False

    def stdout(self) -> Console:
        return _console(stderr=False)

    def stderr(self) -> Console:
        return _console(stderr=True)

    def document(self, document: Mapping[str, Any]) -> None:
        """Print the one JSON document of this command."""
        sys.stdout.write(dumps(encode_in_order(document)))


def terminal_of(ctx: typer.Context) -> Terminal:
    found = ctx.find_root().obj
    assert isinstance(found, Terminal)
    return found


def _remember_json(ctx: typer.Context, value: bool) -> bool:
    terminal_of(ctx).json |= value
    return value


def _remember_verbose(ctx: typer.Context, value: bool) -> bool:
    terminal_of(ctx).verbose |= value
    return value


JsonOption = Annotated[
    bool,
    typer.Option("--json", callback=_remember_json, help="One JSON document instead of text."),
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "-v", "--verbose", callback=_remember_verbose,
        help="Notes while working; the traceback of an internal error.",
    ),
]  # fmt: skip


class SafeConsole(Console):
    """Writes out what a name would make the terminal do; its own colours and bars are its own."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            known = segment.control is None
            yield segment._replace(text=printable(segment.text)) if known else segment

    def on_broken_pipe(self) -> NoReturn:
        """Called while a BrokenPipeError is handled: rich would end the process itself, with 1."""
        raise BrokenPipeError


def _console(*, stderr: bool) -> Console:
    console = SafeConsole(stderr=stderr, highlight=False)
    return (
        console
        if console.is_terminal
        else SafeConsole(stderr=stderr, highlight=False, width=PIPE_WIDTH)
    )
