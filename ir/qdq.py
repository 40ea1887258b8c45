"""Quantize and dequantize pairs in a graph: found where they exist, inserted where not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .graph import (
    consumers,
    given,
    operator,
    producer,
    scalar,
    single_consumer,
)
from .provenance import ORIGIN_KEY
from .rewriter import Rewriter

COMPUTE_OPS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
"""Ops that read the float value unless they are quantized themselves: a float layer between
a DequantizeLinear and a QuantizeLinear would be quantized by ONNX Runtime on its own."""


MOVES = frozenset(
    "Expand Flatten Gather Identity MaxPool Pad Reshape Slice Squeeze Transpose Unsqueeze".split()
)
"""Ops through which ONNX Runtime moves a DequantizeLinear."""


def static_view(
    rewriter: Rewriter, value: ir.Value, scale: float, zero_point: int, dtype: str
) -> ir.Value:
    """The value after a per-tensor quantize-dequantize pair, shared by all who ask alike.

    The value itself where such a pair made it: rounding it again would change nothing.
    """
    if rounding_of(value) == (float(np.float32(scale)), zero_point, dtype):
        return value
    found = _existing_pair(value, scale, zero_point, dtype)
    if found is not None:
        return found
    hint = str(value.name)
    s = rewriter.initializer(f"{hint}_scale", np.asarray(scale, np.float32))
    z = rewriter.initializer(f"{hint}_zero_point", np.asarray(zero_point, dtype))
    made = producer(value)
    quantized = rewriter.insert(
        "QuantizeLinear",
        [value, s, z],
        before=_start(rewriter, made),
        after=made,
        name=f"{hint}_quantized",
        origins=[made] if made is not None else [],
    )
    dequantized = rewriter.insert(
        "DequantizeLinear",
        [quantized.outputs[0], s, z],
        after=quantized,
        name=f"{hint}_dequantized",
        origins=[made] if made is not None else [],
    )
    return dequantized.outputs[0]


def redirect_elementwise(rewriter: Rewriter, value: ir.Value, view: ir.Value) -> None:
    """Let all readers of ``value`` but compute layers and its own pair read ``view``.

    And but those that move it into a body: ONNX Runtime (1.31) would move the DequantizeLinear
    along and abort the process.
    """
    pair = {view.producer(), *(u.node for u in value.uses() if u.node.op_type == "QuantizeLinear")}
    others = [n for n in consumers(value) if n.op_type not in COMPUTE_OPS and n not in pair]
    rewriter.replace_uses(value, view, only=[n for n in others if not _moves_into_body(n)])


def _moves_into_body(node: ir.Node) -> bool:
    """Whether a body reads what the node, and nodes like it behind, do but move."""
    if node.op_type not in MOVES:
        return False
    readers = [reader for output in node.outputs for reader in consumers(output)]
    return any(r.graph is not node.graph or _moves_into_body(r) for r in readers)


def dynamic_view(rewriter: Rewriter, value: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Codes uint8, scale and zero point of the value, taken at run time; shared."""
    for node in consumers(value):
        own = node.graph is value.graph  # others are inside bodies, which only those see
        own = own and not _imported(node)
        if operator(node) == ("", "DynamicQuantizeLinear") and own:
            return node.outputs[0], node.outputs[1], node.outputs[2]
    made = producer(value)
    node = rewriter.insert(
        "DynamicQuantizeLinear",
        [value],
        before=_start(rewriter, made),
        after=made,
        outputs=3,
        name=f"{value.name}_quantized",
        origins=[made] if made is not None else [],
    )
    return node.outputs[0], node.outputs[1], node.outputs[2]


def weight_view(
    rewriter: Rewriter, before: ir.Node, hint: str, codes: np.ndarray, scale: np.ndarray, axis: int
) -> ir.Value:
    """DequantizeLinear of int8 weights, one scale per index of ``axis``, zero points zero."""
    q = rewriter.initializer(f"{hint}_quantized", codes)
    s = rewriter.initializer(f"{hint}_scale", scale.astype(np.float32))
    z = rewriter.initializer(f"{hint}_zero_point", np.zeros(scale.shape, codes.dtype))
    node = rewriter.insert(
        "DequantizeLinear",
        [q, s, z],
        before=before,
        attributes={"axis": axis},
        name=f"{hint}_dequantized",
        origins=[before],
    )
    return node.outputs[0]


def activated(output: ir.Value) -> ir.Value:
    """What is rounded behind a quantized convolution: its activation function's output, if it has
    one that runtimes absorb, else its own.
    """
    reader = single_consumer(output)
    if reader is not None and operator(reader) in (("", "Relu"), ("", "Clip")):
        return reader.outputs[0]
    return output


def rounding_of(value: ir.Value | None) -> tuple[float, int, str] | None:
    """Scale, zero point and numpy dtype of the codes that a DequantizeLinear made a value from.

    None where no such node made it, or one with more than one scale.
    """
    node = producer(value, "DequantizeLinear")
    codes = given(node, 0) if node is not None else None
    if node is None or codes is None or codes.dtype is None:
        return None
    scale, zero = scalar(node.inputs[1]), given(node, 2)
    zero_point = 0.0 if zero is None else scalar(zero)
    if scale is None or zero_point is None:
        return None
    return scale, int(zero_point), codes.dtype.numpy().name


def is_dequantized(value: ir.Value | None) -> bool:
    """Whether the value comes out of a DequantizeLinear."""
    return producer(value, "DequantizeLinear") is not None


def _start(rewriter: Rewriter, made: ir.Node | None) -> ir.Node | None:
    """The first node of the graph, for what reads an input: readers come in no known order."""
    return next(iter(rewriter.graph), None) if made is None else None


def _imported(node: ir.Node) -> bool:
    """Whether it came with the model: then it stands anywhere, maybe behind who would read it."""
    return node.metadata_props.get(ORIGIN_KEY) == node.name


def _existing_pair(value: ir.Value, scale: float, zero_point: int, dtype: str) -> ir.Value | None:
    for node in consumers(value):
        code = given(node, 2)
        if operator(node) != ("", "QuantizeLinear") or code is None or code.dtype is None:
            continue
        if node.graph is not value.graph or _imported(node):
            continue  # inside a body, which only that body sees, or too far behind
        same = scalar(node.inputs[1]) == float(np.float32(scale)) and scalar(code) == zero_point
        if not same or code.dtype.numpy() != np.dtype(dtype):
            continue
        for reader in consumers(node.outputs[0]):
            if operator(reader) == ("", "DequantizeLinear") and _undoes(reader, node):
                return reader.outputs[0]
    return None


def _undoes(dequantize: ir.Node, quantize: ir.Node) -> bool:
    """Whether both have the same scale and zero point."""
    return all(
        given(dequantize, i) is not None
        and scalar(given(dequantize, i)) == scalar(given(quantize, i))
        for i in (1, 2)
    )
