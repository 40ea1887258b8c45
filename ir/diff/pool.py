"""A graph as numbered nodes with what each reads and who reads it, bodies of nodes included."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import onnx_ir as ir

from ..fingerprint import Forward
from ..graph import constant_tensor, operator
from ..scopes import named_subgraphs
from ..storage.tensors import tensor_digest, tensor_face

Q, DQ = "QuantizeLinear", "DequantizeLinear"
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


class Source(NamedTuple):
    """Where an input comes from.

    kind: ``node`` (number, output), ``constant`` (digest), ``input`` of the model (name), ``body``
    (number of the node that holds the body, input of it), ``none`` (left out).
    """

    kind: Literal["node", "constant", "input", "body", "none"]
    of: int | str = ""
    output: int = 0


class Reader(NamedTuple):
    """Who reads an output of a node: input ``slot`` of another, or an output of a graph.

    node: its number, -1 for an output of the model or of a body; slot: then its position. owner:
    of the body, -1 for the model.
    """

    node: int
    slot: int
    output: int
    owner: int = -1


@dataclass(frozen=True, eq=False)
class Pool:
    """The nodes of a model in order, those of a body behind the node that holds it.

    owners: the number of that node, -1 in the main graph. places: the body among those of its
    owner. kinds: operator and place. labels: these with attributes and constants, by contents.
    faces: constants of these dtypes and shapes are told apart by nothing else, as the bytes of
    some of them are missing here or in the graph that this one is compared with.
    """

    model: ir.Model
    nodes: tuple[ir.Node, ...]
    owners: tuple[int, ...]
    places: tuple[str, ...]
    faces: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: ir.Model, faces: frozenset[str] = frozenset()) -> Pool:
        """The pool of a model as import leaves it: functions inlined, constants lifted."""
        found = list(_walk(model.graph, -1, "", []))
        nodes, owners, places = zip(*found, strict=True) if found else ((), (), ())
        return cls(model, nodes, owners, places, faces)

    def __len__(self) -> int:
        return len(self.nodes)

    @cached_property
    def number(self) -> dict[ir.Node, int]:
        """Of each node."""
        return {node: i for i, node in enumerate(self.nodes)}

    @cached_property
    def sources(self) -> list[tuple[Source, ...]]:
        """What each node reads, by input."""
        bodies = dict(self._body_inputs())
        return [tuple(self._source(v, bodies) for v in node.inputs) for node in self.nodes]

    @cached_property
    def readers(self) -> list[list[Reader]]:
        """Who reads each node's outputs, in order."""
        found: list[list[Reader]] = [[] for _ in self.nodes]
        for number, sources in enumerate(self.sources):
            for slot, source in enumerate(sources):
                if source.kind == "node":
                    found[int(source.of)].append(Reader(number, slot, source.output))
        for owner, graph in self._graphs():
            for position, value in enumerate(graph.outputs):
                maker = value.producer()
                if maker is not None and maker in self.number:
                    index = value.index() or 0
                    found[self.number[maker]].append(Reader(-1, position, index, owner))
        return found

    @cached_property
    def kinds(self) -> list[Hashable]:
        """Operator, and the body it stands in."""
        return [(operator(n), p) for n, p in zip(self.nodes, self.places, strict=True)]

    @cached_property
    def attributes(self) -> list[bytes]:
        """A hash of the attributes of each node, bodies left out: their nodes speak for them."""
        forward = Forward(tensor_digest)
        plain = ([a for a in n.attributes.values() if a.type not in _GRAPHS] for n in self.nodes)
        return [forward.attributes(held) if held else b"" for held in plain]

    @cached_property
    def labels(self) -> list[Hashable]:
        """All that a node is by itself: operator, attributes, constants it reads, their places."""
        return [
            (kind, held, tuple((i, s.of) for i, s in enumerate(read) if s.kind == "constant"),
             len(read), len(node.outputs))
            for kind, held, read, node in zip(
                self.kinds, self.attributes, self.sources, self.nodes, strict=True
            )
        ]  # fmt: skip

    @cached_property
    def names(self) -> list[str]:
        """Of the first output of each node."""
        return [str(n.outputs[0].name or "") if n.outputs else "" for n in self.nodes]

    @cached_property
    def seen(self) -> list[tuple[Source, ...]]:
        """``sources``, as they are where pairs of Q and DQ are seen through."""
        if not any(node.op_type == DQ for node in self.nodes):
            return self.sources
        return [tuple(map(self.through, sources)) for sources in self.sources]

    @cached_property
    def seen_readers(self) -> list[list[Reader]]:
        """``readers``, as they are where pairs of Q and DQ are seen through."""
        if self.seen is self.sources:
            return self.readers
        found = [[r for r in readers if r.node < 0] for readers in self.readers]
        for number, sources in enumerate(self.seen):
            for slot, source in enumerate(sources):
                if source.kind == "node":
                    found[int(source.of)].append(Reader(number, slot, source.output))
        return found

    def through(self, source: Source) -> Source:
        """Where a value comes from that was rounded on the way, or stored as integers."""
        while source.kind == "node" and self.nodes[int(source.of)].op_type == DQ:
            source = self.sources[int(source.of)][0]
            if source.kind == "node" and self.nodes[int(source.of)].op_type == Q:
                source = self.sources[int(source.of)][0]
        return source

    def folds(self, number: int) -> bool:
        """Whether a node reads nothing but constants."""
        sources = self.sources[number]
        return bool(sources) and all(s.kind in ("constant", "none") for s in sources)

    def constant(self, number: int, slot: int) -> ir.TensorProtocol | None:
        """The tensor that a node reads there, None where it is no constant."""
        return constant_tensor(self.nodes[number].inputs[slot])

    def digest(self, tensor: ir.TensorProtocol) -> str:
        """What tells constants apart."""
        face = tensor_face(tensor) if self.faces else ""
        return face if face and face in self.faces else tensor_digest(tensor)

    def _source(self, value: ir.Value | None, bodies: dict[ir.Value, Source]) -> Source:
        if value is None:
            return Source("none")
        tensor = constant_tensor(value)
        if tensor is not None:
            return Source("constant", self.digest(tensor))
        maker = value.producer()
        if maker is not None:
            return Source("node", self.number[maker], value.index() or 0)
        return bodies.get(value) or Source("input", str(value.name))

    def _body_inputs(self) -> Iterator[tuple[ir.Value, Source]]:
        for owner, graph in self._graphs():
            if owner >= 0:
                for position, value in enumerate(graph.inputs):
                    yield value, Source("body", owner, position)

    def _graphs(self) -> Iterator[tuple[int, ir.Graph]]:
        """The main graph and every body, with the number of the node that holds it."""
        yield -1, self.model.graph
        for number, node in enumerate(self.nodes):
            for _, graph in named_subgraphs(node) if node.attributes.data else ():
                yield number, graph


def _walk(
    graph: ir.Graph, owner: int, place: str, before: list[ir.Node]
) -> Iterator[tuple[ir.Node, int, str]]:
    """Every node with its owner and place; ``before`` counts those that came out already."""
    for node in graph:
        number = len(before)
        before.append(node)
        yield node, owner, place
        if node.attributes.data:
            for index, (name, held) in enumerate(named_subgraphs(node)):
                yield from _walk(held, number, f"{place}/{node.op_type}.{name}.{index}", before)
