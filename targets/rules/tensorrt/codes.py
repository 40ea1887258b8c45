"""Rules on single Q/DQ nodes: explicit quantization is symmetric, with scales that are fixed."""

from __future__ import annotations

import math
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
    opset,
    producer,
)
from ...tensorrt.table import table
from ..layers import code_dtype, integer, named
from ..rule import Finding, Rule, View
from .limits import built, dtype_of
from .operators import INTEGER
from .scope import on_tensorrt
from .types import CODES, FLOATS, quantizer

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
    """Whether codes are those of a bias: of a layer, or a constant of int32 that is added."""
    if node.op_type == "QuantizeLinear":
        return any(
            _is_bias(reader) for reader in consumers(node.outputs[0]) if _dequantizes(reader)
        )
    for reader in consumers(node.outputs[0]):
        if reader.op_type in _BIASED and given(reader, 2) is node.outputs[0]:
            return True
        if reader.op_type == "Add" and code_dtype(node) == ir.DataType.INT32:
            return is_constant(node.inputs[0])
    return False


def _dequantizes(node: ir.Node) -> bool:
    return operator(node) == ("", "DequantizeLinear")


def _unsaid(view: View) -> Iterator[Finding]:
    for node in view.of("QuantizeLinear"):
        if not says_type(node):
            yield Finding(node, "no zero point, no output_dtype")


def _scale_value(view: View) -> Iterator[Finding]:
    seen: set[ir.Value] = set()
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        scale = given(node, 1)
        array = constant_array(scale)
        if scale is None or array is None or scale in seen:
            continue
        seen.add(scale)
        numbers = array.astype(np.float32).reshape(-1)
        wrong = numbers[~(np.isfinite(numbers) & (numbers > 0))]
        if wrong.size:
            yield Finding(node, f"{scale.name} holds {wrong[0]:g}")


def _scale_computed(view: View) -> Iterator[Finding]:
    for node in heads(view):
        scale = given(node, 1)
        made = producer(scale)
        if scale is not None and not built(scale) and (made is None or not quantizer(made)):
            yield Finding(node, f"{scale.name} is computed")


def _scale_type(view: View) -> Iterator[Finding]:
    if opset(view.model) < 19:
        return  # the parser casts the scale
    for node in view.of("QuantizeLinear"):
        found = [dtype_of(given(node, i)) for i in (0, 1)]
        if None not in found and found[0] in FLOATS and found[0] != found[1]:
            one, other = (dtype.name.lower() for dtype in found if dtype is not None)
            yield Finding(node, f"scale of {other}, data of {one}")


def _zero_size(view: View) -> Iterator[Finding]:
    for node in heads(view):
        scale, zero = sizes(given(node, 1)), sizes(given(node, 2))
        if scale is None or zero is None or code_dtype(node) == ir.DataType.FLOAT8E4M3FN:
            continue
        if math.prod(scale) != math.prod(zero):
            yield Finding(node, f"{math.prod(zero)} zero points, {math.prod(scale)} scales")


def _scale_shape(view: View) -> Iterator[Finding]:
    for node in heads(view):
        scale, shape = sizes(given(node, 1)), dims(node.inputs[0])
        if scale is None or shape is None or math.prod(scale) == 1:
            continue
        found = misfit(scale, shape, integer(node, "axis", 1), integer(node, "block_size", 0))
        if found:
            yield Finding(node, found)


def misfit(
    scale: tuple[int, ...], shape: tuple[int | str | None, ...], axis: int, block: int
) -> str:
    """What is wrong with scales of a shape for codes of another, "" where they fit."""
    if len(scale) == 1 and not block:
        if not -len(shape) <= axis < len(shape):
            return f"axis {axis} of {len(shape)} axes"
        size = shape[axis]
        fits = not isinstance(size, int) or size == scale[0]
        return "" if fits else f"{scale[0]} scales for {size} channels of axis {axis}"
    if len(scale) != len(shape):
        return f"scale of shape {list(scale)} for {len(shape)} axes"
    pairs = [(n, s) for n, s in zip(shape, scale, strict=True) if isinstance(n, int)]
    if len([n for n, s in pairs if n != s]) > 1:
        return f"scale of shape {list(scale)} for {list(shape)}: blocks along one axis only"
    uneven = [n for n, s in pairs if s == 0 or n % s]
    return f"{uneven[0]} codes do not fall in equal blocks" if uneven else ""


def _activation_channels(view: View) -> Iterator[Finding]:
    for node in heads(view):
        scale = sizes(given(node, 1))
        if scale is not None and len(scale) == 1 and scale[0] > 1 and not rounds_constant(node):
            yield Finding(node, f"scale of shape {list(scale)}")


def _elsewhere(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        if quantizer(node) or node.op_type in INTEGER:
            continue  # the latter have a rule of their own
        entry = table().operators.get(operator(node))
        taken = frozenset() if entry is None else entry.types
        for value in (v for v in node.inputs if v is not None):
            dtype = dtype_of(value)
            if dtype in CODES and dtype not in taken:
                yield Finding(node, f"{named(value)} holds codes of {dtype.name.lower()}")
                break
    for value in (*view.model.graph.inputs, *view.model.graph.outputs):
        if dtype_of(value) in CODES:
            side = "an input" if value.is_graph_input() else "an output"
            yield Finding(value.producer(), f"{value.name} is {side} of codes")


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
        "trt-scale-value",
        "Numbers in scales.",
        _scale_value,
        "scales must be above 0 and finite: others are refused, or make every result wrong",
        "calibrate that tensor again; a tensor that is always 0 takes any scale, such as 1",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-scale-computed",
        "Scales that are computed from inputs of the model.",
        _scale_computed,
        "scales must be known when the engine is built",
        "calibrate, and store the scale as a constant",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-scale-type",
        "Types of scales against those of the data that they divide, from opset 19 on.",
        _scale_type,
        "in a strongly typed network both must have one type: the engine is not built",
        "convert the scale with the activations (float16 data: float16 scale)",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-zero-point-size",
        "Number of zero points.",
        _zero_size,
        "the parser wants as many zero points as scales",
        "write zeros in the shape of the scale",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-scale-shape",
        "Shapes of scales: one, one for each index of an axis, or blocks along one axis.",
        _scale_shape,
        "the parser refuses scales that do not fit the codes",
        "write as many scales as the axis is long; for blocks, as many axes as the codes have",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-activation-per-channel",
        "Scales of activations.",
        _activation_channels,
        "a scale for each channel is for weights only: the engine is not built",
        "quantize activations per tensor",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-codes-elsewhere",
        "What reads codes, and inputs and outputs of the model that are codes.",
        _elsewhere,
        "codes exist between QuantizeLinear and DequantizeLinear only: nothing else takes them",
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
