"""Which nodes compute in half precision: all whose measured values, constants and types allow it.

float16 holds up to 65504 and rounds to 11 bits down to 6.1e-5. What was measured on calibration
data may be exceeded later: half of that range is used. bfloat16 has float32's range and 8 bits.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
import onnx_ir as ir

from ....ir.blocked import blocked_weights
from ....ir.graph import (
    attribute,
    constant_array,
    constant_tensor,
    dims,
    operator,
    opset,
    producer,
    subgraphs,
)
from ....ir.rounded import rounded_values
from ....targets.schema import Target

FLOAT = ir.DataType.FLOAT
MARGIN = 2.0
LIMITS = {ir.DataType.FLOAT16: 65504.0 / MARGIN, ir.DataType.BFLOAT16: 3e38}
LEAST = {ir.DataType.FLOAT16: 2.0**-14, ir.DataType.BFLOAT16: 0.0}
"""Below it numbers lose digits; a tensor whose largest magnitude is smaller stays float32."""
NAMES = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}
NUMPY = {dtype: dtype.numpy() for dtype in NAMES}
NEAR = {ir.DataType.FLOAT16: 2.0**-10, ir.DataType.BFLOAT16: 2.0**-8}
"""Relative error of a number that counts as held."""
FEW = 16
"""Constants of at most so many numbers are looked at one by one: weights may lose small ones."""
RANGE_SHARE = 0.1
"""Part of the products out of float16's range from which on bfloat16 is taken instead."""
SQUARING = frozenset({"ReduceL2", "ReduceSumSquare"})
SUMMING = frozenset(
    {"ReduceSum", "ReduceMean", "GlobalAveragePool", "AveragePool", "CumSum", "ReduceL1"}
)
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
AGNOSTIC = frozenset({"Shape", "Size", "QuantizeLinear", "DequantizeLinear"})
"""Read any type as it comes; Q/DQ follow the layers that read them."""
MICROSOFT = "com.microsoft"
HALVES = {
    "FastGelu": (), "FusedMatMul": (), "GatherBlockQuantized": (), "Gelu": (), "MatMulNBits": (),
    "MultiHeadAttention": (), "QuickGelu": (), "SkipLayerNormalization": (1, 2),
}  # fmt: skip
"""ONNX Runtime's own operators that compute in half precision; outputs that stay float32."""
QDQ_OPSET = 19
"""The first in which Q/DQ take half-precision scales."""

Dims = tuple[int | str | None, ...]
Peaks = Mapping[str, float]
"""Largest magnitude of each float value on calibration data, by name."""


@dataclass(frozen=True)
class Precision:
    """dtype: of what is not in ``kept``; FLOAT where nothing is converted. kept: names of nodes
    that stay float32, each with a reason. scales: names of Q/DQ scales that the type holds.
    spelled: names of nodes that say how 4-bit floats are rounded, and do so in float32."""

    dtype: ir.DataType
    kept: Mapping[str, str]
    scales: frozenset[str] = frozenset()
    spelled: frozenset[str] = frozenset()

    @property
    def converts(self) -> bool:
        """Whether anything is in half precision at all."""
        return self.dtype != FLOAT

    def wide(self, node: ir.Node) -> bool:
        """Whether a node stays float32."""
        return not self.converts or str(node.name) in self.kept or str(node.name) in self.spelled


WIDE = Precision(FLOAT, {})


def decide(model: ir.Model, target: Target, peaks: Peaks) -> Precision:
    """float16 wherever it is safe; bfloat16 instead where too many products exceed float16."""
    if opset(model) < QDQ_OPSET or target.floats.float16 != "native":
        return WIDE
    half = _with(model, ir.DataType.FLOAT16, peaks)
    products = [n for n in model.graph if n.op_type in PRODUCTS and not n.domain]
    beyond = [n for n in products if half.kept.get(str(n.name)) == "range"]
    if target.floats.bfloat16 == "native" and len(beyond) > RANGE_SHARE * len(products):
        return _with(model, ir.DataType.BFLOAT16, peaks)
    return half


def _with(model: ir.Model, dtype: ir.DataType, peaks: Peaks) -> Precision:
    scales = frozenset(
        str(scale.name)
        for node in model.graph
        if operator(node) in (("", "QuantizeLinear"), ("", "DequantizeLinear"))
        and (scale := node.inputs[1]) is not None
        and _holds(constant_array(scale), dtype)
    )
    ints = [weight for weight in blocked_weights(model) if weight.kind == "int4"]
    wide = [weight for weight in ints if weight.scale_name not in scales]
    inner = {str(node.name) for weight in wide for node in weight.nodes}
    values = {weight.y for weight in wide}
    kept, spelled = {}, spelled_nodes(model) | inner
    for node in model.graph:
        if str(node.name) in spelled:
            continue
        reason = _reason(node, dtype, peaks, scales, opset(model))
        if not reason and not values.isdisjoint(node.inputs):
            reason = "scale"
        if reason:
            kept[str(node.name)] = reason
    return Precision(dtype, kept, scales, spelled)


def spelled_nodes(model: ir.Model) -> frozenset[str]:
    """Names of the nodes that round activations in blocks, or widen weights of floats in them."""
    found = [rounded.nodes for rounded in rounded_values(model)]
    found += [weight.nodes for weight in blocked_weights(model) if weight.kind != "int4"]
    return frozenset(str(node.name) for nodes in found for node in nodes)


def _reason(
    node: ir.Node, dtype: ir.DataType, peaks: Peaks, scales: frozenset[str], version: int
) -> str:
    """Why a node stays float32: range, constant, scale, type, body; "" where it need not."""
    if any(True for _ in subgraphs(node)):
        return "body"
    floats = [v for v in (*node.inputs, *node.outputs) if v is not None and v.dtype == FLOAT]
    if operator(node)[1] in AGNOSTIC or not floats:
        return ""
    if not _takes(node, dtype, version):
        return "type"
    for value in floats:
        if constant_tensor(value) is not None:
            if not _constant_fits(value, dtype):
                return "constant"
        elif _from_dequantized(value):
            if str(_scale_of(value).name) not in scales:
                return "scale"
        elif not _in_range(peaks.get(str(value.name), np.inf), dtype):
            return "range"
    return "range" if _inner(node, peaks) > LIMITS[dtype] else ""


def _from_dequantized(value: ir.Value) -> bool:
    return producer(value, "DequantizeLinear") is not None


def _scale_of(value: ir.Value) -> ir.Value:
    node = value.producer()
    assert node is not None and node.inputs[1] is not None
    return node.inputs[1]


def _inner(node: ir.Node, peaks: Peaks) -> float:
    """What a sum inside the operator may come to, where it computes in the type of its input."""
    if node.op_type not in SQUARING | SUMMING or node.inputs[0] is None:
        return 0.0
    peak = peaks.get(str(node.inputs[0].name), np.inf)
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if before is None or after is None:
        return np.inf
    return _terms(node, before, after) * (peak * peak if node.op_type in SQUARING else peak)


def _terms(node: ir.Node, before: Dims, after: Dims) -> float:
    """How many numbers a sum adds; infinite where an axis of open size is summed over."""
    if node.op_type == "AveragePool":
        return float(prod(attribute(node, "kernel_shape", ())))
    left = Counter(before) - Counter(after)
    summed = [d for d, count in left.items() for _ in range(count)]
    if any(not isinstance(d, int) for d in summed):
        return np.inf
    return float(prod(d for d in summed if isinstance(d, int)))


def _constant_fits(value: ir.Value, dtype: ir.DataType) -> bool:
    array = constant_array(value)
    if array is None:
        return False
    if array.size <= FEW:
        finite = array[np.isfinite(array)]
        return _holds(finite, dtype)
    return _in_range(float(np.abs(array).max()), dtype)


def _in_range(peak: float, dtype: ir.DataType) -> bool:
    """Whether a tensor of that largest magnitude keeps its digits; not for NaN."""
    return peak == 0.0 or LEAST[dtype] <= peak <= LIMITS[dtype]


def _holds(array: np.ndarray | None, dtype: ir.DataType) -> bool:
    """Whether the type has every one of the numbers, nearly."""
    if array is None:
        return False
    exact = array.astype(np.float64)
    with np.errstate(over="ignore"):
        narrow = array.astype(NUMPY[dtype]).astype(np.float64)
    return bool(np.all(np.abs(narrow - exact) <= NEAR[dtype] * np.abs(exact)))


def _takes(node: ir.Node, dtype: ir.DataType, version: int) -> bool:
    """Whether every float output may be of the type, as ONNX defines the operator."""
    domain, op = operator(node)
    if domain:
        wide = HALVES.get(op) if domain == MICROSOFT else None
        return wide is not None and not any(v.uses() for v in _at(node.outputs, wide))
    if op == "Cast":
        return True
    floats = [v for v in node.inputs if v is not None and v.dtype == FLOAT]
    made = [v for v in node.outputs if v.dtype == FLOAT]
    if made and not floats:
        return False
    if op == "LayerNormalization" and attribute(node, "stash_type", 1) != 1:
        return False
    return all(
        accepts(op, version, i, dtype, output=True)
        for i, v in enumerate(node.outputs)
        if v.dtype == FLOAT
    ) and any(accepts(op, version, i, dtype) for i, v in enumerate(node.inputs) if v in floats)


def _at(values: Sequence[ir.Value], positions: Sequence[int]) -> list[ir.Value]:
    return [values[i] for i in positions if i < len(values)]


def reads(node: ir.Node, version: int, index: int, dtype: ir.DataType) -> bool:
    """Whether a node that computes in a half type takes it at an input, too."""
    return bool(node.domain) or accepts(node.op_type, version, index, dtype)


@functools.cache
def accepts(op: str, version: int, index: int, dtype: ir.DataType, output: bool = False) -> bool:
    """Whether the operator takes (or makes) the type at a position."""
    try:
        schema = onnx.defs.get_schema(op, version, "")
    except onnx.defs.SchemaError:
        return False
    formal = schema.outputs if output else schema.inputs
    if not formal:
        return False
    name = formal[min(index, len(formal) - 1)].type_str
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    return f"tensor({NAMES[dtype]})" in allowed.get(name, [name])
