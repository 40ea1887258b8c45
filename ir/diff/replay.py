"""A difference as a patch: plain data that makes the second graph out of the first.

The patch holds nodes, attributes and wiring; tensors it names by digest, and takes them from a
store. What it makes has the contents digest of the second graph: names inside may differ.
"""

from __future__ import annotations

import base64
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx
import onnx_ir as ir

from ..errors import InputError
from ..graph import all_nodes, captured_values, constant_tensor
from ..importing.normalise import unique_names
from ..scopes import named_subgraphs
from ..storage.tensors import tensor_digest
from .changes import GraphDiff
from .hunks import differs
from .pool import Source

Ref = list[Any]
"""What an input is: ["kept", value before], ["made", node, output], ["tensor", name],
["input", name], or [] for none."""


@dataclass(frozen=True)
class Patch:
    """What makes the second graph out of the first; all of it can be written as JSON.

    removed: names of nodes that go. made: nodes that come, each with its name, operator, domain,
    attributes (serialised), inputs, outputs and what its bodies capture. rewired: (node before,
    input, what it reads). inputs, outputs: the face, serialised, and what each output is.
    tensors: digest by name of constants that come. dropped: constants that go. opsets: all.
    """

    removed: tuple[str, ...]
    made: tuple[dict[str, Any], ...]
    rewired: tuple[tuple[str, int, Ref], ...]
    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, Ref], ...]
    tensors: Mapping[str, str]
    dropped: tuple[str, ...]
    opsets: Mapping[str, int]


def patch_of(diff: GraphDiff) -> Patch:
    """The patch that makes ``diff.after`` out of ``diff.before``."""
    return _Writer(diff).patch()


def replay(before: ir.Model, patch: Patch, tensors: Mapping[str, ir.TensorProtocol]) -> ir.Model:
    """The second graph, out of the first one (which stays as it is) and tensors by digest.

    Raises InputError where the graph is not the one that the patch was made for, or a tensor is
    missing.
    """
    return _Reader(before.clone(), patch, tensors).model()


def store_of(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The constants of a model by digest."""
    held = (v.const_value for g in (model.graph,) for v in g.initializers.values())
    return {tensor_digest(tensor): tensor for tensor in held if tensor is not None}


# -- writing -------------------------------------------------------------------------------


class _Writer:
    """Puts down what a diff found, for the nodes of the main graph; bodies go with their owner."""

    def __init__(self, diff: GraphDiff) -> None:
        self.before, self.after, self.found = diff.before, diff.after, diff.matching
        self.main_a = [a for a, owner in enumerate(self.before.owners) if owner < 0]
        self.main_b = [b for b, owner in enumerate(self.after.owners) if owner < 0]

    def patch(self) -> Patch:
        kept = self.kept
        stay = set(kept.values())
        made = [b for b in self.main_b if b not in stay]
        graph = self.after.model.graph
        old = {name for name, v in self.before.model.graph.initializers.items() if v.const_value}
        return Patch(
            tuple(str(self.before.nodes[a].name) for a in self.main_a if a not in kept),
            tuple(self._node(b) for b in made),
            tuple(self._rewired()),
            tuple(_encoded(ir.to_proto(v)) for v in graph.inputs),
            tuple((_encoded(ir.to_proto(v)), self._of_value(v)) for v in graph.outputs),
            {name: self._digest(name) for name in graph.initializers if name not in self.same},
            tuple(sorted(old - set(self.same.values()))),
            dict(self.after.model.opset_imports),
        )

    @cached_property
    def kept(self) -> dict[int, int]:
        """Nodes of the main graph that stay as they are, bodies included, before to after."""
        found: dict[int, int] = {}
        below = self._below()
        for a in self.main_a:
            b = self.found.pairs.get(a)
            if b is None or self.before.labels[a] != self.after.labels[b]:
                continue
            if self._bodies_agree(a, b, below, found):
                found[a] = b
        return found

    def _below(self) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """By node of the main graph, the nodes of its bodies, on both sides."""
        found = []
        for pool in (self.before, self.after):
            inside: dict[int, list[int]] = defaultdict(list)
            for number, owner in enumerate(pool.owners):
                top = owner
                while top >= 0 and pool.owners[top] >= 0:
                    top = pool.owners[top]
                if top >= 0:
                    inside[top].append(number)
            found.append(inside)
        return found[0], found[1]

    def _bodies_agree(
        self,
        a: int,
        b: int,
        below: tuple[dict[int, list[int]], dict[int, list[int]]],
        kept: Mapping[int, int],
    ) -> bool:
        mine, theirs = below[0].get(a, []), below[1].get(b, [])
        if not mine and not theirs:
            return not self.before.nodes[a].attributes.data or self._same_outputs(a, b, kept)
        if len(mine) != len(theirs) or any(self.found.pairs.get(n) not in theirs for n in mine):
            return False
        if any(differs(self.found, n, self.found.pairs[n]) for n in mine):
            return False
        read = (s for n in mine for s in self.before.sources[n] if s.kind == "node")
        inside = set(mine)
        steady = all(int(s.of) in inside or int(s.of) in kept for s in read)
        return steady and self._same_outputs(a, b, kept)

    def _same_outputs(self, a: int, b: int, kept: Mapping[int, int]) -> bool:
        """Whether the bodies of two nodes return the same."""
        one, other = self.before.nodes[a], self.after.nodes[b]
        graphs = zip(named_subgraphs(one), named_subgraphs(other), strict=False)
        for (_, x), (_, y) in graphs:
            pairs = list(zip(x.outputs, y.outputs, strict=False))
            if len(x.outputs) != len(y.outputs):
                return False
            if not all(self._same_value(p, q, kept) for p, q in pairs):
                return False
        return True

    def _same_value(self, x: ir.Value, y: ir.Value, kept: Mapping[int, int]) -> bool:
        one, other = constant_tensor(x), constant_tensor(y)
        if one is not None or other is not None:
            return bool(one and other and tensor_digest(one) == tensor_digest(other))
        makers = x.producer(), y.producer()
        if makers[0] is None or makers[1] is None:
            return makers == (None, None) and x.name == y.name
        number = self.before.number[makers[0]]
        mapped = self.found.pairs.get(number) == self.after.number[makers[1]]
        outer = self.before.owners[number] < 0
        return mapped and x.index() == y.index() and (not outer or number in kept)

    @cached_property
    def same(self) -> dict[str, str]:
        """Constants of the main graph after that are one stored before: names, after to before.

        One for one, and only where all nodes that stay and read the one read the other.
        """
        inner = self._kept_everywhere()
        uses: dict[str, set[str]] = defaultdict(set)
        back: dict[str, set[str]] = defaultdict(set)
        for a, b in inner.items():
            for x, y in zip(self.before.nodes[a].inputs, self.after.nodes[b].inputs, strict=True):
                if x is not None and y is not None and constant_tensor(x) is not None:
                    uses[str(y.name)].add(str(x.name))
                    back[str(x.name)].add(str(y.name))
        old, new = self.before.model.graph.initializers, self.after.model.graph.initializers
        found = {}
        for name in new:
            (one, *more) = sorted(uses.get(name, {""}))
            if one in old and not more and back[one] == {name}:
                found[name] = one
        free = [n for n in old if n not in found.values() and not back.get(n)]
        by_digest = {self._digest(n, before=True): n for n in free}
        for name in new:
            match = by_digest.get(self._digest(name)) if not uses.get(name) else None
            if name not in found and match is not None:
                found[name] = match
                del by_digest[self._digest(name)]
        return found

    def _kept_everywhere(self) -> dict[int, int]:
        """Nodes that stay, those in bodies of nodes that stay included."""
        below, found = self._below()[0], dict(self.kept)
        for a in self.kept:
            found |= {n: self.found.pairs[n] for n in below.get(a, ())}
        return found

    def _digest(self, name: str, *, before: bool = False) -> str:
        pool = self.before if before else self.after
        tensor = pool.model.graph.initializers[name].const_value
        assert tensor is not None
        return tensor_digest(tensor)

    def _rewired(self) -> Iterator[tuple[str, int, Ref]]:
        for a, b in self._kept_everywhere().items():
            sources = zip(self.before.sources[a], self.after.sources[b], strict=True)
            for slot, (x, y) in enumerate(sources):
                if not self._stays(a, slot, x, y, b):
                    value = self.after.nodes[b].inputs[slot]
                    yield str(self.before.nodes[a].name), slot, self._of_value(value)

    def _stays(self, a: int, slot: int, x: Source, y: Source, b: int) -> bool:
        if x.kind == "constant":
            one, other = self.before.nodes[a].inputs[slot], self.after.nodes[b].inputs[slot]
            assert one is not None and other is not None
            inside = str(other.name) not in self.after.model.graph.initializers
            return inside or self.same.get(str(other.name)) == one.name
        if x.kind == "node":
            top = int(x.of)
            kept = self.kept.get(top) if self.before.owners[top] < 0 else self.found.pairs.get(top)
            return y.kind == "node" and kept == y.of and x.output == y.output
        return x == y or x.kind == "body"

    def _of_value(self, value: ir.Value | None) -> Ref:
        """How a value of the graph after is called in the patch."""
        if value is None:
            return []
        name = str(value.name)
        if constant_tensor(value) is not None:
            return ["kept", self.same[name]] if name in self.same else ["tensor", name]
        maker = value.producer()
        if maker is None:
            return ["input", name]
        number, index = self.after.number[maker], value.index() or 0
        stays = self._origin(number)
        if stays is None:
            return ["made", str(maker.name), index]
        return ["kept", str(self.before.nodes[stays].outputs[index].name)]

    def _origin(self, number: int) -> int | None:
        a = self.found.inverse.get(number)
        return a if a is not None and self.kept.get(a) == number else None

    def _node(self, number: int) -> dict[str, Any]:
        node = self.after.nodes[number]
        return {
            "name": str(node.name),
            "op": node.op_type,
            "domain": node.domain,
            "overload": node.overload,
            "attributes": [_encoded(ir.to_proto(a)) for a in node.attributes.values()],
            "inputs": [self._of_value(value) for value in node.inputs],
            "outputs": [str(value.name or "") for value in node.outputs],
            "captured": {str(v.name): self._of_value(v) for v in captured_values(node)},
        }


def _encoded(proto: Any) -> str:
    return base64.b64encode(proto.SerializeToString()).decode("ascii")


# -- reading -------------------------------------------------------------------------------


class _Reader:
    """Changes a copy of the graph before, which nobody else holds."""

    def __init__(
        self, model: ir.Model, patch: Patch, tensors: Mapping[str, ir.TensorProtocol]
    ) -> None:
        self.result, self.graph, self.patch = model, model.graph, patch
        self.store = tensors
        self.nodes = {str(node.name): node for node in all_nodes(model)}
        self.values = {str(v.name): v for v in (*self.graph.inputs, *_made(model))}
        self.values |= dict(self.graph.initializers)
        self.made: dict[str, ir.Node] = {}
        self.added: dict[str, ir.Value] = {}
        self.inputs: dict[str, ir.Value] = {}

    def model(self) -> ir.Model:
        gone = [self._node(name) for name in self.patch.removed]
        self._take_inputs()
        self._take_tensors()
        for known in self.patch.made:
            self.made[known["name"]] = self._created(known)
        for known in self.patch.made:
            self._wire(known)
        for name, slot, ref in self.patch.rewired:
            self._node(name).replace_input_with(slot, self._value(ref))
        self._put_outputs()
        for node in gone:
            for slot in range(len(node.inputs)):
                node.replace_input_with(slot, None)
        for node in reversed(gone):
            self.graph.remove(node)
        for name in self.patch.dropped:
            self.graph.initializers.pop(name, None)
        self.graph.sort()
        self.result.opset_imports.clear()
        self.result.opset_imports.update(self.patch.opsets)
        unique_names(self.result)
        return self.result

    def _take_inputs(self) -> None:
        old = {str(v.name): v for v in self.graph.inputs}
        made = [_value_info(text) for text in self.patch.inputs]
        new = [old.get(str(v.name)) or v for v in made]
        for mine, theirs in zip(new, made, strict=True):
            mine.type, mine.shape = theirs.type, theirs.shape
        self.inputs = {str(v.name): v for v in new}
        if [v.name for v in new] != [v.name for v in self.graph.inputs]:
            self.graph.inputs.clear()
            self.graph.inputs.extend(new)

    def _take_tensors(self) -> None:
        for name, digest in self.patch.tensors.items():
            tensor = self.store.get(digest)
            if tensor is None:
                raise InputError(f"the store has no tensor {digest}", where=name)
            value = ir.Value(
                name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )  # fmt: skip
            self.added[name] = value
        for name in self.patch.dropped:  # makes room for one of that name
            self._known(name)
        taken = set(self.graph.initializers)
        for value in self.added.values():
            while value.name in taken:
                value.name = f"{value.name}_"
            taken.add(str(value.name))
            self.graph.initializers[str(value.name)] = value

    def _created(self, known: Mapping[str, Any]) -> ir.Node:
        attributes = [_attribute(text) for text in known["attributes"]]
        outputs = [ir.Value(name=name) for name in known["outputs"]]
        node = ir.Node(
            known["domain"], known["op"], [None] * len(known["inputs"]), attributes,
            outputs=outputs, overload=known["overload"], name=known["name"],
        )  # fmt: skip
        self.graph.append(node)
        return node

    def _wire(self, known: Mapping[str, Any]) -> None:
        node = self.made[known["name"]]
        for slot, ref in enumerate(known["inputs"]):
            node.replace_input_with(slot, self._value(ref))
        read = ((name, self._value(ref)) for name, ref in known["captured"].items())
        captured = {name: value for name, value in read if value is not None}
        for inner in (n for _, g in named_subgraphs(node) for n in all_nodes(g)):
            for slot, value in enumerate(inner.inputs):
                if value is not None and value.name in captured and _loose(value):
                    inner.replace_input_with(slot, captured[value.name])
        for _, graph in named_subgraphs(node):
            for place, value in enumerate(graph.outputs):
                if value.name in captured and _loose(value):
                    graph.outputs[place] = captured[value.name]

    def _put_outputs(self) -> None:
        new = []
        for text, ref in self.patch.outputs:
            face, value = _value_info(text), self._value(ref)
            assert value is not None
            value.name, value.type, value.shape = face.name, face.type, face.shape
            new.append(value)
        self.graph.outputs.clear()
        self.graph.outputs.extend(new)

    def _value(self, ref: Ref) -> ir.Value | None:
        if not ref:
            return None
        if ref[0] == "made":
            return self.made[ref[1]].outputs[ref[2]]
        if ref[0] == "tensor":
            return self.added[ref[1]]
        return self.inputs[ref[1]] if ref[0] == "input" else self._known(ref[1])

    def _known(self, name: str) -> ir.Value:
        if name not in self.values:
            raise InputError(f"there is no value {name!r} in the graph before", hint=_OTHER)
        return self.values[name]

    def _node(self, name: str) -> ir.Node:
        if name not in self.nodes:
            raise InputError(f"there is no node {name!r} in the graph before", hint=_OTHER)
        return self.nodes[name]


_OTHER = "the patch was made for another graph"


def _made(model: ir.Model) -> Iterator[ir.Value]:
    return (value for node in all_nodes(model) for value in node.outputs)


def _loose(value: ir.Value) -> bool:
    """Whether a value of a body comes from outside of it."""
    return value.producer() is None and not value.is_graph_input() and not value.is_initializer()


def _value_info(text: str) -> ir.Value:
    return ir.serde.deserialize_value_info_proto(
        onnx.ValueInfoProto.FromString(base64.b64decode(text)), None
    )


def _attribute(text: str) -> ir.Attr:
    """A body names values that are outside of it; they are put in afterwards."""
    log = logging.getLogger("onnx_ir.serde")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return _deserialized(text)
    finally:
        log.setLevel(level)


def _deserialized(text: str) -> ir.Attr:
    return ir.serde.deserialize_attribute(onnx.AttributeProto.FromString(base64.b64decode(text)))
