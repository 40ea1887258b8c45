"""Rules on how layers between Q/DQ pairs stand in the graph: biases, activations, readers."""

from __future__ import annotations

from collections.abc import Iterator

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
    read_unrounded,
)
from .layers import (
    IN_FLOAT,
    Grid,
    Layer,
    grid_at,
    integer,
    named,
)
from .rule import Finding, Rule, View, on_cpu


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
        "transposed-convolution",
        "ConvTranspose between Q/DQ pairs.",
        _transposed_convolution,
        f"there is no integer kernel for it: {IN_FLOAT}, its weight is widened on every run",
        "leave it in float, or write it as a Conv and a pixel shuffle",
        "slow",
        on_cpu,
    ),
    Rule(
        "conv-output-unquantized",
        "What reads the output of quantized convolutions.",
        _convolution_output,
        "a Conv is an integer kernel only where a QuantizeLinear alone reads its output: "
        f"{IN_FLOAT}",
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
        f"the integer kernel knows no factors: {IN_FLOAT}",
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
        f"of fixed sizes, which become a Gemm between two Reshapes: {IN_FLOAT}",
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
