"""``planish passes``: what can be done to a model, from the passes' own documentation."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..compiler.userpasses import source_digest, using
from ..passes.api import Pass, Semantics, pass_class
from ..passes.options import wanted_text
from ..passes.registry import available, is_own, own, place_of
from ..terminal import JsonOption, VerboseOption, terminal_of
from .options import PassFileOption, pass_files

app = typer.Typer(help="Passes: the rewrites that a pipeline is made of.")

HEADINGS = ("What it does", "When it applies", "What it costs", "Guarantee", "Example")
"""Every pass's docstring has these, each at the start of a line and followed by a colon."""
_HEADING = re.compile(r"((?:What|When) [\w, ]+|Guarantee|Options|Example): ")


@app.command("list")
def list_command(
    ctx: typer.Context,
    pass_file: PassFileOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """List the passes, and what each promises about what the model computes.

    Those of --pass-file, of the project in the working folder, and of installed packages too.
    """
    terminal = terminal_of(ctx)
    with using(pass_files(pass_file, terminal, project=True)):
        found = available().values()
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
    pass_file: PassFileOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show a pass: what it does, when it applies, what it costs, its options."""
    terminal = terminal_of(ctx)
    with using(pass_files(pass_file, terminal, project=True)):
        cls = pass_class(name)
    if terminal.json:
        terminal.document(described(cls))
        return
    console = terminal.stdout()
    console.print(Text(f"{cls.name} ({cls.semantics.value})\n\n{inspect.getdoc(cls) or ''}\n"))
    for label, facts in facts_of(cls).items():
        if facts:
            console.print(Text(f"{label}: {', '.join(facts)}"))
    if not is_own(cls):
        console.print(Text(f"written at: {place_of(cls)}"))
    console.print("\nOptions:" if (options := options_of(cls)) else "\nNo options.")
    for option in options:
        console.print(Text(f"  {option['name']}={option['default']}  ({option['takes']})"))
        console.print(Text(f"      {option['meaning']}"))


def discovered() -> dict[str, type[Pass]]:
    """Planish's own passes by name."""
    return own()


def summary(cls: type[Pass]) -> dict[str, Any]:
    """What the list shows of a pass; where it is written, if planish did not write it."""
    found = {"name": cls.name, "semantics": cls.semantics.value, "summary": first_sentence(cls)}
    if not is_own(cls):
        found |= {"written_at": place_of(cls), "file_sha256": source_digest(cls)}
    return found


def described(cls: type[Pass]) -> dict[str, Any]:
    """All that is known of a pass without running it."""
    more = {"documentation": inspect.getdoc(cls) or "", "options": options_of(cls)}
    return summary(cls) | facts_of(cls) | more


def facts_of(cls: type[Pass]) -> dict[str, list[str]]:
    """What must hold at a site, what holds afterwards, and what does not any more."""
    return {
        "requires": sorted(cls.requires),
        "produces": sorted(cls.produces),
        "invalidates": sorted(cls.invalidates),
    }


def options_of(cls: type[Pass]) -> list[dict[str, str]]:
    """Name, default and accepted values of each option, as a pipeline's text spells them, and
    its meaning.
    """
    hints = typing.get_type_hints(cls.Options)
    meanings = explained(cls.Options, hints)
    return [
        {
            "name": field.name,
            "default": default_text(field),
            "takes": wanted_text(hints[field.name]),
            "meaning": meanings.get(field.name, ""),
        }
        for field in dataclasses.fields(cls.Options)
    ]


def default_text(field: dataclasses.Field[Any]) -> str:
    """The default as text; ``…`` where the option must be given."""
    if field.default_factory is not dataclasses.MISSING:
        return value_text(field.default_factory())
    return "…" if field.default is dataclasses.MISSING else value_text(field.default)


def value_text(value: Any) -> str:
    """A value as a pipeline's text spells it."""
    if isinstance(value, tuple):
        return "|".join(map(value_text, value)) or "|"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def first_sentence(cls: type[Pass]) -> str:
    """The first paragraph of the pass's docstring, in one line."""
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())


def sections(cls: type[Pass]) -> dict[str, str]:
    """The rest of the docstring by heading, each text in one line."""
    found: dict[str, str] = {}
    heading = ""
    for line in (inspect.getdoc(cls) or "").partition("\n\n")[2].splitlines():
        if start := _HEADING.match(line):
            heading, line = start[1], line[start.end() :]
        found[heading] = f"{found.get(heading, '')} {line.strip()}".strip()
    return found


def promise(semantics: Semantics) -> str:
    """What passes of that kind promise, in words."""
    return explained(Semantics, (s.name for s in Semantics))[semantics.name]


def explained(cls: type, names: Iterable[str]) -> dict[str, str]:
    """What a docstring says behind ``name:`` for each of the names that it explains."""
    text = " ".join((inspect.getdoc(cls) or "").split())
    known = "|".join(map(re.escape, names))
    parts = re.split(rf"(?:^|(?<= ))({known}): ", text) if known else [text]
    return {name: said.strip() for name, said in zip(parts[1::2], parts[2::2], strict=True)}
