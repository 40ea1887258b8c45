"""``planish passes``: what can be done to a model, from the passes' own documentation."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..passes.api import Pass, pass_class, registered
from ..passes.options import wanted_text
from ..terminal import JsonOption, VerboseOption, terminal_of

app = typer.Typer(help="Passes: the rewrites that a pipeline is made of.")


@app.command("list")
def list_command(
    ctx: typer.Context, json: JsonOption = False, verbose: VerboseOption = False
) -> None:
    """List the passes, and what each promises about what the model computes."""
    terminal = terminal_of(ctx)
    found = discovered().values()
    if terminal.json:
        terminal.document({"passes": [summary(cls) for cls in found]})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("pass", "promise", "what it does"):
        table.add_column(column)
    for cls in found:
        table.add_row(Text(cls.name), cls.semantics.value, Text(first_sentence(cls)))
    terminal.stdout().print(table)


@app.command("show")
def show_command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A pass's name.", metavar="PASS")],
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show a pass: what it does, when it applies, what it costs, its options."""
    terminal = terminal_of(ctx)
    discovered()
    cls = pass_class(name)
    if terminal.json:
        terminal.document(described(cls))
        return
    console = terminal.stdout()
    console.print(Text(f"{cls.name} ({cls.semantics.value})\n\n{inspect.getdoc(cls) or ''}\n"))
    for label, facts in facts_of(cls).items():
        if facts:
            console.print(Text(f"{label}: {', '.join(facts)}"))
    console.print(Text(f"\nOptions. {inspect.getdoc(cls.Options) or ''}\n"))
    for option in options_of(cls):
        console.print(Text(f"  {option['name']}={option['default']}  ({option['takes']})"))


def discovered() -> dict[str, type[Pass]]:
    """All passes by name; importing the package is what registers ours."""
    importlib.import_module("..passes", __package__)
    return registered()


def summary(cls: type[Pass]) -> dict[str, Any]:
    return {"name": cls.name, "semantics": cls.semantics.value, "summary": first_sentence(cls)}


def described(cls: type[Pass]) -> dict[str, Any]:
    more = {"documentation": inspect.getdoc(cls) or "", "options": options_of(cls)}
    return summary(cls) | facts_of(cls) | more


def facts_of(cls: type[Pass]) -> dict[str, list[str]]:
    return {
        "requires": sorted(cls.requires),
        "produces": sorted(cls.produces),
        "invalidates": sorted(cls.invalidates),
    }


def options_of(cls: type[Pass]) -> list[dict[str, str]]:
    """Name, default and accepted values of each option, as a pipeline's text spells them."""
    hints = typing.get_type_hints(cls.Options)
    return [
        {
            "name": field.name,
            "default": default_text(field),
            "takes": wanted_text(hints[field.name]),
        }
        for field in dataclasses.fields(cls.Options)
    ]


def default_text(field: dataclasses.Field[Any]) -> str:
    """The default as text; ``…`` where the option must be given."""
    if field.default_factory is not dataclasses.MISSING:
        return value_text(field.default_factory())
    return "…" if field.default is dataclasses.MISSING else value_text(field.default)


def value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return "|".join(map(value_text, value)) or "|"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def first_sentence(cls: type[Pass]) -> str:
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
