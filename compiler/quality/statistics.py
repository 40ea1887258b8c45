"""Resampling statistics of paired measurements: two models on the same samples.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 13 and 16 (percentile
intervals); Miller, Adding Error Bars to Evals (arXiv 2411.00640), for pairing and power.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...ir.errors import InputError

Aggregate = Callable[[NDArray[Any]], float]

# Normal quantiles of a one-sided 5 % test and of 80 % power.
_Z_TEST, _Z_POWER = 1.6448536269514722, 0.8416212335729143
# Elements drawn at once: bounds the memory, whatever the number of samples.
_CHUNK = 1 << 21
# An interval from fewer of the resamples than this would be one of the easy ones only.
_LEAST_USABLE = 0.9


@dataclass(frozen=True)
class Interval:
    """Ends of a confidence interval, in the units of what it bounds."""

    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians with its two-sided interval."""

    value: float
    low: float
    high: float


def mean(samples: NDArray[Any]) -> float:
    """The mean of all values, float64: the default aggregate."""
    return float(np.mean(samples, dtype=np.float64))


def paired_bootstrap(
    before: NDArray[Any],
    after: NDArray[Any],
    aggregate_before: Aggregate,
    aggregate_after: Aggregate,
    *,
    resamples: int,
    seed: int,
) -> NDArray[np.float64]:
    """Aggregates of both models on resampled samples: [n, ...] twice -> float64 [resamples, 2].

    Axis 0 are the independent samples; each draw takes the same n of them, with
    replacement, for both models. An aggregate that raises or is not finite on a draw (a
    rank correlation of n equal samples, say) leaves NaN there. Means take no Python loop.
    """
    if len(before) != len(after) or len(before) == 0:
        raise InputError(f"{len(before)} and {len(after)} samples cannot be paired")
    rng = np.random.default_rng(seed)
    if _is_mean(aggregate_before) and _is_mean(aggregate_after):
        pairs = np.stack([_row_means(before), _row_means(after)], axis=1)
        drawn = [pairs[index].mean(axis=1) for index in _draws(rng, len(before), resamples)]
        return np.concatenate(drawn)
    results = np.empty((resamples, 2))
    position = 0
    for block in _draws(rng, len(before), resamples):
        for index in block:
            results[position, 0] = _tried(aggregate_before, before[index])
            results[position, 1] = _tried(aggregate_after, after[index])
            position += 1
    return results


def percentile_interval(draws: NDArray[np.float64], level: float = 0.95) -> Interval | None:
    """Two-sided percentile interval of draws [B]; None where over 10 % of them are NaN."""
    usable = _usable(draws)
    if usable is None:
        return None
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def upper_bound(draws: NDArray[np.float64], level: float = 0.95) -> float | None:
    """One-sided percentile bound of draws [B]; None where over 10 % of them are NaN."""
    usable = _usable(draws)
    return None if usable is None else float(np.quantile(usable, level))


def samples_needed(deviation: float, budget: float, drop: float = 0.0) -> int | None:
    """Samples with which a true ``drop`` is shown to be within ``budget``, 80 % of the time.

    deviation: standard deviation of one paired difference (for other aggregates than means,
    of the bootstrap draws times sqrt(n)); all three in units of the metric. The one-sided
    5 % non-inferiority test: n = (1.645 + 0.842)^2 (deviation / (budget - drop))^2. None
    where no number would do, as the drop is not below the budget.
    """
    margin = budget - drop
    if not margin > 0 or not math.isfinite(deviation):
        return None
    return max(1, math.ceil(((_Z_TEST + _Z_POWER) * deviation / margin) ** 2))


def median_ratio(
    above: ArrayLike, below: ArrayLike, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Ratio:
    """median(above) / median(below) of paired timings [n], with its percentile interval.

    Element i of both was measured in the same round, so that rounds are resampled whole and
    what slowed the machine in one of them counts for both. Raises InputError unless both
    hold the same number, two or more, of times above zero.
    """
    first, second = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or first.size < 2:
        raise InputError(
            f"timings of shapes {first.shape} and {second.shape} are no pairs of two rounds or more"
        )
    if not all(np.all(np.isfinite(times)) and np.all(times > 0) for times in (first, second)):
        raise InputError("a timing is not a positive, finite number of seconds")
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [
            np.median(first[index], axis=1) / np.median(second[index], axis=1)
            for index in _draws(rng, first.size, resamples)
        ]
    )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Ratio(float(np.median(first) / np.median(second)), float(low), float(high))


def _draws(rng: np.random.Generator, n: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Indices with replacement, [b, n] at a time, ``resamples`` rows in all."""
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        yield rng.integers(0, n, size=(min(rows, resamples - start), n))


def _is_mean(aggregate: Aggregate) -> bool:
    return aggregate in (mean, np.mean)


def _row_means(samples: NDArray[Any]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = np.mean(
        samples.reshape(len(samples), -1), axis=1, dtype=np.float64
    )
    return means


def _tried(aggregate: Aggregate, samples: NDArray[Any]) -> float:
    # A user's aggregate may raise anything on a draw that happens to be degenerate.
    try:
        with np.errstate(all="ignore"):
            value = float(aggregate(samples))
    except Exception:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _usable(draws: NDArray[np.float64]) -> NDArray[np.float64] | None:
    finite = draws[np.isfinite(draws)]
    return finite if finite.size and finite.size >= _LEAST_USABLE * draws.size else None
