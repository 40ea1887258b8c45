"""Rules on the types of tensors: TensorRT's networks are strongly typed and cast nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ....ir.graph import constant_array, constant_tensor, given, operator, opset
from ....ir.storage.tensors import nonfinite
from ...schema import Target
from ..layers import PRODUCTS
from ..rule import Finding, Rule, View
from .limits import dtype_of
from .operators import known, refused
from .scope import on_tensorrt, where
from .signatures import data, groups

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
CODES = frozenset(
    {ir.DataType.INT8, ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT4E2M1}
)
"""Types that exist between QuantizeLinear and DequantizeLinear only."""
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_TENSORS = FLOATS | {ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL}
_ELSEWHERE = CODES | {ir.DataType.UINT8, ir.DataType.DOUBLE}
"""Types that have a rule of their own."""
_MOST_FLOAT16 = 65504.0


def quantizer(node: ir.Node) -> bool:
    """Whether a node is QuantizeLinear or DequantizeLinear, also of TensorRT's own domain."""
    return node.op_type in QUANTIZERS or operator(node)[0] == "trt"


def _values(node: ir.Node) -> list[ir.Value]:
    return [value for value in (*node.inputs, *node.outputs) if value is not None]


def _foreign_types(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        if quantizer(node) or refused(node):
            continue
        found = {dtype for v in _values(node) if (dtype := dtype_of(v)) is not None}
        for dtype in sorted(found - _TENSORS - _ELSEWHERE):
            yield Finding(node, dtype.name.lower())


def _by_operator(view: View) -> Iterator[Finding]:
    version = opset(view.model)
    for node, entry in known(view):
        if not entry.types or quantizer(node):
            continue
        found = {dtype for v in data(node, version) if (dtype := dtype_of(v)) is not None}
        for dtype in sorted((found & _TENSORS) - entry.types):
            yield Finding(node, dtype.name.lower())


def _quantizer_input(view: View) -> Iterator[Finding]:
    for node in view.of("QuantizeLinear"):
        dtype = dtype_of(given(node, 0))
        if dtype is not None and dtype not in FLOATS | {ir.DataType.DOUBLE}:
            yield Finding(node, dtype.name.lower())


def _bytes(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        found = [v for v in _values(node) if dtype_of(v) == ir.DataType.UINT8]
        taken = node.op_type == "Cast" and all(map(_at_the_edge, found))
        if found and not taken and not quantizer(node) and not refused(node):
            yield Finding(node, f"{_name(found[0])} is uint8")


def _at_the_edge(value: ir.Value) -> bool:
    """Whether a value is an input or an output of the model."""
    return value.is_graph_input() or value.is_graph_output()


def _doubles(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        if any(dtype_of(value) == ir.DataType.DOUBLE for value in _values(node)):
            yield Finding(node)


def _mixed(view: View) -> Iterator[Finding]:
    version = opset(view.model)
    for node in view.nodes:
        if quantizer(node):
            continue
        for values in groups(node, version).values():
            found = {dtype for v in values if (dtype := dtype_of(v)) is not None}
            if len(found) > 1:
                yield Finding(node, " and ".join(sorted(d.name.lower() for d in found)))
                break


def _stays_float32(view: View) -> Iterator[Finding]:
    wide = [layer for layer in view.layers if dtype_of(given(layer.node, 0)) == ir.DataType.FLOAT]
    found = [layer for layer in wide if layer.left is None or layer.right is None]
    if found:
        yield Finding(None, f"{len(found)} of {len(view.layers)} products")


def _overflow(view: View) -> Iterator[Finding]:
    for node in view.of("Cast"):
        array = constant_array(given(node, 0))
        if array is None or array.dtype.kind != "f" or dtype_of(node.outputs[0]) != _HALF:
            continue
        finite = np.abs(array[np.isfinite(array)].astype(np.float64))
        if (finite > _MOST_FLOAT16).any():
            yield Finding(node, f"{finite.max():g} in {_name(given(node, 0))}")


_HALF = ir.DataType.FLOAT16


def _not_finite(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        if operator(node)[0] or node.op_type not in PRODUCTS:
            continue
        for value in node.inputs[1:]:
            tensor = constant_tensor(value)
            count = 0 if tensor is None else sum(nonfinite(tensor))
            if count:
                yield Finding(node, f"{count} in {_name(value)}")


def _name(value: ir.Value | None) -> str:
    return "" if value is None else str(value.name)


def _half(target: Target) -> bool:
    return target.floats.float16 == "native"


RULES = (
    Rule(
        "trt-type-unknown",
        "Types of tensors: strings, 16-bit and unsigned integers, complex numbers, other floats.",
        _foreign_types,
        "TensorRT has no tensors of that type: the model is refused",
        "cast to int32, int64 or a float; keep strings and their like out of the model",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-operator-type",
        "Types of the data of each operator, against TensorRT's table.",
        _by_operator,
        "the operator does not take that type: the model is refused or the engine is not built",
        "cast in front of the node and back behind it",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-quantizer-input",
        "What QuantizeLinear rounds.",
        _quantizer_input,
        "it takes float32, float16 and bfloat16 only",
        "cast to a float in front of it",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-uint8-inside",
        "Tensors of uint8.",
        _bytes,
        "uint8 exists at inputs and outputs of the network only",
        "cast an input at once, and to uint8 as the last thing before an output",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-double",
        "Tensors of float64.",
        _doubles,
        "they are cast to float32: results are no better than those of float32",
        "export the model in float32",
        "note",
        on_tensorrt,
    ),
    Rule(
        "trt-mixed-types",
        "Inputs of one operator that must have one type.",
        _mixed,
        "a strongly typed network casts nothing by itself: the model is refused",
        "put a Cast in front of the input that differs",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-float32-stays",
        "Matrix products and convolutions in float32.",
        _stays_float32,
        "a strongly typed network computes in the types of the graph: what is float32 stays so "
        "and misses the rate of float16",
        "convert what bears it to float16 or bfloat16, scales of Q/DQ pairs included",
        "note",
        where(_half, "the target does not compute in float16"),
    ),
    Rule(
        "trt-float16-overflow",
        "Constants that are cast to float16.",
        _overflow,
        f"numbers beyond {_MOST_FLOAT16:g} become infinite: results are wrong",
        "keep that part in float32 or bfloat16, or scale the constant (masks: -65504)",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-weight-not-finite",
        "Weights and biases of matrix products and convolutions.",
        _not_finite,
        "a weight that is infinite or no number makes every result so",
        "export the model again; in float16: from weights that it can hold",
        "error",
        on_tensorrt,
    ),
)
