"""Rules on layers with quantized weights and float activations."""

from __future__ import annotations

from collections.abc import Iterator

from ...ir.graph import (
    attribute,
    consumers,
    dims,
    given,
    rank,
)
from ..schema import Target
from .layers import EIGHT_BITS, FEW_BITS, Grid, Layer, integer, named
from .rule import Finding, Rule, View, on_cpu
from .static import for_each_column, last_of


def _linear(view: View) -> Iterator[tuple[Layer, Grid]]:
    for layer in view.weight_only:
        grid = layer.weight
        if grid is not None and layer.node.op_type in ("MatMul", "Gemm"):
            yield layer, grid


def _turned(view: View) -> Iterator[Finding]:
    for layer, grid in _linear(view):
        if is_turned(layer, grid):
            yield Finding(layer.node, f"weight {named(grid.node.inputs[0])}")


def is_turned(layer: Layer, grid: Grid) -> bool:
    """Whether the weight is stored [N, K] in a way that keeps the runtime from fusing it."""
    if layer.node.op_type == "Gemm":
        return bool(integer(layer.node, "transB", 0))
    return grid.turned and bool(grid.block)


def _form(view: View) -> Iterator[Finding]:
    for layer, grid in _linear(view):
        found = wrong_form(layer, grid, view.target)
        if found and not is_turned(layer, grid):
            yield Finding(layer.node, found)


def wrong_form(layer: Layer, grid: Grid, target: Target) -> str:
    """What of a weight's form the fused kernel does not take, "" where it takes it."""
    kernel = target.weight_only
    if grid.dtype not in EIGHT_BITS | FEW_BITS or grid.dtype.bitwidth not in kernel.bits:
        return f"codes of {grid.dtype.name.lower()}"
    if grid is layer.left:
        return "the weight is the left operand"
    if (rank(layer.node.inputs[1]) or 2) != 2:
        return "a weight with three axes"
    if not grid.per_tensor and integer(grid.node, "axis", 1) < 0:
        return f"axis {integer(grid.node, 'axis', 1)}, which must be counted from the front"
    along = grid.axis_of(-2 if grid.block else -1)
    if not grid.per_tensor and along is not None and grid.axis != along:
        return f"{'blocks' if grid.block else 'scales'} along axis {grid.axis}, not {along}"
    if grid.block and grid.block not in kernel.blocks:
        return f"blocks of {grid.block}; {listed(kernel.blocks)} are taken"
    return ""


def _gemm_form(view: View) -> Iterator[Finding]:
    for layer, _ in _linear(view):
        node = layer.node
        if node.op_type != "Gemm":
            continue
        for name, default in (("transA", 0), ("alpha", 1.0), ("beta", 1.0)):
            found = attribute(node, name, default)
            if found != default:
                yield Finding(node, f"{name} {found}")
                break
        else:
            bias = given(node, 2)
            if bias is not None and not for_each_column(bias, node):
                yield Finding(node, f"bias of shape {list(dims(bias) or ())}; [N] is wanted")


def _shared(view: View) -> Iterator[Finding]:
    for layer, grid in _linear(view):
        value = grid.node.outputs[0]
        readers = sum(1 for _ in value.uses())
        if readers > 1 or value.is_graph_output():
            others = "an output of the model" if readers < 2 else f"{readers} readers"
            yield Finding(layer.node, f"{grid.node.name} has {others}")


def _rounded_output(view: View) -> Iterator[Finding]:
    for layer, _ in _linear(view):
        readers = consumers(last_of(layer).outputs[0])
        if any(reader.op_type == "QuantizeLinear" for reader in readers):
            yield Finding(layer.node, "its output is quantized, its input is not")


def _convolution(view: View) -> Iterator[Finding]:
    for layer in view.weight_only:
        if layer.node.op_type.startswith("Conv"):
            yield Finding(layer.node)


def _integer_activations(view: View) -> Iterator[Finding]:
    found = {id(f.node) for check in _NOT_FUSED for f in check(view)}
    for layer, grid in _linear(view):
        if id(layer.node) not in found:
            yield Finding(layer.node, f"{grid.dtype.name.lower()} weight")


_NOT_FUSED = (_turned, _form, _gemm_form, _shared, _rounded_output)


def listed(numbers: tuple[int, ...]) -> str:
    """Numbers as messages say them."""
    return ", ".join(map(str, numbers))


WIDENED = "the weight is widened to float32 on every run"

RULES = (
    Rule(
        "weight-only-transposed",
        "Weights stored as [N, K]: Gemm with transB=1, blocks behind a Transpose.",
        _turned,
        f"the runtime fuses weights stored as [K, N] only: {WIDENED}",
        "store the weight transposed, as MatMul(x, W[K, N]), blocks along axis 0",
        "slow",
        on_cpu,
    ),
    Rule(
        "weight-only-form",
        "Codes, axis and blocks of weights behind float activations.",
        _form,
        f"the fused kernel does not take that form: {WIDENED}",
        "store the weight [K, N] in 8, 4 or 2 bits: one scale, one for each column, or blocks "
        "along axis 0 of a size that the target takes",
        "slow",
        on_cpu,
    ),
    Rule(
        "weight-only-gemm",
        "Attributes and bias of Gemm nodes with quantized weights.",
        _gemm_form,
        f"the fused kernel knows no transposed input, no factors and no bias but [N]: {WIDENED}",
        "write MatMul and Add, and fold the factors into the weight",
        "slow",
        on_cpu,
    ),
    Rule(
        "weight-only-shared",
        "DequantizeLinear nodes of weights that several nodes read.",
        _shared,
        f"a weight is fused only where one product alone reads its DequantizeLinear: {WIDENED}",
        "give each product a DequantizeLinear of its own; the codes may stay shared",
        "slow",
        on_cpu,
    ),
    Rule(
        "weight-only-rounded-output",
        "Layers with a quantized weight and a quantized output, and a float input.",
        _rounded_output,
        f"neither kind of kernel takes that: {WIDENED}, and the layer runs in float",
        "quantize the input, too, or remove the pair behind",
        "slow",
        on_cpu,
    ),
    Rule(
        "weight-only-convolution",
        "Convolutions with quantized weights and float activations.",
        _convolution,
        f"there is no such kernel: {WIDENED}",
        "quantize input and output, too, or leave the weight in float",
        "slow",
        on_cpu,
    ),
    Rule(
        "weight-only-int8-activations",
        "Layers with quantized weights that the runtime fuses.",
        _integer_activations,
        "the runtime makes a MatMulNBits with accuracy_level 4 of it, which rounds the "
        "activations to int8 as well",
        "session.qdq_matmulnbits_accuracy_level=1 keeps them float; or write MatMulNBits yourself",
        "note",
        on_cpu,
    ),
)
