"""Sparse constants made dense: ``onnx_ir`` drops sparse initializers without a word."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from ..errors import InputError
from ..importing.protocheck import all_proto_nodes, proto_graphs
from ..provenance import Remark

MAX_BYTES = 1 << 29
"""Of all sparse tensors of a model together, once dense."""


def densify(proto: onnx.ModelProto, where: str) -> list[Remark]:
    """Turn sparse initializers and sparse Constants into dense ones, in place; values are exact.

    Raises ``InputError`` for indices outside the shape and for dense sizes beyond 0.5 GB.
    """
    _check_sizes(proto, where)
    names: list[str] = []
    for graph in proto_graphs(proto.graph):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse, where))
            names.append(sparse.values.name)
        del graph.sparse_initializer[:]
    for node in all_proto_nodes(proto):
        names += _constant(node, where)
    if not names:
        return []
    sentence = f"sparse constants are stored dense from here on: {', '.join(names[:5])}"
    return [Remark("note", "import", names[0], "sparse-made-dense", sentence)]


def _check_sizes(proto: onnx.ModelProto, where: str) -> None:
    """Sizes are told from the shapes: nothing is made dense before all fit."""
    total = 0
    for sparse in _sparse_tensors(proto):
        dims, dtype = list(sparse.dims), ir.DataType(sparse.values.data_type)
        bits = 64 if dtype == ir.DataType.STRING else dtype.bitwidth
        total += math.prod(dims) * bits // 8
        if total > MAX_BYTES:
            hint = "planish computes with dense tensors; split it"
            what = f"sparse tensor {sparse.values.name!r} is too large: {dims}"
            raise InputError(what, where=where, hint=hint)


def _sparse_tensors(proto: onnx.ModelProto) -> Iterator[onnx.SparseTensorProto]:
    for graph in proto_graphs(proto.graph):
        yield from graph.sparse_initializer
        attributes = (a for node in graph.node for a in node.attribute)
        yield from (a.sparse_tensor for a in attributes if a.HasField("sparse_tensor"))


def _constant(node: onnx.NodeProto, where: str) -> list[str]:
    if node.op_type != "Constant":
        return []
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor"):
            dense = _dense(attribute.sparse_tensor, where)
            attribute.CopyFrom(onnx.helper.make_attribute("value", dense))
            return [node.output[0]]
    return []


def _dense(sparse: onnx.SparseTensorProto, where: str) -> onnx.TensorProto:
    name, dims = sparse.values.name, list(sparse.dims)
    if onnx.TensorProto.EXTERNAL in (sparse.values.data_location, sparse.indices.data_location):
        hint = "save the model with this tensor inside the file"
        raise InputError(f"sparse tensor {name!r} lies in another file", where=where, hint=hint)
    values = numpy_helper.to_array(sparse.values).reshape(-1)
    indices = numpy_helper.to_array(sparse.indices)
    size = math.prod(dims)
    flat = _flat_indices(indices, dims)
    if flat is None or len(flat) != len(values):
        hint = "the file is damaged; export it again"
        what = f"sparse tensor {name!r} has indices outside its shape {dims}"
        raise InputError(what, where=where, hint=hint)
    dense = np.zeros(size, values.dtype)
    dense[flat] = values
    return numpy_helper.from_array(dense.reshape(dims), name)


def _flat_indices(
    indices: np.ndarray[tuple[int, ...], np.dtype[np.int64]], dims: list[int]
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None:
    """Positions in the flattened tensor from [nnz] or [nnz, rank] indices; None if out of range."""
    if indices.ndim == 2 and indices.shape[1] == len(dims):
        if np.any(indices < 0) or np.any(indices >= np.array(dims)):
            return None
        return np.ravel_multi_index(tuple(indices.T), dims) if len(indices) else indices[:, 0]
    if indices.ndim != 1 or np.any(indices < 0) or np.any(indices >= math.prod(dims)):
        return None
    return indices
