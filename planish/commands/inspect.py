"""``planish inspect``: the sites of a model, and what it holds and does."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..compiler.modelfile import model_file
from ..compiler.reporting.headline import size
from ..compiler.reporting.html.inspected import inspected
from ..compiler.reporting.html.writing import checked_output, write_page
from ..compiler.reporting.modules import (
    ALL,
    OUTSIDE,
    ModuleRow,
    module_table,
    parents,
    short_name,
)
from ..compiler.source import Source, resolve_source
from ..compiler.workload import Workload, parse_workloads
from ..ir.axes.find import find_axis_groups
from ..ir.axes.groups import AxisGroups
from ..ir.axes.groups import as_json as group_json
from ..ir.counting.count import SiteRow, Totals, rest, site_table, totals
from ..ir.shown import inline
from ..ir.signature import Signature, TensorSpec
from ..ir.sites import find_sites
from ..ir.types.bound import bound_shapes, symbols
from ..targets.cost.modules import Share, by_module, by_site
from ..targets.loader import load_target
from ..terminal import JsonOption, VerboseOption, terminal_of
from .coupled import show_axes
from .options import check_model
from .predicted import Forecast, forecast, forecast_json, show_forecast

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Inspected:
    """A model with its rows and totals for one workload.

    forecast: its time, where a target was named. axes: what is cut together, where asked for.
    open_axes: symbolic axes that have no size. modules: all of it, added up by module.
    """

    source: Source
    rows: list[SiteRow]
    totals: Totals
    forecast: Forecast | None = None
    axes: AxisGroups | None = None
    open_axes: tuple[str, ...] = ()
    modules: tuple[ModuleRow, ...] = ()


def inspect_command(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="An ONNX file, an artifact's folder, or file.py:function."
        ),
    ],
    workload: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXES",
            help="Sizes of symbolic axes: batch=1,seq=128. Repeatable, weighted by *0.7; sizes and "
            "FLOPs are those of the first.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(metavar="TARGET", help="Predict milliseconds on this target, or TOML file."),
    ] = "",
    threads: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=4096, help="Threads of the prediction; 0: one a core."
        ),
    ] = 0,
    axes: Annotated[
        bool, typer.Option("--axes", help="Show which indices of which layers are cut together.")
    ] = False,
    modules: Annotated[
        bool, typer.Option("--modules", help="Add it all up by module, too.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a page instead: modules with a chart, sites, the graph, what each target "
            "would do and refuse.",
        ),
    ] = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """List a model's sites, sizes and FLOPs.

    For each its name, kind, shape, parameters, bytes, floating-point operations of one run and
    what holds there already; then the totals. With a target also the predicted time of each site
    and of all other nodes, and whether it was measured, is estimated or unknown; -v shows nodes.
    With --axes also the groups of units that pruning can cut, and why others cannot be cut.
    """
    terminal = terminal_of(ctx)
    page = None if html is None else checked_output(html)
    hardware = load_target(target) if target else None
    with tempfile.TemporaryDirectory(prefix="planish-") as work:
        source = resolve_source(str(model_file(check_model(model))), None, "auto", Path(work))
        graph = source.imported.model
        sites = find_sites(graph, nested=True)
        chosen = parse_workloads(workload or (), symbols(graph)) or (Workload({}),)
        shapes = bound_shapes(graph, chosen[0].bindings)
        rows, every = site_table(sites, shapes), totals(graph, shapes)
        expected = None if hardware is None else forecast(graph, hardware, chosen, threads)
        found = Inspected(
            source,
            rows,
            every,
            expected,
            find_axis_groups(graph, sites) if axes else None,
            tuple(axis for axis in symbols(graph) if axis not in chosen[0].bindings),
            tuple(module_table(rows, every, rest(graph, sites, shapes), _shares(expected))),
        )
        if page is not None:
            _write_page(found, chosen, page)
    if terminal.json:
        written = {} if page is None else {"page": str(page)}
        terminal.document({**as_json(found, ",".join(workload or ())), **written})
    elif page is not None:
        terminal.stdout().print(Text(str(page)), soft_wrap=True)
    else:
        show(found, terminal.stdout(), verbose=terminal.verbose, modules=modules)


def _shares(expected: Forecast | None) -> list[Share]:
    """Predicted times of modules, of sites and of the rest, for the first workload."""
    if expected is None:
        return []
    run = expected.runs[0][1]
    whole = Share(ALL, len(run.nodes), run.ms, run.basis, "")
    outside = by_site(replace(node, site=OUTSIDE) for node in run.nodes if not node.site)
    return [whole, *by_module(run.nodes), *by_site(run.nodes), *outside]


def _write_page(found: Inspected, workloads: Sequence[Workload], path: Path) -> None:
    imported = found.source.imported
    target = None if found.forecast is None else found.forecast.target
    document = inspected(
        found.source.label, imported.model, imported.signature, found.rows, found.modules,
        found.totals, workloads, target,
    )  # fmt: skip
    write_page(document, path)


def show(
    found: Inspected, console: Console, *, verbose: bool = False, modules: bool = False
) -> None:
    for spec in lines_of(found.source.imported.signature):
        console.print(Text(spec))
    console.print()
    console.print(table_of(found.rows))
    console.print()
    if modules:
        console.print(modules_of(found.modules))
        console.print()
    console.print(Text(total_line(found.totals, len(found.rows))))
    if found.open_axes and any(row.flops is None for row in found.rows):
        given = ",".join(f"{axis}=1" for axis in found.open_axes)
        console.print(Text(f"note: FLOPs of open axes are not known: give --workload {given}"))
    for remark in found.source.imported.remarks:
        console.print(Text(f"note: {remark.sentence}"))
    if found.forecast is not None:
        show_forecast(found.forecast, console, nodes=verbose)
    if found.axes is not None:
        show_axes(found.axes, console)


def lines_of(signature: Signature) -> list[str]:
    inputs = [f"input  {spec}" for spec in signature.inputs]
    return [*inputs, *(f"output {spec}" for spec in signature.outputs)]


def table_of(rows: list[SiteRow]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("site", overflow="fold")
    for name in ("kind", "shape"):
        table.add_column(name)
    for name in ("parameters", "bytes", "FLOPs"):
        table.add_column(name, justify="right")
    table.add_column("facts")
    for row in rows:
        table.add_row(*map(Text, cells(row)))
    return table


def modules_of(rows: Sequence[ModuleRow]) -> Table:
    """Each module with all that lies below it, and its share of the whole model's bytes."""
    table, timed = Table(box=None, pad_edge=False), any(row.ms is not None for row in rows)
    table.add_column("module", overflow="fold")
    for name in ("sites", "parameters", "bytes", "", "FLOPs", *(["predicted"] if timed else [])):
        table.add_column(name, justify="right")
    above, every = parents(rows), max(rows[0].bytes, 1) if rows else 1
    for row in rows:
        name = f"{'  ' * row.depth}{inline(short_name(row, above[row.name]))}"
        flops = "?" if row.flops is None else operations(row.flops)
        share = f"{100 * row.bytes / every:.0f} %"
        words = [name, str(row.sites), f"{row.parameters:,}", size(row.bytes), share, flops]
        times = ["unknown" if row.ms is None else f"{row.ms:.3g} ms"] if timed else []
        table.add_row(*map(Text, [*words, *times]))
    return table


def cells(row: SiteRow) -> tuple[str, ...]:
    shape = " x ".join(map(str, row.shape))
    uses = f" ({row.uses} uses)" if row.uses > 1 else ""
    flops = "?" if row.flops is None else operations(row.flops)
    counts = (f"{row.parameters:,}", size(row.bytes)) if row.parameters or row.bytes else ("", "")
    inside = " (in a body)" if row.nested else ""
    return (inline(row.name), row.kind + uses + inside, shape, *counts, flops, " ".join(row.facts))


def total_line(total: Totals, sites: int) -> str:
    stored = sum(total.bytes.values())
    kinds = ", ".join(f"{size(count)} {dtype}" for dtype, count in total.bytes.items())
    missing = f"; not counted: {', '.join(total.unknown)}" if total.unknown else ""
    found = f"{sites} site{'' if sites == 1 else 's'}, {total.nodes} nodes"
    return (
        f"{found}, {total.parameters:,} parameters, "
        f"{size(stored)} ({kinds}), {operations(total.flops)}FLOP a run{missing}"
    )


def operations(count: int) -> str:
    """``1.23 M``: three digits and a unit."""
    for limit, unit in _UNITS:
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count} "


def as_json(found: Inspected, workload: str) -> dict[str, Any]:
    imported = found.source.imported
    return {
        "model": found.source.label,
        "file_digest": imported.file_digest,
        "inputs": [described(spec) for spec in imported.signature.inputs],
        "outputs": [described(spec) for spec in imported.signature.outputs],
        "workload": workload,
        "sites": found.rows,
        "totals": found.totals,
        "modules": [vars(row) for row in found.modules],
        "remarks": imported.remarks,
        **({} if found.forecast is None else {"prediction": forecast_json(found.forecast)}),
        **({} if found.axes is None else {"axes": list(map(group_json, found.axes.values()))}),
    }


def described(spec: TensorSpec) -> dict[str, Any]:
    shape = None if spec.shape is None else list(spec.shape)
    return {"name": spec.name, "dtype": spec.dtype, "shape": shape}
