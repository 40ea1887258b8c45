"""``planish targets``: what a model can be compiled for."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..targets.host import executable_here
from ..targets.loader import load_target, target_names
from ..targets.schema import Target
from ..terminal import JsonOption, VerboseOption, terminal_of

app = typer.Typer(help="Targets: hardware and runtime as data.")


@app.command("list")
def list_command(
    ctx: typer.Context, json: JsonOption = False, verbose: VerboseOption = False
) -> None:
    """List the targets, and whether their artifacts run on this machine."""
    terminal = terminal_of(ctx)
    targets = [load_target(name) for name in target_names()]
    if terminal.json:
        terminal.document({"targets": [summary(target) for target in targets]})
        return
    table = Table(box=None, pad_edge=False)
    for name in ("target", "runs here", "what it is"):
        table.add_column(name)
    for target in targets:
        here = "yes" if executable_here(target).ok else "no"
        table.add_row(Text(target.name), here, Text(target.summary))
    terminal.stdout().print(table)


@app.command("show")
def show_command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A target's name, or a TOML file.", metavar="TARGET")],
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show every figure of a target and where it comes from."""
    terminal = terminal_of(ctx)
    target = load_target(name)
    if terminal.json:
        terminal.document(summary(target) | target.to_json())
        return
    console = terminal.stdout()
    here = executable_here(target)
    console.print(Text(f"{title(target)}: {target.summary}"))
    console.print("runs here" if here.ok else Text(f"does not run here: {here.reason}"))
    table = Table(box=None, pad_edge=False)
    for column in ("figure", "value", "source"):
        table.add_column(column, overflow="fold")
    for figure in target.figures():
        table.add_row(*map(Text, (figure.path, shown(figure.value), figure.source)))
    console.print(table)


def summary(target: Target) -> dict[str, Any]:
    """What the list shows of a target, and whether it runs here."""
    here = executable_here(target)
    return {
        "name": target.name, "summary": target.summary, "kind": target.kind,
        "resolved": target.resolved, "executable_here": here.ok, "reason": here.reason,
    }  # fmt: skip


def title(target: Target) -> str:
    """The name, and the target that it was made from."""
    if target.resolved:
        return f"{target.name} (found to be {target.resolved})"
    return f"{target.name} (extends {target.extends})" if target.extends else target.name


def shown(value: Any) -> str:
    """A figure as text."""
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
