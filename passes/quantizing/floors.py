"""Scales of weights that float16 can hold, where the graph around a layer is in float16.

Strongly typed TensorRT computes a layer in the type of its scales. Below float16's least normal
number, 2^-14, a scale has no digits left, so that one channel of weights that are next to nothing
(folded batch norms leave such) would keep its whole layer in float32. In steps of 2^-14 such a
channel is as good: the steps are far below those of its neighbours. Source: IEEE 754, binary16.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...targets.schema import Target
from ...targets.techniques import runs_on_tensorrt
from ..math.affine import dequantize, quantize_weight
from ..math.blockcodes import BlockCodes, column_parts, dequantize_blocks, middle, spread, top
from ..math.float8 import absmax_scale, round_to_float8

LEAST = 2.0**-14
SILENT = 1e-5
"""What coarser steps may add to the squared error of a weight, as a share of its energy (50 dB; 8
bits leave some 40 dB). A layer all of whose weights are small loses more and keeps its scales."""

Floats = NDArray[np.float32]


def least_scale(target: Target) -> float:
    """Below which no scale of a weight should be, 0 where any scale will do."""
    half = runs_on_tensorrt(target) and target.floats.float16 == "native"
    return LEAST if half else 0.0


def int8_weight(
    weight: Floats, axis: int, bits: int, least: float
) -> tuple[NDArray[np.int8], Floats]:
    """Codes and scales per channel [C] as ``quantize_weight`` gives them, its scales raised to
    ``least`` where that adds next to no error."""
    codes, scale = quantize_weight(weight, axis, bits)
    if scale.min(initial=least) >= least:
        return codes, scale
    raised = quantize_weight(weight, axis, bits, min_scale=least)
    before, after = dequantize(codes, scale, 0, axis), dequantize(*raised, 0, axis)
    return raised if _silent(weight, before, after) else (codes, scale)


def float8_scale(weight: Floats, least: float) -> np.float32:
    """The scale that maps the largest weight to 448, likewise raised to ``least`` or more: by a
    power of two, so that nothing is rounded otherwise but what falls below 2^-6, E4M3's normal
    numbers."""
    scale = absmax_scale(float(np.abs(weight).max(initial=0.0)))
    if scale >= least:
        return scale
    raised = np.float32(np.ldexp(scale, int(np.ceil(np.log2(least / scale)))))
    before, after = (round_to_float8(weight, s).astype(np.float32) * s for s in (scale, raised))
    return raised if _silent(weight, before, after) else scale


def raised_blocks(weight: Floats, coded: BlockCodes, least: float) -> BlockCodes:
    """Symmetric codes of a weight [K, N], scales between 0 and ``least`` raised to it and their
    blocks rounded anew; as they were where that adds more than next to nothing."""
    low = (coded.scale > 0) & (coded.scale < least)
    if not low.any() or coded.zero_point is not None:
        return coded
    codes = coded.codes.copy()
    for part in column_parts(*weight.shape):
        steps = np.rint(weight[:, part].astype(np.float32) / np.float32(least))
        new = np.clip(steps + middle(coded.bits), 0, top(coded.bits)).astype(np.uint8)
        np.copyto(codes[:, part], new, where=spread(low[:, part], coded.block, len(codes)))
    raised = replace(coded, codes=codes, scale=np.where(low, np.float32(least), coded.scale))
    before, after = dequantize_blocks(coded), dequantize_blocks(raised)
    return raised if _silent(weight, before, after) else coded


def _silent(weight: Floats, before: Floats, after: Floats) -> bool:
    """Whether the second rounding of a weight is as good as the first, or nearly."""
    return _error(weight, after) - _error(weight, before) <= SILENT * _energy(weight)


def _error(weight: Floats, rounded: Floats) -> float:
    return float(np.sum(np.square(weight - rounded, dtype=np.float64)))


def _energy(weight: Floats) -> float:
    return float(np.sum(np.square(weight, dtype=np.float64)))
