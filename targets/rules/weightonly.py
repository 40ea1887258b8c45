"""Rules on layers with quantized weights and float activations, and on quantized tables."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ...ir.graph import (
    attribute,
    constant_tensor,
    consumers,
    dims,
    given,
    rank,
    scalar,
    single_consumer,
)
from ..schema import Target
from .fusion import rounded_for_several
from .layers import EIGHT_BITS, FEW_BITS, Grid, Layer, code_dtype, grid_of, integer, named
from .rule import Finding, Rule, View, on_cpu
from .static import for_each_column, last_of

_NBITS = "com.microsoft:MatMulNBits"
_TABLE = "com.microsoft:GatherBlockQuantized"
_INTEGER_2_BIT_BLOCKS = (32, 64, 128)
_INT8_LEVEL = 4


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
        return f"blocks of {grid.block}; {_listed(kernel.blocks)} are taken"
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


def _nbits_form(view: View) -> Iterator[Finding]:
    kernel = view.target.weight_only
    for node in view.of(_NBITS):
        bits, block = integer(node, "bits", 4), integer(node, "block_size", 0)
        if bits not in kernel.bits:
            yield Finding(node, f"bits {bits}; {_listed(kernel.bits)} are taken")
        elif block not in kernel.blocks:
            yield Finding(node, f"block_size {block}; {_listed(kernel.blocks)} are taken")


def _nbits_level(view: View) -> Iterator[Finding]:
    for node in view.of(_NBITS):
        level = integer(node, "accuracy_level", 0)
        if integer(node, "bits", 4) == 8 and level != _INT8_LEVEL:
            yield Finding(node, f"8 bits with accuracy_level {level}")


def _nbits_2(view: View) -> Iterator[Finding]:
    for node in view.of(_NBITS):
        block, level = integer(node, "block_size", 0), integer(node, "accuracy_level", 0)
        if integer(node, "bits", 4) == 2 and block not in _INTEGER_2_BIT_BLOCKS and level == 4:
            yield Finding(node, f"2 bits in blocks of {block}")


def _float_zero_points(view: View, *, eight: bool) -> Iterator[Finding]:
    for node in view.of(_NBITS):
        zero = given(node, 3)
        bits = integer(node, "bits", 4)
        if zero is not None and zero.dtype != ir.DataType.UINT8 and (bits == 8) is eight:
            yield Finding(node, f"{bits} bits, zero points of {_named(zero.dtype)}")


def _table_form(view: View) -> Iterator[Finding]:
    for node in view.of(_TABLE):
        block, bits = integer(node, "block_size", 128), integer(node, "bits", 4)
        table = given(node, 0)
        packed = table is not None and table.dtype == ir.DataType.UINT8
        if block < 16 or block & (block - 1):
            yield Finding(node, f"block_size {block}; a power of two from 16 on is taken")
        elif packed and bits not in (2, 4, 8):
            yield Finding(node, f"bits {bits}; 2, 4, 8 are taken")
        elif table is not None and table.dtype == ir.DataType.INT8:
            yield Finding(node, "a table of int8")


def _whole_table(view: View) -> Iterator[Finding]:
    for node in view.of("Gather"):
        grid = grid_of(given(node, 0))
        if grid is None or not grid.constant or grid.moved:
            continue
        if not _rounded_alike(node.outputs[0], grid, view.target):
            yield Finding(node, f"table {named(grid.node.inputs[0])}")


def _rounded_alike(value: ir.Value, grid: Grid, target: Target) -> bool:
    """Whether a QuantizeLinear of the table's own grid reads the rows: the runtime drops both.

    Not where it turns the codes behind to uint8 and the table keeps its sign.
    """
    quantize = single_consumer(value)
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return False
    alike = (
        all(_number(given(quantize, i)) == _number(given(grid.node, i)) for i in (1, 2))
        and code_dtype(quantize) == grid.dtype
    )
    turned = grid.dtype == ir.DataType.INT8 and target.int8.kernels == "u8s8"
    return alike and (not turned or rounded_for_several(quantize))


def _number(value: ir.Value | None) -> float | None:
    return 0.0 if value is None else scalar(value)


def _gathered_codes(view: View) -> Iterator[Finding]:
    for node in view.of("Gather", "GatherElements", "GatherND"):
        table = given(node, 0)
        tensor = constant_tensor(table)
        dtype = tensor.dtype if tensor is not None else table.dtype if table is not None else None
        if dtype is not None and dtype.bitwidth < 8:
            yield Finding(node, _named(dtype))


def _named(dtype: ir.DataType | None) -> str:
    return "an unknown type" if dtype is None else dtype.name.lower()


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def _has_kernel(target: Target) -> str:
    if target.runtime.name != "onnxruntime":
        return "a rule of ONNX Runtime"
    return "" if target.weight_only.bits else "the target has no kernel for weights in few bits"


_WIDENED = "the weight is widened to float32 on every run"

RULES = (
    Rule(
        "weight-only-transposed",
        "Weights stored as [N, K]: Gemm with transB=1, blocks behind a Transpose.",
        _turned,
        f"the runtime fuses weights stored as [K, N] only: {_WIDENED}",
        "store the weight transposed, as MatMul(x, W[K, N]), blocks along axis 0",
        "slow",
        on_cpu,
    ),
    Rule(
        "weight-only-form",
        "Codes, axis and blocks of weights behind float activations.",
        _form,
        f"the fused kernel does not take that form: {_WIDENED}",
        "store the weight [K, N] in 8, 4 or 2 bits: one scale, one for each column, or blocks "
        "along axis 0 of a size that the target takes",
        "slow",
        on_cpu,
    ),
    Rule(
        "weight-only-gemm",
        "Attributes and bias of Gemm nodes with quantized weights.",
        _gemm_form,
        f"the fused kernel knows no transposed input, no factors and no bias but [N]: {_WIDENED}",
        "write MatMul and Add, and fold the factors into the weight",
        "slow",
        on_cpu,
    ),
    Rule(
        "weight-only-shared",
        "DequantizeLinear nodes of weights that several nodes read.",
        _shared,
        f"a weight is fused only where one product alone reads its DequantizeLinear: {_WIDENED}",
        "give each product a DequantizeLinear of its own; the codes may stay shared",
        "slow",
        on_cpu,
    ),
    Rule(
        "weight-only-rounded-output",
        "Layers with a quantized weight and a quantized output, and a float input.",
        _rounded_output,
        f"neither kind of kernel takes that: {_WIDENED}, and the layer runs in float",
        "quantize the input, too, or remove the pair behind",
        "slow",
        on_cpu,
    ),
    Rule(
        "weight-only-convolution",
        "Convolutions with quantized weights and float activations.",
        _convolution,
        f"there is no such kernel: {_WIDENED}",
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
    Rule(
        "nbits-form",
        "Bits and blocks of MatMulNBits.",
        _nbits_form,
        "the kernel does not take them: the runtime refuses the model at load",
        "use bits and blocks that the target lists under weight_only",
        "error",
        _has_kernel,
    ),
    Rule(
        "nbits-8-level",
        "accuracy_level of MatMulNBits with 8 bits.",
        _nbits_level,
        "the fast 8-bit kernel is that of level 4: others are many times slower at few rows",
        "set accuracy_level to 4, or use 4 bits",
        "slow",
        on_cpu,
    ),
    Rule(
        "nbits-2-blocks",
        "Blocks of MatMulNBits with 2 bits and accuracy_level 4.",
        _nbits_2,
        "2-bit weights reach the integer kernel in blocks of 32, 64 and 128 only",
        "use one of these blocks",
        "slow",
        on_cpu,
    ),
    Rule(
        "nbits-8-float-zero-points",
        "Zero points of MatMulNBits with 8 bits.",
        lambda view: _float_zero_points(view, eight=True),
        "with 8 bits zero points must be codes: the model loads and fails at its first run",
        "round the zero points to uint8",
        "error",
        on_cpu,
    ),
    Rule(
        "nbits-float-zero-points",
        "Zero points of MatMulNBits with 2 and 4 bits.",
        lambda view: _float_zero_points(view, eight=False),
        "float zero points leave the integer kernel: the product runs in float32",
        "round the zero points and pack them as codes",
        "slow",
        on_cpu,
    ),
    Rule(
        "table-form",
        "Bits, blocks and type of GatherBlockQuantized.",
        _table_form,
        "the operator does not take them: the runtime refuses the model at load",
        "a table of uint8 with 2, 4 or 8 bits, or of int4 or uint4, in blocks of a power of two "
        "from 16 on",
        "error",
        on_cpu,
    ),
    Rule(
        "table-dequantized-whole",
        "Gather on a dequantized table.",
        _whole_table,
        "the whole table is dequantized on every run, for a few rows of it",
        "gather the codes and dequantize the rows; or use GatherBlockQuantized",
        "slow",
        on_cpu,
    ),
    Rule(
        "table-of-few-bits",
        "Gather on codes of fewer than 8 bits.",
        _gathered_codes,
        "Gather takes no such type: the runtime refuses the model",
        "use GatherBlockQuantized",
        "error",
        on_cpu,
    ),
)
