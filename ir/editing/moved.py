"""Whether an edit moved the contents digest, found out from what the edit touched.

The digest of a sound graph names, as a multiset, a forward hash and a role for each node and
weight (see ``fingerprint``). Two one-sided tests follow from that, both of the size of the edit:

- *Moved.* What a hash covers can be read off it, so whatever counts labels that the hashes cover
  is settled by the digest: if the touched part counts other labels than before, the digest moved.
  The labels are first the operators and attributes of nodes, and dtype and shape of weights; then
  also the bytes of weights and what each node reads.
- *Not moved.* Hash the touched part alone, forwards and backwards, as ``fingerprint`` does, but
  name what was not touched by its identity. If nodes and weights then count the same roles as
  before, there is a pairing of old and new nodes under which every untouched neighbour sees the
  same, and by induction along the graph no hash of it moved.

Where neither holds (two equal nodes swapped readers, say), or a subgraph came or went, the
answer is None, and the digests themselves must be compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..fingerprint import Forward, combine
from ..storage.tensors import tensor_digest, tensor_face
from .footprint import Footprint, NodeState, View, WeightState, is_graph

Label = Hashable


def contents_moved(footprint: Footprint) -> bool | None:
    """Whether the digest moved; None where only the digests can tell.

    The graph must be sound before and after the edit.
    """
    if footprint.empty:
        return False
    before, after = footprint.before(), footprint.after()
    if before.opsets != after.opsets or before.signature != after.signature:
        return True
    if footprint.bodies:
        return None
    if _operators(before) != _operators(after) or _faces(before) != _faces(after):
        return True
    if _weights(before) != _weights(after):
        return True
    neighbours = _neighbours(footprint, before, after)
    if _reads(before, neighbours) != _reads(after, neighbours):
        return True
    return False if _roles(before, footprint) == _roles(after, footprint) else None


# -- labels that the digest settles ------------------------------------------------------


def operator_label(node: ir.Node, state: NodeState) -> Label:
    """What a node does, whatever it reads. Subgraphs count by the name of their attribute."""
    present = bytes(bool(v.name) for v in node.outputs).rstrip(b"\0")
    plain = [a for a in state.attributes if not is_graph(a)]
    held = tuple(sorted(a.name for a in state.attributes if is_graph(a)))
    attributes = Forward(tensor_digest).attributes(plain)
    given = tuple(v is not None for v in state.inputs)
    return node.op_identifier(), present, attributes, held, given


def _operators(view: View) -> Counter[Label]:
    return Counter(operator_label(node, state) for node, state in view.nodes.items())


def _faces(view: View) -> Counter[Label]:
    return Counter(_weight_label(state, tensor_face) for state in view.weights.values())


def _weights(view: View) -> Counter[Label]:
    return Counter(_weight_label(state, tensor_digest) for state in view.weights.values())


def _weight_label(state: WeightState, face: Callable[[ir.TensorProtocol], str]) -> Label:
    return state.default, "" if state.tensor is None else face(state.tensor)


def _reads(view: View, neighbours: Iterable[ir.Node]) -> Counter[Label]:
    found: Counter[Label] = Counter()
    for node in (*view.nodes, *neighbours):
        state = view.state(node)
        if state is not None:
            read = tuple(_source_label(view, value) for value in state.inputs)
            found[operator_label(node, state), read] += 1
    return found


def _source_label(view: View, value: ir.Value | None) -> Label:
    if value is None:
        return None
    node = value.producer()
    if node is not None:
        state = view.state(node)
        return None if state is None else (operator_label(node, state), value.index())
    weight = view.weights.get(value) or WeightState.of(value)
    if weight is not None:
        return _weight_label(weight, tensor_digest)
    return "input", value.name if value.graph is view.main else ""  # in bodies by depth and place


def _neighbours(footprint: Footprint, before: View, after: View) -> list[ir.Node]:
    """Untouched readers of what stayed in the graph and has another label than before."""
    moved: list[ir.Value] = []
    for node, state in before.nodes.items():
        now = after.nodes.get(node)
        if now is not None and operator_label(node, state) != operator_label(node, now):
            moved += node.outputs
    for value, held in before.weights.items():
        kept = after.weights.get(value)
        if kept is not None and held.tensor is not kept.tensor:
            moved.append(value)
    readers = [usage.node for value in moved for usage in value.uses()]
    return [node for node in dict.fromkeys(readers) if node not in footprint.nodes]


# -- the touched part, hashed for itself -------------------------------------------------


def _roles(view: View, footprint: Footprint) -> Counter[Label] | None:
    """Roles of touched nodes and weights; equal counters mean equal digests."""
    uses = _Uses(view, _readers(view, footprint), _handed_out(view))
    order = _computed_first(view)
    if order is None:
        return None
    forward: dict[ir.Node, bytes] = {}
    for node in order:
        forward[node] = _forward(node, view, forward)
    roles: dict[ir.Node, bytes] = {}
    for node in reversed(order):
        roles[node] = combine(forward[node], *(uses.of(v, roles) for v in node.outputs))
    weights = [
        (id(state.graph), _weight_label(state, tensor_digest), uses.of(value, roles))
        for value, state in view.weights.items()
    ]
    return Counter([*roles.values(), *weights])


def _forward(node: ir.Node, view: View, known: dict[ir.Node, bytes]) -> bytes:
    state = view.nodes[node]
    label = repr((operator_label(node, state), id(state.graph), _graphs(state))).encode()
    return combine(label, *(_leaf(value, view, known) for value in state.inputs))


def _leaf(value: ir.Value | None, view: View, known: dict[ir.Node, bytes]) -> bytes:
    """A value by what computes it where that was touched, else by its identity."""
    if value is None:
        return b""
    node = value.producer()
    if node is not None and node in known:
        return known[node] + str(value.index()).encode()
    weight = view.weights.get(value)
    if weight is not None:
        return repr(_weight_label(weight, tensor_digest)).encode()
    return f"untouched {id(value)}".encode()


@dataclass(frozen=True)
class _Uses:
    """Who uses the values of the touched part: readers with the position, and output lists."""

    view: View
    readers: Mapping[ir.Value, Sequence[tuple[ir.Node, int]]]
    outputs: Mapping[ir.Value, Sequence[bytes]]

    def of(self, value: ir.Value, roles: Mapping[ir.Node, bytes]) -> bytes:
        """The uses of one value, in an order of their own."""
        found = [_name(n, self.view, roles) + b"%d" % i for n, i in self.readers.get(value, ())]
        found += self.outputs.get(value, ())
        if value.is_graph_output() and value.graph not in self.view.outputs:
            found.append(b"output")
        return combine(*sorted(found))


def _name(node: ir.Node, view: View, roles: Mapping[ir.Node, bytes]) -> bytes:
    return roles[node] if node in view.nodes else f"untouched {id(node)} ".encode()


def _handed_out(view: View) -> dict[ir.Value, list[bytes]]:
    """The places in the touched lists of outputs at which a value stands."""
    found: defaultdict[ir.Value, list[bytes]] = defaultdict(list)
    for graph, outputs in view.outputs.items():
        for place, value in enumerate(outputs):
            found[value].append(f"output {id(graph)} {place}".encode())
    return found


def _readers(view: View, footprint: Footprint) -> dict[ir.Value, list[tuple[ir.Node, int]]]:
    """Who reads the outputs of touched nodes, and touched weights, and at which position."""
    values = [*(v for node in view.nodes for v in node.outputs), *view.weights]
    found: dict[ir.Value, list[tuple[ir.Node, int]]] = {
        value: [(u.node, u.idx) for u in value.uses() if u.node not in footprint.nodes]
        for value in values
    }
    for node, state in view.nodes.items():
        for index, value in enumerate(state.inputs):
            if value in found:
                found[value].append((node, index))
    return found


def _computed_first(view: View) -> list[ir.Node] | None:
    """The touched nodes, each behind those that it reads; None where they run in a circle."""
    order: list[ir.Node] = []
    opened: dict[ir.Node, bool] = {}  # False until what it reads is in order
    for start in view.nodes:
        stack = [start]
        while stack:
            node = stack[-1]
            made = [v.producer() for v in view.nodes[node].inputs if v is not None]
            missing = [n for n in made if n is not None and n in view.nodes and not opened.get(n)]
            if opened.get(node) or not missing:
                stack.pop()
                order += [] if opened.get(node) else [node]
                opened[node] = True
            elif any(n in opened for n in missing):
                return None
            else:
                opened[node] = False
                stack.extend(missing)
    return order


def _graphs(state: NodeState) -> tuple[int, ...]:
    return tuple(id(a) for a in state.attributes if is_graph(a))
