"""Expected squared error of an affine grid over a histogram, and the range that least has it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .affine import affine_grids, integer_limits
from .histogram import Histogram, split_zero

Floats = NDArray[np.float64]

_DEEPEST = 8.0  # octaves by which an end may shrink
_FINEST = 0.02  # octaves between the candidates of the last round


def expected_error(
    histogram: Histogram, lows: Floats, highs: Floats, *, dtype: str, symmetric: bool
) -> Floats:
    """Summed squared error of rounding and clipping to each range: lows, highs [C] -> [C].

    Values are uniform inside a bin; zeros are exact. With t = x / scale the error is
    (t - k)^2, k the nearest code the grid has; its integral over t is k/12 + (t - k)^3 / 3,
    continuous from one code to the next and beyond the last. In squared units of the tensor.
    """
    counts, _ = split_zero(histogram)
    scale, zero_point = affine_grids(lows, highs, dtype=dtype, symmetric=symmetric)
    qmin, qmax = integer_limits(dtype)
    step = scale.astype(np.float64)[:, None]
    position = histogram.edges / step
    code = np.clip(np.rint(position), (qmin - zero_point)[:, None], (qmax - zero_point)[:, None])
    position -= code
    integral = position * position
    integral *= position
    integral /= 3.0
    code /= 12.0
    integral += code
    width = (histogram.hi - histogram.lo) / counts.size
    error: Floats = (np.diff(integral, axis=1) @ counts) * step[:, 0] ** 3 / width
    return error


def least_squares_range(
    histogram: Histogram, lo: float, hi: float, *, dtype: str, symmetric: bool
) -> tuple[float, float]:
    """The range within [lo, hi] of least expected error, to about 1 % of each end.

    Coarse to fine over lo * 2^-a and hi * 2^-b, 0 <= a, b <= 8, a = b where symmetric. The
    whole range is among the candidates. lo <= 0 <= hi.
    """
    best, reach, points = np.zeros(2), _DEEPEST, 17
    offsets = np.linspace(0.0, reach, points)
    while reach > _FINEST:
        pairs = np.maximum(best + _pairs(offsets, lo < 0, hi > 0, symmetric), 0.0)
        lows, highs = lo * 2.0 ** -pairs[:, 0], hi * 2.0 ** -pairs[:, 1]
        error = expected_error(histogram, lows, highs, dtype=dtype, symmetric=symmetric)
        best = pairs[int(np.argmin(error))]
        reach, points = float(offsets[1] - offsets[0]), 7
        offsets = np.linspace(-reach, reach, points)
    return float(lo * 2.0 ** -best[0]), float(hi * 2.0 ** -best[1])


def _pairs(offsets: Floats, below: bool, above: bool, joined: bool) -> Floats:
    """Offsets of both ends, [C, 2]; an end that is at zero has nothing to search."""
    if joined:
        return np.stack([offsets, offsets], axis=1)
    none = np.zeros(1)
    grid = np.meshgrid(offsets if below else none, offsets if above else none)
    return np.stack([axis.ravel() for axis in grid], axis=1)
