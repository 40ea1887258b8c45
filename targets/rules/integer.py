"""Rules on operators that multiply integers by themselves, and on what their sums can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ...ir.graph import constant_array, constant_tensor, given, operator
from ..schema import Target
from .layers import integer
from .rule import Finding, Rule, View, on_cpu

# Positions of the activation and the weight, by "(domain:)op".
_OPERANDS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "QLinearMatMul": (0, 3),
        "QLinearConv": (0, 3),
        "MatMulInteger": (0, 1),
        "ConvInteger": (0, 1),
        "com.microsoft:QGemm": (0, 3),
        "com.microsoft:MatMulIntegerToFloat": (0, 1),
        "com.microsoft:DynamicQuantizeMatMul": (0, 1),
    }
)
_ZERO_POINTS = MappingProxyType({"MatMulIntegerToFloat": 4})
"""Position of the activation's zero point, where it is not 2."""
_PAIR_LIMIT = 128
"""255 times a sum of two weights beyond this is no 16-bit number: 255 x 129 = 32895."""


def _signed_pairs(view: View) -> Iterator[Finding]:
    for node in view.of(*_OPERANDS):
        left, right = (given(node, i) for i in _positions(node))
        zero = given(node, _ZERO_POINTS.get(node.op_type, 2))
        if (_dtype(left) or _dtype(zero)) == ir.DataType.INT8:
            weight = _dtype(right)
            yield Finding(node, f"int8 x {'codes' if weight is None else weight.name.lower()}")


def _convolutions(view: View) -> Iterator[Finding]:
    for node in view.of("ConvInteger"):
        yield Finding(node)


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    tensor = constant_tensor(value)
    return tensor.dtype if tensor is not None else None if value is None else value.dtype


def _positions(node: ir.Node) -> tuple[int, int]:
    domain, op = operator(node)
    return _OPERANDS[f"{domain}:{op}" if domain else op]


def _saturating(view: View) -> Iterator[Finding]:
    for node, codes, axis in (*_static_weights(view), *_operator_weights(view)):
        array = constant_array(codes) if _dtype(codes) == ir.DataType.INT8 else None
        count = 0 if array is None else _beyond(node, array, axis)
        if count:
            yield Finding(node, f"{count} {'pair' if count == 1 else 'pairs'} of weights")


def _static_weights(view: View) -> Iterator[tuple[ir.Node, ir.Value | None, int | None]]:
    """Codes of the weights behind DequantizeLinear, with the axis that is summed over."""
    for layer in view.static:
        grid = layer.weight
        if grid is None or layer.node.op_type == "ConvTranspose":
            continue
        turned = layer.node.op_type == "Gemm" and bool(integer(layer.node, "transB", 0))
        axis = grid.axis_of(-1 if turned or grid is layer.left else -2)
        yield layer.node, grid.node.inputs[0], axis


def _operator_weights(view: View) -> Iterator[tuple[ir.Node, ir.Value | None, int | None]]:
    for node in view.of(*_OPERANDS):
        codes = given(node, _positions(node)[1])
        if constant_tensor(codes) is not None:
            turned = node.op_type == "QGemm" and bool(integer(node, "transB", 0))
            yield node, codes, -1 if turned else -2


def _beyond(node: ir.Node, codes: npt.NDArray[np.int8], axis: int | None) -> int:
    if "Conv" in node.op_type:
        alone = codes.shape[1:2] == (1,) and len(codes) == integer(node, "group", 1)
        return 0 if alone or codes.ndim < 3 else pairs_beyond(filter_rows(codes))
    if axis is None or codes.ndim < 2:
        return 0
    return pairs_beyond(np.moveaxis(codes, axis, 0))


def filter_rows(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Filters [M, C, k...] as [k... * C, M], in the order in which products are summed."""
    return np.moveaxis(codes, (0, 1), (-1, -2)).reshape(-1, len(codes))


def pairs_beyond(rows: npt.NDArray[np.int8]) -> int:
    """How many pairs of rows 2i and 2i + 1 of codes [K, ...] can sum to no 16-bit number.

    Each is multiplied by a code of an activation, 0 to 255; the kernels pack K in quads from row
    0 on (MLAS, qgemm_kernel_avx2.cpp).
    """
    even = rows[: len(rows) // 2 * 2].astype(np.int16)
    return int((np.abs(even[0::2] + even[1::2]) > _PAIR_LIMIT).sum())


def _unsigned_pairs(target: Target) -> str:
    if on_cpu(target):
        return on_cpu(target)
    return "" if target.int8.kernels == "u8s8" else "signed products are fast on this target"


def _sums_of_16_bits(target: Target) -> str:
    return "" if target.int8.saturates else "the target sums products in 32 bits"


RULES = (
    Rule(
        "convolution-integer",
        "ConvInteger, which quantize_dynamic makes of every Conv.",
        _convolutions,
        "its kernel is several times slower than that of a float Conv (measured over whole "
        "networks: 6 to 15 times), and the range of its input is found anew on every run",
        "quantize statically, in Q/DQ pairs; or leave convolutions in float "
        "(op_types_to_quantize=['MatMul'])",
        "slow",
        on_cpu,
    ),
    Rule(
        "signed-products",
        "Signs of the operands of QLinearMatMul, QLinearConv, MatMulInteger and their like.",
        _signed_pairs,
        "the kernel for signed activations is many times slower than float on this target, and "
        "the runtime repairs signs only in Q/DQ pairs",
        "write Q/DQ pairs instead of integer operators, or quantize activations to uint8",
        "slow",
        _unsigned_pairs,
    ),
    Rule(
        "pair-sums-saturate",
        "8-bit weights of quantized layers, read from the file.",
        _saturating,
        "without a dot-product instruction the sum of two products is kept in 16 bits: these "
        "weights can push it beyond, and results are then wrong without a word",
        "keep weights in 7 bits (reduce_range=True), or compile for a target with VNNI",
        "error",
        _sums_of_16_bits,
    ),
)
