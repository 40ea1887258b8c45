"""Codes improved one input at a time while all others stay: coordinate descent.

Source: Behdin et al., QuantEase (arXiv 2309.01885), started from GPTQ's codes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blockcodes import BlockCodes, Doubles, column_parts, row_grids, top

_PANEL = 64  # inputs between two matrix products
Grids = tuple[Doubles, Doubles, Doubles]
Held = NDArray[np.bool_]


def descend(weight: NDArray[Any], gram: Doubles, coded: BlockCodes) -> BlockCodes:
    """The codes after one sweep over all inputs; the scales stay.

    weight [K, N], gram float64 [K, K], positive definite. Every step sets one input's codes to
    those of least tr(D^T gram D), D the change of the weight, so no column ever gets worse.
    """
    codes = np.empty_like(coded.codes)
    for part in column_parts(*weight.shape):
        scale, zeros = row_grids(coded, part)
        shifted = coded.codes[:, part] - zeros
        error = weight[:, part].astype(np.float64) - shifted * scale
        sweep(shifted, error, gram, (scale, -zeros, top(coded.bits) - zeros))
        codes[:, part] = shifted + zeros
    return replace(coded, codes=codes)


def sweep(
    shifted: Doubles, error: Doubles, gram: Doubles, grids: Grids, held: Held | None = None
) -> None:
    """The same for codes less their zero points, in place, with what is left of the weight.

    shifted, error [K, N], error = weight - shifted * scale. grids: scale, lowest and highest code,
    each [K, N]. held: bool [K, N], codes that stay as they are.
    """
    for start in range(0, len(error), _PANEL):
        panel = slice(start, start + _PANEL)
        scale, lowest, highest = (grid[panel] for grid in grids)
        kept = None if held is None else held[panel]
        _sweep(shifted[panel], error, gram, panel, (scale, lowest, highest), kept)


def _sweep(
    shifted: Doubles,
    error: Doubles,
    gram: Doubles,
    panel: slice,
    grids: Grids,
    held: Held | None,
) -> None:
    """New codes (less zero points) of the inputs of one panel, and their errors, in place.

    The loss is least in the error of input i at -sum_j gram[i, j] error[j] / gram[i, i], over
    all other inputs j; the nearest code to that is the best one. ``moved``: what the errors have
    changed by since the products were made for the whole panel at once.
    """
    scale, lowest, highest = grids
    inside, square = error[panel], gram[panel, panel]
    moved = np.zeros_like(inside)
    for i, pull in enumerate(gram[panel] @ error):
        pull += square[i, :i] @ moved[:i]
        weight = inside[i] + shifted[i] * scale[i]
        aim = weight + pull / square[i, i] - inside[i]
        best = np.clip(np.rint(aim / scale[i]), lowest[i], highest[i])
        shifted[i] = best if held is None else np.where(held[i], shifted[i], best)
        moved[i] = weight - shifted[i] * scale[i] - inside[i]
        inside[i] += moved[i]
