"""Declared types and shapes against what ONNX infers from the operators: do they contradict?"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from ..graph import all_graphs
from ..importing.protocheck import proto_graphs
from ..signature import shape_of, shape_text
from .inference import infer
from .shapes import node_types, without_weights


def shape_conflicts(model: ir.Model) -> Iterator[str]:
    """Values inside the graph whose declared dtype, rank or size cannot be; as sentences.

    What inference does not find is not doubted, and neither are inputs and outputs of the model,
    which are its signature.
    """
    try:
        inferred = infer(without_weights(model), strict=False)
    except Exception:  # nothing can be inferred, so nothing contradicts
        return
    found = {i.name: i.type for g in proto_graphs(inferred.graph) for i in g.value_info}
    for graph in all_graphs(model):
        for value in (o for node in graph for o in node.outputs if not o.is_graph_output()):
            if value.name in found:
                yield from _conflict(value, found[value.name])


def node_conflicts(node: ir.Node, model: ir.Model) -> Iterator[str]:
    """As ``shape_conflicts`` for the outputs of one node, those of the model included."""
    found = node_types(node, model)
    for value in node.outputs:
        if value.name and value.name in found:
            yield from _conflict(value, found[value.name])


def _conflict(value: ir.Value, inferred: onnx.TypeProto) -> Iterator[str]:
    if not inferred.HasField("tensor_type") or not isinstance(value.type, ir.TensorType):
        return
    kind = inferred.tensor_type
    if kind.elem_type and kind.elem_type != value.type.dtype.value:
        yield f"{value.name!r} is said to be {value.type.dtype.name}, which it is not"
    declared = shape_of(value)
    if declared is None or not kind.HasField("shape"):
        return
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    if len(declared) != len(sizes) or any(
        isinstance(said, int) and size is not None and said != size
        for said, size in zip(declared, sizes, strict=True)
    ):
        said, is_ = shape_text(declared), shape_text(sizes)
        yield f"{value.name!r} is said to have shape {said}, but has {is_}"
