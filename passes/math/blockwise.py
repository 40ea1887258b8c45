"""Rounding to the nearest code in blocks, after a search for the scale that costs least.

Sources: the full range of symmetric codes (the signed extreme at -2^(bits-1)) as in llama.cpp
and MLAS; errors weighted by the activations' energy E[x_j^2] as in llama.cpp's imatrix; the
best scale for given codes in closed form as in NNCF's scale estimation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...ir.errors import InputError
from .blockcodes import (
    BlockCodes,
    block_count,
    blocked,
    check_layout,
    checked_weight,
    column_parts,
    middle,
    top,
)

Floats = NDArray[np.float32]

_SMALLEST_SCALE = np.float32(np.finfo(np.float32).tiny)  # runtimes flush smaller ones to zero
_SHARES = tuple(np.linspace(1.1, 0.4, 36))
# An input that calibration never lit may well be lit later: it keeps this share of the mean.
_LEAST_IMPORTANCE = 1e-3


def round_blocks(
    weight: ArrayLike,
    *,
    bits: int,
    block: int,
    symmetric: bool,
    importance: ArrayLike | None = None,
    clip: bool = True,
    signed: bool = True,
) -> BlockCodes:
    """The nearest codes of a weight [K, N], any float dtype, in blocks along K.

    signed: whether the scales of symmetric codes may be negative, so that the larger extreme gets
    the code that has no counterpart; else all are above 0. clip: choose scales (and zero points)
    that cost the least squared error, weighted with ``importance`` [K] (E[x_j^2], any unit) where
    given, instead of covering the whole range.
    Raises InputError for weights that are not finite, UsageError for other than 2 … 8 bits.
    """
    check_layout(bits, block)
    array = checked_weight(weight)
    inputs, outputs = array.shape
    energy = block_energy(importance, inputs, block)
    blocks = block_count(inputs, block)
    codes = np.empty((inputs, outputs), np.uint8)
    scale = np.empty((blocks, outputs), np.float32)
    zeros = np.empty((blocks, outputs), np.float32)
    for part in column_parts(inputs, outputs):
        w = blocked(array[:, part].astype(np.float32), block)
        grid = full_range(w, bits, symmetric, signed)
        if clip:
            grid = least_error(w, *grid, energy, bits)
        scale[:, part], zeros[:, part] = grid
        codes[:, part] = encode(w, *grid, bits).reshape(-1, w.shape[-1])[:inputs]
    return BlockCodes(codes, scale, None if symmetric else zeros.astype(np.uint8), bits, block)


def full_range(w: Floats, bits: int, symmetric: bool, signed: bool = True) -> tuple[Floats, Floats]:
    """Scales and zero points that reach every weight of a block: [blocks, block, N] -> [blocks, N].

    Symmetric: the extreme of larger magnitude at code 0, so the scale takes its other sign; not
    signed: the least scale above 0 that reaches both extremes, of which one has a code less.
    Asymmetric: the range, widened to hold zero, from code 0 to the largest.
    """
    low = np.minimum(w.min(axis=1), 0).astype(np.float64)
    high = np.maximum(w.max(axis=1), 0).astype(np.float64)
    if symmetric:
        step = np.where(high > -low, -high, -low) / middle(bits)
        if not signed:
            step = np.maximum(high / (middle(bits) - 1), -low / middle(bits))
        return usable(step), np.full(step.shape, middle(bits), np.float32)
    scale = usable((high - low) / top(bits))
    zeros = np.clip(np.rint(-low / scale), 0, top(bits))
    return scale, zeros.astype(np.float32)


def least_error(
    w: Floats, scale: Floats, zeros: Floats, energy: Floats, bits: int
) -> tuple[Floats, Floats]:
    """The grid of least weighted squared error among scaled ones, each scale then refitted.

    For codes c (less the zero point) the best scale is <w, c> / <c, c>, and what it saves of
    the weights' energy is <w, c>^2 / <c, c>: that is what the candidates are compared by.
    """
    wanted = w / scale[:, None]  # in steps: squares of weights could leave float32
    best, chosen = np.zeros_like(scale), np.ones_like(scale)
    for share in _SHARES:
        c = np.rint(wanted / np.float32(share))
        np.clip(c, -zeros[:, None], top(bits) - zeros[:, None], out=c)
        weighted = c * energy
        along, size = (weighted * wanted).sum(axis=1), (weighted * c).sum(axis=1)
        fitted = np.divide(along, size, out=np.ones_like(scale), where=size > 0)
        saved = along * fitted
        better = saved > best
        np.copyto(best, saved, where=better)
        np.copyto(chosen, fitted, where=better)
    return usable(scale * chosen), zeros


def encode(w: Floats, scale: Floats, zeros: Floats, bits: int) -> NDArray[np.uint8]:
    """The nearest codes: [blocks, block, N] with grids [blocks, N] -> uint8 [blocks, block, N]."""
    codes = np.rint(w / scale[:, None])
    codes += zeros[:, None]
    return np.asarray(np.clip(codes, 0, top(bits)), dtype=np.uint8)


def block_energy(importance: ArrayLike | None, inputs: int, block: int) -> Floats:
    """Weights of the squared errors, [blocks, block, 1], mean 1 over the inputs, 0 after them.

    Raises InputError for importance that is negative, not finite or of another length.
    """
    if importance is None:
        return blocked(np.ones((inputs, 1), np.float32), block)
    energy = np.asarray(importance, dtype=np.float64)
    if energy.shape != (inputs,) or not np.all(np.isfinite(energy)) or np.any(energy < 0):
        raise InputError(f"importance must be {inputs} finite numbers, none below zero")
    mean = energy.mean()
    share = energy / mean if mean > 0 else np.ones(inputs)
    floored = np.maximum(share, _LEAST_IMPORTANCE).astype(np.float32)
    return blocked(floored[:, None], block)


def usable(scale: NDArray[Any]) -> Floats:
    """Scales as normal float32 of either sign; 1 where nothing has to be reached."""
    narrow = scale.astype(np.float32)
    lifted = np.copysign(np.maximum(np.abs(narrow), _SMALLEST_SCALE), narrow)
    return np.where(scale == 0, np.float32(1), lifted)
