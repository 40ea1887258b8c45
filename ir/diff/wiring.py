"""Inputs of a node that come from other nodes now, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .grouping import rewired
from .match import Matching
from .pool import Pool, Source


def wiring(found: Matching, a: int, b: int) -> Iterator[str]:
    """What each input that comes from elsewhere came from, and comes from: a phrase each.

    One phrase where the inputs of a node only changed places.
    """
    pairs = list(enumerate(zip(found.before.sources[a], found.after.sources[b], strict=False)))
    other = [(slot, x, y) for slot, (x, y) in pairs if rewired(found, x, y)]
    slots = [slot for slot, *_ in other]
    if len(other) > 1 and _same_values(found, [x for _, x, _ in other], [y for *_, y in other]):
        numbers = f"{', '.join(map(str, slots[:-1]))} and {slots[-1]}"
        yield f"inputs {numbers} {'swapped' if len(slots) == 2 else 'in another order'}"
        return
    for slot, x, y in other:
        yield f"input {slot}: {_origin(found.before, x)} -> {_origin(found.after, y)}"


def _same_values(found: Matching, before: Sequence[Source], after: Sequence[Source]) -> bool:
    """Whether sources are the same but for their order."""
    return sorted(map(str, (_mapped(found, s) for s in before))) == sorted(map(str, after))


def _mapped(found: Matching, source: Source) -> Source:
    """A source before, as it is called in the graph after."""
    if source.kind not in ("node", "body"):
        return source
    return source._replace(of=found.pairs.get(int(source.of), f"gone {source.of}"))


def _origin(pool: Pool, source: Source) -> str:
    """``Conv conv2``, ``output 1 of Split heads``, ``the input x``."""
    if source.kind == "input":
        return f"the input {source.of}"
    if source.kind == "constant":
        return "a constant"
    if source.kind == "none":
        return "nothing"
    node = pool.nodes[int(source.of)]
    known = " ".join(filter(None, (node.op_type, str(node.name or ""))))
    if source.kind == "body":
        return f"input {source.output} of the body of {known}"
    return f"output {source.output} of {known}" if len(node.outputs) > 1 else known
