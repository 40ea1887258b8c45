"""How many bytes a model takes on disk, its weight files included, whatever its graph is like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from ..importing.protocheck import all_proto_nodes, proto_graphs


def model_bytes(path: Path) -> int:
    """Bytes of a model file and of the files of external data that it names, each once."""
    proto = onnx.load_model(path, load_external_data=False)
    named = (entry for tensor in _tensors(proto) for entry in tensor.external_data)
    outside: set[str] = {entry.value for entry in named if entry.key == "location"}
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in outside)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in proto_graphs(proto.graph):
        yield from graph.initializer
    for node in all_proto_nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
