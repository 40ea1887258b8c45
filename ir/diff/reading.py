"""A patch, played on the graph that it was made for."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import onnx
import onnx_ir as ir

from ..errors import InputError
from ..graph import all_nodes
from ..importing.normalise import unique_names
from ..scopes import named_subgraphs
from .patch import Patch, Ref


class Player:
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
        """The graph after."""
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
