"""Codes that make up for each other's errors on real inputs (GPTQ), and scales refitted to them.

Sources: Frantar et al., GPTQ (arXiv 2210.17323), with static groups and inputs in order of
falling energy; Chee et al., QuIP (arXiv 2307.13304), theorem 6: the same codes from a factor of
the Gram matrix itself, without its inverse.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...ir.errors import InputError
from .blockcodes import BlockCodes, Codes, Doubles, checked_weight, column_parts, row_grids, top
from .blockwise import round_blocks
from .descent import descend
from .scalefit import refit_scales

_PANEL = 128  # inputs between two matrix products
_MOST_DAMP = 1.0


def gptq_blocks(
    weight: ArrayLike,
    gram: ArrayLike,
    *,
    bits: int,
    block: int,
    symmetric: bool,
    damp: float = 0.01,
    clip: bool = True,
    refit: bool = True,
    sweeps: int = 2,
    signed: bool = True,
) -> BlockCodes:
    """Codes of a weight [K, N] that lose little of x @ weight, by gram = E[x x^T] [K, K].

    The gram may be in any unit. Grids are those of ``round_blocks`` (``clip``: weighted with
    the root of the gram's diagonal) on the original weights; ``refit``: afterwards all scales
    of an output are fitted together; ``sweeps``: how often codes and scales then improve by
    turns. ``signed``: whether scales of symmetric codes may be negative. ``damp``: share of the
    mean energy that is added to every input's, tenfold until the matrix has a factor. Where the
    gram is zero, plain rounding is all.
    Raises InputError for a weight or gram that is not finite or does not fit, and for a gram
    that is far from positive semidefinite; UsageError for other than 2 … 8 bits.
    """
    array = checked_weight(weight)
    energy, matrix = checked_gram(gram, len(array))
    # Errors will be made up for, so no input counts with all of its energy: measured, the root.
    start = round_blocks(
        array, bits=bits, block=block, symmetric=symmetric, importance=np.sqrt(energy), clip=clip,
        signed=signed,
    )  # fmt: skip
    if not energy.any():
        return start
    order = np.argsort(-energy, kind="stable")
    damped, factor = unit_factor(matrix, order, damp)
    codes = np.empty_like(start.codes)
    for part in column_parts(*array.shape):
        codes[order, part] = _coded(array, start, factor, order, part)
    coded = replace(start, codes=codes)
    coded = refit_scales(array, damped, coded, signed) if refit else coded
    for _ in range(sweeps):
        coded = descend(array, damped, coded)
        coded = refit_scales(array, damped, coded, signed) if refit else coded
    return coded


def checked_gram(gram: ArrayLike, inputs: int) -> tuple[Doubles, Doubles]:
    """Diagonal and matrix as float64, scaled to a mean energy of 1. Raises InputError."""
    matrix = np.asarray(gram, dtype=np.float64)
    if matrix.shape != (inputs, inputs) or not np.all(np.isfinite(matrix)):
        raise InputError(
            f"a Gram matrix must hold {inputs} x {inputs} finite numbers, not {matrix.shape}",
            hint="look for NaN or infinite values in the calibration data",
        )
    energy = np.diagonal(matrix)
    if np.any(energy < 0):
        raise InputError("a Gram matrix has negative energy on its diagonal")
    mean = float(energy.mean()) or 1.0
    return energy / mean, matrix / mean


def unit_factor(matrix: Doubles, order: NDArray[Any], damp: float) -> tuple[Doubles, Doubles]:
    """The damped matrix, and the unit upper U of its U D U^T with inputs in ``order``.

    U D U^T comes from the Cholesky factor of the matrix read backwards. Raises InputError.
    """
    backwards = order[::-1]
    while True:
        damped = matrix + damp * np.eye(len(matrix))
        try:
            lower = np.linalg.cholesky(damped[np.ix_(backwards, backwards)])
        except np.linalg.LinAlgError:
            if damp >= _MOST_DAMP:
                break
            damp = min(max(damp, 1e-3) * 10, _MOST_DAMP)
            continue
        upper = lower[::-1, ::-1]
        return damped, upper / np.diagonal(upper)
    raise InputError("a Gram matrix is not positive semidefinite, not even roughly")


def _coded(
    array: NDArray[Any], grids: BlockCodes, factor: Doubles, order: NDArray[Any], part: slice
) -> Codes:
    """Codes of some outputs, inputs in ``order``: uint8 [K, outputs].

    Row i is rounded after the errors e of all rows before it are added, U[j, i] e[j]: then
    its own term of the loss, sum_i D[i] (e[i] + sum_j U[j, i] e[j])^2, is as small as can be.
    """
    w = array[order, part].astype(np.float64)
    scale, zeros = (grid[order] for grid in row_grids(grids, part))
    error = np.empty_like(w)
    codes = np.empty(w.shape, np.uint8)
    for start in range(0, len(w), _PANEL):
        panel = slice(start, start + _PANEL)
        wanted = w[panel] + factor[:start, panel].T @ error[:start]
        for i, aim in enumerate(wanted, start):
            aim += factor[start:i, i] @ error[start:i]
            q = np.clip(np.rint(aim / scale[i]) + zeros[i], 0, top(grids.bits))
            codes[i] = q
            error[i] = w[i] - (q - zeros[i]) * scale[i]
    return codes
