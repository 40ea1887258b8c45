"""``planish doctor``: why a model is not faster, smaller or right."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..compiler.doctor.diagnosis import Diagnosis
from ..compiler.doctor.examine import examine
from ..compiler.progress import progress_on
from ..compiler.reporting.doctortext import lines
from ..terminal import JsonOption, VerboseOption, terminal_of

_COLOURS = {
    "title": "bold", "error": "bold red", "slow": "yellow", "note": "cyan", "good": "bold green",
    "quiet": "dim",
}  # fmt: skip


def doctor_command(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An ONNX file, or an artifact's folder.")
    ],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            "-t",
            metavar="TARGET",
            help="A target's name, or a TOML file; default: the artifact's, else host.",
        ),
    ] = "",
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="What to profile it on: an .npz (arrays named as the inputs, samples on axis 0), "
            "a folder of them (one feed each), or file.py:function; default: generated numbers.",
        ),
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXES", help="Sizes of symbolic axes of generated feeds: batch=1,seq=128."
        ),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=4096, help="Threads of the runtime; 0: one per core."),
    ] = 0,
    fix: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.ONNX",
            help="Write a copy in which is mended what can be in the file itself, and measure it.",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Name all nodes and operators.")] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Say why an ONNX model is not faster, smaller or right, and what to do about it.

    Runs it in the target's runtime with default options and the profiler on, reads what was
    executed, and checks the file against the target's rules. Causes come in order: what is wrong,
    then what is slow by its milliseconds, then notes. A target that is not this machine gets its
    rules and predicted times. The file stays as it is. Exit code 10 where there are errors or slow
    layers, 0 where there are none or only notes.
    """
    terminal = terminal_of(ctx)
    with progress_on(terminal.stderr(), live=sys.stderr.isatty(), verbose=verbose) as progress:
        found = examine(
            model, target or None, calibration=calibration, workload=workload, threads=threads,
            fix=fix, progress=progress,
        )  # fmt: skip
    if terminal.json:
        terminal.document(found.to_json())
    else:
        show(found, terminal.stdout(), every=every)
    return found.exit_code


def show(found: Diagnosis, console: Console, *, every: bool = False) -> None:
    """Write the lines, coloured where the console is a terminal."""
    for line in lines(found, every=every):
        console.print(Text(line.text, style=_COLOURS.get(line.style, "")), soft_wrap=True)
