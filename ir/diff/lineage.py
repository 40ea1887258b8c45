"""What a compiler's stamps tell: which nodes stayed, and what the others came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..sites import Sites
from .pool import Pool

LEAST = 0.3
"""Share of the nodes after, by name, that must come from the graph before; else stamps are those
of another compile."""


@dataclass(frozen=True)
class Stamp:
    """What a node says of itself. edit: id of the edit that made it; origins: names of the nodes
    in the user's model that it stands for. Both empty for a node that is still its own."""

    edit: str = ""
    origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lineage:
    """By numbers of nodes. pairs: nodes that are still their own, before to after. origins: what
    the new ones came from. edits: ids of the edits that touched a node before, and that made one
    after."""

    pairs: Mapping[int, int] = field(default_factory=dict)
    origins: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    touched: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    made: Mapping[int, str] = field(default_factory=dict)


def lineage_of(
    before: Pool,
    after: Pool,
    stamps: Mapping[str, Stamp],
    edited: Mapping[str, Sequence[str]] | None = None,
    earlier: Mapping[str, Stamp] | None = None,
    *,
    sure: bool = False,
) -> Lineage | None:
    """What stamps tell, None where they are not about the graph before.

    stamps: of the nodes after, by name; nodes without one are still their own. edited: by id, the
    names of the nodes before that an edit touched, from the record of the compile. earlier: stamps
    of the nodes before, where that is a stage of the same compile. sure: whether it is known that
    the graph after came from the one before, so that nodes without a stamp are their own.
    """
    if not stamps and not sure:
        return None
    older = earlier or {}
    place = {str(node.name): number for number, node in enumerate(before.nodes)}
    heirs = _heirs(before, older)
    pairs, origins, made = dict[int, int](), dict[int, tuple[int, ...]](), dict[int, str]()
    for b, node in enumerate(after.nodes):
        name = str(node.name)
        stamp, a = stamps.get(name, Stamp()), place.get(name)
        kept = a is not None and stamp == older.get(name, Stamp())
        if kept and a is not None and before.kinds[a] == after.kinds[b]:
            pairs[a] = b
        elif stamp.edit or stamp.origins:
            origins[b] = tuple(dict.fromkeys(a for o in stamp.origins for a in heirs.get(o, ())))
            made[b] = stamp.edit
    if len(pairs) + sum(1 for found in origins.values() if found) < LEAST * len(after):
        return None
    touched: dict[int, list[str]] = {}
    for edit, names in (edited or {}).items():
        for a in dict.fromkeys(a for name in names for a in heirs.get(name, ())):
            touched.setdefault(a, []).append(edit)
    return Lineage(pairs, origins, {a: tuple(ids) for a, ids in touched.items()}, made)


def _heirs(before: Pool, stamps: Mapping[str, Stamp]) -> dict[str, list[int]]:
    """By name in the user's model, the nodes that are it or stand for it; and by their own."""
    found: dict[str, list[int]] = {}
    for number, node in enumerate(before.nodes):
        stamp = stamps.get(str(node.name), Stamp())
        for name in dict.fromkeys((*stamp.origins, str(node.name))):
            found.setdefault(name, []).append(number)
    return found


def nodes_of_sites(sites: Sites, names: Sequence[str]) -> list[str]:
    """The names of the nodes of these sites."""
    found = [sites.by_name[name] for name in names if name in sites.by_name]
    return [str(node.name) for site in found for node in site.nodes]
