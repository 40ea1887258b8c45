"""Hashes of values and nodes that do not depend on names or on the order of independent nodes.

Each value is hashed twice: forwards (what it is computed from, a Merkle tree) and backwards (how
it is used, down to the outputs). The multiset of both over all nodes and weights is the
fingerprint of a graph; the backward hash tells two equal nodes with one reader each from one node
with two readers and a dead twin.
"""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
import onnx_ir as ir

from .graph import captured_values
from .scopes import named_subgraphs
from .signature import Signature, TensorSpec, type_name
from .storage.tensors import HASH_SIZE, tensor_digest

TensorHash = Callable[[ir.TensorProtocol], str]


_LENGTHS = [struct.Struct(f"<{count}q").pack for count in range(16)]


def combine(*parts: bytes) -> bytes:
    """Hash of a list of byte strings; their lengths keep neighbours apart."""
    count = len(parts)
    pack = _LENGTHS[count] if count < 16 else struct.Struct(f"<{count}q").pack
    lengths = pack(*map(len, parts))
    return hashlib.blake2b(lengths + b"".join(parts), digest_size=HASH_SIZE).digest()


class Forward:
    """Forward hashes. ``tensor`` decides how deep a weight counts.

    A graph input is hashed by its position and the depth of its scope.
    """

    def __init__(self, tensor: TensorHash) -> None:
        self.tensor = tensor
        self.depth = 0
        self.values: dict[ir.Value, bytes] = {}
        self.nodes: dict[ir.Node, bytes] = {}

    def graph(self, graph: ir.Graph) -> None:
        """Fingerprint every value and node of a graph, in its order."""
        for index, value in enumerate(graph.inputs):
            self.values[value] = combine(b"input", struct.pack("<qq", self.depth, index))
        for value in graph.initializers.values():
            self.values[value] = self._initializer(value)
        for node in graph:
            self.node(node)

    def node(self, node: ir.Node) -> None:
        """Fingerprint a node and its outputs, from those of its inputs."""
        # Trailing outputs that nobody asked for are not written to a file, so they do not count.
        outputs, held = node.outputs, node.attributes.data
        present = bytes([bool(v.name) for v in outputs]).rstrip(b"\0")
        attributes = self.attributes(held.values()) if held else b""
        found = combine(
            _operator(node.op_identifier()), present, attributes, self.list(node.inputs)
        )
        self.nodes[node] = found
        for index, value in enumerate(outputs):
            self.values[value] = found + index.to_bytes(4, "little")

    def list(self, values: Iterable[ir.Value | None]) -> bytes:
        """One fingerprint of several values in order; missing ones count."""
        return combine(*[b"" if v is None else self.value(v) for v in values])

    def value(self, value: ir.Value) -> bytes:
        """What is known of a value, else a mark with its name."""
        known = self.values.get(value)
        return known if known is not None else b"undefined " + (value.name or "").encode()

    def attributes(self, attributes: Iterable[ir.Attr]) -> bytes:
        """The fingerprints of attributes, in an order of their own."""
        return b"".join(sorted(self._attribute(a) for a in attributes))

    def _initializer(self, value: ir.Value) -> bytes:
        face = b"" if value.const_value is None else self.tensor(value.const_value).encode()
        if not value.is_graph_input():
            return combine(b"weight", face)
        # A caller may override it by name, so the name is part of the interface.
        return combine(b"default", face, (value.name or "").encode())

    def _attribute(self, attribute: ir.Attr) -> bytes:
        kind = f"{attribute.name} {attribute.type.name}".encode()
        if attribute.is_ref():
            return combine(kind, b"ref", (attribute.ref_attr_name or "").encode())
        return combine(kind, self._payload(attribute))

    def _payload(self, attribute: ir.Attr) -> bytes:
        kind, value = attribute.type, attribute.value
        if value is None:
            return b"none"
        if kind == ir.AttributeType.GRAPH:
            return self._subgraph(value)
        if kind == ir.AttributeType.GRAPHS:
            return combine(*(self._subgraph(g) for g in value))
        if kind == ir.AttributeType.TENSOR:
            return tensor_digest(value).encode()
        if kind == ir.AttributeType.TENSORS:
            return combine(*(tensor_digest(t).encode() for t in value))
        return _plain(kind, value)

    def _subgraph(self, graph: ir.Graph) -> bytes:
        """Inputs by position, captured values by their own hash, nodes as a multiset."""
        self.depth += 1
        self.graph(graph)
        self.depth -= 1
        nodes = sorted(self.nodes[n] for n in graph)
        weights = sorted(self.values[v] for v in graph.initializers.values())
        arity = struct.pack("<q", len(graph.inputs))
        return combine(arity, self.list(graph.outputs), *nodes, b"|", *weights)


class Fingerprint:
    """Forward and backward hashes of a whole graph, as a multiset in ``parts``."""

    def __init__(self, graph: ir.Graph, tensor: TensorHash) -> None:
        self.forward = Forward(tensor)
        self.forward.graph(graph)
        self.readers: defaultdict[ir.Value, list[bytes]] = defaultdict(list)
        self.parts: list[bytes] = []
        self._backward(graph, b"top")

    def _backward(self, graph: ir.Graph, seed: bytes) -> None:
        for index, value in enumerate(graph.outputs):
            self.readers[value].append(combine(b"output", seed, struct.pack("<q", index)))
        for node in reversed(graph):
            self._used(node)
        for index, value in enumerate(graph.inputs):
            self.parts.append(combine(b"input", seed, struct.pack("<q", index), self._uses(value)))
        for value in graph.initializers.values():
            self.parts.append(combine(self.forward.values[value], self._uses(value)))

    def _used(self, node: ir.Node) -> None:
        role = combine(self.forward.nodes[node], *[self._uses(v) for v in node.outputs])
        self.parts.append(role)
        for index, value in enumerate(node.inputs):
            if value is not None:
                self.readers[value].append(role + index.to_bytes(4, "little"))
        held = enumerate(named_subgraphs(node)) if node.attributes.data else ()
        for position, (name, subgraph) in held:
            self._backward(subgraph, combine(role, name.encode(), struct.pack("<q", position)))

    def _uses(self, value: ir.Value) -> bytes:
        found = self.readers.get(value, ())
        return found[0] if len(found) == 1 else b"".join(sorted(found))


@lru_cache(maxsize=1024)
def _operator(identifier: ir.OperatorIdentifier) -> bytes:
    return repr(identifier).encode()


def model_fingerprint(model: ir.Model, tensor: TensorHash) -> bytes:
    """Signature, opsets, functions, outputs, and the multiset of all nodes and weights."""
    found = Fingerprint(model.graph, tensor)
    functions = sorted(_function(f, tensor) for f in model.functions.values())
    face = repr(Signature.of(model)).encode()
    outputs = found.forward.list(model.graph.outputs)
    return combine(face, opsets(model), outputs, *functions, b"|", *sorted(found.parts))


def value_fingerprint(value: ir.Value, forward: Forward) -> bytes:
    """Forward hash of one value; graph inputs count by name, dtype and shape.

    ``forward`` remembers what it has seen, so many cones of one graph cost one walk.
    """
    stack = [value]
    while stack:
        top = stack[-1]
        if top in forward.values:
            stack.pop()
            continue
        node = top.producer()
        missing = [] if node is None else _unseen(node, forward)
        if missing:
            stack.extend(missing)
        elif node is not None:
            forward.node(node)
        else:
            forward.values[top] = _source(top, forward)
    return forward.values[value]


def opsets(imports: ir.Model | ir.Function | ir.Graph) -> bytes:
    """The imported operator sets, in a fixed order."""
    named = {("" if d == "ai.onnx" else d): v for d, v in imports.opset_imports.items()}
    return repr(sorted(named.items())).encode()


def _function(function: ir.Function, tensor: TensorHash) -> bytes:
    graph = function.graph
    found = Fingerprint(graph, tensor)
    name = repr(function.identifier()).encode()
    attributes = found.forward.attributes(function.attributes.values())
    outputs = found.forward.list(graph.outputs)
    return combine(name, attributes, opsets(function), outputs, *sorted(found.parts))


def _source(value: ir.Value, forward: Forward) -> bytes:
    if value.const_value is not None and value.is_initializer():
        return combine(b"weight", forward.tensor(value.const_value).encode())
    return combine(b"input", repr(TensorSpec.of(value)).encode())


def _unseen(node: ir.Node, forward: Forward) -> list[ir.Value]:
    read = [v for v in node.inputs if v is not None] + captured_values(node)
    return [v for v in read if v not in forward.values]


def _plain(kind: ir.AttributeType, value: object) -> bytes:
    if kind in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
        with np.errstate(over="ignore"):  # beyond float32 is infinite in a file, too
            return np.asarray(value, dtype="<f4").tobytes()
    if kind in (ir.AttributeType.INT, ir.AttributeType.INTS):
        return np.asarray(value, dtype="<i8").tobytes()
    if isinstance(value, ir.TypeAndShape):
        return f"{type_name(value.type)} {value.shape}".encode()
    if isinstance(value, (tuple, list)):
        return combine(*(_plain(ir.AttributeType.STRING, item) for item in value))
    return value if isinstance(value, bytes) else str(value).encode()
