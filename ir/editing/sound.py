"""Whether a graph that was sound before an edit still is, found out from what the edit touched.

``doubts`` looks at each rule of ``verify`` where the edit could have broken it. A graph was sound
before and every change went through the ``Rewriter``, which tells the footprint of it; so a rule
can only be broken by what is touched:

- names: the index knows the one value and the one node of each name in the whole model;
- inputs and order: a reader and what it reads can only come into a wrong relation when the
  reader is touched, since nodes are never moved, and only what nothing reads is removed;
- outputs, initializers, domains, and the signature: of touched lists, weights and nodes.

Whatever cannot be settled so (a subgraph that came or went, the body of a function, a name that
two branches share) is a doubt, and then the full verifier decides. So a broken rule is never
missed, and what is said of it is always said by the full verifier.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ..scopes import describe
from ..signature import Signature
from ..verify import STANDARD, initializer_faults, verify
from .footprint import Footprint, NodeState
from .index import Index, graph_of


def verify_edit(
    footprint: Footprint, index: Index, signature: Signature | None = None, where: str = ""
) -> None:
    """Raise ``VerifyError`` where the edit broke a rule, as ``verify`` does."""
    if any(True for _ in doubts(footprint, index, signature)):
        verify(footprint.model, signature, where)


def doubts(footprint: Footprint, index: Index, signature: Signature | None = None) -> Iterator[str]:
    """What keeps the touched part from being sound beyond doubt."""
    if footprint.bodies:
        yield "a subgraph came, went or was replaced"
    for node, before in footprint.nodes.items():
        state = NodeState.of(node)
        if state is not None:
            yield from _placed(node, state.graph, footprint, index)
            yield from _read(node, state.graph, index)
            yield from _added(node, footprint, index) if before is None else ()
    for value in footprint.renamed:
        if value.is_initializer() or value.is_graph_input() or not index.known(value):
            yield f"{value.name!r} was renamed"
    yield from _weights(footprint, index)
    yield from _outputs(footprint, index)
    changed = footprint.signature is not None and signature is not None
    if changed and signature != Signature.of(footprint.model):
        yield "the signature changed"


def _placed(node: ir.Node, home: ir.Graph, footprint: Footprint, index: Index) -> Iterator[str]:
    if home is not footprint.model.graph and footprint.model.graph not in index.around(home):
        yield f"{describe(node)} stands outside the model's graph"


def _read(node: ir.Node, home: ir.Graph, index: Index) -> Iterator[str]:
    for value in node.inputs:
        if value is None:
            continue
        made = value.producer()
        if not value.name:
            yield f"{describe(node)} reads a value without a name"
        elif made is not None and not _computed_before(made, node, index):
            yield f"{describe(node)} reads {value.name!r}, which may come later or from elsewhere"
        elif made is None and not _stored_around(value, home, index):
            yield f"{describe(node)} reads {value.name!r}, which may not be defined there"


def _computed_before(made: ir.Node, reader: ir.Node, index: Index) -> bool:
    graph = graph_of(made)
    holder = None if graph is None else index.holder_in(reader, graph)
    if graph is None or holder is None:
        return False
    return index.order(graph).before(made, holder)


def _stored_around(value: ir.Value, home: ir.Graph, index: Index) -> bool:
    stored = value.is_graph_input() or value.is_initializer()
    return stored and any(value.graph is graph for graph in index.around(home))


def _added(node: ir.Node, footprint: Footprint, index: Index) -> Iterator[str]:
    if index.nodes.get(node.name or "") is not node:
        yield f"another node may be named {node.name!r}"
    if node.overload:
        yield f"{describe(node)} calls an overload"
    imports = footprint.model.opset_imports
    standard = node.domain in STANDARD and any(domain in imports for domain in STANDARD)
    if node.domain not in imports and not standard:
        yield f"{describe(node)} is of a domain that is not imported"
    for value in node.outputs:
        if not index.known(value):
            yield f"another value may be named {value.name!r}"


def _weights(footprint: Footprint, index: Index) -> Iterator[str]:
    for value, before in footprint.weights.items():
        if not value.is_initializer():
            continue
        if before is None and not index.known(value):
            yield f"another value may be named {value.name!r}"
        yield from initializer_faults(str(value.name), value)


def _outputs(footprint: Footprint, index: Index) -> Iterator[str]:
    for graph in footprint.outputs:
        values = list(graph.outputs)
        if graph is footprint.model.graph and len(set(values)) < len(values):
            yield "an output is listed twice"
        for value in values:
            made = value.producer()
            stored = value.is_graph_input() or value.is_initializer()
            stands = graph_of(made) is graph if made else stored and value.graph is graph
            if not stands or not value.name:
                yield f"output {value.name!r} may not be computed there"
