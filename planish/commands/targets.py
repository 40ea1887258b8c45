"""``planish targets``: what a model can be compiled for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from ..ir.errors import UsageError
from ..targets.differences import Difference, different_figures, different_techniques
from ..targets.found import found_names
from ..targets.host import executable_here
from ..targets.loader import load_target, target_names
from ..targets.schema import Target
from ..targets.starting import write_starting_file
from ..targets.techniques import Support, compiles, support
from ..terminal import JsonOption, VerboseOption, terminal_of
from .check import check_command, rules_command
from .probe import probe_command

app = typer.Typer(help="Targets: hardware and runtime as data.")
app.command("check")(check_command)
app.command("rules")(rules_command)
app.command("probe")(probe_command)

KINDS = ("host", "class", "machine")
"""In the order of the list."""

TargetArgument = Annotated[
    str, typer.Argument(help="A target's name or alias, or a TOML file.", metavar="TARGET")
]


@app.command("list")
def list_command(
    ctx: typer.Context,
    kind: Annotated[
        Literal["class", "machine", "host"] | None, typer.Option(help="Only those of this kind.")
    ] = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """List the targets: what can be compiled for, and what runs on this machine.

    Those of the project in the working folder and of installed packages too.
    """
    terminal = terminal_of(ctx)
    names = (*target_names(), *found_names())
    known = {target.name: target for target in map(load_target, names)}  # aliases are found, too
    targets = [target for target in known.values() if kind in (None, target.kind)]
    targets.sort(key=lambda target: KINDS.index(target.kind))
    if terminal.json:
        terminal.document({"targets": [summary(target) for target in targets]})
        return
    rows = ((t.name, t.kind, *abilities(t), t.summary) for t in targets)
    terminal.stdout().print(grid(("target", "kind", "compiles", "runs here", "what it is"), rows))


@app.command("show")
def show_command(
    ctx: typer.Context,
    name: TargetArgument,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show every figure of a target with its source, and which techniques it has kernels for."""
    terminal = terminal_of(ctx)
    target = load_target(name)
    if terminal.json:
        matrix = {"techniques": [asdict(row) for row in support(target)]}
        terminal.document(summary(target) | target.to_json() | matrix)
        return
    console = terminal.stdout()
    for line in introduction(target):
        console.print(Text(line))
    rows = ((f.path, shown(f.value), f.source) for f in target.figures())
    console.print(grid(("figure", "value", "source"), rows))
    console.print()
    console.print(grid(("technique", "kernels", "why"), map(technique_row, support(target))))


@app.command("diff")
def diff_command(
    ctx: typer.Context,
    first: TargetArgument,
    second: TargetArgument,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show the figures and the techniques in which two targets differ; -v adds the sources."""
    terminal = terminal_of(ctx)
    one, other = load_target(first), load_target(second)
    figures, techniques = different_figures(one, other), different_techniques(one, other)
    if terminal.json:
        terminal.document(
            {
                "first": one.name, "second": other.name,
                "figures": [asdict(row) for row in figures],
                "techniques": [{"first": asdict(a), "second": asdict(b)} for a, b in techniques],
            }
        )  # fmt: skip
        return
    console = terminal.stdout()
    if not figures:
        console.print(Text(f"{one.name} and {other.name} have the same figures"))
        return
    names = (one.name, other.name)
    console.print(grid(("figure", *names), [r for row in figures for r in sides(row, verbose)]))
    if techniques:
        console.print()
        rows = ((a.technique, a.code or "yes", b.code or "yes") for a, b in techniques)
        console.print(grid(("technique", *names), rows))


@app.command("new")
def new_command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The name of the new target.")],
    extends: Annotated[
        str, typer.Option("--extends", help="The target to start from: a name or a TOML file.")
    ] = "host",
    output: Annotated[
        str, typer.Option("-o", "--output", help="The file to write; default NAME.toml.")
    ] = "",
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write a target file to start from, which extends another target. Nothing is overwritten."""
    terminal = terminal_of(ctx)
    path = write_starting_file(name, extends, output or f"{name}.toml")
    target = load_target(path)
    if terminal.json:
        terminal.document({"file": str(path), "name": target.name, "extends": target.extends})
        return
    console = terminal.stdout()
    console.print(Text(f"{path}: a target that extends {target.extends} and changes nothing yet"))
    console.print(Text(f"edit it, then: planish targets check-file {path}"))


@app.command("check-file")
def check_file_command(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="A target file (TOML).", metavar="FILE")],
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Check a target file: keys, types, limits, names, what it extends."""
    terminal = terminal_of(ctx)
    if not file.endswith(".toml"):
        raise UsageError(f"{file!r} is no target file", hint="target files end in .toml")
    target = load_target(file)
    unsourced = [figure.path for figure in target.figures() if not figure.source]
    if terminal.json:
        terminal.document({"file": file, **summary(target), "without_source": unsourced})
        return
    console = terminal.stdout()
    console.print(Text(f"{file} holds"))
    for line in introduction(target):
        console.print(Text(line))
    if unsourced:
        console.print(Text(f"figures without a source: {', '.join(unsourced)}"))


def summary(target: Target) -> dict[str, Any]:
    """What the list shows of a target, and whether it can be compiled for and runs here."""
    here, backend = executable_here(target), compiles(target)
    return {
        "name": target.name, "summary": target.summary, "kind": target.kind,
        "device": target.device, "aliases": list(target.aliases), "extends": target.extends,
        "resolved": target.resolved, "compiles": backend.supported,
        "executable_here": here.ok, "reason": here.reason,
    }  # fmt: skip


def abilities(target: Target) -> tuple[str, str]:
    """Whether it can be compiled for, and whether what is compiled runs here."""
    return shown(compiles(target).supported), shown(executable_here(target).ok)


def introduction(target: Target) -> list[str]:
    """What a target is, in sentences: names, notes, what can be done with it here."""
    here, backend = executable_here(target), compiles(target)
    lines = [f"{title(target)}: {target.summary}"]
    if target.aliases:
        lines.append(f"also called {', '.join(target.aliases)}")
    lines += [f"note: {note}" for note in target.notes]
    if not backend.supported:
        lines.append(f"cannot be compiled for: {backend.sentence} ({backend.code})")
    lines.append("runs here" if here.ok else f"does not run here: {here.reason}")
    if target.measured is not None:
        lines.append(f"measured on {target.measured.date} with {target.measured.runtime}")
    return lines


def title(target: Target) -> str:
    """The name, and the target that it was made from."""
    if target.resolved:
        return f"{target.name} (found to be {target.resolved})"
    return f"{target.name} (extends {target.extends})" if target.extends else target.name


def technique_row(row: Support) -> tuple[str, str, str]:
    """A technique as a line of the matrix: its name, "yes" or the code of the refusal, why."""
    return row.technique, "yes" if row.supported else f"no: {row.code}", row.sentence


def sides(row: Difference, sources: bool) -> list[tuple[str, str, str]]:
    """A difference as lines of a table: the values, and where they come from if wanted."""
    lines = [(row.path, shown(row.first), shown(row.second))]
    if sources and (row.first_source or row.second_source):
        lines.append(("", row.first_source, row.second_source))
    return lines


def shown(value: Any) -> str:
    """A figure as text."""
    if value is None:
        return "unknown"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) or "none"


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table without lines around it; long cells are folded."""
    table = Table(box=None, pad_edge=False)
    for column in header:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
