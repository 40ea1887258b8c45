"""What the rewriter knows of a model at any moment without walking over it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx_ir as ir

from ..graph import all_graphs, subgraphs
from .order import Order


class Index:
    """Names, the holders of subgraphs, and the order of nodes; told of every change.

    values: by name, None for a name that is taken by nothing in the graph. ambiguous: names that
    more than one value had at the start (in branches that do not see each other).
    """

    def __init__(self, model: ir.Model) -> None:
        self.values: dict[str, ir.Value | None] = {}
        self.nodes: dict[str, ir.Node | None] = {}
        self.owners: dict[ir.Graph, ir.Node] = {}
        self.ambiguous: set[str] = set()
        self._model = model
        self._orders: dict[ir.Graph, Order] = {}
        self._counts: dict[tuple[bool, str], int] = {}
        for graph in all_graphs(model):
            self._add(graph)

    def order(self, graph: ir.Graph) -> Order:
        """The order of a graph's nodes; built on first use."""
        found = self._orders.get(graph)
        if found is None or len(found) != len(graph):  # somebody edited behind our back
            found = self._orders[graph] = Order(graph)
        return found

    def inserted(
        self, graph: ir.Graph, node: ir.Node, before: ir.Node | None, after: ir.Node | None
    ) -> None:
        """A node was put into a graph: in front of one, behind one, or at the end."""
        known = self._orders.get(graph)
        if known is None:
            return
        if before is None and after is not None:
            before = known.follower(after)
        known.insert(node, before)

    def removed(self, graph: ir.Graph, node: ir.Node) -> None:
        """A node was taken out of a graph."""
        known = self._orders.get(graph)
        if known is not None:
            known.remove(node)

    def hold(self, node: ir.Node) -> list[tuple[dict[str, Any], str]]:
        """The node holds its subgraphs from now on; returns the names that were new, by table."""
        inside = [graph for inner in subgraphs(node) for graph in all_graphs(inner)]
        self.owners.update(dict.fromkeys(subgraphs(node), node))
        return [new for graph in inside for new in self._add(graph)]

    def forget(self, names: Iterable[tuple[dict[str, Any], str]]) -> None:
        """These names are free again."""
        for table, name in names:
            table.pop(name, None)

    def free_name(self, hint: str, *, of_node: bool) -> tuple[str, int]:
        """A name that nothing has, ``hint`` or ``hint_N``, and the N where to look on from."""
        taken = self.nodes if of_node else self.values
        name, count = hint, self._counts.get((of_node, hint), 0)
        if count:
            name = f"{hint}_{count}"
        while name in taken or not name:
            count += 1
            name = f"{hint}_{count}"
        return name, count

    def take(self, name: str, hint: str, count: int, *, of_node: bool) -> None:
        """The name is in use from now on."""
        taken: dict[str, ir.Node | None] | dict[str, ir.Value | None]
        taken = self.nodes if of_node else self.values
        taken[name] = None
        self._counts[of_node, hint] = count

    def give_back(self, name: str, hint: str, count: int, *, of_node: bool) -> None:
        """The name is free again, and the search starts where it did before."""
        taken: dict[str, ir.Node | None] | dict[str, ir.Value | None]
        taken = self.nodes if of_node else self.values
        taken.pop(name, None)
        self._counts[of_node, hint] = count

    def counted(self, hint: str, *, of_node: bool) -> int:
        """Where the search for a name starts."""
        return self._counts.get((of_node, hint), 0)

    def known(self, value: ir.Value) -> bool:
        """Whether the value is the only one that has its name."""
        name = value.name or ""
        return bool(name) and self.values.get(name) is value and name not in self.ambiguous

    def around(self, graph: ir.Graph | None) -> Iterator[ir.Graph]:
        """The graph and those around it, innermost first."""
        while graph is not None:
            yield graph
            owner = self.owners.get(graph)
            graph = None if owner is None else graph_of(owner)

    def holder_in(self, node: ir.Node, graph: ir.Graph) -> ir.Node | None:
        """The node of ``graph`` inside which ``node`` lies (itself, if it stands there)."""
        found: ir.Node | None = node
        while found is not None and found.graph is not graph:
            home = graph_of(found)
            found = None if home is None else self.owners.get(home)
        return found

    def _add(self, graph: ir.Graph) -> list[tuple[dict[str, Any], str]]:
        found: list[tuple[dict[str, Any], str]] = []
        values = [*graph.inputs, *graph.initializers.values()]
        for node in graph:
            values += node.outputs
            self.owners.update(dict.fromkeys(subgraphs(node), node))
            name = node.name or ""
            found += [] if name in self.nodes else [(self.nodes, name)]
            self.nodes[name] = node
        for value in values:
            name = value.name or ""
            found += [] if name in self.values else [(self.values, name)]
            if self.values.get(name, value) not in (value, None):
                self.ambiguous.add(name)
            self.values[name] = value
        return found


def graph_of(node: ir.Node) -> ir.Graph | None:
    """The graph in which a node stands; None where it was taken out."""
    return node.graph if isinstance(node.graph, ir.Graph) else None
