"""Shapes downstream of an edit: forget what became untrue, infer anew, stop where nothing moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from ..errors import PassError
from ..graph import all_graphs, subgraphs
from ..provenance import Remark
from .shapes import infer_node

Owners = dict[ir.Graph, ir.Node]


def infer_downstream(nodes: Iterable[ir.Node], model: ir.Model) -> list[Remark]:
    """Infer these nodes, then the readers of every output that changed, until nothing changes.

    Readers inside subgraphs count, and so do the nodes that hold those subgraphs. Returns a note
    for each node that cannot take its inputs any more.
    """
    owners = owners_of(model)
    failed: dict[ir.Node, Remark] = {}
    pending = deque(dict.fromkeys(nodes))
    waiting = set(pending)
    while pending:
        node = pending.popleft()
        waiting.discard(node)
        try:
            changed = infer_node(node, model)
        except PassError as error:
            failed[node] = Remark("note", "shapes", node.name or "", "shapes-unknown", error.what)
            continue
        fresh = [r for r in _readers(node, owners) if r not in waiting] if changed else []
        pending.extend(fresh)
        waiting.update(fresh)
    return list(failed.values())


def clear_downstream(values: Iterable[ir.Value], model: ir.Model) -> list[ir.Node]:
    """Forget the shapes of all that is computed from ``values``, except the model's outputs.

    Returns the nodes concerned, in graph order, ready for ``infer_downstream``.
    """
    owners = owners_of(model)
    kept = {id(v) for v in model.graph.outputs}
    found: set[ir.Node] = set()
    pending = [r for v in values for r in _readers_of(v, owners)]
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        for value in node.outputs:
            if id(value) not in kept:
                value.shape = None
        pending.extend(_readers(node, owners))
    return [node for graph in all_graphs(model) for node in graph if node in found]


def owners_of(model: ir.Model) -> Owners:
    """For each subgraph the node that holds it."""
    graphs = all_graphs(model)
    return {inner: node for graph in graphs for node in graph for inner in subgraphs(node)}


def _readers(node: ir.Node, owners: Owners) -> list[ir.Node]:
    found = [r for value in node.outputs for r in _readers_of(value, owners)]
    holder = owners.get(node.graph) if node.graph is not None else None
    if holder is not None and any(v.is_graph_output() for v in node.outputs):
        found.append(holder)
    return list(dict.fromkeys(found))


def _readers_of(value: ir.Value, owners: Owners) -> Iterator[ir.Node]:
    for usage in value.uses():
        yield usage.node
        home = usage.node.graph
        while home is not None and home is not value.graph and home in owners:
            yield owners[home]
            home = owners[home].graph
