"""Rules on layers whose activations and weights are quantized ahead of time (Q/DQ pairs)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard

import onnx_ir as ir

from ...ir.graph import attribute, consumers, dims, given, is_constant, rank
from ..schema import Target
from .fusion import (
    absorbs,
    activation_behind,
    int32_bias,
    merged_add,
    other_operand,
    quantized_unasked,
    quantizer_behind,
    read_by_several,
    read_unrounded,
    rounded_for_several,
)
from .layers import (
    EIGHT_BITS,
    FEW_BITS,
    SIXTEEN_BITS,
    Grid,
    Layer,
    code_dtype,
    grid_at,
    grid_of,
    integer,
    named,
)
from .rule import Finding, Rule, View, on_cpu


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


def _transposed_convolution(view: View) -> Iterator[Finding]:
    return (Finding(layer.node) for layer in view.static if layer.node.op_type == "ConvTranspose")


def _convolution_output(view: View) -> Iterator[Finding]:
    for layer in view.static:
        node = layer.node
        if node.op_type == "Conv" and quantizer_behind(node.outputs[0]) is None:
            yield Finding(node, _who_reads(node.outputs[0]))


def _who_reads(value: ir.Value) -> str:
    if value.is_graph_output():
        return "its output is an output of the model"
    kinds = ", ".join(sorted({reader.op_type for reader in consumers(value)}))
    return f"its output is read by {kinds or 'nobody'}"


def _bias(view: View) -> Iterator[Finding]:
    for layer in view.static:
        bias, out = float_bias(layer.node), last_of(layer).outputs[0]
        if bias is None or layer.node.op_type not in ("MatMul", "Gemm"):
            continue
        if quantizer_behind(out) is None:
            yield Finding(layer.node, f"bias {bias.name}, {_who_reads(out)}")
        elif not for_each_column(bias, layer.node):
            shape = list(dims(bias) or ())
            yield Finding(layer.node, f"bias {bias.name} of shape {shape}; [N] is wanted")


def for_each_column(bias: ir.Value, node: ir.Node) -> bool:
    """Whether a bias is [N], or nothing is known of it."""
    shape, weight = dims(bias), dims(node.inputs[1])
    if shape is None or not weight:
        return True
    turned = node.op_type == "Gemm" and integer(node, "transB", 0)
    return shape == (weight[0 if turned else -1],)


def float_bias(node: ir.Node) -> ir.Value | None:
    """The float bias of a Gemm, or of the Gemm that the runtime makes of a MatMul."""
    if node.op_type == "Gemm":
        bias = given(node, 2)
    else:
        add = merged_add(node)
        bias = None if add is None else other_operand(add, node.outputs[0])
    return None if bias is None or int32_bias(bias) else bias


def last_of(layer: Layer) -> ir.Node:
    """The node whose output is the layer's: the product, or the Add that is merged with it."""
    return merged_add(layer.node) or layer.node


def _factors(view: View) -> Iterator[Finding]:
    for layer in view.static:
        node = layer.node
        if node.op_type != "Gemm" or given(node, 2) is None:
            continue
        for name in ("alpha", "beta"):
            factor = attribute(node, name, 1.0)
            if factor != 1.0:
                yield Finding(node, f"{name} {factor}")
                break


def _activation(view: View) -> Iterator[Finding]:
    for layer in view.static:
        out = last_of(layer).outputs[0]
        activation, quantize = activation_behind(out), quantizer_behind(out)
        if activation is None or quantize is None or layer.node.op_type == "ConvTranspose":
            continue
        if not absorbs(quantize, activation):
            yield Finding(layer.node, f"{activation.op_type} before {quantize.name}")
        elif merged_add(layer.node) is not None and (rank(layer.node.inputs[0]) or 2) > 2:
            yield Finding(layer.node, f"{activation.op_type} behind a Reshape that is put there")


def _unrounded(view: View) -> Iterator[Finding]:
    for layer in view.static:
        out = last_of(layer).outputs[0]
        if layer.node.op_type in ("MatMul", "Gemm") and read_unrounded(out):
            yield Finding(layer.node, _who_reads(out))


def _no_zero_point(view: View) -> Iterator[Finding]:
    for layer in view.static:
        for grid in layer.activations:
            if grid.dtype == ir.DataType.INT8 and given(grid.node, 2) is None:
                yield Finding(layer.node, f"{grid.node.name} has no zero point")
                break


def _signed_and_shared(view: View) -> Iterator[Finding]:
    for node in (*(layer.node for layer in view.static), *view.of(*INTEGER_FORMS)):
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


def _one_sided(view: View) -> Iterator[Finding]:
    for layer in view.layers:
        if layer.node.op_type != "MatMul" or (layer.left is None) == (layer.right is None):
            continue
        if layer.weight is None and not any(map(is_constant, layer.node.inputs)):
            side = "left" if layer.right is None else "right"
            yield Finding(layer.node, f"the {side} operand is not quantized")


def _unasked(view: View) -> Iterator[Finding]:
    for layer in view.layers:
        if layer.right is None and quantized_unasked(layer.node):
            yield Finding(layer.node, f"weight {named(given(layer.node, 1))}")


def _alone(view: View) -> Iterator[Finding]:
    for node in view.of(*FLOAT_ONLY):
        value = node.outputs[0]
        front: list[Grid | None] = [_direct(v) for v in node.inputs if v is not None]
        if not front or front[0] is None or quantizer_behind(value) is None:
            continue
        yield Finding(node, "between DequantizeLinear and QuantizeLinear")


def _direct(value: ir.Value) -> Grid | None:
    made = value.producer()
    return grid_at(made) if made is not None and made.op_type == "DequantizeLinear" else None


INTEGER_FORMS = ("Add AveragePool Concat GlobalAveragePool LeakyRelu Mul Sigmoid Softmax").split()
"""Standard operators with an integer form between Q/DQ pairs (tried, 1.31.1)."""
FLOAT_ONLY = (
    "Abs Div Elu Erf Exp Gelu HardSigmoid HardSwish LayerNormalization LogSoftmax Max Neg "
    "ReduceMean ReduceSum Relu Softplus Sqrt Sub Sum Tanh"
).split()
"""Standard operators of which the runtime has no integer form (tried, 1.31.1)."""


def _no_int8(view: View) -> Iterator[Finding]:
    return (Finding(layer.node) for layer in view.static)


def _lacks_int8(target: Target) -> str:
    if target.int8.supported and target.int8.kernels != "none":
        return "the target multiplies 8-bit integers"
    return ""


def _conv_needs_output(target: Target) -> str:
    if on_cpu(target) or target.int8.conv_needs_output_quant:
        return on_cpu(target)
    return "the target's convolutions need no quantized output"


def _relu_at_zero(target: Target) -> str:
    if on_cpu(target) or target.int8.relu_absorbed_only_at_zero:
        return on_cpu(target)
    return "the target absorbs a Relu whatever the zero point"


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


_FLOAT = "the layer runs in float behind DequantizeLinear"

RULES = (
    Rule(
        "no-integer-products",
        "Layers between Q/DQ pairs.",
        _no_int8,
        "nothing multiplies 8-bit integers here: codes are widened on every run, which is slower "
        "than a float model",
        "keep the layer in float16, or quantize the weights only",
        "slow",
        _lacks_int8,
    ),
    Rule(
        "activation-16-bit",
        "Codes of the input and the output of quantized layers.",
        _sixteen,
        f"there is no integer kernel for 16-bit activations: {_FLOAT}",
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
        f"there is no integer kernel for 16-bit weights: {_FLOAT}",
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
        "transposed-convolution",
        "ConvTranspose between Q/DQ pairs.",
        _transposed_convolution,
        f"there is no integer kernel for it: {_FLOAT}, its weight is widened on every run",
        "leave it in float, or write it as a Conv and a pixel shuffle",
        "slow",
        on_cpu,
    ),
    Rule(
        "conv-output-unquantized",
        "What reads the output of quantized convolutions.",
        _convolution_output,
        f"a Conv is an integer kernel only where a QuantizeLinear alone reads its output: {_FLOAT}",
        "quantize the output, and let all readers read it rounded",
        "slow",
        _conv_needs_output,
    ),
    Rule(
        "bias-output-unquantized",
        "Biases of quantized layers.",
        _bias,
        "the runtime merges MatMul and Add to a Gemm with a float bias first, for which there is "
        "an integer kernel only with a quantized output and a bias [N]: the layer runs in "
        "float",
        "quantize the output, write the bias as int32 behind a DequantizeLinear (scale: input "
        "scale x weight scale), or keep batch and sequence dynamic on three axes",
        "slow",
        on_cpu,
    ),
    Rule(
        "gemm-factors",
        "alpha and beta of quantized Gemm nodes with a bias.",
        _factors,
        f"the integer kernel knows no factors: {_FLOAT}",
        "fold the factors into weight and bias",
        "slow",
        on_cpu,
    ),
    Rule(
        "activation-not-absorbed",
        "Relu and Clip between a quantized layer and the QuantizeLinear behind it.",
        _activation,
        "an activation disappears only where the grid behind it ends at its bounds (for Relu: "
        "where the zero point is the smallest code), and not behind MatMul and Add on three axes "
        f"of fixed sizes, which become a Gemm between two Reshapes: {_FLOAT}",
        "quantize behind a Relu with zero point 0 (uint8) or -128 (int8), behind a Clip within "
        "its bounds",
        "slow",
        _relu_at_zero,
    ),
    Rule(
        "output-read-unrounded",
        "What reads the output of quantized matrix products.",
        _unrounded,
        "a QuantizeLinear reads the output and others read it unrounded: the layer runs in float",
        "let all read the dequantized value, or none",
        "slow",
        on_cpu,
    ),
    Rule(
        "zero-point-missing",
        "Signed codes that are said by output_dtype alone.",
        _no_zero_point,
        f"without a zero point the runtime takes the codes for uint8 and does not fuse: {_FLOAT}",
        "write the zero point, an int8 zero",
        "slow",
        on_cpu,
    ),
    Rule(
        "signed-constant-left",
        "Quantized products of a constant and an activation, in this order.",
        _weight_left,
        "the runtime turns signed activations on the left to uint8, but no constants, and has no "
        f"kernel for what is left: {_FLOAT}",
        "store that constant as uint8, or transpose the product: (W x)^T = x^T W^T",
        "slow",
        on_cpu,
    ),
    Rule(
        "one-operand-quantized",
        "Products of two activations.",
        _one_sided,
        "one operand is quantized and the other is not: the product runs in float, and the Q/DQ "
        "pair costs accuracy for nothing",
        "quantize both operands, or none",
        "note",
        on_cpu,
    ),
    Rule(
        "signed-and-shared",
        "int8 codes of activations that several nodes read.",
        _signed_and_shared,
        "the runtime turns signed activations to uint8 only where one node reads the pair; what "
        f"several read stays signed, and no integer kernel is found: {_FLOAT}",
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
    Rule(
        "quantized-unasked",
        "Float layers with a DequantizeLinear in front and a QuantizeLinear behind.",
        _unasked,
        "the runtime gives the layer an int8 weight with one scale, which nobody asked for: "
        "results are not those of the file",
        "quantize the weight yourself, one scale for each channel; or add the bias with Sum; or "
        "disable the optimizer WeightBiasQuantization",
        "error",
        on_cpu,
    ),
    Rule(
        "float-between-pairs",
        "Operators without an integer kernel between Q/DQ pairs.",
        _alone,
        "the operator runs in float: the pair in front costs time and accuracy for nothing",
        "remove the Q/DQ pair in front of it",
        "note",
        on_cpu,
    ),
)
