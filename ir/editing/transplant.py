"""What another tool did to a copy of a graph, done to the graph itself through the ``Rewriter``.

The difference between the graph and the copy is known (``ir.diff``); each of its hunks is one
edit: nodes come, change or go, and every new node is said to come from the old ones of its hunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..diff.changes import GraphDiff, Hunk
from ..diff.hunks import diff_models
from ..errors import PassError
from ..graph import constant_tensor, subgraphs
from ..rewriter import Rewriter
from ..storage.tensors import tensor_digest

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


class Transplant:
    """Makes the graph ``diff.before`` (the rewriter's own) into ``diff.after``, hunk by hunk."""

    def __init__(self, diff: GraphDiff) -> None:
        self.diff, self.before, self.after = diff, diff.before, diff.after
        self._made: dict[int, ir.Node] = {}
        self._rebuilt = {
            a for hunk in diff.hunks for a, b in hunk.changed if not self._same_form(a, b)
        }
        self._stored: dict[str, ir.Value] = {}
        self._moved: dict[ir.Node, ir.Node] = {}

    def refusal(self, hunk: Hunk) -> str:
        """Why a hunk cannot be taken over, empty where it can."""
        kept = {b for _, b in hunk.changed}
        new = [self.after.nodes[b] for b in hunk.after if b not in kept or self._is_rebuilt(b)]
        gone = [self.before.nodes[a] for a in hunk.before if a not in dict(hunk.changed)]
        held = next((n for n in (*new, *gone) if any(True for _ in subgraphs(n))), None)
        if held is not None:
            return f"it changes the body of a node ({held.op_type}), which is not taken over"
        if any(self.after.owners[b] >= 0 for b in hunk.after):
            homes = (self.after.owners[b] for b in hunk.after if self.after.owners[b] >= 0)
            if any(home not in self.diff.matching.inverse for home in homes):
                return "it changes the body of a node that is new"
        return ""

    def apply(self, hunk: Hunk, rewriter: Rewriter) -> None:
        """Do what the hunk says. Raises PassError where the graph does not fit any more."""
        origins = [self._mine(a) for a in hunk.before if self._stands(a)]
        kept = {b for _, b in hunk.changed}
        for b in sorted(hunk.after):
            if b not in kept or self._is_rebuilt(b):
                self._build(b, rewriter, origins)
        for a, b in hunk.changed:
            if a not in self._rebuilt:
                self._change(a, b, rewriter)
        for b in sorted(hunk.after):
            self._connect(b, rewriter)
        for a in hunk.before:
            if a not in self.diff.matching.pairs:
                self._bypass(a, rewriter)
        values = [v for a in hunk.before for v in self._mine(a).outputs]
        rewriter.sweep(v for v in values if self._is_gone(v))

    def check_done(self, model: ir.Model) -> None:
        """Raise PassError where the graph is not what the other tool made of it."""
        left = diff_models(model, self.after.model).hunks
        if left:
            raise PassError(
                f"what the transform made cannot be taken over as it is: {len(left)} places differ",
                hint="give an instance that does less at a time",
            )

    # -- inside ------------------------------------------------------------------------

    def _same_form(self, a: int, b: int) -> bool:
        """Whether a node can become the other by setting attributes and inputs."""
        one, other = self.before.nodes[a], self.after.nodes[b]
        return (
            len(one.inputs) == len(other.inputs)
            and len(one.outputs) == len(other.outputs)
            and set(one.attributes) <= set(other.attributes)
        )

    def _is_rebuilt(self, b: int) -> bool:
        return self.diff.matching.inverse.get(b) in self._rebuilt

    def _stands(self, a: int) -> bool:
        return isinstance(self._mine(a).graph, ir.Graph)

    def _is_gone(self, value: ir.Value) -> bool:
        """Whether the node that computes it has no place in the graph after."""
        maker = value.producer()
        a = None if maker is None else self.before.number.get(maker)
        return a is not None and (a not in self.diff.matching.pairs or a in self._rebuilt)

    def _build(self, b: int, rewriter: Rewriter, origins: Sequence[ir.Node]) -> ir.Node:
        if b in self._made:
            return self._made[b]
        node = self.after.nodes[b]
        inputs = [self._value(v, rewriter, origins) for v in node.inputs]
        graph = self._home(b, rewriter)
        if node.domain not in ("", "ai.onnx"):
            version = self.after.model.opset_imports.get(node.domain, 1)
            rewriter.require_opset(node.domain, version)
        made = rewriter.insert(
            node.op_type,
            inputs,
            domain=node.domain,
            attributes=dict(node.attributes),
            outputs=len(node.outputs),
            name=node.name or node.op_type.lower(),
            origins=origins,
            **_anchor(graph, inputs),
        )
        for value, known in zip(made.outputs, node.outputs, strict=True):
            if value.dtype is None and known.dtype is not None:
                rewriter.set_type(value, known.dtype, known.shape)
        self._made[b] = made
        return made

    def _change(self, a: int, b: int, rewriter: Rewriter) -> None:
        node, wanted = self._mine(a), self.after.nodes[b]
        for name, attribute in wanted.attributes.items():
            held = node.attributes.get(name)
            if attribute.type not in _GRAPHS and not _equal(held, attribute):
                rewriter.set_attribute(node, name, attribute)
        for slot, value in enumerate(wanted.inputs):
            mine = self._value(value, rewriter, (node,))
            if node.inputs[slot] is not mine and not _same_constant(node.inputs[slot], mine):
                old = node.inputs[slot]
                self._read(node, slot, mine, rewriter)
                rewriter.sweep([old] if old is not None and old.is_initializer() else [])

    def _connect(self, b: int, rewriter: Rewriter) -> None:
        """Let what reads a node in the graph after read it here."""
        source = self._made.get(b) or self._mine(self.diff.matching.inverse[b])
        for reader in self.after.readers[b]:
            value = source.outputs[reader.output]
            if reader.node < 0:
                self._hand_out(reader.owner, reader.slot, value, rewriter)
                continue
            node = self._made.get(reader.node) or self._still(reader.node)
            if node is not None and len(node.inputs) > reader.slot:
                old = node.inputs[reader.slot]
                if old is not value:
                    self._read(node, reader.slot, value, rewriter)

    def _still(self, b: int) -> ir.Node | None:
        """The node of the graph that a node after is, None where it is a new one, or gone."""
        a = self.diff.matching.inverse.get(b)
        there = a is not None and a not in self._rebuilt and self._stands(a)
        return self._mine(a) if a is not None and there else None

    def _bypass(self, a: int, rewriter: Rewriter) -> None:
        """Let what read a node that is gone read what its counterpart in the graph after reads."""
        for reader in self.before.readers[a]:
            if reader.node < 0:
                graph = self._mine(a).graph
                after = self._counterpart(reader.owner, graph)
                if isinstance(graph, ir.Graph) and after is not None:
                    mine = self._value(after.outputs[reader.slot], rewriter, ())
                    if mine is not None and graph.outputs[reader.slot] is not mine:
                        rewriter.hand_out(graph.outputs[reader.slot], mine)
                continue
            b = self.diff.matching.pairs.get(reader.node)
            node = self._mine(reader.node)
            if b is None or reader.node in self._rebuilt or not self._stands(reader.node):
                continue
            wanted = self.after.nodes[b].inputs
            if reader.slot < min(len(wanted), len(node.inputs)):
                mine = self._value(wanted[reader.slot], rewriter, ())
                if node.inputs[reader.slot] is not mine:
                    self._read(node, reader.slot, mine, rewriter)

    def _counterpart(self, owner: int, graph: object) -> ir.Graph | None:
        """The graph after that corresponds to one before."""
        if owner < 0:
            return self.after.model.graph
        if owner not in self.diff.matching.pairs:
            return None
        mine = list(subgraphs(self._mine(owner)))
        theirs = list(subgraphs(self.after.nodes[self.diff.matching.pairs[owner]]))
        place = next((i for i, g in enumerate(mine) if g is graph), None)
        return None if place is None or place >= len(theirs) else theirs[place]

    def _read(self, node: ir.Node, slot: int, value: ir.Value | None, rewriter: Rewriter) -> None:
        """Let a node read a value, which is computed earlier where it would come too late."""
        wanted = None if value is None else self._in_time(value, node, rewriter)
        rewriter.set_input(node, slot, wanted)

    def _in_time(self, value: ir.Value, reader: ir.Node, rewriter: Rewriter) -> ir.Value:
        maker = value.producer()
        if maker is None or maker is reader or not _stands_behind(maker, reader):
            return value
        inputs = [None if v is None else self._in_time(v, reader, rewriter) for v in maker.inputs]
        copy = rewriter.insert(
            maker.op_type, inputs, before=reader, domain=maker.domain,
            attributes=dict(maker.attributes), outputs=len(maker.outputs), name=str(maker.name),
            origins=[maker],
        )  # fmt: skip
        for old, new in zip(maker.outputs, copy.outputs, strict=True):
            rewriter.take_over(old, new)
        rewriter.sweep(maker.outputs)
        self._moved[maker] = copy
        return copy.outputs[value.index() or 0]

    def _mine(self, a: int) -> ir.Node:
        """The node before, or what stands in its place by now."""
        node = self.before.nodes[a]
        while node in self._moved:
            node = self._moved[node]
        return node

    def _hand_out(self, owner: int, slot: int, value: ir.Value, rewriter: Rewriter) -> None:
        graph = self._body(owner, value, rewriter)
        if graph is not None and graph.outputs[slot] is not value:
            rewriter.hand_out(graph.outputs[slot], value)

    def _body(self, owner: int, value: ir.Value, rewriter: Rewriter) -> ir.Graph | None:
        if owner < 0:
            return rewriter.graph
        maker = value.producer()
        home = None if maker is None else maker.graph
        return home if isinstance(home, ir.Graph) else None

    def _home(self, b: int, rewriter: Rewriter) -> ir.Graph:
        """The graph that corresponds to the one that a node after stands in."""
        owner = self.after.owners[b]
        if owner < 0:
            return rewriter.graph
        mine = self._mine(self.diff.matching.inverse[owner])
        theirs = list(subgraphs(self.after.nodes[owner]))
        place = next(i for i, g in enumerate(theirs) if g is self.after.nodes[b].graph)
        return list(subgraphs(mine))[place]

    def _value(
        self, value: ir.Value | None, rewriter: Rewriter, origins: Sequence[ir.Node]
    ) -> ir.Value | None:
        if value is None:
            return None
        tensor = constant_tensor(value)
        if tensor is not None:
            return self._constant(str(value.name), tensor, rewriter)
        maker = value.producer()
        if maker is None:
            return self._input(value, rewriter)
        b = self.after.number[maker]
        a = self.diff.matching.inverse.get(b)
        if a is not None and a not in self._rebuilt:
            return self._mine(a).outputs[value.index() or 0]
        return self._build(b, rewriter, origins).outputs[value.index() or 0]

    def _constant(self, name: str, tensor: ir.TensorProtocol, rewriter: Rewriter) -> ir.Value:
        digest = tensor_digest(tensor)
        there = rewriter.graph.initializers.get(name)
        held = None if there is None or there.is_graph_input() else there.const_value
        if there is not None and held is not None and tensor_digest(held) == digest:
            return there
        if digest not in self._stored or self._stored[digest].graph is None:
            self._stored[digest] = rewriter.initializer(name, tensor)
        return self._stored[digest]

    def _input(self, value: ir.Value, rewriter: Rewriter) -> ir.Value:
        for node_b in self.after.nodes:
            for place, graph in enumerate(subgraphs(node_b)):
                if value in graph.inputs:
                    owner = self.before.nodes[self.diff.matching.inverse[self.after.number[node_b]]]
                    return list(subgraphs(owner))[place].inputs[list(graph.inputs).index(value)]
        found = next((v for v in rewriter.graph.inputs if v.name == value.name), None)
        if found is None:
            raise PassError(f"{value.name!r} is no input of the graph any more")
        return found


def _anchor(graph: ir.Graph, inputs: Sequence[ir.Value | None]) -> dict[str, ir.Node]:
    """Behind the last node that computes an input, else in front of all."""
    makers = {v.producer() for v in inputs if v is not None} - {None}
    last = next((node for node in reversed(graph) if node in makers), None)
    if last is not None:
        return {"after": last}
    first = next(iter(graph), None)
    return {} if first is None else {"before": first}


def _stands_behind(node: ir.Node, other: ir.Node) -> bool:
    """Whether a node comes after another one of the same graph."""
    if node.graph is not other.graph or not isinstance(node.graph, ir.Graph):
        return False
    return next((n for n in node.graph if n is node or n is other), node) is other


def _equal(one: ir.Attr | None, other: ir.Attr) -> bool:
    if one is None or one.type != other.type:
        return False
    if one.type == ir.AttributeType.TENSOR:
        return tensor_digest(one.value) == tensor_digest(other.value)
    return bool(one.value == other.value)


def _same_constant(one: ir.Value | None, other: ir.Value | None) -> bool:
    x, y = constant_tensor(one), constant_tensor(other)
    return x is not None and y is not None and tensor_digest(x) == tensor_digest(y)
