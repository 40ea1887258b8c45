"""What an edit touched, and how that was before: all that a local check needs to know.

Only the ``Rewriter`` writes footprints, and only before it changes something. What a footprint
does not name is as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from ..scopes import named_subgraphs
from ..signature import Signature


def is_graph(attribute: ir.Attr) -> bool:
    """Whether the attribute holds one graph or several."""
    held = attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return held and not attribute.is_ref()


@dataclass(frozen=True)
class NodeState:
    """What a node reads and how it is set, in which graph, and what operator it is."""

    inputs: tuple[ir.Value | None, ...]
    attributes: tuple[ir.Attr, ...]
    graph: ir.Graph
    operator: ir.OperatorIdentifier

    @classmethod
    def of(cls, node: ir.Node) -> NodeState | None:
        """The state of a node now; None where it is in no graph."""
        graph = node.graph
        if not isinstance(graph, ir.Graph):
            return None
        return cls(tuple(node.inputs), tuple(node.attributes.values()), graph, node.op_identifier())


@dataclass(frozen=True)
class WeightState:
    """What an initializer holds. default: its name where a caller may override it, else None."""

    tensor: ir.TensorProtocol | None
    default: str | None
    graph: ir.Graph

    @classmethod
    def of(cls, value: ir.Value) -> WeightState | None:
        """The state of an initializer now; None where the value is none."""
        graph = value.graph
        if not value.is_initializer() or not isinstance(graph, ir.Graph):
            return None
        name = str(value.name) if value.is_graph_input() else None
        return cls(value.const_value, name, graph)


@dataclass(frozen=True)
class View:
    """The touched nodes, weights and output lists that a graph has (before or after an edit)."""

    main: ir.Graph
    nodes: Mapping[ir.Node, NodeState]
    weights: Mapping[ir.Value, WeightState]
    outputs: Mapping[ir.Graph, tuple[ir.Value, ...]]
    opsets: Mapping[str, int]
    signature: Signature | None

    def state(self, node: ir.Node) -> NodeState | None:
        """Also of a node that was not touched."""
        return self.nodes.get(node) or NodeState.of(node)


@dataclass(eq=False)
class Footprint:
    """The state before the edit of all that it touched; None where there was nothing.

    renamed: values that got another name; values: these, and those of which another dtype or shape
    was said. signature: before, where an input or output of the
    model was touched. bodies: whether a node with a subgraph came, went, or got another one.
    """

    model: ir.Model
    nodes: dict[ir.Node, NodeState | None] = field(default_factory=dict)
    weights: dict[ir.Value, WeightState | None] = field(default_factory=dict)
    outputs: dict[ir.Graph, tuple[ir.Value, ...]] = field(default_factory=dict)
    renamed: dict[ir.Value, None] = field(default_factory=dict)
    values: dict[ir.Value, None] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)
    signature: Signature | None = None
    bodies: bool = False

    def __post_init__(self) -> None:
        self.opsets = dict(self.model.opset_imports)

    def node(self, node: ir.Node) -> None:
        """The node is about to be changed, inserted or removed."""
        if node not in self.nodes:
            self.nodes[node] = NodeState.of(node)

    def whole_node(self, node: ir.Node, attribute: ir.Attr | None = None) -> None:
        """The node is about to come or go, or to get an attribute, with any graphs inside."""
        self.node(node)
        held = any(True for _ in named_subgraphs(node))
        self.bodies = self.bodies or held or (attribute is not None and is_graph(attribute))

    def weight(self, value: ir.Value) -> None:
        """The initializer is about to be changed, added or dropped."""
        if value not in self.weights:
            self.weights[value] = WeightState.of(value)

    def value(self, value: ir.Value) -> None:
        """The name, type or shape of the value is about to be changed."""
        self.values[value] = None
        if self.signature is None and (value.is_graph_input() or value.is_graph_output()):
            self.signature = Signature.of(self.model)
        if value.is_initializer():
            self.weight(value)

    def name(self, value: ir.Value) -> None:
        """The value is about to get another name."""
        self.value(value)
        self.renamed[value] = None

    def output_list(self, graph: ir.Graph) -> None:
        """The outputs of a graph are about to be changed."""
        if self.signature is None:
            self.signature = Signature.of(self.model)
        self.outputs.setdefault(graph, tuple(graph.outputs))

    @property
    def empty(self) -> bool:
        """Whether nothing that a digest covers was touched."""
        return not (self.nodes or self.weights or self.outputs or self.signature) and (
            self.opsets == dict(self.model.opset_imports)
        )

    def before(self) -> View:
        """The touched part as it was."""
        nodes = {n: s for n, s in self.nodes.items() if s is not None}
        weights = {v: s for v, s in self.weights.items() if s is not None}
        return View(self.model.graph, nodes, weights, self.outputs, self.opsets, self.signature)

    def after(self) -> View:
        """The touched part as it is."""
        states = [(n, NodeState.of(n)) for n in self.nodes]
        weights = [(v, WeightState.of(v)) for v in self.weights]
        return View(
            self.model.graph,
            {n: s for n, s in states if s is not None},
            {v: s for v, s in weights if s is not None},
            {graph: tuple(graph.outputs) for graph in self.outputs},
            dict(self.model.opset_imports),
            None if self.signature is None else Signature.of(self.model),
        )
