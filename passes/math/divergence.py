"""Kullback-Leibler divergence of a histogram from its quantized form, for many ranges at once.

Source: S. Migacz, 8-bit Inference with TensorRT, GTC 2017, extended to two moving ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Data that lie far from zero would else be clipped to one value, which diverges from nothing.
_LEAST_KEPT = 0.99


def divergence(counts: Floats, starts: Ints, stops: Ints, levels: int) -> Floats:
    """Divergence of the data, clipped to bins [start, stop), from ``levels`` equal levels.

    counts [n]; starts, stops [C] with stop - start >= levels -> float64 [C], in nats. The
    data keep what is clipped in their outer bins; the candidate has only what is inside,
    each level spread over its non-empty bins. Infinite where clipped mass lies on a level
    that has none of its own. Running sums make the cost C * levels, whatever n is.
    """
    mass, filled = _running(counts), _running(counts > 0)
    first, last = counts[starts], counts[stops - 1]
    below, above = mass[starts], mass[-1] - mass[stops]
    width = (stops - starts)[:, None]
    bounds = starts[:, None] + np.arange(levels + 1) * width // levels
    own, bins = np.diff(mass[bounds], axis=1), np.diff(filled[bounds], axis=1)
    bins[:, 0] += (first == 0) & (below > 0)
    bins[:, -1] += (last == 0) & (above > 0)
    data = own.copy()
    data[:, 0] += below
    data[:, -1] += above
    inner = mass[stops] - mass[starts]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossed = np.where(data > 0, data * np.log(own / bins), 0.0).sum(axis=1)
    surprise = _running(_xlogx(counts))
    plain = surprise[stops] - surprise[starts]
    plain += _xlogx(first + below) - _xlogx(first) + _xlogx(last + above) - _xlogx(last)
    normaliser = np.log(np.where(inner > 0, inner, 1.0) / mass[-1])
    return np.where(inner > 0, (plain - crossed) / mass[-1] + normaliser, np.inf)


def least_divergent_window(counts: Floats, zero: int, levels: int) -> tuple[int, int]:
    """Bins [start, stop) around bin ``zero`` that diverge least, at least ``levels`` wide.

    A window keeps 99 % of the mass or more. Exhaustive where zero is the first or the last
    bin, else coarse to fine over both ends. The whole histogram where no window is wide enough.
    """
    n = counts.size
    if zero == 0:
        return _least(counts, np.zeros(1, dtype=np.int64), np.arange(n, 0, -1), levels)
    if zero == n - 1:
        return _least(counts, np.arange(n), np.full(1, n), levels)
    stride = max(n // 64, 1)
    starts, stops = np.arange(0, zero + 1, stride), np.arange(n, zero, -stride)
    start, stop = _least(counts, starts, stops, levels)
    while stride > 1:
        finer = max(stride // 8, 1)
        around = np.arange(-stride, stride + 1, finer)
        starts = np.unique(np.clip(start + around, 0, zero))
        stops = np.unique(np.clip(stop + around, zero + 1, n))[::-1]
        start, stop = _least(counts, starts, stops, levels)
        stride = finer
    return start, stop


def _least(counts: Floats, starts: Ints, stops: Ints, levels: int) -> tuple[int, int]:
    """The best window from any start to any stop; of equals the first, so the widest."""
    first, last = (axis.ravel() for axis in np.meshgrid(starts, stops))
    mass = _running(counts)
    kept = mass[last] - mass[first] >= _LEAST_KEPT * mass[-1]
    fit = kept & (last - first >= levels)
    first, last = first[fit], last[fit]
    if not first.size:
        return 0, int(counts.size)
    index = int(np.argmin(divergence(counts, first, last, levels)))
    return int(first[index]), int(last[index])


def _running(values: NDArray[Any]) -> Floats:
    sums: Floats = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return sums


def _xlogx(values: Floats) -> Floats:
    return values * np.log(np.where(values > 0, values, 1.0))
