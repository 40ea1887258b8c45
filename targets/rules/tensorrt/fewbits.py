"""Rules on int4, FP8 and FP4: where they may stand, in which blocks, with which scales."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from ....ir.graph import dims, given, operator, producer
from ...schema import Target
from ...tensorrt.table import DOMAIN
from ..layers import Grid, Layer, code_dtype, grid_at, integer
from ..rule import Finding, Rule, View
from .codes import heads, rounds_constant, sizes
from .layers import summed_axis
from .scope import on_tensorrt, where

INT4, FP4, FP8 = ir.DataType.INT4, ir.DataType.FLOAT4E2M1, ir.DataType.FLOAT8E4M3FN
NVFP4_BLOCK = 16
_CARRIES = frozenset({"Cast", "Identity", "Reshape", "Transpose"})
_DYNAMIC = {"TRT_FP4DynamicQuantize": (16, 1), "TRT_MXFP8DynamicQuantize": (32, -1)}
"""Block and axis where the node names none."""


def _blocked(node: ir.Node) -> bool:
    scale = sizes(given(node, 1))
    many = scale is not None and len(scale) > 1 and math.prod(scale) > 1
    return bool(integer(node, "block_size", 0)) or many


def _block_type(view: View) -> Iterator[Finding]:
    for node in heads(view):
        if code_dtype(node) == ir.DataType.INT8 and _blocked(node):
            yield Finding(node, "int8 in blocks")


def _block_axis(view: View) -> Iterator[Finding]:
    for node in heads(view):
        grid = grid_at(node)
        if grid.block and grid.rank and grid.axis < grid.rank - 2:
            yield Finding(node, f"axis {grid.axis} of {grid.rank}")


def _int4_activation(view: View) -> Iterator[Finding]:
    for node in heads(view):
        if code_dtype(node) == INT4 and not rounds_constant(node):
            yield Finding(node)


def _odd(view: View) -> Iterator[Finding]:
    for node in heads(view):
        shape = sizes(given(node, 0))
        if code_dtype(node) in (INT4, FP4) and shape is not None and math.prod(shape) % 2:
            yield Finding(node, f"{math.prod(shape)} codes")


def _int4_layers(view: View) -> Iterator[tuple[Layer, Grid]]:
    for layer in view.layers:
        if layer.weight is not None and layer.weight.dtype == INT4:
            yield layer, layer.weight


def _int4_form(view: View) -> Iterator[Finding]:
    for layer, grid in _int4_layers(view):
        found = _int4_wrong(layer, grid, view.target)
        if found and layer.weight_only:
            yield Finding(layer.node, found)


def _int4_wrong(layer: Layer, grid: Grid, target: Target) -> str:
    """What of an int4 weight the fused product does not take, "" where it takes it."""
    if layer.node.op_type not in ("MatMul", "Gemm"):
        return f"the weight of a {layer.node.op_type}"
    if grid.moved:
        return f"a {grid.moved[0].op_type} between the weight and the product"
    if grid.block not in target.weight_only.blocks:
        taken = ", ".join(map(str, target.weight_only.blocks))
        return f"{f'blocks of {grid.block}' if grid.block else 'no blocks'}; {taken} are taken"
    summed = grid.axis_of(summed_axis(layer.node, left=grid is layer.left))
    return f"blocks along axis {grid.axis}, not {summed}" if grid.axis != summed else ""


def _int4_static(view: View) -> Iterator[Finding]:
    for layer, _ in _int4_layers(view):
        if layer.static:
            yield Finding(layer.node)


def _fp8_lacking(view: View) -> Iterator[Finding]:
    for node in heads(view):
        if code_dtype(node) == FP8:
            yield Finding(node)
    for node in view.nodes:
        domain, op = operator(node)
        if domain == DOMAIN and "FP8" in op:
            yield Finding(node)


def _fp4_scales(view: View) -> Iterator[Finding]:
    for node in heads(view):
        if node.op_type != "DequantizeLinear" or code_dtype(node) != FP4:
            continue
        made, block = producer(given(node, 1)), integer(node, "block_size", 0)
        if made is None or made.op_type != "DequantizeLinear" or code_dtype(made) != FP8:
            yield Finding(node, "scales of one level")
        elif block != NVFP4_BLOCK:
            yield Finding(node, f"blocks of {block}" if block else "no block_size")


def _fp4_activation(view: View) -> Iterator[Finding]:
    for node in heads(view):
        fixed = node.op_type == "QuantizeLinear" and code_dtype(node) == FP4
        if fixed and not rounds_constant(node):
            yield Finding(node)


def _fp4_one_sided(view: View) -> Iterator[Finding]:
    for layer in view.layers:
        sides = [_float4_behind(given(layer.node, i)) for i in (0, 1)]
        if any(sides) and not all(sides):
            side = "left" if sides[0] else "right"
            yield Finding(layer.node, f"only the {side} operand is FP4")


def _float4_behind(value: ir.Value | None) -> bool:
    """Whether a value was widened from FP4 codes, also when it was cast or turned since."""
    node = producer(value)
    while node is not None and not node.domain and node.op_type in _CARRIES and node.inputs:
        node = producer(node.inputs[0])
    if node is None or operator(node) != ("", "DequantizeLinear") or not node.inputs:
        return False
    made = producer(node.inputs[0], "TRT_FP4DynamicQuantize")
    return made is not None or code_dtype(node) == FP4


def _dynamic_blocks(view: View) -> Iterator[Finding]:
    for node in view.of(*(f"{DOMAIN}:{op}" for op in _DYNAMIC)):
        shape = dims(given(node, 0))
        default, along = _DYNAMIC[node.op_type]
        axis, block = integer(node, "axis", along), integer(node, "block_size", default)
        found = None if shape is None else misplaced(shape, axis, block)
        if found:
            yield Finding(node, found)


def misplaced(shape: tuple[int | str | None, ...], axis: int, block: int) -> str:
    """What is wrong with blocks along an axis, "" where nothing is."""
    if len(shape) not in (2, 3):
        return f"{len(shape)} axes, 2 or 3 are taken"
    at = axis % len(shape)
    if at < len(shape) - 2:
        return f"axis {axis}, neither the last nor the last but one"
    size = shape[at]
    if not isinstance(size, int):
        return f"axis {axis} has no fixed size"
    return f"{size} numbers do not fall in blocks of {block}" if block and size % block else ""


def _no_fp8(target: Target) -> bool:
    return target.floats.float8 in ("refused", "unknown")


def _takes_int4(target: Target) -> bool:
    return 4 in target.weight_only.bits


RULES = (
    Rule(
        "trt-block-type",
        "Blocks of codes.",
        _block_type,
        "blocks are for int4, FP8 and FP4 only: the engine is not built",
        "use one scale for each output channel",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-block-axis",
        "The axis along which codes stand in blocks.",
        _block_axis,
        "blocks may run along the last axis or the last but one",
        "transpose the weight",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-int4-activation",
        "What int4 codes are made of.",
        _int4_activation,
        "int4 is for weights only: the engine is not built",
        "quantize activations to int8 or FP8, or leave them in float16",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-four-bits-odd",
        "Number of codes of 4 bits.",
        _odd,
        "two codes share a byte: the parser wants an even number of them",
        "pad the weight, or leave it in float16",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-int4-form",
        "Blocks of int4 weights, and what stands between them and their product.",
        _int4_form,
        "only MatMul and Gemm with blocks along the summed axis, right in front, are merged with "
        "DequantizeLinear: this weight is widened",
        "store the weight [K, N] with blocks along axis 0 of a size that the target lists, and "
        "let DequantizeLinear feed the product",
        "slow",
        where(_takes_int4, "the target has no kernels for int4 weights"),
    ),
    Rule(
        "trt-int4-static",
        "Layers with int4 weights and quantized activations.",
        _int4_static,
        "int4 kernels take float activations only: the layer runs in float",
        "remove the pair in front of the activation, or quantize the weight to int8",
        "slow",
        on_tensorrt,
    ),
    Rule(
        "trt-float8-lacking",
        "Codes in FP8.",
        _fp8_lacking,
        "nothing multiplies FP8 on that GPU: the engine is not built",
        "quantize to int8",
        "error",
        where(_no_fp8, "the target computes in FP8"),
    ),
    Rule(
        "trt-float4-scales",
        "Scales of FP4 weights.",
        _fp4_scales,
        "FP4 wants scales of two levels in blocks of 16: FP8 scales behind a DequantizeLinear of "
        "their own with one float32 scale",
        "write DequantizeLinear(codes, DequantizeLinear(FP8 scales, scale), block_size=16)",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-float4-activation",
        "FP4 codes of activations.",
        _fp4_activation,
        "scales of blocks of an activation are not known when the engine is built",
        "use TRT_FP4DynamicQuantize and two DequantizeLinear nodes",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-float4-operand",
        "Layers of which one operand is FP4.",
        _fp4_one_sided,
        "kernels multiply FP4 by FP4: this weight or activation is widened, and the layer runs in "
        "float",
        "quantize both operands, the activation with TRT_FP4DynamicQuantize; or neither",
        "slow",
        on_tensorrt,
    ),
    Rule(
        "trt-dynamic-blocks",
        "What TRT_FP4DynamicQuantize and TRT_MXFP8DynamicQuantize round.",
        _dynamic_blocks,
        "they take two or three axes and blocks along one of the last two, of a fixed size that "
        "the block divides",
        "reshape in front of the node, or leave the layer in float16",
        "error",
        on_tensorrt,
    ),
)
