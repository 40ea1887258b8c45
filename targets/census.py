"""Which kernels a model really runs in: counted in the graph that the runtime made of it.

A model that was quantized and loads proves nothing; only the kernels do.
"""

from __future__ import annotations

from collections import ChainMap, Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from .runtime import optimized_graph

# Operands that can be a weight, by "(domain:)op". The kernels that multiply integers:
_INTEGER = {
    "QLinearMatMul": (0, 3),
    "QLinearConv": (3,),
    "MatMulInteger": (0, 1),
    "ConvInteger": (1,),
    "com.microsoft:QLinearConv": (3,),
    "com.microsoft:QGemm": (0, 3),
    "com.microsoft:MatMulIntegerToFloat": (0, 1),
    "com.microsoft:DynamicQuantizeMatMul": (1,),
    "com.microsoft:DynamicQuantizeLSTM": (1, 2),
    "com.microsoft:QAttention": (1,),
    "com.microsoft:MatMulInteger16": (0, 1),
}
_FLOAT = {
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "com.microsoft:FusedMatMul": (0, 1),
    "com.microsoft:TransposeMatMul": (0, 1),
    "com.microsoft:FusedGemm": (0, 1),
    "com.microsoft:FusedConv": (1,),
    "com.microsoft:Attention": (1,),
    "com.microsoft:MatMulBnb4": (1,),
    "com.microsoft.nchwc:Conv": (1,),
}
# Integer or float by attribute: weights in few bits, activations as accuracy_level says.
_N_BITS = {"com.microsoft:MatMulNBits": (1,)}

_INT8_ACCURACY = 4
_OPERANDS = {**_INTEGER, **_FLOAT, **_N_BITS}

# Ops through which a constant stays the same weight in another form.
_FORM_ONLY = frozenset(
    {"DequantizeLinear", "QuantizeLinear", "Transpose", "Reshape", "Cast", "Squeeze", "Unsqueeze"}
)

_INTEGER_TYPES = frozenset({"INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2"})


@dataclass(frozen=True)
class StoredTensor:
    """An initializer: dtype as ONNX names it ("INT8"), shape as stored."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class KernelRow:
    """A node that multiplies by constant weights. Names are those of the runtime's graph.

    op: "QLinearMatMul", "com.microsoft:QGemm", …. integer: it multiplies integers. weight_dtype
    and weight_shape: of the first weight as stored, also where it is dequantized on every run.
    """

    node_name: str
    op: str
    integer: bool
    weight_names: tuple[str, ...]
    weight_dtype: str
    weight_shape: tuple[int, ...]
    output_names: tuple[str, ...]


@dataclass(frozen=True)
class Census:
    """counts: nodes by "(domain:)op", subgraphs included. integer_initializers: 8 bits or fewer."""

    counts: Mapping[str, int]
    kernels: tuple[KernelRow, ...]
    integer_initializers: tuple[StoredTensor, ...]

    def by_weight(self) -> dict[str, tuple[KernelRow, ...]]:
        """Rows by weight name; a shared weight has several."""
        rows: defaultdict[str, list[KernelRow]] = defaultdict(list)
        for row in self.kernels:
            for name in row.weight_names:
                rows[name].append(row)
        return {name: tuple(found) for name, found in rows.items()}

    def foreign_weights(self, written: Collection[str]) -> tuple[StoredTensor, ...]:
        """Integer tensors of two or more axes that are not among the names ``written``.

        These the runtime made: it quantizes float layers between quantized neighbours by itself,
        and repacks weights.
        """
        found = (t for t in self.integer_initializers if len(t.shape) >= 2)
        return tuple(t for t in found if t.name not in written)

    def to_json(self) -> dict[str, Any]:
        """The census as the manifest holds it."""
        return {
            "counts": dict(self.counts),
            "kernels": [asdict(row) for row in self.kernels],
            "integer_initializers": [asdict(tensor) for tensor in self.integer_initializers],
        }


def runtime_census(
    model: Path | bytes, *, threads: int = 0, entries: Mapping[str, str] | None = None
) -> Census:
    """Census of what the runtime makes of a model. Raises as ``runtime.open_session``."""
    return kernel_census(optimized_graph(model, threads=threads, entries=entries))


def kernel_census(proto: onnx.ModelProto) -> Census:
    """Count the nodes of a model that the runtime has optimised; tensor data is not read."""
    scopes = list(_scopes(proto.graph, _Scope(ChainMap(), ChainMap())))
    nodes = [(node, scope) for graph, scope in scopes for node in graph.node]
    counts = Counter(_op(node) for node, _ in nodes)
    rows = (_row(node, scope) for node, scope in nodes)
    stored = (_stored(tensor) for graph, _ in scopes for tensor in graph.initializer)
    return Census(
        dict(sorted(counts.items())),
        tuple(row for row in rows if row is not None),
        tuple(tensor for tensor in stored if tensor.dtype in _INTEGER_TYPES),
    )


@dataclass(frozen=True)
class _Scope:
    """What a name means inside a graph: an initializer or the node that makes it."""

    tensors: ChainMap[str, StoredTensor]
    producers: ChainMap[str, onnx.NodeProto]

    def weight(self, name: str) -> StoredTensor | None:
        """The initializer behind a value, seen through ops that only change its form."""
        while name not in self.tensors:
            producer = self.producers.get(name)
            if producer is None or producer.op_type not in _FORM_ONLY:
                return None
            name = producer.input[0]
        return self.tensors[name]


def _scopes(graph: onnx.GraphProto, outer: _Scope) -> Iterator[tuple[onnx.GraphProto, _Scope]]:
    """The graph and all its subgraphs, each with the names it sees."""
    tensors = {t.name: _stored(t) for t in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    scope = _Scope(outer.tensors.new_child(tensors), outer.producers.new_child(producers))
    yield graph, scope
    for node in graph.node:
        for inner in _held(node):
            yield from _scopes(inner, scope)


def _held(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes; asking any other attribute for its graph makes one."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _row(node: onnx.NodeProto, scope: _Scope) -> KernelRow | None:
    op = _op(node)
    operands = [node.input[i] for i in _OPERANDS.get(op, ()) if i < len(node.input)]
    weights = [w for w in map(scope.weight, operands) if w is not None]
    if not weights:
        return None
    return KernelRow(
        node_name=node.name,
        op=op,
        integer=_is_integer(node, op),
        weight_names=tuple(weight.name for weight in weights),
        weight_dtype=weights[0].dtype,
        weight_shape=weights[0].shape,
        output_names=tuple(name for name in node.output if name),
    )


def _is_integer(node: onnx.NodeProto, op: str) -> bool:
    if op not in _N_BITS:
        return op in _INTEGER
    return any(a.name == "accuracy_level" and a.i == _INT8_ACCURACY for a in node.attribute)


def _op(node: onnx.NodeProto) -> str:
    return f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _stored(tensor: onnx.TensorProto) -> StoredTensor:
    return StoredTensor(
        tensor.name, onnx.TensorProto.DataType.Name(tensor.data_type), tuple(tensor.dims)
    )
