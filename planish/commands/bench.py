"""``planish bench``: models side by side, each against the first."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..compiler.benching import Bench, Row, Timed, bench
from ..compiler.progress import progress_on
from ..compiler.quality.drift import DriftVerdict
from ..compiler.reporting.headline import factor, interval, size, three
from ..ir.errors import InputError
from ..ir.shown import inline
from ..targets.loader import load_target
from ..terminal import JsonOption, VerboseOption, terminal_of


def bench_command(
    ctx: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL MODEL…",
            help="ONNX files, or folders that compile wrote; all are compared with the first.",
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", metavar="TARGET", help="What this machine must be; default: itself."
        ),
    ] = "host",
    feeds: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="An .npz (arrays named as the inputs, samples on axis 0), a folder of them "
            "(one feed each), or file.py:function yielding feeds; default: generated numbers.",
        ),
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXES",
            help="Sizes of symbolic axes to time at, such as batch=1,seq=128; repeatable. "
            "Default: the feeds as they are.",
        ),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.PY:FUNCTION",
            help="Your metric: gets run(feeds) -> outputs; returns a number, one number a "
            "sample, or planish.Scores.",
        ),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=4096, help="Threads of the runtime; 0: one per core."),
    ] = 0,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Compare models: size, speed, memory, outputs.

    Times them by turns on this machine, with intervals; measures the memory of each in a process
    of its own, and how far its outputs are from the first one's. Changes nothing.
    Exit code 3 where one of them does not run or has other inputs or outputs.
    """
    terminal = terminal_of(ctx)
    with progress_on(terminal.stderr(), live=sys.stderr.isatty(), verbose=verbose) as progress:
        found = bench(
            models,
            load_target(target),
            feeds=feeds,
            workloads=workload or (),
            evaluate=evaluate,
            threads=threads,
            progress=progress,
        )
    if terminal.json:
        terminal.document(as_json(found))
    else:
        show(found, terminal.stdout())
    return InputError.exit_code if any(row.error for row in found.rows) else 0


def show(found: Bench, console: Console) -> None:
    """Print the best ones in a line, the table, what does not run, what it was measured with."""
    console.print(Text(headline(found.rows), style="bold"), soft_wrap=True)
    console.print()
    console.print(table(found, plain=not console.is_terminal))
    for row in found.rows:
        if row.error:
            words = Text.assemble((inline(row.entry.label), "bold red"), f": {row.error}")
            console.print(words, soft_wrap=True)
    for line in notes(found):
        console.print(Text(f"note: {line}"), soft_wrap=True)


def headline(rows: Sequence[Row]) -> str:
    """``fastest: b.onnx, 2.71x (2.66-2.75); smallest: b.onnx, 3.9x``; of those that run."""
    running = [row for row in rows if not row.error]
    if len(running) < 2:
        return "nothing to compare: only the first model runs"
    first = rows[0]
    fastest = min(running[1:], key=lambda row: sum(timed.ms for timed in row.times))
    smallest = min(running, key=lambda row: row.bytes)
    return f"{speed_phrase(first, fastest)}; {size_phrase(first, smallest)}"


def speed_phrase(first: Row, fastest: Row) -> str:
    """Who is fastest; said only where every interval is above 1."""
    ratios = [timed.ratio for timed in fastest.times if timed.ratio is not None]
    if not all(ratio.low > 1 for ratio in ratios):
        return f"none is surely faster than {first.entry.label}"
    text = ", ".join(speed(timed) for timed in fastest.times)
    return f"fastest: {fastest.entry.label}, {text} of {first.entry.label}"


def size_phrase(first: Row, smallest: Row) -> str:
    """Who is smallest, and by how much."""
    if smallest.bytes >= first.bytes:
        return f"none is smaller than {first.entry.label}"
    return f"smallest: {smallest.entry.label}, {factor(first.bytes / smallest.bytes)}x smaller"


def table(found: Bench, *, plain: bool) -> Table:
    """One row a model; speed twice for each workload."""
    grid = Table(box=box.ASCII if plain else box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("model", overflow="fold")
    for name in columns(found):
        grid.add_column(Text(name), justify="right")
    for row in found.rows:
        grid.add_row(*map(Text, (inline(row.entry.label), *cells(row, found))))
    return grid


def columns(found: Bench) -> list[str]:
    """Names of the columns behind the first."""
    works = [timed.workload for timed in found.rows[0].times]
    speeds = [name for work in works for name in (f"{work} ms".strip(), "speed (95 %)")]
    score = [] if found.score is None else ["metric", "drop (95 %)"]
    return ["size", *speeds, "peak memory", "outputs", *score]


def cells(row: Row, found: Bench) -> list[str]:
    """The row as text; dashes where it does not run."""
    rest = len(columns(found)) - 1
    if row.error:
        return [size(row.bytes), *["–"] * rest]
    times = [text for timed in row.times for text in (three(timed.ms), speed(timed))]
    first = row is found.rows[0]
    drift = "the reference" if first else drift_cell(row.verdict)
    score = [] if found.score is None else metric_cells(row, found.score)
    return [size(row.bytes), *times, size(row.peak), drift, *score]


def speed(timed: Timed) -> str:
    """``2.71x (2.66-2.75)``."""
    ratio = timed.ratio
    return "1x" if ratio is None else f"{ratio.value:.2f}x ({interval(ratio.low, ratio.high)})"


def drift_cell(verdict: DriftVerdict | None) -> str:
    """The measure that holds least, such as ``cosine 0.9931``; ``equal`` where nothing moved."""
    if verdict is None:
        return "–"
    if verdict.equal:
        return "equal"
    if verdict.value is None:
        return verdict.sentence
    unit = {"sqnr": " dB", "top1": " %"}.get(verdict.gate.metric, "")
    return f"{verdict.gate.metric} {verdict.value:.4g}{unit}"


def metric_cells(row: Row, first: float) -> list[str]:
    """The metric and its drop, positive where it is worse, with the interval."""
    metric = row.metric
    if metric is None:
        return [f"{first:.6g}", ""]
    bounds = metric.interval
    text = "" if bounds is None else f" ({interval(bounds.low, bounds.high, '.3g')})"
    return [f"{metric.after:.6g}", f"{metric.drop:+.3g}{text}"]


def notes(found: Bench) -> list[str]:
    """What the figures were measured with."""
    count = f"{found.threads} thread{'' if found.threads == 1 else 's'}"
    threads = count if found.threads else "one thread per core"
    base = size(found.base)
    lines = [
        f"ms: median of one run by turns on {found.target}, {threads}; speed: above 1x is faster",
        f"peak memory: of a process of its own, {base} of it before the model is loaded",
    ]
    given = f"{found.samples} samples of {found.source}"
    if found.generated:
        given = "generated numbers: speed is real, quality on your data is unknown; give --feeds"
    mask = f", rows where {found.mask!r} is 0 left out" if found.mask else ""
    lines.append(f"outputs: the one that agrees least with the first model's, on {given}{mask}")
    lines += dict.fromkeys(
        row.metric.warning for row in found.rows if row.metric and row.metric.warning
    )
    return lines


def as_json(found: Bench) -> dict[str, Any]:
    """Everything found, in types that JSON has."""
    return {
        "target": found.target,
        "threads": found.threads,
        "feeds": {"source": found.source, "samples": found.samples, "generated": found.generated},
        "token_mask": found.mask,
        "base_bytes": found.base,
        "metric": found.score,
        "models": [row_json(row) for row in found.rows],
    }


def row_json(row: Row) -> dict[str, Any]:
    """One model."""
    return {
        "model": row.entry.label,
        "path": str(row.entry.path),
        "error": row.error,
        "bytes": row.bytes,
        "peak_bytes": row.peak,
        "times": [time_json(timed) for timed in row.times],
        "drift": None if row.drift is None else row.drift.to_json(),
        "least": None if row.verdict is None else row.verdict.to_json(),
        "metric": None if row.metric is None else row.metric.to_json(),
    }


def time_json(timed: Timed) -> dict[str, Any]:
    """One workload of one model."""
    ratio = timed.ratio
    bounds = None if ratio is None else {"value": ratio.value, "low": ratio.low, "high": ratio.high}
    return {
        "workload": timed.workload, "ms": timed.ms, "speed": bounds, "rounds": timed.rounds,
    }  # fmt: skip
