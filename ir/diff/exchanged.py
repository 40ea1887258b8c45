"""Pairs of nodes that changed places in a matching, though the graphs did not: two layers whose
weights were exchanged are two layers with other weights, not a graph that is wired otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from .grouping import differs, rewired
from .match import Matching

ROUNDS, MANY = 4, 2000
"""How often, and how many nodes are tried at most."""


def settle_exchanged(found: Matching) -> None:
    """Pair nodes by name that were paired crosswise, where no more nodes differ then."""
    place = {name: b for b, name in enumerate(found.after.names) if name}
    for _ in range(ROUNDS):
        if not sum([_settled(found, a, place) for a in islice(_suspects(found), MANY)]):
            return


def _settled(found: Matching, a: int, place: Mapping[str, int]) -> bool:
    """Whether a node was paired by name now."""
    b, wanted = found.pairs[a], place.get(found.before.names[a])
    other = None if wanted is None else found.inverse.get(wanted)
    if other is None or other == a or found.before.names[other] != found.after.names[b]:
        return False
    return _exchangeable(found, a, other) and _exchange(found, a, other)


def _suspects(found: Matching) -> Iterator[int]:
    """What the readers of which read something else now."""
    seen = dict[int, None]()
    for a, b in found.pairs.items():
        for x, y in zip(found.before.sources[a], found.after.sources[b], strict=False):
            if x.kind == "node" and rewired(found, x, y):
                seen[int(x.of)] = None
    yield from (a for a in seen if a in found.pairs)


def _exchangeable(found: Matching, a: int, other: int) -> bool:
    """Whether both are the same operator at the same place, with as many inputs, without bodies;
    no stamp told that they are their own."""
    before, after = found.before, found.after
    if "lineage" in (found.how[a], found.how[other]) or {a, other} & set(before.owners):
        return False
    same = before.kinds[a] == before.kinds[other] and before.owners[a] == before.owners[other]
    counts = {len(before.sources[n]) for n in (a, other)}
    counts |= {len(after.sources[found.pairs[n]]) for n in (a, other)}
    return same and len(counts) == 1


def _exchange(found: Matching, a: int, other: int) -> bool:
    """Exchange what two nodes are paired with, where no more nodes around them differ then."""
    around = _around(found, a) | _around(found, other)
    worse = _cost(found, around)
    known = [(n, found.pairs[n], found.how[n]) for n in (a, other)]
    found.add(a, known[1][1], "name")
    found.add(other, known[0][1], "name")
    if _cost(found, around) <= worse:
        return True
    for n, b, how in known:
        found.add(n, b, how)
    return False


def _around(found: Matching, a: int) -> set[int]:
    """A node, and who reads it on either side."""
    after = (r.node for r in found.after.readers[found.pairs[a]])
    before = {r.node for r in found.before.readers[a]}
    return {a} | before | {found.inverse[b] for b in after if b in found.inverse}


def _cost(found: Matching, numbers: set[int]) -> int:
    return sum(differs(found, n, found.pairs[n]) for n in numbers if n in found.pairs)
