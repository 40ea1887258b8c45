"""What can be wrong with a model before it is a graph: versions, names, tensors, types."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import onnx
import onnx_ir as ir

from .errors import InputError

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
    for graph in proto_graphs(proto.graph):
        for check in (_check_types, _check_names, _check_tensors):
            check(graph, where)


def proto_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all graphs nested in it."""
    yield graph
    yield from (g for node in graph.node for g in node_graphs(node))


def node_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """All graphs nested in a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from proto_graphs(attribute.g)
        for graph in attribute.graphs:
            yield from proto_graphs(graph)


def _check_types(graph: onnx.GraphProto, where: str) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
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


def _check_tensors(graph: onnx.GraphProto, where: str) -> None:
    for tensor in graph.initializer:
        _check_tensor(tensor, f"initializer {tensor.name!r}", where)
    for node in graph.node:
        for attribute in node.attribute:
            held = [attribute.t] if attribute.HasField("t") else []
            for tensor in (*held, *attribute.tensors):
                label = f"attribute {attribute.name!r} of {node.op_type} {node.name!r}"
                _check_tensor(tensor, label, where)


def _check_tensor(tensor: onnx.TensorProto, label: str, where: str) -> None:
    known = [t.value for t in ir.DataType if t != ir.DataType.UNDEFINED]
    if tensor.data_type not in known:
        what = f"{label} is of no known data type ({tensor.data_type})"
        raise InputError(what, where=where, hint="export the model with a released onnx")
    if any(d < 0 for d in tensor.dims):
        what = f"{label} has a negative size: {list(tensor.dims)}"
        raise InputError(what, where=where, hint="the file is damaged; export it again")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    wanted, held = _elements(tensor)
    if held == wanted:
        return
    what = f"{label} should hold {wanted:,} numbers or bytes for its shape, but holds {held:,}"
    if held == 0:
        what = f"{label} holds no data: its weights were stripped or lost"
    raise InputError(what, where=where, hint="export or download the model again, with its weights")


def _elements(tensor: onnx.TensorProto) -> tuple[int, int]:
    """How many entries the shape asks for, and how many there are, in the field that holds them."""
    size, dtype = math.prod(tensor.dims), ir.DataType(tensor.data_type)
    if dtype == ir.DataType.STRING:
        return size, len(tensor.string_data)
    bits = dtype.bitwidth
    if tensor.HasField("raw_data"):
        return math.ceil(size * bits / 8), len(tensor.raw_data)
    field, entries = _typed_field(dtype)
    return entries(size), len(getattr(tensor, field))


def _typed_field(dtype: ir.DataType) -> tuple[str, Callable[[int], int]]:
    """The repeated field that holds this dtype when there are no raw bytes, and its length."""
    fields = {
        ir.DataType.FLOAT: ("float_data", 1),
        ir.DataType.COMPLEX64: ("float_data", 2),
        ir.DataType.DOUBLE: ("double_data", 1),
        ir.DataType.COMPLEX128: ("double_data", 2),
        ir.DataType.INT64: ("int64_data", 1),
        ir.DataType.UINT64: ("uint64_data", 1),
        ir.DataType.UINT32: ("uint64_data", 1),
    }
    field, times = fields.get(dtype, ("int32_data", 1))
    packed = 8 // dtype.bitwidth if dtype.bitwidth in (2, 4) else 1
    return field, lambda size: math.ceil(size * times / packed)
