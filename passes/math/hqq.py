"""Block codes without data: half-quadratic quantization.

Source: Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models (2023):
alternate between the weights' large errors (a shrinkage of l_p, p = 0.7) and the grid that fits
what remains. Published for zero points in floating point; here they end as integers, which the
runtimes' fast kernels want, and symmetric codes fit their scale instead.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from .blockcodes import (
    BlockCodes,
    Floats,
    block_count,
    blocked,
    check_layout,
    checked_weight,
    column_parts,
    top,
)
from .blockwise import block_energy, encode, full_range, least_error, usable

Grid = tuple[Floats, Floats]
Fit = Callable[[Floats, Floats, Grid, Floats], Grid]

_NORM = 0.7
_BETA, _GROWTH, _ROUNDS = 10.0, 1.01, 20


def hqq_blocks(
    weight: ArrayLike, *, bits: int, block: int, symmetric: bool = False, signed: bool = True
) -> BlockCodes:
    """Codes of a weight [K, N], any float dtype, whose few large errors count less than squared.

    signed: whether scales of symmetric codes may be negative.
    Raises InputError for weights that are not finite, UsageError for other than 2 … 8 bits.
    """
    check_layout(bits, block)
    array = checked_weight(weight)
    inputs, outputs = array.shape
    present = block_energy(None, inputs, block)
    shape = block_count(inputs, block), outputs
    codes = np.empty((inputs, outputs), np.uint8)
    scale, zeros = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for part in column_parts(inputs, outputs):
        w = blocked(array[:, part].astype(np.float32), block)
        grid = least_error(w, *full_range(w, bits, symmetric, signed), present, bits)
        if not symmetric:
            scales, floating = half_quadratic(w, grid, present, bits, fitted_zero)
            grid = scales, np.clip(np.rint(floating), 0, top(bits))
        fitted = half_quadratic(w, grid, present, bits, fitted_scale)
        kept = fitted[0] if signed else np.where(fitted[0] > 0, fitted[0], grid[0])
        grid = kept, fitted[1]
        scale[:, part], zeros[:, part] = grid
        codes[:, part] = encode(w, *grid, bits).reshape(-1, w.shape[-1])[:inputs]
    return BlockCodes(codes, scale, None if symmetric else zeros.astype(np.uint8), bits, block)


def half_quadratic(w: Floats, grid: Grid, present: Floats, bits: int, fit: Fit) -> Grid:
    """The grid of least mean error among those the iteration passes through, block by block.

    w: [blocks, block, N]; grid: scale and zero point [blocks, N]; present: [blocks, block, 1],
    0 where the last block has no weight. Errors are in units of a step, so that the published
    beta serves weights of any size.
    """
    scale, zeros = grid
    best, kept = np.full(scale.shape, np.inf, np.float32), (scale, zeros)
    for turn in range(_ROUNDS):
        wanted = w / scale[:, None]
        shifted = np.clip(np.rint(wanted + zeros[:, None]), 0, top(bits)) - zeros[:, None]
        error = (wanted - shifted) * present
        size = np.abs(error).sum(axis=1) * np.abs(scale)
        better = size < best
        best = np.where(better, size, best)
        kept = np.where(better, scale, kept[0]), np.where(better, zeros, kept[1])
        target = wanted - shrink(error, _BETA * _GROWTH**turn)
        scale, zeros = fit(target, shifted, (scale, zeros), present)
    return kept


def shrink(error: Floats, beta: float) -> Floats:
    """The part of each error taken for an outlier: sign(e) max(|e| - |e|^(p-1) / beta, 0)."""
    size = np.abs(error)
    with np.errstate(divide="ignore"):
        rest = size - size ** (_NORM - 1) / beta
    return np.asarray(np.sign(error) * np.maximum(rest, 0), np.float32)


def fitted_zero(target: Floats, shifted: Floats, grid: Grid, present: Floats) -> Grid:
    """The published step: z = mean(q - (w - outliers) / scale), in floating point."""
    scale, zeros = grid
    moved = ((shifted - target) * present).sum(axis=1) / present.sum(axis=1)
    return scale, zeros + moved


def fitted_scale(target: Floats, shifted: Floats, grid: Grid, present: Floats) -> Grid:
    """The same step for the scale: least squares of (w - outliers) on the codes."""
    scale, zeros = grid
    along = (target * shifted * present).sum(axis=1)
    size = (shifted * shifted * present).sum(axis=1)
    share = np.divide(along, size, out=np.ones_like(scale), where=(size > 0) & (along != 0))
    return usable(scale * share), zeros
