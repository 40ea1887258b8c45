"""Contents of constants and feeds: random, tame where they are multiplied, odd now and then."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .draws import Draws

Array = npt.NDArray[Any]
Role = Literal[
    "matrix", "filters", "vector", "factor", "variance", "any", "uneven", "uneven filters"
]

EXTREMES = {"float32": 3e38, "float64": 1e300, "float16": 6e4}
FLOATS = tuple(EXTREMES)
_ODD_PERCENT = 25


def content(draws: Draws, shape: tuple[int, ...], dtype: str, role: Role = "any") -> Array:
    """An array for one purpose.

    matrix [in, out] and filters [out, in, ...] keep the size of what they are applied to;
    factor: around 1; variance: positive; vector: N(0, 0.3); any: N(0, 1). uneven: factors and
    filters whose channels have different ranges, so that there is something to equalize.
    """
    noise = draws.noise()
    if dtype == "bool":
        return noise.integers(0, 2, shape).astype(dtype)
    if dtype not in FLOATS:
        return noise.integers(-4 if dtype.startswith("int") else 0, 5, shape).astype(dtype)
    array = noise.standard_normal(shape)
    if role == "matrix":
        array *= max(shape[-2], 1) ** -0.5
    elif role in ("filters", "uneven filters"):
        array *= max(math.prod(shape[1:]), 1) ** -0.5
    elif role == "vector":
        array *= 0.3
    elif role == "factor":
        array = 1.0 + 0.1 * array
    if role.startswith("uneven"):
        spread = np.exp(1.2 * noise.standard_normal((shape[0],) + (1,) * (len(shape) - 1)))
        return np.asarray((array if len(shape) > 1 else 1.0) * spread, dtype)
    if role == "variance":
        return np.asarray(0.5 + array**2, dtype)
    if array.size and draws.chance(_ODD_PERCENT):
        array = _odd(draws, array, role)
    return np.asarray(array, dtype)


def extreme(draws: Draws, shape: tuple[int, ...], dtype: str) -> Array:
    """Finite values at the ends of the range, denormals and both zeros: to be moved, not added."""
    largest = EXTREMES[dtype]
    tiny = float(np.finfo(dtype).smallest_subnormal)
    values = np.array([largest, -largest, tiny, -tiny, 0.0, -0.0, 1.0], dtype)
    return values[draws.noise().integers(0, len(values), shape)]


def _odd(draws: Draws, array: Array, role: Role) -> Array:
    kind = draws.integer(0, 6)
    along = 0 if role == "filters" or array.ndim < 2 else -1
    if array.ndim and kind == 0:  # a channel far wider than the others
        _row(array, along, draws)[...] *= 30.0
    elif array.ndim and kind == 1:  # a dead channel
        _row(array, along, draws)[...] = 0.0
    elif array.ndim and kind == 2:  # two equal channels
        _row(array, along, draws)[...] = _row(array, along, draws).copy()
    elif kind == 3:
        array = np.where(draws.noise().random(array.shape) < 0.6, 0.0, array)
    elif kind == 4:
        array = np.where(draws.noise().random(array.shape) < 0.3, -0.0, array)
    elif kind == 5:
        array = np.where(draws.noise().random(array.shape) < 0.3, 1e-41, array)
    else:
        array = np.full(array.shape, draws.pick([0.0, 1.0, 0.5, -1.0]))
    return array


def _row(array: Array, axis: int, draws: Draws) -> Array:
    place = draws.integer(0, array.shape[axis] - 1)
    return np.moveaxis(array, axis, 0)[place, ...]
