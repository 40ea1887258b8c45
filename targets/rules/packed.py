"""Rules on MatMulNBits and on quantized tables."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ...ir.graph import (
    constant_tensor,
    given,
    scalar,
    single_consumer,
)
from ..schema import Target
from .fusion import rounded_for_several
from .layers import Grid, code_dtype, grid_of, integer, named
from .rule import Finding, Rule, View, on_cpu
from .weightonly import listed

_NBITS = "com.microsoft:MatMulNBits"


_TABLE = "com.microsoft:GatherBlockQuantized"


_INTEGER_2_BIT_BLOCKS = (32, 64, 128)


_INT8_LEVEL = 4


def _nbits_form(view: View) -> Iterator[Finding]:
    kernel = view.target.weight_only
    for node in view.of(_NBITS):
        bits, block = integer(node, "bits", 4), integer(node, "block_size", 0)
        if bits not in kernel.bits:
            yield Finding(node, f"bits {bits}; {listed(kernel.bits)} are taken")
        elif block not in kernel.blocks:
            yield Finding(node, f"block_size {block}; {listed(kernel.blocks)} are taken")


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


def _has_kernel(target: Target) -> str:
    if target.runtime.name != "onnxruntime":
        return "a rule of ONNX Runtime"
    return "" if target.weight_only.bits else "the target has no kernel for weights in few bits"


RULES = (
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
