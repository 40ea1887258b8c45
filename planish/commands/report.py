"""``planish report``: the page of an artifact, made anew."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..compiler.reporting.artifact import Artifact
from ..compiler.reporting.html.compiled import compiled, original_of
from ..compiler.reporting.html.writing import PAGE, checked_output, write_page, write_report
from ..ir.errors import InputError
from ..terminal import JsonOption, VerboseOption, terminal_of


def report_command(
    ctx: typer.Context,
    artifact: Annotated[
        Path, typer.Argument(help="The folder that compile wrote.", metavar="ARTIFACT")
    ],
    original: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="The model that was compiled, where it is not where it was; without it weights "
            "before the compile are not shown.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help=f"Default: {PAGE} in the artifact."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--open", help="Open it in the browser of this machine.")
    ] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Make the page of an artifact anew, and say where it is.

    One HTML file that needs nothing else and loads nothing: the verdict, what each pass did to each
    layer, quality by slice, both graphs side by side, what was left alone and why.
    """
    terminal = terminal_of(ctx)
    found = Artifact.open(artifact)
    given = checked_original(found, original)
    if output is None:
        path = write_report(found.path, given)
    else:
        path = checked_output(output, "-o")
        write_page(compiled(found.path, found.manifest, given), path, "-o")
    if terminal.json:
        count = path.stat().st_size
        terminal.document({"page": str(path), "bytes": count, "original": str(given or "")})
    else:
        terminal.stdout().print(Text(str(path)), soft_wrap=True)
        if given is None:
            told = "note: the original is not here, so its weights are not shown: give --original"
            terminal.stderr().print(Text(told))
    if show and not webbrowser.open(path.resolve().as_uri()):
        terminal.stderr().print(Text("note: there is no browser here to open it with"))


def checked_original(artifact: Artifact, given: Path | None) -> Path | None:
    """The model that was compiled. Raises InputError where one is given that is another."""
    found = original_of(artifact.manifest, given)
    if given is not None and found is None:
        what = "this is not the model that was compiled" if given.is_file() else "no such file"
        raise InputError(
            what, where=str(given),
            hint="its digest must be the one in manifest.json; leave --original out",
        )  # fmt: skip
    return found
