"""A graph as it was, held by references: told apart from what it is now, and put back.

The journal of the ``Rewriter`` undoes what went through the rewriter. This undoes the rest, for
code that is not trusted to keep to it. Objects stay the same ones, so what knows nodes and values
of the graph goes on knowing them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ..graph import all_graphs
from ..scopes import describe

_NODE = ("name", "domain", "op_type", "overload", "version", "doc_string")
_VALUE = ("name", "type", "const_value")


@dataclass(frozen=True)
class State:
    """What a model consists of. Tensors are not copied: they are read-only."""

    model: ir.Model
    graphs: Mapping[ir.Graph, tuple[tuple[Any, ...], ...]]
    nodes: Mapping[ir.Node, tuple[Any, ...]]
    values: Mapping[ir.Value, tuple[Any, ...]]
    opsets: Mapping[str, int]

    @classmethod
    def at(cls, model: ir.Model) -> State:
        """The state of a model now."""
        graphs = {graph: _graph(graph) for graph in all_graphs(model)}
        nodes = {node: _node(node) for graph in graphs for node in graph}
        values = {value: _value(value) for value in _values(graphs)}
        return cls(model, graphs, nodes, values, dict(model.opset_imports))

    def differences(self) -> Iterator[str]:
        """What is not as it was, in words."""
        now = State.at(self.model)
        for graph in _unlike(self.graphs, now.graphs):
            yield f"what graph {graph.name!r} consists of"
        for node in _unlike(self.nodes, now.nodes):
            yield describe(node)
        for value in _unlike(self.values, now.values):
            yield f"value {value.name!r}"
        if dict(self.opsets) != now.opsets:
            yield "the imported opsets"

    def restore(self) -> None:
        """Put everything back."""
        for graph in list(all_graphs(self.model)):
            if graph not in self.graphs:
                continue
            for node in list(graph):
                _cut_off(node)
                graph.remove(node)
            graph.initializers.clear()
        for node, parts in self.nodes.items():
            _put_node(node, parts)
        for graph, (nodes, inputs, outputs, stored) in self.graphs.items():
            if isinstance(graph, ir.Graph):
                graph.inputs[:], graph.outputs[:] = inputs, outputs
            graph.extend(nodes)
            for value in stored:
                _put_value(value, self.values[value])
                graph.initializers.add(value)
        for value, held in self.values.items():
            _put_value(value, held)
        self.model.opset_imports.clear()
        self.model.opset_imports.update(self.opsets)


def _values(graphs: Mapping[ir.Graph, Any]) -> Iterator[ir.Value]:
    for graph in graphs:
        yield from graph.inputs
        yield from graph.initializers.values()
        yield from (output for node in graph for output in node.outputs)


def _graph(graph: ir.Graph) -> tuple[tuple[Any, ...], ...]:
    stored = tuple(graph.initializers.values())
    return tuple(graph), tuple(graph.inputs), tuple(graph.outputs), stored


def _node(node: ir.Node) -> tuple[Any, ...]:
    attributes = tuple(node.attributes.items())
    return tuple(node.inputs), attributes, tuple(getattr(node, name) for name in _NODE)


def _value(value: ir.Value) -> tuple[Any, ...]:
    shape = None if value.shape is None else tuple(value.shape)
    return tuple(getattr(value, name) for name in _VALUE), shape


def _unlike(before: Mapping[Any, Any], now: Mapping[Any, Any]) -> Iterator[Any]:
    for item in {**before, **now}:
        if not _same(before.get(item), now.get(item)):
            yield item


def _same(one: Any, other: Any) -> bool:
    """Whether the parts are the same objects, or equal texts, numbers and sizes."""
    if one is other:
        return True
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    plain = (str, int, ir.SymbolicDim, ir.TensorType)
    return isinstance(one, plain) and isinstance(other, plain) and one == other


def _cut_off(node: ir.Node) -> None:
    for index in range(len(node.inputs)):
        node.replace_input_with(index, None)


def _put_node(node: ir.Node, parts: tuple[Any, ...]) -> None:
    inputs, attributes, named = parts
    for name, held in zip(_NODE, named, strict=True):
        setattr(node, name, held)
    node.attributes.clear()
    node.attributes.update(dict(attributes))
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)


def _put_value(value: ir.Value, held: tuple[Any, ...]) -> None:
    named, shape = held
    for name, was in zip(_VALUE, named, strict=True):
        setattr(value, name, was)
    value.shape = None if shape is None else ir.Shape(shape)
