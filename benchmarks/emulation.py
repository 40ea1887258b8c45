"""A CPU without VNNI, in numpy: whole models with the sums of two u8 x s8 products in 16 bits.

Knows nothing of planish. Layers between DequantizeLinear nodes are replaced by operators that
multiply codes in int64, clip each pair's sum to int16 as VPMADDUBSW does, and count what they
clipped; all else is computed by onnx's reference evaluator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

DOMAIN = "without.vnni"
OPSET = 21
"""The reference evaluator knows no DequantizeLinear below 19."""
Array = np.ndarray[Any, Any]


@dataclass
class Count:
    """layers: integer layers that ran. pairs: of weights in them. unsafe: of these, how many some
    activations could take out of 16 bits. clipped: sums that were, on the data. largest: |sum|."""

    layers: int = 0
    pairs: int = 0
    unsafe: int = 0
    clipped: int = 0
    largest: int = 0
    seen: set[str] = field(default_factory=set)


COUNT = Count()


def pair_product(a: Array, w: Array, layer: str) -> Array:
    """Codes [M, K] @ [K, N], pair by pair of rows 2i and 2i + 1, each sum saturating: int64."""
    total = np.zeros((len(a), w.shape[1]), np.int64)
    a, w = a.astype(np.int64), w.astype(np.int64)
    first = layer not in COUNT.seen
    COUNT.seen.add(layer)
    COUNT.layers += first
    for k in range(0, w.shape[0], 2):
        two = w[k : k + 2]
        highest, lowest = np.maximum(two, 0).sum(0) * 255, np.minimum(two, 0).sum(0) * 255
        COUNT.pairs += first * w.shape[1]
        COUNT.unsafe += first * int(((highest > 32767) | (lowest < -32768)).sum())
        sums = a[:, k : k + 2] @ two
        COUNT.largest = max(COUNT.largest, int(np.abs(sums).max(initial=0)))
        kept = np.minimum(np.maximum(sums, -32768), 32767)
        COUNT.clipped += int((kept != sums).sum())
        total += kept
    return total


class Linear(OpRun):
    """codes x, scale, zero point, codes w [K, N], scale [N] -> float32."""

    op_domain = DOMAIN

    def _run(self, x: Array, xs: Array, xz: Array, w: Array, ws: Array, layer: str = "") -> Any:
        assert x.dtype == np.uint8
        assert w.dtype == np.int8
        rows = x.reshape(-1, x.shape[-1])
        sums = pair_product(rows, w, layer) - int(xz) * w.astype(np.int64).sum(0)
        real = sums * (float(xs) * ws.astype(np.float64))
        return (real.reshape(*x.shape[:-1], w.shape[1]).astype(np.float32),)


class Filter(OpRun):
    """A 2-D convolution of one group by im2col, K over positions and then channels."""

    op_domain = DOMAIN

    def _run(
        self, x: Array, xs: Array, xz: Array, w: Array, ws: Array, bias: Array | None = None,
        layer: str = "", pads: Sequence[int] = (0, 0, 0, 0), strides: Sequence[int] = (1, 1),
    ) -> Any:  # fmt: skip
        assert x.dtype == np.uint8
        assert w.dtype == np.int8
        top, left, bottom, right = pads
        around = ((0, 0), (0, 0), (top, bottom), (left, right))
        padded = np.pad(x, around, constant_values=int(xz))
        windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], axis=(2, 3))
        windows = windows[:, :, :: strides[0], :: strides[1]]  # [n, c, h, w, ky, kx]
        n, _, height, width = windows.shape[:4]
        rows = windows.transpose(0, 2, 3, 4, 5, 1).reshape(n * height * width, -1)
        matrix = w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0])
        sums = pair_product(rows, matrix, layer) - int(xz) * matrix.astype(np.int64).sum(0)
        real = sums * (float(xs) * ws.astype(np.float64))
        if bias is not None:
            real = real + bias
        return (real.reshape(n, height, width, -1).transpose(0, 3, 1, 2).astype(np.float32),)


class GatherElements(OpRun):
    """As the standard has it: onnx 1.23's own fails where an axis of the indices is 1."""

    op_domain = ""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> Any:
        return (np.take_along_axis(data, indices.astype(np.int64), axis),)


def run_without_vnni(path: Path, feeds: Mapping[str, Array]) -> tuple[list[Array], Count]:
    """Outputs of the model in a file on such a CPU, and what was counted on the way."""
    global COUNT
    COUNT = Count()
    model = version_converter.convert_version(onnx.load(path), OPSET)
    operators = [Linear, Filter, GatherElements]
    session = ReferenceEvaluator(_rewritten(model), new_ops=operators)
    return [np.asarray(output) for output in session.run(None, dict(feeds))], COUNT


def _rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    made = {output: node for node in model.graph.node for output in node.output}
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Conv"):
            continue
        read, weight = (made.get(name) for name in node.input[:2])
        if any(n is None or n.op_type != "DequantizeLinear" for n in (read, weight)):
            continue
        assert read is not None
        assert weight is not None
        assert not constants[weight.input[2]].any()  # symmetric weights
        inputs = [*read.input[:3], *weight.input[:2], *node.input[2:]]
        kept = {}
        if node.op_type == "Conv":
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            assert given.get("group", 1) == 1
            assert set(given.get("dilations", [1])) == {1}
            assert given.get("auto_pad", b"NOTSET") == b"NOTSET"
            kept = {key: given[key] for key in ("pads", "strides") if key in given}
        node.CopyFrom(_node("Filter" if node.op_type == "Conv" else "Linear", inputs, node, **kept))
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model


def _node(op: str, inputs: Sequence[str], old: onnx.NodeProto, **kept: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, old.output, domain=DOMAIN, layer=old.output[0], **kept)
