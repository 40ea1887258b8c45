"""``planish reduce``: the smallest model for which a command still exits with 0."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..compiler.harness.reducing import Predicate, Reduction, Size, read
from ..compiler.harness.report import MOST_LINES, counted
from ..compiler.harness.reproduce import model_text
from ..compiler.progress import Progress, progress_on
from ..ir.errors import UsageError
from ..terminal import JsonOption, Terminal, VerboseOption, terminal_of

INTERRUPTED = 130
BUDGET, SECONDS = 5_000, 60.0


def reduce_command(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")],
    predicate: Annotated[
        str,
        typer.Option(
            metavar="CMD",
            help="A command that exits with 0 while a model is still interesting; {model} stands "
            "for its path, else the path is the last argument. It is run often.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: MODEL.reduced.onnx, here."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.1, help="For one run; longer ones are not interesting."
        ),
    ] = SECONDS,
    budget: Annotated[int, typer.Option(metavar="N", min=1, help="Models tried at most.")] = BUDGET,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file.")] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Make a model small while a command goes on finding it interesting.

    Nodes, inputs, outputs, bodies, sizes, attributes and weights go, as long as the command exits
    with 0 (as in C-Reduce). A model that ONNX Runtime loads stays one that it loads. The output
    always holds the smallest model so far: Ctrl-C keeps it.
    """
    terminal, begun = terminal_of(ctx), time.perf_counter()
    given = read(model)
    asked = Predicate.parse(predicate, timeout, loud=verbose)
    target = output or Path(f"{model.stem}.reduced.onnx")
    _check(target, model, force)
    console = terminal.stderr()
    before, interrupted = Size.of(given), False
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        reduction = Reduction(asked, target, Path(folder))
        with progress_on(console, live=console.is_terminal, verbose=False) as progress:
            reduction.advance = lambda each: _tell(each, before, progress)
            try:
                reduction.reduce(given, budget)
            except KeyboardInterrupt:
                interrupted = True
        if not reduction.best.graph.node:
            raise KeyboardInterrupt
        same = interrupted or reduction.holds_still()
    _show(reduction, before, time.perf_counter() - begun, terminal, interrupted)
    if not same:
        console.print(
            "warning: asked once more, the command does not find the result interesting: it does "
            "not say the same each time",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    return INTERRUPTED if interrupted else 0


def _check(output: Path, model: Path, force: bool) -> None:
    if output.exists() and (output.is_dir() or output.samefile(model) or not force):
        kind = "a folder" if output.is_dir() else "there already"
        raise UsageError(
            f"the output is {kind}", where=str(output), hint="name another with -o, or give --force"
        )
    if not output.absolute().parent.is_dir():
        raise UsageError("there is no such folder", where=str(output.absolute().parent))


def _tell(reduction: Reduction, before: Size, progress: Progress) -> None:
    nodes = len(reduction.best.graph.node)
    runs = counted(reduction.runs, "run")
    progress.phase(f"{nodes} of {before.nodes} nodes, {runs}")


def _show(
    reduction: Reduction, before: Size, seconds: float, terminal: Terminal, interrupted: bool
) -> None:
    after = Size.of(reduction.best)
    text = model_text(reduction.best, str(reduction.output))
    if terminal.json:
        document = {
            "output": str(reduction.output), "before": asdict(before), "after": asdict(after),
            "runs": reduction.runs, "seconds": round(seconds, 1), "interrupted": interrupted,
            "model": text,
        }  # fmt: skip
        terminal.document(document)
        return
    console = terminal.stdout()
    head = "interrupted; the smallest so far" if interrupted else "reduced"
    lines = [
        f"{head}: {counted(before.nodes, 'node')} to {after.nodes}, "
        f"{counted(before.inputs, 'input')} to {after.inputs}, "
        f"{counted(before.weights, 'weight')} to {after.weights}, "
        f"{before.bytes:,} bytes to {after.bytes:,}",
        f"  {counted(reduction.runs, 'run')} of the command in {seconds:.0f} s: {reduction.output}",
    ]
    shown = (text or "").splitlines()
    lines += [f"    {line[:110]}" for line in shown[:MOST_LINES]]
    lines += [f"    … {len(shown) - MOST_LINES} lines more"] if len(shown) > MOST_LINES else []
    for line in lines:
        console.print(Text(line), soft_wrap=True)
