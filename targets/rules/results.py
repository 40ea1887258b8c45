"""Rules on what quantization leaves of a model's results: ranges, scales, channels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from ...ir.graph import constant_array, constant_tensor, consumers, given, operator, scalar
from .layers import EIGHT_BITS, Grid, integer
from .rule import Finding, Rule, View, off_tensorrt

# What may stand between what is rounded and the Softmax that reads it.
_SCORES = frozenset(
    "Add Cast Clip DequantizeLinear Div Expand Identity Mul QuantizeLinear Reshape Slice Squeeze "
    "Sub Transpose Unsqueeze Where QLinearAdd QLinearMul QLinearWhere".split()
)
_SOFTMAX = frozenset({"Softmax", "QLinearSoftmax", "BiasSoftmax"})
_STEPS = 8
_WIDEST = 1.0
"""Of a step in what a Softmax reads: differences of less than e-fold are lost beyond."""

# Position of the scale of what an integer operator gives.
_OUTPUT_SCALES: Mapping[str, int] = MappingProxyType(
    {
        "QuantizeLinear": 1, "QLinearMatMul": 6, "QLinearConv": 6, "QLinearAdd": 6,
        "QLinearMul": 6, "QLinearSigmoid": 3, "QLinearLeakyRelu": 3, "QLinearSoftmax": 3,
        "QLinearAveragePool": 3, "QLinearGlobalAveragePool": 3, "QLinearConcat": 0, "QGemm": 7,
        "QLinearWhere": 7,
    }
)  # fmt: skip
_WEIGHTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "QLinearMatMul": (3, 4), "QLinearConv": (3, 4), "QGemm": (3, 4),
        "MatMulIntegerToFloat": (1, 3), "DynamicQuantizeMatMul": (1, 2),
    }
)  # fmt: skip
"""Positions of the weight and of its scale."""
_CHANNELS = 8
"""Fewer are not enough to speak of most."""
_FEW_CODES = 16
"""A channel whose largest code is below keeps 5 bits at most."""
_COARSER = 4.0
"""Times that the rounding of the typical channel must be coarser than on a grid of its own."""
_PART = 1 << 22


def _scores(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        step = _step(node)
        if step is None or not math.isfinite(step):
            continue
        read = step * _factor_to_softmax(node.outputs[0])
        if read > _WIDEST:
            yield Finding(node, f"steps of {read:.3g}")


def _step(node: ir.Node) -> float | None:
    """The one scale of what a node rounds; None for others."""
    index = _OUTPUT_SCALES.get(node.op_type)
    return None if index is None else scalar(given(node, index))


def _factor_to_softmax(value: ir.Value) -> float:
    """The largest factor by which a value is multiplied on its way into a Softmax, 0 where it
    reaches none within a few operators on scores."""
    found, seen = 0.0, {value}
    todo = [(value, 1.0, 0)]
    while todo:
        each, factor, depth = todo.pop()
        for reader in consumers(each):
            op = operator(reader)[1]
            if op in _SOFTMAX and reader.inputs[0] is each:
                found = max(found, factor)
            if op not in _SCORES or depth == _STEPS or not reader.outputs:
                continue
            behind = reader.outputs[0]
            if behind not in seen:
                seen.add(behind)
                todo.append((behind, factor * _scaling(reader, each), depth + 1))
    return found


def _scaling(node: ir.Node, value: ir.Value) -> float:
    """What a Mul or Div by a constant makes of a value's steps; 1 for other operators."""
    if node.op_type not in ("Mul", "Div") or len(node.inputs) != 2 or node.inputs[0] is not value:
        other = node.inputs[0] if node.op_type == "Mul" else None
    else:
        other = node.inputs[1]
    number = abs(scalar(other) or 1.0)
    return 1.0 / number if node.op_type == "Div" else number


def _unusable(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        index = _OUTPUT_SCALES.get(node.op_type)
        divides = index is not None
        if index is None and operator(node) == ("", "DequantizeLinear"):
            index = 1
        tensor = None if index is None else constant_tensor(given(node, index))
        if tensor is None or tensor.size > _PART or not tensor.dtype.is_floating_point():
            continue
        scales = np.asarray(tensor.numpy(), np.float64)
        found = _wrong(scales, divides=divides)
        if found:
            yield Finding(node, found)


def _wrong(scales: np.ndarray, *, divides: bool) -> str:
    if not np.isfinite(scales).all():
        return "a scale that is not finite"
    if (scales < 0).any():
        return f"a scale of {scales.min():.3g}"
    if divides and (scales == 0).any():
        return "a scale of 0"
    tiny = scales[(scales > 0) & (scales < np.finfo(np.float32).tiny)]
    return f"a scale of {tiny.min():.3g}, a denormal number" if tiny.size else ""


def _wild(view: View) -> Iterator[Finding]:
    for node, codes, axis in (*_stored(view), *_operators(view)):
        tensor = constant_tensor(codes)
        if tensor is None or tensor.dtype not in EIGHT_BITS or len(tensor.shape) < 2:
            continue
        found = uneven(np.asarray(constant_array(codes)), axis)
        if found:
            yield Finding(node, found)


def uneven(codes: np.ndarray, axis: int) -> str:
    """What one grid costs channels along an axis of 8-bit codes; "" where they share it well.

    A channel of largest code p is rounded 127 / p times as coarsely as on a grid of its own.
    Those of zeros alone are counted apart: the grid may have lost them, or they may be pruned.
    """
    if codes.shape[axis] < _CHANNELS:
        return ""
    centred = codes.astype(np.int16) - (128 if codes.dtype == np.uint8 else 0)
    others = tuple(i for i in range(codes.ndim) if i != axis % codes.ndim)
    peaks = np.abs(centred).max(axis=others)
    used = peaks[peaks > 0]
    if used.size < _CHANNELS:
        return ""
    few, coarser = int((used < _FEW_CODES).sum()), float(np.median(127 / used))
    if not few or (coarser < _COARSER and 2 * few < used.size):
        return ""
    empty = peaks.size - used.size
    lost = f", {empty} more hold{'s' if empty == 1 else ''} nothing but zeros" if empty else ""
    return (
        f"{few} of {peaks.size} output channels keep 5 bits or fewer{lost}; the typical one is "
        f"rounded {coarser:.1f} times as coarsely as on a scale of its own"
    )


def _stored(view: View) -> Iterator[tuple[ir.Node, ir.Value | None, int]]:
    """Products with a weight behind a DequantizeLinear with one scale, and the output axis."""
    for layer in view.layers:
        grid: Grid | None = layer.weight
        if grid is None or not grid.per_tensor or grid.block:
            continue
        node = layer.node
        axis = grid.axis_of(_output_axis(node, left=grid is layer.left))
        if axis is not None:
            yield node, grid.node.inputs[0], axis


def _output_axis(node: ir.Node, *, left: bool) -> int:
    if "Conv" in node.op_type:
        return 1 if node.op_type == "ConvTranspose" else 0
    turned = "Gemm" in node.op_type and bool(integer(node, "transA" if left else "transB", 0))
    return -1 if left == turned else -2


def _operators(view: View) -> Iterator[tuple[ir.Node, ir.Value | None, int]]:
    for node in view.nodes:
        places = _WEIGHTS.get(node.op_type)
        if places is None or scalar(given(node, places[1])) is None:
            continue
        yield node, given(node, places[0]), _output_axis(node, left=False)


RULES = (
    Rule(
        "softmax-range-blown",
        "Scales of what a Softmax reads: attention scores, and the mask that is added to them.",
        _scores,
        "the range was calibrated over the fill of a mask (-3.4e38, -10000 or the like), so that "
        "one step is wider than all scores: they become one code, and attention no longer "
        "chooses",
        "leave the Add or Where of the mask, and all behind it up to and with the Softmax, out of "
        "quantization (nodes_to_exclude); or mask with a number that scores reach, such as -100",
        "error",
    ),
    Rule(
        "scale-unusable",
        "Numbers in scales: zeros, denormal, negative and infinite ones.",
        _unusable,
        "values are divided by their scale: these make them infinite or lose them, and some "
        "runtimes and CPUs take a denormal number for 0",
        "calibrate that tensor again, with data that reaches it; one that is always 0 takes any "
        "scale, such as 1",
        "error",
        off_tensorrt,
    ),
    Rule(
        "weight-channels-wild",
        "8-bit weights with one scale for all output channels, read from the file.",
        _wild,
        "a few large channels set the scale for all: the others are left with a few codes, and "
        "accuracy goes without a word",
        "use one scale for each output channel (per_channel=True)",
        "note",
    ),
)
