"""Changes that did not go through the rewriter, found by comparison with an earlier look."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import onnx_ir as ir

from ..graph import all_graphs
from ..scopes import describe
from .footprint import Footprint, NodeState, WeightState

T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """What each node reads and how it is set, what each initializer holds, what is handed out."""

    nodes: Mapping[ir.Node, NodeState | None]
    weights: Mapping[ir.Value, WeightState | None]
    outputs: Mapping[ir.Graph, tuple[ir.Value, ...]]

    @classmethod
    def at(cls, model: ir.Model) -> Look:
        """The state of a model now; nothing is copied but lists of references."""
        graphs = list(all_graphs(model))
        stored = [v for graph in graphs for v in graph.initializers.values()]
        return cls(
            {node: NodeState.of(node) for graph in graphs for node in graph},
            {value: WeightState.of(value) for value in stored},
            {graph: tuple(graph.outputs) for graph in graphs},
        )


@dataclass
class Touched:
    """All that some edits touched."""

    nodes: set[ir.Node] = field(default_factory=set)
    weights: set[ir.Value] = field(default_factory=set)
    graphs: set[ir.Graph] = field(default_factory=set)
    bodies: bool = False

    def add(self, footprint: Footprint) -> None:
        """One more edit."""
        self.nodes.update(footprint.nodes)
        self.weights.update(footprint.weights)
        self.graphs.update(footprint.outputs)
        self.bodies = self.bodies or footprint.bodies


def strays(before: Look, model: ir.Model, touched: Touched) -> Iterator[str]:
    """What changed since and was not touched by an edit.

    Where edits brought or took subgraphs, only the nodes that stand outside are compared.
    """
    after = Look.at(model)
    main = model.graph if touched.bodies else None
    for node in _changed(before.nodes, after.nodes, touched.nodes):
        state = after.nodes.get(node) or before.nodes.get(node)
        if main is None or (state is not None and state.graph is main):
            yield describe(node)
    for value in _changed(before.weights, after.weights, touched.weights):
        weight = after.weights.get(value) or before.weights.get(value)
        if main is None or (weight is not None and weight.graph is main):
            yield f"initializer {value.name!r}"
    if touched.bodies:
        return
    for graph in _changed(before.outputs, after.outputs, touched.graphs):
        yield f"the outputs of graph {graph.name!r}"


def _changed(
    before: Mapping[T, object], after: Mapping[T, object], touched: Container[T]
) -> Iterator[T]:
    for item in {**before, **after}:
        if item not in touched and not _same(before.get(item), after.get(item)):
            yield item


def _same(before: object, after: object) -> bool:
    """Whether two states name the same objects; what these hold is not compared."""
    return _parts(before) == _parts(after)


def _parts(state: object) -> tuple[object, ...]:
    if isinstance(state, NodeState):
        kept = (*map(id, state.inputs), "set", *map(id, state.attributes), id(state.graph))
        return *kept, *state.operator
    if isinstance(state, WeightState):
        return id(state.tensor), state.default, id(state.graph)
    return tuple(map(id, state)) if isinstance(state, tuple) else (state,)
