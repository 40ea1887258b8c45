"""``planish explain-match``: where a pattern fits in a model, and why not elsewhere."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..compiler.explaining import Explanation, canonical, explain, load_pattern
from ..compiler.source import resolve_source
from ..terminal import JsonOption, VerboseOption, terminal_of
from .options import ModelArgument, check_model

LISTED = 8
"""Names in a line, unless all are asked for."""


def explain_match_command(
    ctx: typer.Context,
    model: ModelArgument,
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN",
            help="file.py:name, a pattern function or a pass that @rewrite_pass made. It is run.",
        ),
    ],
    as_imported: Annotated[
        bool,
        typer.Option("--as-imported", help="Do not run canonicalize first."),
    ] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Say where a pattern matches, where it is refused, and what it comes nearest to.

    Of partial matches it tells which node did not fit, and what was expected of it. Nothing is
    changed; -v names every match.
    """
    terminal = terminal_of(ctx)
    asked = load_pattern(pattern)
    with tempfile.TemporaryDirectory(prefix="planish-") as work:
        found = resolve_source(check_model(model), None, "auto", Path(work)).imported.model
        told = explain(asked, found if as_imported else canonical(found))
    if terminal.json:
        terminal.document({"model": model, **asdict(told)})
    else:
        _show(told, model, terminal.stdout(), every=verbose)


def _show(told: Explanation, model: str, console: Console, *, every: bool) -> None:
    nodes = f"{told.nodes} node{'s' if told.nodes != 1 else ''}"
    lines = [f"{told.pattern} ({nodes}, {told.place}) on {model}"]
    names = told.matches if every else told.matches[:LISTED]
    more = f" and {len(told.matches) - len(names)} more" if len(names) < len(told.matches) else ""
    shown = f": {', '.join(names)}{more}" if names else ""
    lines.append(f"  matches  {len(told.matches)}{shown}")
    if told.lacking and not (told.beside and len(told.lacking) == 1):
        lines.append(f"  lacking  the model has no node of {', '.join(told.lacking)}")
    for site, code, sentence in told.refused if every else told.refused[:LISTED]:
        lines.append(f"  refused  {site}: {sentence} ({code})")
    if len(told.refused) > LISTED and not every:
        lines.append(f"           and {len(told.refused) - LISTED} more; -v names them")
    for attempt in told.nearest:
        count = len(attempt.matched)
        lines.append(f"  nearest  {count} of {attempt.of} nodes, from {attempt.root}")
        if count > 1:
            lines.append(f"           fits: {', '.join(attempt.matched)}")
        lines.append(f"           stopped at {attempt.stopped}: {attempt.reason}")
        if attempt.advice:
            lines.append(f"           try: {attempt.advice}")
    if told.beside:
        lines.append(f"  {told.beside}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
