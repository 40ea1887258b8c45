"""``planish targets probe``: this machine, measured, as a target file."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..ir.errors import UsageError
from ..ir.storage.atomic import write_together
from ..targets.probe.run import Probed, probe, usable_cores
from ..targets.schema import HOST, LIMITS
from ..targets.tomlfile import catalog_names
from ..terminal import JsonOption, Terminal, VerboseOption, terminal_of


def probe_command(
    ctx: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The target file; default NAME.toml."),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Measure this count only; 0: one, and one a core."),
    ] = 0,
    name: Annotated[str, typer.Option(metavar="NAME", help="The target's name.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure this machine and write a target file, in under three minutes.

    Times small graphs in the runtime: matrix products and convolutions by type and size, what
    passes over memory, overheads. On a busy machine it measures again, and says so.
    """
    terminal = terminal_of(ctx)
    if name and output is None:
        output = Path(f"{name}.toml")
    check(name, output, force)
    found = measured_here(threads, name, terminal)
    path = output or Path(f"{found.name}.toml")
    check(found.name, path, force)
    write(path, found)
    show(path, found, terminal)


def check(name: str, output: Path | None, force: bool) -> None:
    """Refuse before minutes are spent. Raises UsageError."""
    fits, wanted = LIMITS["name"]
    if name and not fits(name):
        raise UsageError(f"{name!r} cannot name a target", where="--name", hint=wanted)
    if name == HOST or name in catalog_names():
        raise UsageError(
            f"there is a target {name!r} already", where="--name", hint="choose another"
        )
    if output is None:
        return
    if output.suffix != ".toml":
        raise UsageError("a target file ends in .toml", where=str(output))
    if not output.parent.is_dir():
        raise UsageError("there is no such folder", where=str(output.parent))
    if output.exists() and not force:
        raise UsageError("the file exists", where=str(output), hint="--force replaces it")


def measured_here(threads: int, name: str, terminal: Terminal) -> Probed:
    """Probe behind a progress bar."""
    counts = [threads] if threads else sorted({1, usable_cores()})
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = terminal.stderr()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("measuring")

        def say(what: str, done: int, of: int) -> None:
            bar.update(task, description=f"measuring {what}", completed=done, total=of)

        return probe(counts, name, say=say)


def write(path: Path, found: Probed) -> None:
    """The whole file, or none."""

    def fill(file: IO[bytes]) -> None:
        file.write(found.text.encode("utf8"))

    try:
        write_together({path: fill})
    except OSError as error:
        raise UsageError(f"cannot write the file: {error.strerror}", where=str(path)) from error


def show(path: Path, found: Probed, terminal: Terminal) -> None:
    """What was measured, and whether to trust it."""
    measured = found.measured
    if terminal.json:
        terminal.document(
            {
                "file": str(path), "name": found.name, "cpu": measured.cpu,
                "runtime": measured.runtime, "threads": [int(row[0]) for row in measured.node],
                "busy": measured.busy, "disagreement": measured.disagreement,
            }
        )  # fmt: skip
        return
    console = terminal.stdout()
    console.print(Text(f"wrote {path}: {found.name}, {measured.cpu}, {measured.runtime}"))
    for threads, a, b in measured.correction:
        count = f"{threads:g} thread{'' if threads == 1 else 's'}"
        console.print(Text(f"{count}: whole models take {a:.3g} us + {b:.3g} x the sum of nodes"))
    if measured.busy:
        console.print(Text(f"the machine was busy: {measured.busy}"))
        console.print(
            Text("disturbed points were measured again; probe once more when it is quiet")
        )
    console.print(Text(f"use it: planish inspect MODEL --target {path} --workload batch=1"))
