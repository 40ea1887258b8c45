"""Rules on the scales of Q/DQ nodes: fixed, positive, of the data's type, in shapes that fit."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ....ir.graph import constant_array, dims, given, opset, producer
from ...schema import Target
from ..layers import code_dtype, integer
from ..rule import Finding, Rule, View
from .codes import heads, rounds_constant, sizes
from .limits import built, dtype_of
from .scope import on_tensorrt, where
from .types import FLOATS, quantizer


def _scale_value(view: View) -> Iterator[Finding]:
    seen: set[ir.Value] = set()
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        scale = given(node, 1)
        array = constant_array(scale)
        if scale is None or array is None or scale in seen:
            continue
        seen.add(scale)
        numbers = array.astype(np.float32).reshape(-1)
        wrong = numbers[~(np.isfinite(numbers) & (numbers > 0))]
        if wrong.size:
            yield Finding(node, f"{scale.name} holds {wrong[0]:g}")


def _scale_computed(view: View) -> Iterator[Finding]:
    for node in heads(view):
        scale = given(node, 1)
        made = producer(scale)
        if scale is not None and not built(scale) and (made is None or not quantizer(made)):
            yield Finding(node, f"{scale.name} is computed")


def _scale_type(view: View) -> Iterator[Finding]:
    if opset(view.model) < 19:
        return  # the parser casts the scale
    for node in view.of("QuantizeLinear"):
        found = [dtype_of(given(node, i)) for i in (0, 1)]
        if None not in found and found[0] in FLOATS and found[0] != found[1]:
            one, other = (dtype.name.lower() for dtype in found if dtype is not None)
            yield Finding(node, f"scale of {other}, data of {one}")


def _zero_size(view: View) -> Iterator[Finding]:
    for node in heads(view):
        scale, zero = sizes(given(node, 1)), sizes(given(node, 2))
        if scale is None or zero is None or code_dtype(node) == ir.DataType.FLOAT8E4M3FN:
            continue
        if math.prod(scale) != math.prod(zero):
            yield Finding(node, f"{math.prod(zero)} zero points, {math.prod(scale)} scales")


def _scale_shape(view: View) -> Iterator[Finding]:
    for node in heads(view):
        scale, shape = sizes(given(node, 1)), dims(node.inputs[0])
        if scale is None or shape is None or math.prod(scale) == 1:
            continue
        found = misfit(scale, shape, integer(node, "axis", 1), integer(node, "block_size", 0))
        if found:
            yield Finding(node, found)


def misfit(
    scale: tuple[int, ...], shape: tuple[int | str | None, ...], axis: int, block: int
) -> str:
    """What is wrong with scales of a shape for codes of another, "" where they fit."""
    if len(scale) == 1 and not block:
        if not -len(shape) <= axis < len(shape):
            return f"axis {axis} of {len(shape)} axes"
        size = shape[axis]
        fits = not isinstance(size, int) or size == scale[0]
        return "" if fits else f"{scale[0]} scales for {size} channels of axis {axis}"
    if len(scale) != len(shape):
        return f"scale of shape {list(scale)} for {len(shape)} axes"
    pairs = [(n, s) for n, s in zip(shape, scale, strict=True) if isinstance(n, int)]
    if len([n for n, s in pairs if n != s]) > 1:
        return f"scale of shape {list(scale)} for {list(shape)}: blocks along one axis only"
    uneven = [n for n, s in pairs if s == 0 or n % s]
    return f"{uneven[0]} codes do not fall in equal blocks" if uneven else ""


def _activation_channels(view: View) -> Iterator[Finding]:
    for node in heads(view):
        scale = sizes(given(node, 1))
        if scale is not None and len(scale) == 1 and scale[0] > 1 and not rounds_constant(node):
            yield Finding(node, f"scale of shape {list(scale)}")


def _scale_float32(view: View) -> Iterator[Finding]:
    for layer in view.layers:
        if dtype_of(given(layer.node, 0)) != ir.DataType.FLOAT:
            continue
        for grid in (layer.left, layer.right):
            scale = None if grid is None else given(grid.node, 1)
            array = constant_array(scale)
            if scale is None or array is None or array.dtype != np.float32:
                continue
            if (foreign := _not_in_float16(array)).size:
                yield Finding(layer.node, f"{foreign[0]:.2g} in {scale.name}")


def _not_in_float16(numbers: np.ndarray) -> np.ndarray:
    """Those above 0 that float16 rounds by more than half its last digit: [count]."""
    exact = numbers.reshape(-1).astype(np.float64)
    with np.errstate(over="ignore"):
        narrow = exact.astype(np.float16).astype(np.float64)
    return exact[(exact > 0) & (np.abs(narrow - exact) > _LAST_DIGIT * exact)]


_LAST_DIGIT = 2.0**-10


def _half(target: Target) -> bool:
    return target.floats.float16 == "native"


RULES = (
    Rule(
        "trt-scale-value",
        "Numbers in scales.",
        _scale_value,
        "scales must be above 0 and finite: others are refused, or make every result wrong",
        "calibrate that tensor again; a tensor that is always 0 takes any scale, such as 1",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-scale-computed",
        "Scales that are computed from inputs of the model.",
        _scale_computed,
        "scales must be known when the engine is built",
        "calibrate, and store the scale as a constant",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-scale-type",
        "Types of scales against those of the data that they divide, from opset 19 on.",
        _scale_type,
        "in a strongly typed network both must have one type: the engine is not built",
        "convert the scale with the activations (float16 data: float16 scale)",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-zero-point-size",
        "Number of zero points.",
        _zero_size,
        "the parser wants as many zero points as scales",
        "write zeros in the shape of the scale",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-scale-shape",
        "Shapes of scales: one, one for each index of an axis, or blocks along one axis.",
        _scale_shape,
        "the parser refuses scales that do not fit the codes",
        "write as many scales as the axis is long; for blocks, as many axes as the codes have",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-activation-per-channel",
        "Scales of activations.",
        _activation_channels,
        "a scale for each channel is for weights only: the engine is not built",
        "quantize activations per tensor",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-scale-float32",
        "Scales of layers that run in float32, where the target computes in float16.",
        _scale_float32,
        "float16 has no such scale (it loses digits below 6.1e-05 and ends at 65504): a strongly "
        "typed layer runs in the type of its scales, so that this one stays in float32 and is not "
        "fused with what is float16 around it",
        "weights of a channel that are next to nothing lose nothing with a scale of 6.1e-05 "
        "(planish raises it in what it quantizes itself); for an activation calibrate again, or "
        "leave the layer in float",
        "note",
        where(_half, "the target does not compute in float16"),
    ),
)
