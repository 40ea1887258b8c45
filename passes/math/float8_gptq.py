"""8-bit floats whose errors make up for each other on real inputs (GPTQ).

Sources: Frantar et al., GPTQ (arXiv 2210.17323), with one scale fixed beforehand and inputs in
order of falling energy; Behdin et al., QuantEase (arXiv 2309.01885), for the sweep behind it. As
``gptq`` does for integers and ``float4_gptq`` for blocks of 4 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .blockcodes import Doubles, checked_weight, column_parts
from .float8 import round_to_float8
from .gptq import checked_gram, unit_factor

_PANEL = 128  # inputs between two matrix products


def gptq_float8(
    weight: ArrayLike, gram: ArrayLike, scale: np.float32, *, damp: float = 0.01, sweeps: int = 1
) -> NDArray[Any]:
    """E4M3 codes of a weight [K, N] that lose little of x @ weight, by gram = E[x x^T] [K, K].

    The gram may be in any unit; damp: as ``gptq_blocks``. sweeps: how often each input's codes are
    then chosen anew, all others given. Zeros stay zeros, in patterns or not. Where the gram is
    zero, plain rounding is all.
    Raises InputError for a weight or gram that is not finite or does not fit.
    """
    array = checked_weight(weight)
    energy, matrix = checked_gram(gram, len(array))
    if not energy.any():
        return round_to_float8(array, scale)
    order = np.argsort(-energy, kind="stable")
    damped, factor = unit_factor(matrix, order, damp)
    made = np.empty(array.shape, np.float64)
    for part in column_parts(*array.shape):
        w, found = array[:, part].astype(np.float64), np.empty((len(array), part.stop - part.start))
        found[order] = _fed_forward(w[order], factor, scale)
        for _ in range(sweeps):
            found = _swept(w, found, damped, scale)
        made[:, part] = found
    return round_to_float8(made, scale)


def _nearest(aim: Doubles, scale: np.float32) -> Doubles:
    return np.asarray(round_to_float8(aim, scale).astype(np.float32) * scale, np.float64)


def _fed_forward(w: Doubles, factor: Doubles, scale: np.float32) -> Doubles:
    """Rounded rows in order, each after the errors of all before it are added."""
    error, made = np.empty_like(w), np.empty_like(w)
    for start in range(0, len(w), _PANEL):
        panel = slice(start, start + _PANEL)
        wanted = w[panel] + factor[:start, panel].T @ error[:start]
        for i, aim in enumerate(wanted, start):
            aim += factor[start:i, i] @ error[start:i]
            made[i] = np.where(w[i] == 0, 0.0, _nearest(aim, scale))
            error[i] = w[i] - made[i]
    return made


def _swept(w: Doubles, made: Doubles, gram: Doubles, scale: np.float32) -> Doubles:
    """After one sweep: each row is the one of least tr(D^T gram D), D the error, all else given."""
    found = made.copy()
    error = w - found
    for start in range(0, len(w), _PANEL):
        panel = slice(start, start + _PANEL)
        square, moved = gram[panel, panel], np.zeros_like(error[panel])
        for i, pull in enumerate(gram[panel] @ error):
            pull += square[i, :i] @ moved[:i]
            aim = found[start + i] + pull / square[i, i]
            row = np.where(w[start + i] == 0, 0.0, _nearest(aim, scale))
            moved[i] = found[start + i] - row
            found[start + i] = row
        error[panel] += moved
    return found
