"""What can be wrong with a model before it is a graph: versions, names, tensors, types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx

from ..errors import InputError
from .tensorcheck import check_rank, check_sparse, check_tensor

OLDEST_OPSET, NEWEST_OPSET = 7, 26
OLDEST_IR, NEWEST_IR = 3, 13
"""What planish reads: from the first IR with opsets to what ONNX Runtime 1.31 still loads."""


def check_versions(ir_version: int, opsets: Mapping[str, int], where: str) -> None:
    """Raise ``InputError`` for an IR version or a standard opset outside the supported range."""
    if not OLDEST_IR <= ir_version <= NEWEST_IR:
        raise InputError(
            f"the model has IR version {ir_version}; {OLDEST_IR} to {NEWEST_IR} are supported",
            where=where,
            hint=f"export it with an older onnx, or set model.ir_version = {NEWEST_IR} and save",
        )
    opset = opsets.get("", opsets.get("ai.onnx"))
    if opset is None and not any(opsets):
        hint = "a model names its opsets in opset_import; export it again"
        raise InputError("the model imports no operator set", where=where, hint=hint)
    if opset is not None and not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        hint = f"export it with opset_version=20, or use onnx.version_converter (has {opset})"
        if opset > NEWEST_OPSET:
            hint += "; no released runtime takes it yet"
        raise InputError(
            f"the model uses opset {opset}; {OLDEST_OPSET} to {NEWEST_OPSET} are supported",
            where=where,
            hint=hint,
        )


def check_proto(proto: onnx.ModelProto, where: str) -> None:
    """Raise ``InputError`` for the first thing that makes this no usable model."""
    opsets = {o.domain: o.version for o in proto.opset_import}
    check_versions(proto.ir_version, opsets, where)
    check_parts(proto, where)


def check_parts(proto: onnx.ModelProto, where: str) -> None:
    """As ``check_proto``, whatever the versions."""
    if not _is_text(proto):
        hint = "copy or download it again, and compare the checksums"
        raise InputError("the file is damaged: a name in it is no text", where=where, hint=hint)
    nodes = [*proto.graph.node, *(n for f in proto.functions for n in f.node)]
    graphs = [proto.graph, *(g for node in nodes for g in node_graphs(node))]
    for graph in graphs:
        for check in (_check_types, _check_names, _check_weights):
            check(graph, where)
    for node in (*nodes, *(n for graph in graphs[1:] for n in graph.node)):
        _check_attributes(node, where)


def proto_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all graphs nested in it."""
    yield graph
    yield from (g for node in graph.node for g in node_graphs(node))


def all_proto_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the main graph, of the functions, and of all graphs nested in them."""
    for node in (*proto.graph.node, *(n for f in proto.functions for n in f.node)):
        yield node
        yield from (inner for graph in node_graphs(node) for inner in graph.node)


def node_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """All graphs nested in a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from proto_graphs(attribute.g)
        for graph in attribute.graphs:
            yield from proto_graphs(graph)


def _is_text(message: Any) -> bool:
    """Whether the strings of a message are text; protobuf hands over bytes where they are not."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            texts = value if field.is_repeated else (value,)
            if not all(isinstance(text, str) for text in texts):
                return False
        elif field.type == field.TYPE_MESSAGE:
            inner = value if field.is_repeated else (value,)
            if not all(_is_text(each) for each in inner):
                return False
    return True


def _check_attributes(node: onnx.NodeProto, where: str) -> None:
    if not f"{node.domain}{node.op_type}".isprintable():
        hint = "do not trust this file unless you know who made it"
        what = f"an operator is called {node.op_type!r} of domain {node.domain!r}"
        raise InputError(what, where=where, hint=hint)
    for attribute in node.attribute:
        label = f"attribute {attribute.name!r} of {node.op_type} {node.name!r}"
        if attribute.type == onnx.AttributeProto.UNDEFINED:
            hint = "export the model with a newer onnx"
            raise InputError(f"{label} has no type", where=where, hint=hint)
        if _is_hollow(attribute):
            hint = "the file is damaged; export it again"
            raise InputError(f"{label} has no value", where=where, hint=hint)
        if attribute.HasField("sparse_tensor"):
            check_sparse(attribute.sparse_tensor, label, where)
        held = [attribute.t] if attribute.HasField("t") else []
        for tensor in (*held, *attribute.tensors):
            check_tensor(tensor, label, where)


def _is_hollow(attribute: onnx.AttributeProto) -> bool:
    """Whether a tensor or graph is announced that is not there."""
    fields = {
        onnx.AttributeProto.TENSOR: "t",
        onnx.AttributeProto.GRAPH: "g",
        onnx.AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    }
    field = fields.get(attribute.type)
    return bool(field and not attribute.ref_attr_name and not attribute.HasField(field))


def _check_types(graph: onnx.GraphProto, where: str) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
        check_rank(info, where)
        if _is_map(info.type):
            raise InputError(
                f"{info.name!r} is a map from keys to values, which planish cannot compile",
                where=where,
                hint="models converted by skl2onnx: convert again with options={'zipmap': False}",
            )


def _is_map(type_: onnx.TypeProto) -> bool:
    kind = type_.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        inner: onnx.TypeProto = getattr(type_, kind).elem_type
        return _is_map(inner)
    return bool(kind == "map_type")


def _check_names(graph: onnx.GraphProto, where: str) -> None:
    inputs, weights = [v.name for v in graph.input], [t.name for t in graph.initializer]
    computed = [name for node in graph.node for name in node.output if name]
    for kind, names in (
        ("input", inputs),
        ("initializer", weights),
        ("value", computed + list({*inputs, *weights})),
    ):
        twice = _twice(names)
        if twice is not None:
            hint = "the exporter wrote an invalid graph; export it again"
            raise InputError(f"{kind} {twice!r} is defined twice", where=where, hint=hint)
    if "" in weights:
        raise InputError("an initializer has no name", where=where, hint="export the model again")


def _twice(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _check_weights(graph: onnx.GraphProto, where: str) -> None:
    for tensor in graph.initializer:
        check_tensor(tensor, f"initializer {tensor.name!r}", where)
    for sparse in graph.sparse_initializer:
        check_sparse(sparse, f"sparse initializer {sparse.values.name!r}", where)
