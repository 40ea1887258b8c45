"""Calibrators: from the histogram of an activation to the range that its codes cover.

Each takes ``(histogram, *, dtype, symmetric)`` and returns (lo, hi) with lo <= 0 <= hi, in
the units of the tensor, never beyond its exact extremes. Symmetric: lo = -hi. Data of one
sign keep the other end at zero. A constant tensor always gets its exact range.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ...ir.errors import UsageError
from .affine import integer_limits
from .clipping import least_squares_range
from .divergence import least_divergent_window
from .histogram import BINS, Histogram, fold, merge_histograms, rebin, split_zero

__all__ = [
    "CALIBRATORS",
    "Calibrator",
    "Histogram",
    "entropy",
    "merge_histograms",
    "minmax",
    "mse",
    "percentile",
]


# Histograms are compared by identity, and the same ones are asked for in every build of a compile.
_kept = functools.lru_cache(maxsize=1024)


class Calibrator(Protocol):
    """Chooses the range (lo, hi) that a quantizer covers, from a histogram of the values."""

    def __call__(
        self, histogram: Histogram, *, dtype: str, symmetric: bool
    ) -> tuple[float, float]: ...


def minmax(histogram: Histogram, *, dtype: str, symmetric: bool) -> tuple[float, float]:
    """The whole range: no value is clipped."""
    integer_limits(dtype)
    lo, hi = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    return (-max(-lo, hi), max(-lo, hi)) if symmetric else (lo, hi)


def percentile(
    histogram: Histogram, *, dtype: str, symmetric: bool, p: float = 99.999
) -> tuple[float, float]:
    """The range that holds ``p`` percent of the values; what is cut is cut evenly.

    Symmetric: the percentile of |x|. Asymmetric: half of the rest at each end, all of it at
    the only end of data of one sign. Raises UsageError unless 50 <= p <= 100.
    """
    if not 50 <= p <= 100:
        raise UsageError(f"a percentile of {p} is not between 50 and 100")
    lo, hi = minmax(histogram, dtype=dtype, symmetric=symmetric)
    if p == 100 or _is_constant(histogram):
        return lo, hi
    tail = histogram.total * (1 - p / 100)
    if symmetric:
        top = min(
            _value_below(folded := fold(histogram, _bins(histogram)), folded.total - tail), hi
        )
        return (-top, top) if top > 0 else (lo, hi)
    share = tail / 2 if lo < 0 < hi else tail
    low = min(max(_value_below(histogram, share), lo), 0.0) if lo < 0 else 0.0
    high = max(min(_value_below(histogram, histogram.total - share), hi), 0.0) if hi > 0 else 0.0
    return (low, high) if low < high else (lo, hi)


@_kept
def mse(histogram: Histogram, *, dtype: str, symmetric: bool) -> tuple[float, float]:
    """The range of least expected squared error, rounding and clipping taken together."""
    lo, hi = minmax(histogram, dtype=dtype, symmetric=symmetric)
    if _is_constant(histogram):
        return lo, hi
    return least_squares_range(histogram, lo, hi, dtype=dtype, symmetric=symmetric)


@_kept
def entropy(histogram: Histogram, *, dtype: str, symmetric: bool) -> tuple[float, float]:
    """The range whose quantized histogram diverges least (Kullback-Leibler) from the data's.

    Symmetric: 128 levels of |x|. Asymmetric: 256 levels from lo to hi, both searched for
    data of both signs. Zeros are left out: they are exact, and a ReLU's would drown the rest.
    """
    lo, hi = minmax(histogram, dtype=dtype, symmetric=symmetric)
    if _is_constant(histogram):
        return lo, hi
    data = fold(histogram, _bins(histogram)) if symmetric else _with_zero(histogram)
    counts, _ = split_zero(data)
    if not counts.any():
        return lo, hi
    levels = 128 if symmetric else 256
    start, stop = least_divergent_window(counts, _zero_bin(data), levels)
    low, high = max(float(data.edges[start]), lo), min(float(data.edges[stop]), hi)
    return (-high, high) if symmetric else (min(low, 0.0), max(high, 0.0))


CALIBRATORS: Mapping[str, Calibrator] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}


def _is_constant(histogram: Histogram) -> bool:
    return histogram.lo == histogram.hi or histogram.minimum == histogram.maximum


def _value_below(histogram: Histogram, mass: float) -> float:
    """The value below which ``mass`` lies."""
    return float(np.interp(mass, histogram.cumulative, histogram.edges))


def _bins(histogram: Histogram) -> int:
    return max(BINS, int(histogram.counts.size))


def _with_zero(histogram: Histogram) -> Histogram:
    """The same histogram over a range that contains zero."""
    if histogram.lo <= 0.0 <= histogram.hi:
        return histogram
    lo, hi = min(histogram.lo, 0.0), max(histogram.hi, 0.0)
    return rebin(histogram, lo, hi, _bins(histogram))


def _zero_bin(histogram: Histogram) -> int:
    width = (histogram.hi - histogram.lo) / histogram.counts.size
    return min(int(-histogram.lo / width), int(histogram.counts.size) - 1)
