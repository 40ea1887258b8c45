"""Two versions of a graph run side by side, a layer at a time.

Between two layers only what later nodes still read is held, so that whoever looks at a layer's
output can change it before anything behind it is computed: one run instead of one a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.graph import captured_values, consumers, is_constant
from ...ir.region import extract, region_nodes
from ..execution import running

HELD = 512 << 20
"""Bytes of activations that are held between two layers; the last feeds are left out beyond."""

Arrays = Mapping[str, np.ndarray]
Visit = Callable[[str, Sequence[np.ndarray], Sequence[np.ndarray]], Sequence[np.ndarray]]
"""(value, of the first graph by feed, of the second): the second's, as it goes on with."""


@dataclass(frozen=True)
class Segment:
    """The part of a graph from what is held to the next value that is looked at.

    made: names of that value and of what later parts read. dropped: of what none reads any more.
    """

    model: ir.Model
    made: tuple[str, ...]
    dropped: frozenset[str]


def stepwise(
    before: ir.Model,
    after: ir.Model,
    stops: Sequence[str],
    feeds: Sequence[Arrays],
    visit: Visit,
    *,
    threads: int = 0,
    held: int = HELD,
) -> None:
    """Show the values ``stops``, in graph order, of both graphs on all feeds to ``visit``.

    The graphs have the same nodes. What ``visit`` makes of stored tensors of the second holds for
    nodes behind the value. The runtime's optimisations are off, as for all statistics.
    """
    fronts = [[dict(feed) for feed in feeds] for _ in range(2)]
    for stop, *parts in zip(stops, segments(before, stops), segments(after, stops), strict=True):
        for front, part in zip(fronts, parts, strict=True):
            _advance(front, part, threads)
        seen = [[held_[stop] for held_ in front] for front in fronts]
        for held_, changed in zip(fronts[1], visit(stop, *seen), strict=True):
            held_[stop] = changed
        _drop(fronts, parts[0].dropped, held)


def _advance(front: list[dict[str, np.ndarray]], part: Segment, threads: int) -> None:
    with running(part.model, threads=threads, optimize="none") as session:
        for held in front:
            found = session.run({name: held[name] for name in session.input_names})
            held.update(zip(session.output_names, found, strict=True))


def _drop(fronts: list[list[dict[str, np.ndarray]]], gone: frozenset[str], limit: int) -> None:
    for front in fronts:
        for held in front:
            for name in gone:
                held.pop(name, None)
    while len(fronts[0]) > 1 and sum(_bytes(h) for front in fronts for h in front) > limit:
        for front in fronts:
            front.pop()


def _bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


def segments(model: ir.Model, stops: Sequence[str]) -> Iterator[Segment]:
    """The parts up to each stop, each computing what those before it did not."""
    values = {str(o.name): o for node in model.graph for o in node.outputs}
    ends = [values[name] for name in stops]
    inputs = [v for v in model.graph.inputs if not v.is_initializer()]
    useful = set(region_nodes(inputs, ends))
    held, done = set(inputs), set[ir.Node]()
    for end in ends:
        nodes = region_nodes(list(held), [end])
        done.update(nodes)
        read = {v for node in nodes for v in _reads(node)} & held
        made = [end] + [
            o for node in nodes for o in node.outputs
            if o is not end and _needed(o, useful, done)
        ]  # fmt: skip
        gone = {v for v in held if not _needed(v, useful, done)}
        if not _needed(end, useful, done):
            gone.add(end)
        held = (held | set(made)) - gone
        part = extract(model, sorted(read, key=lambda v: str(v.name)), made)
        yield Segment(part, tuple(str(v.name) for v in made), frozenset(str(v.name) for v in gone))


def _needed(value: ir.Value, useful: set[ir.Node], done: set[ir.Node]) -> bool:
    return any(node in useful and node not in done for node in consumers(value))


def _reads(node: ir.Node) -> list[ir.Value]:
    given = [v for v in node.inputs if v is not None]
    return [v for v in (*given, *captured_values(node)) if not is_constant(v)]
