"""Which of two nodes of a graph stands first, in constant time while nodes come and go.

Each node carries a number between those of its neighbours. Where two neighbours leave no room,
all numbers are given out anew, which happens at most once in a hundred insertions at one place
(Dietz and Sleator, "Two algorithms for maintaining order in a list", 1987, in its simplest form).
"""

from __future__ import annotations

import onnx_ir as ir

_ROOM = 1 << 100


class Order:
    """The order of the nodes of one graph. Built in one walk, then told of every change."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._numbers: dict[ir.Node, int] = {}
        self._next: dict[ir.Node, ir.Node | None] = {}
        self._previous: dict[ir.Node, ir.Node | None] = {}
        self._end: ir.Node | None = None
        self._build()

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, node: ir.Node) -> int:
        """A number that grows along the graph; comparable until the next change."""
        return self._numbers[node]

    def before(self, first: ir.Node, second: ir.Node) -> bool:
        """Whether ``first`` stands in front of ``second``."""
        return self._numbers[first] < self._numbers[second]

    def follower(self, node: ir.Node) -> ir.Node | None:
        """The node behind; None for the last one."""
        return self._next[node]

    def insert(self, node: ir.Node, follower: ir.Node | None) -> None:
        """The node was put in front of ``follower``, or at the end."""
        previous = self._end if follower is None else self._previous[follower]
        self._link(previous, node)
        self._link(node, follower)
        low = 0 if previous is None else self._numbers[previous]
        high = low + 2 * _ROOM if follower is None else self._numbers[follower]
        self._numbers[node] = (low + high) // 2
        if self._numbers[node] == low:
            self._build()

    def remove(self, node: ir.Node) -> None:
        """The node was taken out."""
        previous, following = self._previous.pop(node), self._next.pop(node)
        del self._numbers[node]
        if previous is not None:
            self._next[previous] = following
        if following is not None:
            self._previous[following] = previous
        if self._end is node:
            self._end = previous

    def _link(self, first: ir.Node | None, second: ir.Node | None) -> None:
        if first is not None:
            self._next[first] = second
        if second is not None:
            self._previous[second] = first
        if second is None:
            self._end = first

    def _build(self) -> None:
        nodes = list(self._graph)
        self._numbers = {node: (i + 1) * _ROOM for i, node in enumerate(nodes)}
        self._next = dict(zip(nodes, [*nodes[1:], None], strict=True)) if nodes else {}
        self._previous = dict(zip(nodes, [None, *nodes[:-1]], strict=True)) if nodes else {}
        self._end = nodes[-1] if nodes else None
