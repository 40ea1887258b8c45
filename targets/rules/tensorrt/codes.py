"""Rules on single Q/DQ nodes: explicit quantization is symmetric, with scales that are fixed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ....ir.graph import (
    constant_array,
    consumers,
    dims,
    given,
    is_constant,
    operator,
    producer,
)
from ...tensorrt.table import table
from ..layers import code_dtype, integer, named
from ..rule import Finding, Rule, View
from .limits import built, dtype_of
from .operators import refused
from .scope import on_tensorrt
from .types import CODES, quantizer

_BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})


def heads(view: View) -> Iterator[ir.Node]:
    """QuantizeLinear nodes, and DequantizeLinear nodes of codes that no such node makes.

    So a pair is spoken of once.
    """
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        if len(node.inputs) < 2 or node.inputs[0] is None:
            continue
        if node.op_type == "QuantizeLinear" or producer(node.inputs[0], "QuantizeLinear") is None:
            yield node


def rounds_constant(node: ir.Node) -> bool:
    """Whether what a quantizer of ``heads`` reads is known before any feed."""
    return built(node.inputs[0])


def says_type(node: ir.Node) -> bool:
    """Whether a quantizer, or what it dequantizes, says in which type the codes are."""
    if node.op_type == "DequantizeLinear":
        return any(dtype_of(given(node, i)) is not None for i in (0, 2))
    return given(node, 2) is not None or bool(integer(node, "output_dtype", 0))


def sizes(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a value of which every size is known."""
    found = dims(value)
    if found is None:
        return None
    known = tuple(size for size in found if isinstance(size, int))
    return known if len(known) == len(found) else None


def _asymmetric(view: View) -> Iterator[Finding]:
    for node in heads(view):
        array = constant_array(given(node, 2))
        if array is not None and np.any(array.astype(np.float32)):
            worst = array.reshape(-1)[np.abs(array.astype(np.float32)).argmax()]
            yield Finding(node, f"zero point {worst}")


def _zero_computed(view: View) -> Iterator[Finding]:
    for node in heads(view):
        zero = given(node, 2)
        if zero is not None and not built(zero):
            yield Finding(node, f"{zero.name} is computed")


def _unsigned(view: View) -> Iterator[Finding]:
    for node in heads(view):
        if says_type(node) and code_dtype(node) == ir.DataType.UINT8:
            yield Finding(node, "codes of uint8")


def _code_type(view: View) -> Iterator[Finding]:
    for node in heads(view):
        dtype = code_dtype(node)
        if says_type(node) and dtype not in CODES | {ir.DataType.UINT8} and not _is_bias(node):
            scales = dtype == ir.DataType.FLOAT8E8M0
            yield Finding(node, f"{'scales' if scales else 'codes'} of {dtype.name.lower()}")


def _bias(view: View) -> Iterator[Finding]:
    for node in heads(view):
        if _is_bias(node):
            yield Finding(node, f"codes of {code_dtype(node).name.lower()}")


def _is_bias(node: ir.Node) -> bool:
    """Whether codes are those of a bias: constants of int32, or what a layer adds."""
    if node.op_type == "QuantizeLinear":
        return any(
            _is_bias(reader) for reader in consumers(node.outputs[0]) if _dequantizes(reader)
        )
    if code_dtype(node) == ir.DataType.INT32 and is_constant(node.inputs[0]):
        return True
    readers = [r for r in consumers(node.outputs[0]) if r.op_type in _BIASED]
    return any(given(reader, 2) is node.outputs[0] for reader in readers)


def _dequantizes(node: ir.Node) -> bool:
    return operator(node) == ("", "DequantizeLinear")


def _unsaid(view: View) -> Iterator[Finding]:
    for node in view.of("QuantizeLinear"):
        if not says_type(node):
            yield Finding(node, "no zero point, no output_dtype")


def _elsewhere(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        if quantizer(node) or refused(node):
            continue
        taken = table().operators[operator(node)].types
        made = [v for v in node.outputs if node.op_type != "Constant" and _is_data(v)]
        for value in (v for v in (*node.inputs, *made) if v is not None):
            dtype = dtype_of(value)
            if dtype in CODES and dtype not in taken:
                yield Finding(node, f"{named(value)} holds codes of {dtype.name.lower()}")
                break
    for value in (*view.model.graph.inputs, *view.model.graph.outputs):
        if dtype_of(value) in CODES:
            side = "an input" if value.is_graph_input() else "an output"
            yield Finding(value.producer(), f"{value.name} is {side} of codes")


def _is_data(value: ir.Value) -> bool:
    """Whether anything reads a value otherwise than as a zero point."""
    return any(usage.idx != 2 or not quantizer(usage.node) for usage in value.uses())


def _unused(view: View) -> Iterator[Finding]:
    for node in view.of("DequantizeLinear"):
        value = node.outputs[0]
        if not value.is_graph_output() and not any(True for _ in value.uses()):
            yield Finding(node)


RULES = (
    Rule(
        "trt-zero-point",
        "Zero points of Q/DQ nodes.",
        _asymmetric,
        "TensorRT quantizes symmetrically: the parser refuses any zero point but 0",
        "quantize activations and weights symmetrically (onnxruntime: ActivationSymmetric and "
        "WeightSymmetric), in int8",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-zero-point-computed",
        "Zero points that are computed.",
        _zero_computed,
        "a zero point must be known, and 0, when the engine is built",
        "store the zero point, a constant 0",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-uint8-codes",
        "Q/DQ nodes with codes of uint8.",
        _unsigned,
        "the parser refuses stored uint8 codes, and takes others for int8: what lies above code "
        "127 is cut off, and results are wrong",
        "quantize to int8 (onnxruntime: activation_type=QInt8, weight_type=QInt8, symmetric)",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-code-type",
        "Types of codes.",
        _code_type,
        "TensorRT quantizes to int8, int4, FP8 (E4M3) and FP4 (E2M1); other types are refused or "
        "taken for int8",
        "quantize to int8, or to float8e4m3fn where the target has it",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-bias-quantized",
        "Biases of layers.",
        _bias,
        "the parser takes no codes of int32, and biases are added in float",
        "store the bias as floats (onnxruntime: extra_options={'QuantizeBias': False})",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-zero-point-missing",
        "QuantizeLinear nodes that do not say the type of their codes.",
        _unsaid,
        "ONNX means uint8, the parser int8: what lies above code 127 is cut off, and results are "
        "not those of other runtimes",
        "write the zero point, an int8 0",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-codes-elsewhere",
        "What reads and makes codes, and inputs and outputs of the model that are codes.",
        _elsewhere,
        "codes exist between QuantizeLinear and DequantizeLinear only: nothing else knows them",
        "dequantize first (tables: Gather of a float table, or a dequantized one)",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-dequantizer-unused",
        "DequantizeLinear nodes that nothing reads.",
        _unused,
        "the node does nothing; a pair was probably cut in two",
        "remove the node, or let the layer read it",
        "note",
        on_tensorrt,
    ),
)
