"""What ``inspect --axes`` shows: which indices of a model are cut together, or why they are not."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..ir.axes.groups import AxisGroup, AxisGroups
from ..ir.shown import clipped, inline

_SITES = 4
"""Layers that are listed by name; a stack of layers with one weight has many."""


def show_axes(groups: AxisGroups, console: Console) -> None:
    """Two tables: what can be cut, and what cannot, with the reason."""
    whole = [group for group in groups.values() if group.cuttable]
    refused = [group for group in groups.values() if not group.cuttable]
    console.print()
    if whole:
        console.print(_cuttable(whole))
        console.print()
    if refused:
        console.print(_refused(refused))
        console.print()
    console.print(Text(summary(groups)))


def summary(groups: AxisGroups) -> str:
    """``6 groups of heads, 6 of neurons; 13 layers whose outputs cannot be cut``."""
    kinds = [group.kind for group in groups.values() if group.cuttable]
    counts = [f"{kinds.count(kind)} of {kind}" for kind in dict.fromkeys(kinds)]
    refused = len(groups) - len(kinds)
    parts = [f"groups that can be cut: {', '.join(counts) or 'none'}"]
    return "; ".join([*parts, f"layers whose outputs cannot be: {refused}"])


def _cuttable(groups: Sequence[AxisGroup]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("group", overflow="fold")
    table.add_column("units", justify="right")
    table.add_column("width", justify="right")
    table.add_column("cut with them", overflow="fold")
    for group in groups:
        cells = inline(group.name), str(group.units), str(group.width), _others(group)
        table.add_row(*map(Text, cells))
    return table


def _others(group: AxisGroup) -> str:
    """The layers after the first, which the group is called by."""
    names = [inline(site) for site in group.sites if not group.name.startswith(f"{site}.")]
    more = len(names) - _SITES
    return ", ".join(names[:_SITES]) + (f" and {more} more" if more > 0 else "")


def _refused(groups: Sequence[AxisGroup]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("not cuttable", overflow="fold")
    table.add_column("units", justify="right")
    table.add_column("code")
    table.add_column("why", overflow="fold")
    for group in groups:
        why = clipped(inline(group.sentence))
        cells = inline(group.name), str(group.units or "?"), group.code, why
        table.add_row(*map(Text, cells))
    return table
