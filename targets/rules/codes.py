"""Rules on the codes of layers between Q/DQ pairs: their types, signs, axes and zero points."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard

import onnx_ir as ir

from ...ir.graph import given, rank
from ..schema import Target
from .fusion import (
    merged_add,
    quantizer_behind,
    read_by_several,
    rounded_for_several,
)
from .layers import (
    EIGHT_BITS,
    FEW_BITS,
    IN_FLOAT,
    SIXTEEN_BITS,
    code_dtype,
    grid_at,
    grid_of,
    integer,
)
from .rule import Finding, Rule, View, on_cpu
from .static import last_of


def _sixteen(view: View) -> Iterator[Finding]:
    for layer in view.static:
        behind = quantizer_behind(last_of(layer).outputs[0])
        found = [g.dtype for g in layer.activations]
        found += [code_dtype(behind)] if behind is not None else []
        wide = [dtype for dtype in found if dtype in SIXTEEN_BITS]
        if wide:
            yield Finding(layer.node, wide[0].name.lower())


def _few_bits(view: View) -> Iterator[Finding]:
    for layer in view.static:
        if layer.weight is not None and layer.weight.dtype in FEW_BITS:
            yield Finding(layer.node, layer.weight.dtype.name.lower())


def _wide_weight(view: View) -> Iterator[Finding]:
    for layer in view.static:
        if layer.weight is not None and layer.weight.dtype in SIXTEEN_BITS:
            yield Finding(layer.node, layer.weight.dtype.name.lower())


def _blocks(view: View) -> Iterator[Finding]:
    for layer in view.static:
        grid = layer.weight
        if grid is not None and grid.block and grid.dtype in EIGHT_BITS:
            yield Finding(layer.node, f"{grid.dtype.name.lower()} in blocks of {grid.block}")


def _activation_axis(view: View) -> Iterator[Finding]:
    for layer in view.static:
        grids = [*layer.activations]
        behind = quantizer_behind(last_of(layer).outputs[0])
        grids += [grid_at(behind)] if behind is not None else []
        wrong = [grid for grid in grids if not grid.per_tensor]
        if wrong:
            yield Finding(layer.node, f"scale of shape {list(wrong[0].sizes)}")


def _weight_axis(view: View) -> Iterator[Finding]:
    for layer in view.static:
        grid = layer.right if layer.right is not None and layer.right.constant else None
        if grid is None or grid.per_tensor or grid.block or grid.dtype not in EIGHT_BITS:
            continue
        axis = grid.axis_of(_output_axis(layer.node))
        if layer.node.op_type == "MatMul" and (rank(layer.node.inputs[1]) or 2) > 2:
            yield Finding(layer.node, "a scale for each channel of a weight with three axes")
        elif axis is not None and axis != grid.axis and layer.node.op_type != "ConvTranspose":
            yield Finding(layer.node, f"axis {grid.axis}, {axis} is the output channels'")


def _output_axis(node: ir.Node) -> int:
    """The axis of a weight that holds output channels."""
    if node.op_type == "MatMul":
        return -1
    if node.op_type == "Gemm":
        return 0 if integer(node, "transB", 0) else 1
    return 0


def _no_zero_point(view: View) -> Iterator[Finding]:
    for layer in view.static:
        for grid in layer.activations:
            if grid.dtype == ir.DataType.INT8 and given(grid.node, 2) is None:
                yield Finding(layer.node, f"{grid.node.name} has no zero point")
                break


def _signed_and_shared(view: View) -> Iterator[Finding]:
    layers = (layer.node for layer in view.static if layer.node.op_type != FLOAT_ONLY)
    for node in (*layers, *view.of(*INTEGER_FORMS)):
        last = merged_add(node) or node
        behind = quantizer_behind(last.outputs[0])
        if node.op_type in INTEGER_FORMS and not (behind and all(map(grid_of, node.inputs))):
            continue
        signed = [value for value in node.inputs if _is_signed(value) and read_by_several(value)]
        if signed:
            yield Finding(node, f"{signed[0].name} is int8 and read by several")
        elif behind is not None and _signed_for_several(behind):
            yield Finding(node, f"{behind.name} is int8 and read by several")


def _signed_for_several(quantize: ir.Node) -> bool:
    return code_dtype(quantize) == ir.DataType.INT8 and rounded_for_several(quantize)


def _is_signed(value: ir.Value | None) -> TypeGuard[ir.Value]:
    grid = grid_of(value)
    return grid is not None and grid.dtype == ir.DataType.INT8 and not grid.constant


def _signed(view: View) -> Iterator[Finding]:
    for layer in view.static:
        if any(g.dtype == ir.DataType.INT8 for g in layer.activations):
            yield Finding(layer.node, "int8 activations")


def _unsigned_weight(view: View) -> Iterator[Finding]:
    for layer in view.static:
        if layer.weight is not None and layer.weight.dtype == ir.DataType.UINT8:
            yield Finding(layer.node, "uint8 weight")


def _weight_left(view: View) -> Iterator[Finding]:
    for layer in view.static:
        left = layer.left
        if left is not None and left.constant and left.dtype == ir.DataType.INT8:
            yield Finding(layer.node, "its left operand is a constant of int8")


FLOAT_ONLY = "ConvTranspose"
"""The layer that has no integer kernel, whatever its codes are."""
INTEGER_FORMS = ("Add AveragePool Concat GlobalAveragePool LeakyRelu Mul Sigmoid Softmax").split()
"""Standard operators with an integer form between Q/DQ pairs (tried, 1.31.1)."""


def _needs_flag(target: Target) -> str:
    if on_cpu(target):
        return on_cpu(target)
    return "" if target.int8.session_options else "the target needs no session option for int8"


def _unsigned_is_wanted(target: Target) -> str:
    if on_cpu(target):
        return on_cpu(target)
    return "" if target.int8.kernels == "u8s8" else "signed activations are fast on this target"


def _unsigned_is_slow(target: Target) -> str:
    if on_cpu(target):
        return on_cpu(target)
    return "" if target.int8.kernels == "u8s8" else "both signs are as fast on this target"


RULES = (
    Rule(
        "activation-16-bit",
        "Codes of the input and the output of quantized layers.",
        _sixteen,
        f"there is no integer kernel for 16-bit activations: {IN_FLOAT}",
        "quantize the activations to uint8",
        "slow",
        on_cpu,
    ),
    Rule(
        "static-few-bits",
        "Weights of layers with quantized activations.",
        _few_bits,
        "4- and 2-bit weights are not fused behind quantized activations: the weight is widened "
        "on every run, and the layer runs in float",
        "store the weight as int8, or remove the Q/DQ pair in front for a weight-only layer",
        "slow",
        on_cpu,
    ),
    Rule(
        "static-16-bit-weight",
        "Weights of layers with quantized activations.",
        _wide_weight,
        f"there is no integer kernel for 16-bit weights: {IN_FLOAT}",
        "store the weight as int8",
        "slow",
        on_cpu,
    ),
    Rule(
        "static-blocks",
        "8-bit weights with a scale for each block, behind quantized activations.",
        _blocks,
        "the runtime fuses a MatMul all the same and fails at its first run; a Gemm stays float",
        "use one scale for each output channel, or remove the Q/DQ pair in front",
        "error",
        on_cpu,
    ),
    Rule(
        "activation-per-channel",
        "Scales of the input and the output of quantized layers.",
        _activation_axis,
        "integer kernels take one scale for an activation; the model loads and fails at its "
        "first run",
        "quantize activations per tensor",
        "error",
        on_cpu,
    ),
    Rule(
        "weight-axis",
        "The axis along which weights of quantized layers have their scales.",
        _weight_axis,
        "the integer kernel takes the scales for those of the output channels: it fails at its "
        "first run, or computes wrong numbers where both axes are as long; a Gemm runs in float",
        "MatMul [K, N]: axis 1; Gemm with transB=1 and Conv: axis 0; three axes: one scale",
        "error",
        on_cpu,
    ),
    Rule(
        "zero-point-missing",
        "Signed codes that are said by output_dtype alone.",
        _no_zero_point,
        f"without a zero point the runtime takes the codes for uint8 and does not fuse: {IN_FLOAT}",
        "write the zero point, an int8 zero",
        "slow",
        on_cpu,
    ),
    Rule(
        "signed-constant-left",
        "Quantized products of a constant and an activation, in this order.",
        _weight_left,
        "the runtime turns signed activations on the left to uint8, but no constants, and has no "
        f"kernel for what is left: {IN_FLOAT}",
        "store that constant as uint8, or transpose the product: (W x)^T = x^T W^T",
        "slow",
        on_cpu,
    ),
    Rule(
        "signed-and-shared",
        "int8 codes of activations that several nodes read.",
        _signed_and_shared,
        "the runtime turns signed activations to uint8 only where one node reads the pair; what "
        f"several read stays signed, and no integer kernel is found: {IN_FLOAT}",
        "quantize activations to uint8 (activation_type=QUInt8); or give each reader a pair of "
        "its own",
        "slow",
        _unsigned_is_wanted,
    ),
    Rule(
        "signed-activations",
        "Codes of the input of quantized layers.",
        _signed,
        "without its session option the runtime rewrites int8 activations to uint8",
        "open the session with the options that `planish targets show` lists under "
        "int8.session_options",
        "note",
        _needs_flag,
    ),
    Rule(
        "unsigned-weight",
        "Codes of the weights of quantized layers.",
        _unsigned_weight,
        "products of two unsigned codes take about twice as long as unsigned by signed",
        "quantize weights to int8, symmetric",
        "note",
        _unsigned_is_slow,
    ),
)
