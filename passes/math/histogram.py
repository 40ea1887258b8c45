"""Histograms of activations: what a calibrator knows of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import InputError

BINS = 2048


@dataclass(frozen=True, eq=False)
class Histogram:
    """Mass of a tensor's values over equal bins from ``lo`` to ``hi``.

    counts: float64 [n], n >= 2, none negative (fractions come from weights and re-binning).
    A value on an inner edge belongs to the bin above it; values beyond lo and hi, where
    there are any, are counted in the outer bins. minimum, maximum: the exact extremes.
    Raises InputError when the fields contradict each other.
    """

    lo: float
    hi: float
    counts: NDArray[np.float64]
    minimum: float
    maximum: float

    def __post_init__(self) -> None:
        counts = np.asarray(self.counts, dtype=np.float64)
        object.__setattr__(self, "counts", counts)
        ends = (self.lo, self.hi, self.minimum, self.maximum)
        if not np.all(np.isfinite(ends)) or self.lo > self.hi or self.minimum > self.maximum:
            raise InputError(
                f"no histogram can span {self.lo} to {self.hi} "
                f"with extremes {self.minimum} and {self.maximum}",
                hint="look for NaN or infinite values in the calibration data or the model",
            )
        if counts.ndim != 1 or counts.size < 2 or not np.all(counts >= 0):
            raise InputError("the counts of a histogram must be two or more numbers, none negative")

    @classmethod
    def of(cls, values: NDArray[Any], bins: int = BINS) -> Histogram:
        """Histogram of all elements of ``values`` (any shape, not empty, finite)."""
        flat = np.asarray(values, dtype=np.float64).ravel()
        if flat.size == 0 or not np.all(np.isfinite(flat)):
            raise InputError("a histogram needs one value or more, all of them finite")
        lo, hi = float(flat.min()), float(flat.max())
        place = (flat - lo) * (bins / (hi - lo)) if hi > lo else np.zeros_like(flat)
        index = np.minimum(place.astype(np.int64), bins - 1)
        return cls(lo, hi, np.bincount(index, minlength=bins).astype(np.float64), lo, hi)

    @cached_property
    def edges(self) -> NDArray[np.float64]:
        """Bin edges, float64 [n + 1]."""
        return np.linspace(self.lo, self.hi, self.counts.size + 1)

    @cached_property
    def cumulative(self) -> NDArray[np.float64]:
        """Mass below each edge, float64 [n + 1]."""
        return np.concatenate([[0.0], np.cumsum(self.counts)])

    @property
    def total(self) -> float:
        """How many values were counted."""
        return float(self.cumulative[-1])

    def mass_below(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mass below each point, linear inside a bin (uniform density there)."""
        if self.hi > self.lo:
            return np.interp(points, self.edges, self.cumulative)
        return np.where(points > self.lo, self.total, 0.0)


def rebin(histogram: Histogram, lo: float, hi: float, bins: int = BINS) -> Histogram:
    """The same mass over other bins; [lo, hi] must contain the histogram's own range."""
    if histogram.lo == lo and histogram.hi == hi and histogram.counts.size == bins:
        return histogram
    points = np.linspace(lo, hi, bins + 1)
    counts = _masses(histogram.mass_below(points), histogram.total)
    return Histogram(lo, hi, counts, histogram.minimum, histogram.maximum)


def fold(histogram: Histogram, bins: int = BINS) -> Histogram:
    """The histogram of |x|, over [0, the end farther from zero]."""
    top = max(-histogram.lo, histogram.hi)
    points = np.linspace(0.0, top, bins + 1)
    inside = histogram.mass_below(points) - histogram.mass_below(-points)
    largest = max(-histogram.minimum, histogram.maximum)
    return Histogram(0.0, top, _masses(inside, histogram.total), 0.0, largest)


def merge_histograms(histograms: Sequence[Histogram], bins: int = BINS) -> Histogram:
    """One histogram of all the data, over the union of the ranges; mass is conserved."""
    if not histograms:
        raise InputError("there is no histogram to merge")
    lo = min(h.lo for h in histograms)
    hi = max(h.hi for h in histograms)
    counts = np.sum([rebin(h, lo, hi, bins).counts for h in histograms], axis=0)
    minimum = min(h.minimum for h in histograms)
    return Histogram(lo, hi, counts, minimum, max(h.maximum for h in histograms))


def split_zero(histogram: Histogram) -> tuple[NDArray[np.float64], float]:
    """Counts without the spike at exactly zero, and the mass of that spike.

    A ReLU leaves most of its values at zero, which every affine grid represents exactly.
    The spike is what the bin of zero holds above the larger of its neighbours.
    """
    counts = histogram.counts
    if not histogram.lo <= 0.0 <= histogram.hi or histogram.lo == histogram.hi:
        return counts, 0.0
    width = (histogram.hi - histogram.lo) / counts.size
    index = min(int(-histogram.lo / width), counts.size - 1)
    neighbours = counts[[i for i in (index - 1, index + 1) if 0 <= i < counts.size]]
    spike = max(float(counts[index] - neighbours.max()), 0.0)
    smooth = counts.copy()
    smooth[index] -= spike
    return smooth, spike


def _masses(below: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """Mass between points, [n + 1] -> [n], from the mass below each."""
    below[0], below[-1] = 0.0, total
    masses = np.diff(below)
    # Edges that agree but for rounding leak dust into empty bins; entropy would call it data.
    masses[masses < total * 1e-12] = 0.0
    return masses
