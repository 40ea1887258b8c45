"""What ``inspect`` shows of a model's predicted time on a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..compiler.workload import Workload
from ..ir.shown import inline
from ..ir.types.bound import bound_shapes, symbols
from ..targets.cost.modules import Share, by_module, by_operator, by_site
from ..targets.cost.predict import Prediction, predict
from ..targets.schema import Target

_SHOWN = 12  # operators outside of sites


@dataclass(frozen=True)
class Forecast:
    """One prediction a workload, those with the most weight not necessarily first.

    unbound: axes that a workload leaves open, so that nothing that depends on them has a size.
    """

    target: Target
    threads: int
    runs: tuple[tuple[Workload, Prediction], ...]
    unbound: tuple[str, ...]

    @property
    def ms(self) -> float | None:
        """The mean over the workloads by weight; None where one is unknown."""
        total = 0.0
        for workload, found in self.runs:
            if found.ms is None:
                return None
            total += workload.weight * found.ms
        return total


def forecast(
    model: ir.Model, target: Target, workloads: Sequence[Workload], threads: int
) -> Forecast:
    """Predict each workload."""
    runs = tuple(
        (w, predict(model, target, bound_shapes(model, w.bindings), threads)) for w in workloads
    )
    open_axes = [s for s in symbols(model) if any(s not in w.bindings for w in workloads)]
    return Forecast(target, threads, runs, tuple(open_axes))


def show_forecast(found: Forecast, console: Console, *, nodes: bool) -> None:
    """A table of sites and one line a workload."""
    counted = f"threads={found.threads or 'cores'}"
    for workload, one in found.runs:
        console.print()
        console.print(Text(f"predicted for {found.target.name}, {workload}, {counted}"))
        if any(node.ms is not None for node in one.nodes):
            console.print(_nodes(one) if nodes else _sites(one))
        console.print(Text(f"total {_ms(one.ms)}, {one.basis}: {one.note}"))
    if len(found.runs) > 1:
        console.print(Text(f"mean over the workloads by weight {_ms(found.ms)}"))
    if found.unbound:
        names = ", ".join(found.unbound)
        console.print(Text(f"no size was given for {names}: use --workload {found.unbound[0]}=1"))


def forecast_json(found: Forecast) -> dict[str, Any]:
    """Everything predicted, as plain values."""
    return {
        "target": found.target.name,
        "threads": found.threads,
        "ms": found.ms,
        "unbound": list(found.unbound),
        "workloads": [
            {
                "bindings": dict(workload.bindings),
                "weight": workload.weight,
                "sites": [vars(share) for share in by_site(one.nodes)],
                "modules": [vars(share) for share in by_module(one.nodes)],
                **one.to_json(),
            }
            for workload, one in found.runs
        ],
    }


def _sites(found: Prediction) -> Table:
    """Sites in graph order, then the operators that belong to none, the slowest first."""
    others = by_operator(node for node in found.nodes if not node.site)
    kept, rest = others[:_SHOWN], others[_SHOWN:]
    table = _table("site")
    for share in by_site(found.nodes):
        _row(table, share)
    for share in kept:
        _row(table, share, "elsewhere: ")
    if rest:
        known = sum(share.ms or 0.0 for share in rest)
        table.add_row(Text(f"elsewhere: {len(rest)} more"), _ms(known), "", "")
    return table


def _nodes(found: Prediction) -> Table:
    table = _table("node", "operator", "site")
    for node in found.nodes:
        names = (inline(node.node), node.op, inline(node.site))
        table.add_row(*map(Text, (*names, _ms(node.ms), node.basis, node.bound)))
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    table.add_column("ms", justify="right")
    table.add_column("basis")
    table.add_column("bound by")
    return table


def _row(table: Table, share: Share, prefix: str = "") -> None:
    name = prefix + inline(share.name) + (f" ({share.nodes})" if prefix else "")
    table.add_row(Text(name), _ms(share.ms), share.basis, share.bound)


def _ms(ms: float | None) -> str:
    """``12.3 ms``; unknown is a word."""
    return "unknown" if ms is None else f"{ms:.3g} ms"
