"""4-bit floats whose errors make up for each other on real inputs (GPTQ).

Sources: Frantar et al., GPTQ (arXiv 2210.17323), with scales fixed beforehand and inputs in order
of falling energy; Behdin et al., QuantEase (arXiv 2309.01885), for the sweeps. As ``gptq`` and
``descent`` do for integers, here with the codes of E2M1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .blockcodes import Doubles, checked_weight, column_parts
from .float4 import BLOCK, Float4Codes, round_e2m1, round_float4
from .float8 import E4M3
from .gptq import checked_gram, unit_factor

_PANEL = 128  # inputs between two matrix products


def gptq_float4(
    weight: ArrayLike, gram: ArrayLike, *, search: bool = True, damp: float = 0.01, sweeps: int = 2
) -> Float4Codes:
    """Codes of a weight [K, N] that lose little of x @ weight, by gram = E[x x^T] [K, K].

    Scales are those of ``round_float4``, weighted with the root of the gram's diagonal. sweeps:
    how often each input's codes are then chosen anew, all others given. damp: as ``gptq_blocks``.
    Where the gram is zero, plain rounding is all. Raises InputError and UsageError as both do.
    """
    array = checked_weight(weight)
    energy, matrix = checked_gram(gram, len(array))
    # Errors will be made up for, so no input counts with all of its energy, as with integers.
    start = round_float4(array, importance=np.sqrt(energy), search=search)
    if not energy.any():
        return start
    order = np.argsort(-energy, kind="stable")
    damped, factor = unit_factor(matrix, order, damp)
    codes = np.empty(array.shape, E4M3)
    for part in column_parts(*array.shape):
        w, steps = array[:, part].astype(np.float64), _steps(start, part)
        made = np.empty_like(w)
        made[order] = _fed_forward(w[order], steps[order], factor)
        for _ in range(sweeps):
            made = _swept(w, steps, made, damped)
        codes[:, part] = made.astype(np.float32).astype(E4M3)
    return replace(start, codes=codes)


def _steps(coded: Float4Codes, part: slice) -> Doubles:
    """What a code of 1 stands for, float64 [K, outputs]."""
    steps = coded.block_scales[:, part].astype(np.float32) * coded.scale
    return np.asarray(np.repeat(steps, BLOCK, axis=0), np.float64)


def _nearest(aim: Doubles, step: Doubles) -> NDArray[Any]:
    return round_e2m1((aim / step).astype(np.float32)).astype(np.float64)


def _fed_forward(w: Doubles, steps: Doubles, factor: Doubles) -> Doubles:
    """Codes of inputs in order, each rounded after the errors of all before it are added."""
    error, made = np.empty_like(w), np.empty_like(w)
    for start in range(0, len(w), _PANEL):
        panel = slice(start, start + _PANEL)
        wanted = w[panel] + factor[:start, panel].T @ error[:start]
        for i, aim in enumerate(wanted, start):
            aim += factor[start:i, i] @ error[start:i]
            made[i] = _nearest(aim, steps[i])
            error[i] = w[i] - made[i] * steps[i]
    return made


def _swept(w: Doubles, steps: Doubles, made: Doubles, gram: Doubles) -> Doubles:
    """The codes after one sweep: each input's are those of least tr(D^T gram D), D the error."""
    codes = made.copy()
    error = w - codes * steps
    for start in range(0, len(w), _PANEL):
        panel = slice(start, start + _PANEL)
        inside, square, moved = error[panel], gram[panel, panel], np.zeros_like(error[panel])
        for i, pull in enumerate(gram[panel] @ error):
            pull += square[i, :i] @ moved[:i]
            aim = codes[start + i] * steps[start + i] + pull / square[i, i]
            code = _nearest(aim, steps[start + i])
            moved[i] = (codes[start + i] - code) * steps[start + i]
            codes[start + i] = code
            inside[i] += moved[i]
    return codes
