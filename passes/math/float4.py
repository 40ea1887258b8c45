"""4-bit floats of the kind E2M1 in blocks with scales of two levels (NVFP4): rounding and scales.

A number is code * b * s: a code of E2M1 (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives), a block
scale b of E4M3 for each 16 numbers along what is summed over, and one float32 scale s for all.
Sources: OCP Microscaling Formats 1.0, table of E2M1; NVIDIA, Introducing NVFP4 (2025), for the
levels and for s = max|w| / (6 * 448); the search is brute force over neighbouring block scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from ...ir.errors import InputError, UsageError
from .blockcodes import checked_weight, column_parts
from .float8 import E4M3

Floats = NDArray[np.float32]

NAME = ir.DataType.FLOAT4E2M1.numpy().name
BLOCK = 16
LARGEST = 6.0
REACH = LARGEST * 448.0
"""Numbers of so many times the tensor's scale are the largest ones."""
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
_LOWEST, _HIGHEST = 1, 126
"""Bytes of the least and the greatest E4M3 scale above 0; those between are in order."""
_TRIED = range(-8, 9)
"""Neighbours, eight to an octave: from half the scale that makes the largest number 6 to twice it.
Often the one that makes it 4 is best: the gap between 4 and 6 then holds nothing."""


@dataclass(frozen=True)
class Float4Codes:
    """A weight [K, N] in blocks of 16 along K.

    codes: E4M3 [K, N], which holds every number of E2M1. block_scales: E4M3 [K / 16, N], above 0.
    scale: float32, above 0.
    """

    codes: NDArray[Any]
    block_scales: NDArray[Any]
    scale: np.float32


def tensor_scale(peak: float) -> np.float32:
    """The scale with which the greatest block scale reaches ``peak``; 1 for a peak of 0.

    Raises InputError where it is not finite.
    """
    if not np.isfinite(peak):
        raise InputError(
            f"a range to quantize is not finite: {peak!r}",
            hint="look for NaN or infinite values in the calibration data or the model",
        )
    return np.float32(max(abs(peak) / REACH, _SMALLEST_SCALE)) if peak else np.float32(1.0)


def round_e2m1(x: Floats) -> Floats:
    """The nearest numbers of E2M1, of two the one whose last bit is 0; beyond 6 it is 6."""
    held = np.clip(x, -LARGEST, LARGEST)
    size = np.abs(held)
    gap = np.where(size >= 4, np.float32(2), np.where(size >= 2, np.float32(1), np.float32(0.5)))
    return np.asarray(np.rint(held / gap) * gap, np.float32)


def round_float4(
    weight: ArrayLike, *, importance: ArrayLike | None = None, search: bool = True
) -> Float4Codes:
    """A weight [K, N], any float dtype, K a multiple of 16, in codes.

    search: of each block take the scale of least squared error, weighted with ``importance`` [K]
    (E[x_k^2], any unit) where given, of 16 neighbours of the one that holds its largest
    number; else that one. Raises InputError for weights or importance that are not finite,
    UsageError for a K that is no multiple of 16.
    """
    array = checked_weight(weight)
    inputs, outputs = array.shape
    if inputs % BLOCK:
        raise UsageError(f"{inputs} inputs do not fall in blocks of {BLOCK}")
    energy = _energy(importance, inputs)
    scale = tensor_scale(max(float(np.max(array)), -float(np.min(array))))
    codes = np.empty((inputs, outputs), E4M3)
    steps = np.empty((inputs // BLOCK, outputs), E4M3)
    for part in column_parts(inputs, outputs):
        w = array[:, part].astype(np.float32).reshape(-1, BLOCK, array[:, part].shape[1])
        steps[:, part] = _block_scales(w, scale, energy, search)
        units = _units(w, steps[:, part], scale)
        codes[:, part] = round_e2m1(units).reshape(inputs, -1).astype(E4M3)
    return Float4Codes(codes, steps, scale)


def dequantize_float4(coded: Float4Codes) -> Floats:
    """The weights that codes stand for, float32 [K, N], as DequantizeLinear computes them."""
    steps = coded.block_scales.astype(np.float32) * coded.scale
    wide = np.repeat(steps, BLOCK, axis=0)
    return np.asarray(coded.codes.astype(np.float32) * wide, np.float32)


def round_rows(x: Floats, scale: float) -> Floats:
    """Activations [..., K] rounded in blocks of 16 along K, each with the scale that holds its
    largest number: what is computed at run time. Beyond 2688 times ``scale`` it saturates."""
    one = np.float32(scale)
    parts = x.reshape(*x.shape[:-1], -1, BLOCK)
    wanted = np.abs(parts).max(axis=-1, keepdims=True) / (one * np.float32(LARGEST))
    step = np.minimum(wanted, 448).astype(E4M3).astype(np.float32) * one
    units = parts / np.maximum(step, np.float32(_SMALLEST_SCALE))
    return np.asarray((round_e2m1(units) * step).reshape(x.shape), np.float32)


def _energy(importance: ArrayLike | None, inputs: int) -> Floats:
    """Weights of squared errors, [blocks, 16, 1], mean 1."""
    if importance is None:
        return np.ones((inputs // BLOCK, BLOCK, 1), np.float32)
    energy = np.asarray(importance, np.float64)
    if energy.shape != (inputs,) or not np.all(np.isfinite(energy)) or np.any(energy < 0):
        raise InputError(f"importance must be {inputs} finite numbers, none below zero")
    mean = energy.mean()
    share = energy / mean if mean > 0 else np.ones(inputs)
    return np.maximum(share, 1e-3).astype(np.float32).reshape(-1, BLOCK, 1)


def _block_scales(w: Floats, scale: np.float32, energy: Floats, search: bool) -> NDArray[Any]:
    """E4M3 [blocks, N] for a weight [blocks, 16, N]."""
    wanted = np.abs(w).max(axis=1) / (scale * np.float32(LARGEST))
    start = np.minimum(wanted, 448).astype(E4M3).view(np.uint8).astype(np.int16)
    start = np.where(wanted > 0, np.maximum(start, _LOWEST), 0x38)  # all zeros: any will do
    if not search:
        return start.astype(np.uint8).view(E4M3)
    best, chosen = np.full(start.shape, np.inf, np.float32), start
    for offset in _TRIED:
        tried = np.clip(start + offset, _LOWEST, _HIGHEST)
        step = tried.astype(np.uint8).view(E4M3)
        units = _units(w, step, scale)
        error = np.square(round_e2m1(units) - units) * energy  # in steps: no square gets too large
        cost = error.sum(axis=1) * np.square(step.astype(np.float32))
        better = cost < best
        best, chosen = np.where(better, cost, best), np.where(better, tried, chosen)
    return chosen.astype(np.uint8).view(E4M3)


def _units(w: Floats, steps: NDArray[Any], scale: np.float32) -> Floats:
    """The weight in units of its blocks' scales."""
    divisor = np.maximum(steps.astype(np.float32) * scale, np.float32(_SMALLEST_SCALE))
    return np.asarray(w / divisor[:, None], np.float32)
