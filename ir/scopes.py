"""Which graph, subgraph or function body defines a value, and at which position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True, eq=False)
class Scope:
    """One graph, subgraph or function body, and where in the enclosing scope it hangs."""

    graph: ir.Graph
    nodes: tuple[ir.Node, ...]
    label: str
    outer: Scope | None = None
    owner: int = 0  # position in ``outer`` of the node that holds this subgraph
    function: ir.Function | None = None


@dataclass(frozen=True)
class Definitions:
    """The scopes of a model, and for each value the scope and position that define it.

    Positions count nodes; inputs and initializers stand at -1.
    """

    model: ir.Model
    scopes: tuple[Scope, ...]
    defined: dict[ir.Value, tuple[Scope, int]]


def definitions_of(model: ir.Model) -> Definitions:
    """One walk over the graph, its subgraphs and the functions; outer scopes come first."""
    scopes = list(_scopes(model.graph, "the graph"))
    for function in model.functions.values():
        label = f"function {function.domain}.{function.name}"
        scopes += _scopes(function.graph, label, function=function)
    defined: dict[ir.Value, tuple[Scope, int]] = {}
    for scope in scopes:
        for position, node in enumerate(scope.nodes):
            for value in node.outputs:
                defined[value] = scope, position
        for value in (*scope.graph.inputs, *scope.graph.initializers.values()):
            defined[value] = scope, -1
    return Definitions(model, tuple(scopes), defined)


def _scopes(
    graph: ir.Graph,
    label: str,
    outer: Scope | None = None,
    owner: int = 0,
    function: ir.Function | None = None,
) -> Iterator[Scope]:
    scope = Scope(graph, tuple(graph), label, outer, owner, function)
    yield scope
    for position, node in enumerate(scope.nodes):
        for name, subgraph in named_subgraphs(node):
            inner = f"{name} of {describe(node)}"
            yield from _scopes(subgraph, inner, scope, position, function)


def named_subgraphs(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """The graphs a node holds, with the names of their attributes."""
    for attr in node.attributes.values():
        if attr.is_ref():
            continue
        if attr.type == ir.AttributeType.GRAPH:
            yield attr.name, attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS:
            for graph in attr.as_graphs():
                yield attr.name, graph


def describe(node: ir.Node) -> str:
    """``MatMul '/encoder/q/MatMul'``, for messages."""
    return f"{node.op_type} {node.name!r}"


def ancestors(scope: Scope) -> Iterator[Scope]:
    """The scopes around this one, nearest first."""
    outer = scope.outer
    while outer is not None:
        yield outer
        outer = outer.outer
