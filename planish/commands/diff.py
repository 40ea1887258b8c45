"""``planish diff``: what is different between two models."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..compiler.diffing import ModelDiff, compare
from ..compiler.modelexplorer import export as write_model_explorer
from ..compiler.reporting.difflines import Line
from ..compiler.reporting.difftext import Shown, lines, markdown
from ..compiler.reporting.html.compared import compared
from ..compiler.reporting.html.writing import checked_output, write_page
from ..ir.errors import UsageError, near
from ..terminal import JsonOption, VerboseOption, terminal_of

DIFFERENT = 12
"""Exit code where a condition of the caller holds: any difference, or a figure beyond a bound."""
_COLOURS = {"title": "bold", "old": "red", "new": "green", "changed": "yellow", "quiet": "dim"}
_FIGURES = ("nodes", "parameters", "bytes", "flops", "predicted_ms")
_HOW = {
    "flops": "name the sizes of open axes, --workload batch=1,seq=128",
    "predicted_ms": "name a target that has figures, and the sizes of open axes: --target, "
    "--workload",
}
_CONDITION = re.compile(r"(\w+)\s*(>=|<=|>|<)\s*([+-]?\d+(?:\.\d+)?)\s*(%?)")


class Export(enum.StrEnum):
    """Formats of other viewers."""

    model_explorer = "model-explorer"


@dataclass(frozen=True)
class Condition:
    """``parameters>+0%``. bound: in percent of the value before where ``percent``, else itself."""

    text: str
    figure: str
    operator: str
    bound: float
    percent: bool

    def holds(self, before: float, after: float) -> bool:
        """Whether the figure is beyond the bound."""
        value = after
        if self.percent:
            change = after - before
            value = 100 * change / before if before else (0.0 if not change else float("inf"))
        return {
            ">": value > self.bound, ">=": value >= self.bound,
            "<": value < self.bound, "<=": value <= self.bound,
        }[self.operator]  # fmt: skip


def diff_command(
    ctx: typer.Context,
    before: Annotated[
        str,
        typer.Argument(
            metavar="BEFORE",
            help="An ONNX file, an artifact's folder, or DIR@STAGE: the graph of a compile after "
            "a pass (out@quantize, out@2).",
        ),
    ],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="Another one.")],
    stat: Annotated[
        bool, typer.Option("--stat", help="Sums, and what was done how often; no nodes.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PASS", help="Only what this pass did (repeatable)."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--every", help="Every place, also where the same was done to many.")
    ] = False,
    context: Annotated[
        int, typer.Option(metavar="N", min=0, max=100, help="Unchanged nodes in front of each.")
    ] = 0,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Markdown, for a pull request.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A page with both graphs side by side."),
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help=f"End with {DIFFERENT} where there is a difference.")
    ] = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help=f"End with {DIFFERENT} where it holds: parameters>+0%, nodes>500, bytes>=-10% "
            "(repeatable).",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(metavar="TARGET", help="Predict milliseconds on this target, or TOML file."),
    ] = "",
    workload: Annotated[
        str,
        typer.Option(
            metavar="AXES", help="Sizes of symbolic axes, batch=1,seq=128: for times and FLOPs."
        ),
    ] = "",
    threads: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=4096, help="Threads of the prediction; 0: one a core."
        ),
    ] = 0,
    export: Annotated[
        tuple[Export, Path] | None,
        typer.Option(
            metavar="FORMAT DIR",
            help="Also write both graphs and what became of each node as files; FORMAT: "
            "model-explorer.",
        ),
    ] = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show what is different between two models, whoever made them.

    Nodes are matched by what a compile of ours recorded, else by what surrounds them; names do not
    matter. First sums and what was done how often, then the nodes that went (-), came (+) or
    changed (~), layer by layer, with the pass that did it where it is known.
    """
    terminal = terminal_of(ctx)
    conditions = [parse_condition(text) for text in fail_on or ()]
    page = None if html is None else checked_output(html)
    found = compare(before, after, target=target or None, workload=workload, threads=threads)
    shown = Shown(stat, tuple(only or ()), every, context)
    _check_passes(found, shown.only)
    broken = [c for c in conditions if c.holds(*_figures(found, c.figure))]
    if export is not None:
        write_model_explorer(found, export[1])
    if page is not None:
        write_page(compared(found), page)
    if terminal.json:
        terminal.document(found.to_json())
    elif page is not None:
        terminal.stdout().print(Text(str(page)), soft_wrap=True)
    elif as_markdown:
        terminal.stdout().print(Text(markdown(found, shown)), soft_wrap=True)
    else:
        show(found, shown, terminal.stdout())
    for condition in broken:
        terminal.stderr().print(Text(f"condition holds: {condition.text}"))
    if broken or (exit_code and found.graph):
        raise typer.Exit(DIFFERENT)


def show(found: ModelDiff, shown: Shown, console: Console) -> None:
    """Write the lines, coloured where the console is a terminal."""
    for line in lines(found, shown):
        console.print(_text(line), soft_wrap=True)


def parse_condition(text: str) -> Condition:
    """``parameters>+0%`` and the like. Raises UsageError."""
    match = _CONDITION.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{text!r} is no condition", hint="write one like parameters>+0% or nodes>500"
        )
    figure, operator, bound, percent = match.groups()
    if figure not in _FIGURES:
        raise UsageError(f"there is no figure {figure!r}", hint=near(figure, _FIGURES))
    return Condition(text, figure, operator, float(bound), bool(percent))


def _figures(found: ModelDiff, figure: str) -> tuple[float, float]:
    if figure in ("flops", "predicted_ms"):
        sides = found.figures.before.to_json(), found.figures.after.to_json()
        known = [side[figure] for side in sides]
        if None in known:
            raise UsageError(f"{figure} is not known of both models", hint=_HOW[figure])
        return float(known[0]), float(known[1])
    one, other = found.graph.totals
    return float(getattr(one, figure)), float(getattr(other, figure))


def _check_passes(found: ModelDiff, only: tuple[str, ...]) -> None:
    known = {name for hunk in found.graph.hunks for name in found.passes(hunk)}
    for name in only:
        if name not in known:
            there = f"did: {', '.join(sorted(known))}" if known else "are on record for AFTER"
            raise UsageError(
                f"no pass {name!r} did anything here",
                hint=f"these {there}" if known else f"no passes {there}; leave --only out",
            )


def _text(line: Line) -> Text:
    return Text(line.text, style=_COLOURS.get(line.style, ""))
