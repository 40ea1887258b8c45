"""What a model holds and does, added up by module: for ``inspect``, as text and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...ir.counting.count import Rest, SiteRow, Totals
from ...targets.cost.modules import Share
from ...targets.cost.predict import Basis

ALL = "(whole model)"
"""The row above all others."""
OUTSIDE = "(outside of sites)"
"""The row below all others: what the whole model holds and does, and none of its sites."""


@dataclass(frozen=True)
class ModuleRow:
    """A module with the sites that lie below it. depth: 0 for the whole model; leaf: a site itself.

    flops: None where those of one site are unknown. ms, basis: predicted, where a target was
    named; None where unknown.
    """

    name: str
    depth: int
    leaf: bool
    sites: int
    parameters: int
    bytes: int
    flops: int | None
    ms: float | None = None
    basis: Basis = "unknown"


def module_table(
    rows: Sequence[SiteRow], total: Totals, rest: Rest, shares: Iterable[Share] = ()
) -> list[ModuleRow]:
    """The whole model, its modules and sites, each behind the module that it stands in; at the end
    what belongs to no site. No row where there are no sites.

    A module that holds nothing but one other module has no row of its own. total, rest: of the
    model that has the sites; weights that two sites share count twice in modules, once in the
    whole. shares: predicted times, of modules and of sites, by name.
    """
    known = {share.name: share for share in shares}
    table = _modules(rows, known)
    if not table:
        return []
    flops = None if total.unknown else total.flops
    whole = replace(
        table[0], parameters=total.parameters, bytes=sum(total.bytes.values()), flops=flops
    )
    return [whole, *table[1:], *_outside(rest, known.get(OUTSIDE))]


def _outside(rest: Rest, share: Share | None) -> list[ModuleRow]:
    row = ModuleRow(OUTSIDE, 1, True, 0, rest.parameters, rest.bytes, rest.flops)
    if share is not None:
        row = replace(row, ms=share.ms, basis=share.basis)
    return [row] if row.bytes or row.flops or row.ms else []


def short_name(row: ModuleRow, above: str) -> str:
    """The name without that of the module it stands in."""
    return row.name.removeprefix(f"{above}.") if above else row.name


def parents(rows: Sequence[ModuleRow]) -> dict[str, str]:
    """By name the module that a row stands in, "" below the whole model."""
    found: dict[str, str] = {}
    open_: list[ModuleRow] = []
    for row in rows:
        while open_ and open_[-1].depth >= row.depth:
            open_.pop()
        found[row.name] = open_[-1].name if open_ and open_[-1].name != ALL else ""
        open_.append(row)
    return found


def _modules(rows: Sequence[SiteRow], known: Mapping[str, Share]) -> list[ModuleRow]:
    """Sums of sites alone, the first of all of them."""
    held: dict[str, list[SiteRow]] = {ALL: list(rows)} if rows else {}
    for row in rows:
        for path in _paths(row.name):
            held.setdefault(path, []).append(row)
    full = {path.rpartition(".")[0] for path, below in held.items() if _all_of(path, below, held)}
    kept = held.keys() - (full - {row.name for row in rows})
    place = {path: number for number, path in enumerate(held)}
    chains = {path: [ALL, *(p for p in _paths(path) if p in kept)] for path in kept - {ALL}}
    chains |= {ALL: [ALL]} if rows else {}
    ordered = sorted(kept, key=lambda path: [place[other] for other in chains[path]])
    return [_row(p, held[p], len(chains[p]) - 1, known.get(p)) for p in ordered]


def _paths(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _all_of(path: str, below: Sequence[SiteRow], held: Mapping[str, Sequence[SiteRow]]) -> bool:
    """Whether a path holds all that the one above it does."""
    above = path.rpartition(".")[0]
    return above in held and len(held[above]) == len(below)


def _row(path: str, rows: Sequence[SiteRow], depth: int, share: Share | None) -> ModuleRow:
    counts = [row.flops for row in rows]
    return ModuleRow(
        path, depth, len(rows) == 1 and rows[0].name == path, len(rows),
        sum(row.parameters for row in rows), sum(row.bytes for row in rows),
        None if None in counts else sum(count or 0 for count in counts),
        None if share is None else share.ms, "unknown" if share is None else share.basis,
    )  # fmt: skip
