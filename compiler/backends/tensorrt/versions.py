"""The least TensorRT that builds a model: its target's, or what stands in the model wants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from ....targets.rules.tensorrt.scope import capability, oldest, spoken
from ....targets.schema import Target
from ....targets.tensorrt.table import Version, table

FLOAT8 = frozenset({onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.FLOAT8E5M2})
FILTERS = frozenset({"Conv", "ConvTranspose"})
FLOAT8_FILTERS: dict[int, Version] = {89: (10, 3), 90: (10, 2)}
"""By compute capability since when convolutions in FP8 are built: Hopper, then Ada.

Source: NVIDIA/TensorRT, issue 3987 (new in 10.2, on an H100, strongly typed); for Ada others' words
on NVIDIA's release notes, which were not read. The version of later GPUs is their target's own.
"""


def least_version(path: Path, target: Target) -> str:
    """Of TensorRT, as ``10.3``, for a typed model in a file; its weights are not read."""
    model = onnx.load(path, load_external_data=False)
    known = table().operators
    versions = [oldest(target)]
    for node in _nodes(model.graph):
        operator = known.get((node.domain, node.op_type))
        versions += [operator.since] if operator is not None and operator.since else []
    since = FLOAT8_FILTERS.get(capability(target) or 0)
    if since is not None and _filters_in_float8(model.graph):
        versions.append(since)
    return spoken(max(versions))


def _filters_in_float8(graph: onnx.GraphProto) -> bool:
    """Whether a convolution reads a weight that comes out of 8-bit floats."""
    codes = {tensor.name for tensor in graph.initializer if tensor.data_type in FLOAT8}
    for node in graph.node:
        if node.op_type in ("DequantizeLinear", "Cast") and node.input[0] in codes:
            codes.add(node.output[0])
        elif node.op_type in FILTERS and not codes.isdisjoint(node.input):
            return True
    return False


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those of bodies, too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes(body)
