"""How far sums of nodes are from whole models, and how well they rank.

What a run takes is a + b times the sum of its nodes: a for what lies around them, b for caches
that a model finds colder, or warmer, than a table did.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np


def fit_affine(sums: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """a, b of ``times ~ a + b sums``: least squares of relative errors, a not below 0, b above 0.

    Raises ValueError for fewer than two pairs, or times that are not above 0.
    """
    s, t = np.asarray(sums, np.float64), np.asarray(times, np.float64)
    if len(s) != len(t) or len(s) < 2 or not (t > 0).all() or not (s > 0).all():
        raise ValueError("a correction is fitted on two pairs of times above 0, or more")
    rows = np.stack([1 / t, s / t], axis=1)
    (a, b), *_ = np.linalg.lstsq(rows, np.ones(len(t)), rcond=None)
    if a < 0 or b <= 0:
        a, b = 0.0, float((s / t).sum() / ((s / t) ** 2).sum())
    return float(a), float(b)


def relative_error(predicted: float, actual: float) -> float:
    """|predicted - actual| / actual."""
    return abs(predicted - actual) / actual


def kendall_tau(first: Sequence[float], second: Sequence[float], tie: float = 0.0) -> float | None:
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
