"""Which nodes of two graphs are the same one, whatever they are called.

In this order: stamps that a compiler left (``lineage``), names whose surroundings agree, then
surroundings alone: equal hashes of radius 3, 2, 1 and 0 that occur once in each graph, and what
follows from pairs that are known, slot by slot. Last names alone, and alignment of what lies
between known pairs. Hashes of whole input cones would be poisoned by the first change; a search
for isomorphic subgraphs takes exponential time on repeated blocks.
"""

from __future__ import annotations

import bisect
import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .pool import DQ, Pool, Q, Reader, Source

RADII = (3, 2, 1, 0)
GAP = 2000
"""Nodes between two known pairs up to which they are aligned."""

_FOLDED = (("node", "constant"), ("constant", "node"))
"""Kinds of an input that was computed in advance, or is computed now."""

Equal = Callable[[int, int], bool]


@dataclass
class Matching:
    """Pairs of node numbers; how: what settled each, for who wants to know."""

    before: Pool
    after: Pool
    pairs: dict[int, int] = field(default_factory=dict)
    inverse: dict[int, int] = field(default_factory=dict)
    how: dict[int, str] = field(default_factory=dict)

    @property
    def partly(self) -> bool:
        """Whether of some constants nothing but dtype and shape is known."""
        return bool(self.before.faces)

    def add(self, a: int, b: int, how: str) -> None:
        """These two are one node."""
        self.pairs[a], self.inverse[b], self.how[a] = b, a, how

    def open(self, a: int, b: int) -> bool:
        """Whether neither of the two is known yet, and both stand in bodies that correspond."""
        if a in self.pairs or b in self.inverse:
            return False
        owner, other = self.before.owners[a], self.after.owners[b]
        return owner == other == -1 or (owner >= 0 and self.pairs.get(owner) == other)

    def left(self) -> tuple[list[int], list[int]]:
        """The nodes of each side that are not known, in order."""
        return (
            [a for a in range(len(self.before)) if a not in self.pairs],
            [b for b in range(len(self.after)) if b not in self.inverse],
        )


def match(before: Pool, after: Pool, known: Mapping[int, int] | None = None) -> Matching:
    """The nodes of two graphs that are the same. known: pairs that lineage tells."""
    found = Matching(before, after)
    for a, b in (known or {}).items():
        found.add(a, b, "lineage")
    hashes = _hashes(before, after)
    _by_name(found, lambda a, b: hashes[1][0][a] == hashes[1][1][b], "name")
    for radius in RADII:
        _unique(found, *hashes[radius], f"radius {radius}")
    _propagate(found, _alike(found))
    _by_name(found, lambda a, b: before.labels[a] == after.labels[b], "name")
    _propagate(found, _alike(found))
    _by_name(found, _same_kind(found), "name")
    _propagate(found, _changed(found))
    _align(found)
    _propagate(found, _changed(found))
    if after.seen is not after.sources or before.seen is not before.sources:
        _propagate(found, _rounded(found), seen=True)
    return found


# -- surroundings --------------------------------------------------------------------------


def _hashes(before: Pool, after: Pool) -> dict[int, tuple[list[int], list[int]]]:
    """Numbers that are equal where the surroundings of that radius are, for both graphs."""
    numbers: dict[Hashable, int] = {}
    first = tuple([_number(numbers, x) for x in pool.labels] for pool in (before, after))
    found = {0: (first[0], first[1])}
    for radius in range(1, max(RADII) + 1):
        found[radius] = (
            _widened(before, found[radius - 1][0], numbers),
            _widened(after, found[radius - 1][1], numbers),
        )
    return found


def _number(numbers: dict[Hashable, int], what: Hashable) -> int:
    return numbers.setdefault(what, len(numbers))


def _widened(pool: Pool, hashes: list[int], numbers: dict[Hashable, int]) -> list[int]:
    made = []
    for number, sources in enumerate(pool.sources):
        read = tuple(
            (hashes[int(s.of)], s.output) if s.kind in ("node", "body") else s
            for s in sources
            if s.kind != "constant"
        )
        readers = [
            (hashes[r.node] if r.node >= 0 else -1, r.slot, r.output) for r in pool.readers[number]
        ]
        made.append(_number(numbers, (hashes[number], read, tuple(sorted(readers)))))
    return made


def _unique(found: Matching, before: Sequence[int], after: Sequence[int], how: str) -> None:
    """Match what occurs once among the open nodes of each side."""
    open_a, open_b = found.left()
    counts = Counter(before[a] for a in open_a), Counter(after[b] for b in open_b)
    place = {after[b]: b for b in open_b if counts[1][after[b]] == 1}
    for a in open_a:
        b = place.get(before[a])
        if b is not None and counts[0][before[a]] == 1 and found.open(a, b):
            found.add(a, b, how)


# -- names ---------------------------------------------------------------------------------


def _by_name(found: Matching, equal: Equal, how: str) -> None:
    """Match open nodes whose first outputs share a name that is given once on each side."""
    open_a, open_b = found.left()
    names_a, names_b = found.before.names, found.after.names
    counts = Counter(names_a[a] for a in open_a), Counter(names_b[b] for b in open_b)
    place = {names_b[b]: b for b in open_b}
    for a in open_a:
        name = names_a[a]
        b = place.get(name) if name and counts[0][name] == counts[1][name] == 1 else None
        if b is not None and found.open(a, b) and equal(a, b):
            found.add(a, b, how)


def _alike(found: Matching) -> Equal:
    """Equal labels."""
    return lambda a, b: found.before.labels[a] == found.after.labels[b]


def _same_kind(found: Matching) -> Equal:
    """One operator, and constants of the same shapes."""
    return lambda a, b: (
        found.before.kinds[a] == found.after.kinds[b]
        and _constant_shapes(found.before, a) == _constant_shapes(found.after, b)
    )


def _changed(found: Matching) -> Equal:
    """One operator; constants of the same shapes, or known neighbours on both sides."""
    same = _same_kind(found)

    def equal(a: int, b: int) -> bool:
        if found.before.kinds[a] != found.after.kinds[b]:
            return False
        return same(a, b) or (_fed_alike(found, a, b) and _read_alike(found, a, b))

    return equal


def _rounded(found: Matching) -> Equal:
    """One operator, neither Q nor DQ: weights of the same shapes, inputs that come from the same
    place, but for rounding."""
    same = _same_kind(found)
    return lambda a, b: (
        same(a, b)
        and found.before.nodes[a].op_type not in (Q, DQ)
        and found.before.attributes[a] == found.after.attributes[b]
    )


def _constant_shapes(pool: Pool, number: int) -> list[tuple[int, tuple[object, ...]]]:
    """Of the constants that a node reads, be they stored as integers."""
    values = pool.nodes[number].inputs
    return [
        (slot, tuple(values[slot].shape or ()))  # type: ignore[union-attr]
        for slot, source in enumerate(pool.seen[number])
        if source.kind == "constant"
    ]


def _fed_alike(found: Matching, a: int, b: int) -> bool:
    """Whether what the two compute from is known to be the same, at least in part, and nowhere
    known to differ. What is a constant on one side only says nothing."""
    agreed = 0
    for x, y in zip(found.before.sources[a], found.after.sources[b], strict=False):
        if (x.kind, y.kind) in _FOLDED:
            continue
        if x.kind != y.kind:
            return False
        if x.kind == "node":
            if found.pairs.get(int(x.of)) != y.of or x.output != y.output:
                return False
            agreed += 1
        elif x.kind == "input":
            if x != y:
                return False
            agreed += 1
    return agreed > 0


def _read_alike(found: Matching, a: int, b: int) -> bool:
    """Whether a reader of the one is known to be a reader of the other, at the same input."""
    theirs = {(r.node, r.slot, r.output) for r in found.after.readers[b]}
    return any(
        (found.pairs.get(r.node, -2) if r.node >= 0 else -1, r.slot, r.output) in theirs
        for r in found.before.readers[a]
    )


# -- what follows --------------------------------------------------------------------------


def _propagate(found: Matching, equal: Equal, *, seen: bool = False) -> None:
    """From known pairs along equal slots, where only one partner is possible.

    seen: along the wires as they are where pairs of Q and DQ are seen through.
    """
    todo = _borders(found, seen)
    while todo:
        a, b = todo.pop()
        for x, y in _neighbours(found, a, b, equal, seen):
            if found.open(x, y):
                found.add(x, y, "neighbour")
                todo.append((x, y))


def _borders(found: Matching, seen: bool) -> list[tuple[int, int]]:
    """The known pairs that stand next to an open node."""
    sources, readers = _wires(found.before, seen)
    beside = dict[int, None]()
    for a in found.left()[0]:
        beside |= dict.fromkeys(int(s.of) for s in sources[a] if s.kind == "node")
        beside |= dict.fromkeys(r.node for r in readers[a])
    return [(a, found.pairs[a]) for a in beside if a in found.pairs]


def _wires(pool: Pool, seen: bool) -> tuple[list[tuple[Source, ...]], list[list[Reader]]]:
    return (pool.seen, pool.seen_readers) if seen else (pool.sources, pool.readers)


def _neighbours(
    found: Matching, a: int, b: int, equal: Equal, seen: bool
) -> Iterator[tuple[int, int]]:
    """Pairs that may follow from a known one: what both read, and what reads both."""
    near, far = _wires(found.before, seen), _wires(found.after, seen)
    for x, y in zip(near[0][a], far[0][b], strict=False):
        if x.kind == y.kind == "node" and x.output == y.output:
            one, other = int(x.of), int(y.of)
            if found.open(one, other) and equal(one, other):
                yield one, other
    mine = _open_readers(near[1][a], found.pairs)
    theirs = _open_readers(far[1][b], found.inverse)
    for place, ones in mine.items():
        others = theirs.get(place, [])
        many = len(ones) * len(others) > GAP
        fits = [] if many else [(p, q) for p in ones for q in others if equal(p, q)]
        counts = Counter(p for p, _ in fits), Counter(q for _, q in fits)
        yield from ((p, q) for p, q in fits if counts[0][p] == counts[1][q] == 1)


def _open_readers(
    readers: Sequence[Reader], known: Mapping[int, int]
) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for reader in readers:
        if reader.node >= 0 and reader.node not in known:
            found[reader.slot, reader.output].append(reader.node)
    return found


# -- what lies between ---------------------------------------------------------------------


def _align(found: Matching) -> None:
    """Align what is left between known pairs, in order: the longest common part of each gap.

    Only nodes that are fed by the same node or read by it, or of which each side of the gap has
    one: all around them may have changed.
    """
    for ones, others in _gaps(found):
        if len(ones) > GAP or len(others) > GAP:
            continue
        labels = [found.before.labels[a] for a in ones], [found.after.labels[b] for b in others]
        counts = Counter(labels[0]), Counter(labels[1])
        matcher = difflib.SequenceMatcher(None, *labels, autojunk=False)
        for block in matcher.get_matching_blocks():
            for step in range(block.size):
                a, b = ones[block.a + step], others[block.b + step]
                label = found.before.labels[a]
                single = counts[0][label] == counts[1][label] == 1
                near = single or _fed_alike(found, a, b) or _read_alike(found, a, b)
                if near and found.open(a, b):
                    found.add(a, b, "place")


def _gaps(found: Matching) -> Iterator[tuple[list[int], list[int]]]:
    """Open nodes of both sides between neighbouring pairs that stand in the same order."""
    anchors = _rising(sorted(found.pairs.items()))
    edges = [(-1, -1), *anchors, (len(found.before), len(found.after))]
    for (a, b), (c, d) in pairwise(edges):
        ones = [n for n in range(a + 1, c) if n not in found.pairs]
        others = [n for n in range(b + 1, d) if n not in found.inverse]
        if ones and others:
            yield ones, others


def _rising(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest run of pairs whose second numbers rise, too (patience sorting)."""

    tops: list[int] = []
    ends: list[int] = []
    back: list[int] = []
    for index, (_, b) in enumerate(pairs):
        place = bisect.bisect_left(tops, b)
        back.append(ends[place - 1] if place else -1)
        if place == len(tops):
            tops.append(b)
            ends.append(index)
        else:
            tops[place], ends[place] = b, index
    chosen = []
    at = ends[-1] if ends else -1
    while at >= 0:
        chosen.append(pairs[at])
        at = back[at]
    return chosen[::-1]
