"""``planish new``: files to start from."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..scaffold import KINDS, write_pass
from ..terminal import JsonOption, VerboseOption, terminal_of

app = typer.Typer(help="Start something of your own.")


class PassKind(enum.StrEnum):
    """What the pass is made of."""

    rewrite = "rewrite"
    lossy = "lossy"
    adapt = "adapt"


assert tuple(PassKind) == KINDS


@app.callback()
def _group() -> None:
    """Start something of your own."""


@app.command("pass")
def pass_command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called: my-pass.")],
    kind: Annotated[
        PassKind,
        typer.Option(
            help="rewrite: a pattern and its replacement; lossy: weights that change; adapt: a "
            "transform of onnx_ir or onnxscript."
        ),
    ] = PassKind.rewrite,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where to.")
    ] = Path(),
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write a pass to start from, with a test that passes and a page. Nothing is overwritten."""
    terminal = terminal_of(ctx)
    files = write_pass(name, kind.value, output)
    if terminal.json:
        terminal.document({"name": name, "kind": kind.value, "files": list(map(str, files))})
        return
    console = terminal.stdout()
    for file, what in zip(files, ("the pass", "its test", "its page"), strict=True):
        console.print(Text(f"{file}: {what}"), soft_wrap=True)
    words = f"--passes canonicalize,{name} --pass-file {files[0]}"
    console.print(Text(f"edit it, then: planish compile model.onnx {words}"), soft_wrap=True)
