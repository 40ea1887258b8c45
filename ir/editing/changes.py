"""Where two versions of a graph differ: regions with the same inputs and outputs in both.

Values are told by name: a rewrite keeps the names of the edges that it leaves in place. A region
is what lies between values that both graphs have, and holds a node that only one of them has. If
every region computes the same outputs from the same inputs, so do the graphs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace

import onnx_ir as ir

from ..graph import captured_values, is_constant
from ..storage.tensors import tensor_digest


@dataclass(frozen=True)
class Changed:
    """One region, by the names of its values. before, after: its nodes in the two graphs.

    outputs: computed in both graphs. inputs: read in either, constants left out.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    before: tuple[ir.Node, ...]
    after: tuple[ir.Node, ...]


def changed_regions(
    before: ir.Model, after: ir.Model, distrusted: Iterable[str] = ()
) -> list[Changed]:
    """The regions in which the main graphs differ, in the order of ``after``.

    distrusted: names of values that do not mean the same in both graphs, though both have them;
    regions then reach over these, to what is computed from them.
    """
    first, second, doubted = _Side(before), _Side(after), set(distrusted)
    common = (first.names & second.names) - doubted
    ends = _ends(first.new(second, doubted), second.new(first, doubted), common)
    found = [_between(name, first, second, common) for name in ends]
    return [_joined(group) for group in _alike(found)]


class _Side:
    """One of the two graphs."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self.values = {str(v.name): v for v in model.graph.inputs}
        self.values.update({str(v.name): v for node in model.graph for v in node.outputs if v.name})
        self.names = set(self.values)
        self.faces = {node: _face(node) for node in model.graph}
        self.known = set(self.faces.values())
        self.position = {node: i for i, node in enumerate(model.graph)}

    def new(self, other: _Side, doubted: set[str]) -> list[ir.Node]:
        """The nodes that the other graph does not have, and those that read what is doubted."""
        return [
            node
            for node, face in self.faces.items()
            if face not in other.known or any(str(v.name) in doubted for v in _reads(node))
        ]

    def behind(self, name: str, common: set[str]) -> tuple[list[ir.Node], list[str]]:
        """The nodes that compute a value from values in ``common``, and the names of these."""
        nodes: dict[ir.Node, None] = {}
        inputs: dict[str, None] = {}
        todo = [self.values[name]]
        while todo:
            value = todo.pop()
            node = value.producer()
            if node is None or node in nodes:
                continue
            nodes[node] = None
            for read in _reads(node):
                if is_constant(read):
                    continue
                if str(read.name) in common or read.is_graph_input():
                    inputs[str(read.name)] = None
                else:
                    todo.append(read)
        return sorted(nodes, key=self.position.__getitem__), list(inputs)


def _reads(node: ir.Node) -> list[ir.Value]:
    return [v for v in (*node.inputs, *captured_values(node)) if v is not None]


def _ends(first: Iterable[ir.Node], second: Iterable[ir.Node], common: set[str]) -> list[str]:
    """What changed nodes compute under a name that both graphs have."""
    names = [str(v.name) for node in (*second, *first) for v in node.outputs]
    return [name for name in dict.fromkeys(names) if name in common]


def _between(name: str, first: _Side, second: _Side, common: set[str]) -> Changed:
    nodes, inputs = first.behind(name, common)
    others, more = second.behind(name, common)
    names = tuple(dict.fromkeys((*inputs, *more)))
    return Changed(names, (name,), tuple(nodes), tuple(others))


def _alike(regions: Iterable[Changed]) -> list[list[Changed]]:
    """Regions of the same nodes, together: the outputs of one node are checked in one run."""
    groups: dict[Hashable, list[Changed]] = {}
    for region in regions:
        groups.setdefault((region.before, region.after), []).append(region)
    return list(groups.values())


def _joined(group: list[Changed]) -> Changed:
    outputs = tuple(name for region in group for name in region.outputs)
    inputs = dict.fromkeys(name for region in group for name in region.inputs)
    return replace(group[0], inputs=tuple(inputs), outputs=outputs)


def _face(node: ir.Node) -> Hashable:
    """Equal for nodes that compute the same from the same values under the same names."""
    return (
        node.op_identifier(),
        tuple(_source(v) for v in node.inputs),
        tuple(v.name for v in node.outputs),
        tuple(sorted((_attribute(a) for a in node.attributes.values()), key=repr)),
    )


def _source(value: ir.Value | None) -> Hashable:
    if value is None:
        return None
    if value.is_initializer() and value.const_value is not None:
        return "constant", id(value.const_value), value.is_graph_input()
    return str(value.name)


def _attribute(attribute: ir.Attr) -> Hashable:
    name, kind, value = attribute.name, attribute.type, attribute.value
    if attribute.is_ref():
        return name, "ref", attribute.ref_attr_name
    if kind == ir.AttributeType.GRAPH:
        return name, _body(value)
    if kind == ir.AttributeType.GRAPHS:
        return name, tuple(_body(graph) for graph in value)
    if kind == ir.AttributeType.TENSOR:
        return name, tensor_digest(value)
    if kind == ir.AttributeType.TENSORS:
        return name, tuple(tensor_digest(t) for t in value)
    return name, kind.name, repr(tuple(value) if isinstance(value, (list, tuple)) else value)


def _body(graph: ir.Graph) -> Hashable:
    return (
        tuple(str(v.name) for v in graph.inputs),
        tuple(_face(node) for node in graph),
        tuple(_source(v) for v in graph.outputs),
    )
