"""How far sums of nodes are from whole models, and how well they rank.

What a run takes is a + b times the sum of its nodes: a for what lies around them, b for caches
that a model finds colder, or warmer, than a table did.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_ROUNDS = 50
_SMALL = 1e-3


def fit_affine(
    sums: Sequence[float] | Array, times: Sequence[float] | Array
) -> tuple[float, float]:
    """a, b of ``times ~ a + b sums`` with the least sum of |relative error|; a in [0, least time].

    Absolute errors, so that one model that is quite off does not move all others (iteratively
    reweighted least squares). Raises ValueError for fewer than two pairs, or times not above 0.
    """
    s, t = np.asarray(sums, np.float64), np.asarray(times, np.float64)
    if len(s) != len(t) or len(s) < 2 or not (t > 0).all() or not (s > 0).all():
        raise ValueError("a correction is fitted on two pairs of times above 0, or more")
    weights = np.ones(len(t))
    a, b = 0.0, 1.0
    for _ in range(_ROUNDS):
        a, b = _weighted(s / t, 1 / t, weights)
        weights = 1 / np.maximum(_SMALL, abs(a / t + b * s / t - 1))
    return a, b


def _weighted(slopes: Array, offsets: Array, weights: Array) -> tuple[float, float]:
    """Weighted least squares of ``a offsets + b slopes ~ 1``, a within its bounds."""
    root = np.sqrt(weights)
    rows = np.stack([offsets, slopes], axis=1) * root[:, None]
    (a, b), *_ = np.linalg.lstsq(rows, root, rcond=None)
    most = 1 / offsets.max()
    if not 0 <= a <= most or b <= 0:
        a = min(max(a, 0.0), most) if b > 0 else 0.0
        rest = 1 - a * offsets
        b = (weights * slopes * rest).sum() / (weights * slopes**2).sum()
    return float(a), float(b)


def relative_error(predicted: float, actual: float) -> float:
    """|predicted - actual| / actual."""
    return abs(predicted - actual) / actual


def kendall_tau(
    first: Sequence[float] | Array, second: Sequence[float] | Array, tie: float = 0.0
) -> float | None:
    """Kendall's rank correlation of two lists; pairs of ``second`` within ``tie`` do not count.

    tie: relative difference below which two of ``second`` are one. None where no pair counts.
    """
    signs = []
    for i, j in combinations(range(len(first)), 2):
        apart = abs(second[i] - second[j])
        if apart <= tie * min(second[i], second[j]) or apart == 0:
            continue
        signs.append(np.sign(first[i] - first[j]) * np.sign(second[i] - second[j]))
    return float(np.mean(signs)) if signs else None
