"""ONNX's shape inference with its data propagation kept on a leash.

To find sizes that a graph computes, ONNX carries small vectors along (``Shape`` -> ``Gather`` ->
``Concat`` -> ``Reshape``). It does so for every vector of known length, so one ``Cast`` of a vector
of 10^12 takes all memory (onnx 1.23). Here an operator that carries data reads nothing longer than
a shape can be: in its place it reads a stand-in whose length is a symbol, resolved afterwards.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import onnx

from ..importing.protocheck import proto_graphs

CARRIERS = frozenset("Add Cast Concat Gather Mul Slice Squeeze Sub Unsqueeze".split())
"""Operators for which ONNX has data propagation and that read vectors."""
MAX_LENGTH = 4096
MAX_TOTAL = 1 << 22
"""Of all vectors together; beyond, only what a shape can be (64) is carried."""
MAX_RANK = 64
ROUNDS = 4

Types = Mapping[str, onnx.TypeProto]
Lengths = Mapping[str, int | None]


def infer(proto: onnx.ModelProto, *, strict: bool) -> onnx.ModelProto:
    """``proto`` with types and shapes, data propagation included; ``proto`` stays as it is.

    strict: raise ``onnx.shape_inference.InferenceError`` where an operator cannot take its inputs.
    """
    plain = found = onnx.shape_inference.infer_shapes(proto, strict_mode=strict, data_prop=False)
    if proto.functions:  # their bodies have no types to look at
        return plain
    carriers = [n for g in proto_graphs(proto.graph) for n in g.node if n.op_type in CARRIERS]
    before: set[str] | None = None
    for _ in range(ROUNDS):
        long = _too_long(carriers, _lengths(found))
        if long == before:
            break
        before, found = long, _infer_without(long, _types(found, long), proto, strict)
        if not long:
            return found
    _complete(found, plain)
    return found


def _infer_without(
    long: set[str], types: Types, proto: onnx.ModelProto, strict: bool
) -> onnx.ModelProto:
    if not long:
        return onnx.shape_inference.infer_shapes(proto, strict_mode=strict, data_prop=True)
    cut = onnx.ModelProto()
    cut.CopyFrom(proto)
    symbols = _cut(cut, types)
    found = onnx.shape_inference.infer_shapes(cut, strict_mode=strict, data_prop=True)
    _resolve(found, symbols)
    return found


def _too_long(carriers: Sequence[onnx.NodeProto], lengths: Lengths) -> set[str]:
    """Names that carriers must not read: vectors too long, or of a length that nobody knows."""
    carried = sum(lengths.get(output) or 0 for node in carriers for output in node.output)
    limit = MAX_LENGTH if carried <= MAX_TOTAL else MAX_RANK
    return {name for node in carriers for name in _hazards(node, lengths, limit)}


def _hazards(node: onnx.NodeProto, lengths: Lengths, limit: int) -> Iterator[str]:
    found = [(name, lengths.get(name, 0)) for name in node.input]
    joined = node.op_type == "Concat" and sum(length or 0 for _, length in found) > limit
    for name, length in found:
        if length is None or length > limit or (joined and length):
            yield name


def _lengths(proto: onnx.ModelProto) -> dict[str, int | None]:
    """Elements of each vector; 0 for what is none, None where nobody knows."""
    found: dict[str, int | None] = {}
    for graph in proto_graphs(proto.graph):
        for info in (*graph.input, *graph.output, *graph.value_info):
            found[info.name] = _length(info.type)
        for tensor in graph.initializer:
            found[tensor.name] = tensor.dims[0] if len(tensor.dims) == 1 else 0
    return found


def _length(kind: onnx.TypeProto) -> int | None:
    if not kind.HasField("tensor_type"):
        return 0
    if not kind.tensor_type.HasField("shape"):
        return None
    sizes = kind.tensor_type.shape.dim
    if len(sizes) != 1:
        return 0
    return sizes[0].dim_value if sizes[0].HasField("dim_value") else None


def _types(proto: onnx.ModelProto, names: set[str]) -> dict[str, onnx.TypeProto]:
    found: dict[str, onnx.TypeProto] = {}
    for graph in proto_graphs(proto.graph) if names else ():
        for info in (*graph.input, *graph.output, *graph.value_info):
            if info.name in names:
                found[info.name] = info.type
        for tensor in graph.initializer:
            if tensor.name in names:
                kind = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
                found[tensor.name] = kind
    return found


def _cut(proto: onnx.ModelProto, types: Types) -> dict[str, int]:
    """Let carriers read stand-ins of these values; the lengths that their symbols stand for."""
    taken = {o for g in proto_graphs(proto.graph) for node in g.node for o in node.output}
    prefix = f"unk__{secrets.token_hex(8)}"  # what stays of it is a name for not knowing
    free = (name for i in count() if (name := f"{prefix}_{i}") not in taken)
    stand_ins = dict(zip(types, free, strict=False))
    symbols: dict[int, str] = {}
    for name, stand_in in stand_ins.items():
        info = proto.graph.input.add(name=stand_in)
        info.type.CopyFrom(types[name])
        _blur(info.type, symbols, prefix)
    for node in (n for graph in proto_graphs(proto.graph) for n in graph.node):
        if node.op_type in CARRIERS:
            for index, name in enumerate(node.input):
                if name in stand_ins:
                    node.input[index] = stand_ins[name]
    return {symbol: length for length, symbol in symbols.items()}


def _blur(kind: onnx.TypeProto, symbols: dict[int, str], prefix: str) -> None:
    """Replace the length of a vector by a symbol, the same for equal lengths."""
    for size in kind.tensor_type.shape.dim:
        if len(kind.tensor_type.shape.dim) == 1 and size.HasField("dim_value"):
            size.dim_param = symbols.setdefault(size.dim_value, f"{prefix}_of_{size.dim_value}")


def _resolve(proto: onnx.ModelProto, symbols: Mapping[str, int]) -> None:
    for graph in proto_graphs(proto.graph):
        for info in (*graph.output, *graph.value_info):
            for size in info.type.tensor_type.shape.dim:
                if size.dim_param in symbols:
                    size.dim_value = symbols[size.dim_param]


def _complete(proto: onnx.ModelProto, plain: onnx.ModelProto) -> None:
    """Sizes that were known without carrying data, and are not behind a stand-in."""
    known = {i.name: i.type for g in proto_graphs(plain.graph) for i in g.value_info}
    for graph in proto_graphs(proto.graph):
        for info in graph.value_info:
            before = known.get(info.name, info.type).tensor_type.shape.dim
            sizes = info.type.tensor_type.shape.dim
            for size, old in zip(sizes, before, strict=False) if len(sizes) == len(before) else ():
                if old.HasField("dim_value") and not size.HasField("dim_value"):
                    size.CopyFrom(old)
