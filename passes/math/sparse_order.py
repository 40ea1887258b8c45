"""An order of the inputs in which a pattern keeps more: channels that compete are put apart.

Source: Pool and Yu, Channel Permutations for N:M Sparsity (NeurIPS 2021): groups trade channels as
long as that raises the sum of the scores that are kept. Here groups meet in pairs, drawn anew each
round, and every pair makes its best trade; all trades of all pairs are judged at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .refit import Doubles
from .sparse import Pattern

Order = NDArray[np.int64]
_COLUMNS = 64
"""Outputs that trades are judged by: more tell little more."""
_ROUNDS = 40
_QUIET = 12
"""Rounds without a trade after which no pair is likely to have one left."""


def kept_score(scores: Doubles, pattern: Pattern) -> float:
    """Sum of the scores [K, N] that the pattern keeps."""
    return float(_kept(scores.reshape(-1, pattern.group, scores.shape[1]), pattern).sum())


def best_order(scores: Doubles, pattern: Pattern, rounds: int = _ROUNDS, seed: int = 0) -> Order:
    """Where each place of a new order of the inputs takes its channel from: int64 [K].

    scores: [K, N], none negative. Where no trade helps, the order as it is.
    """
    inputs, outputs = scores.shape
    groups = inputs // pattern.group
    if groups < 2 or pattern.keep == pattern.group:
        return np.arange(inputs)
    sample = scores[:, np.linspace(0, outputs - 1, min(outputs, _COLUMNS)).astype(np.int64)]
    order, random = np.arange(inputs).reshape(groups, pattern.group), np.random.default_rng(seed)
    quiet = 0
    for _ in range(rounds):
        drawn = random.permutation(groups)
        left, right = drawn[: groups // 2], drawn[groups // 2 : groups // 2 * 2]
        traded = _trade(sample, order, left, right, pattern)
        quiet = 0 if traded else quiet + 1
        if quiet > _QUIET:
            break
    return np.asarray(order.reshape(-1))


def _trade(scores: Doubles, order: Order, left: Order, right: Order, pattern: Pattern) -> bool:
    """Each pair of groups makes the trade of two channels that gains most; whether one did."""
    ours, theirs = scores[order[left]], scores[order[right]]
    before = _kept(ours, pattern).sum(axis=-1) + _kept(theirs, pattern).sum(axis=-1)
    best, place = before * (1 + 1e-12), np.full(len(left), -1)
    for number in range(pattern.group**2):
        i, j = divmod(number, pattern.group)
        one, other = ours.copy(), theirs.copy()
        one[:, i], other[:, j] = theirs[:, j], ours[:, i]
        after = _kept(one, pattern).sum(axis=-1) + _kept(other, pattern).sum(axis=-1)
        better = after > best
        best[better], place[better] = after[better], number
    found = np.flatnonzero(place >= 0)
    ours_at, theirs_at = np.divmod(place[found], pattern.group)
    held = order[left[found], ours_at].copy()
    order[left[found], ours_at] = order[right[found], theirs_at]
    order[right[found], theirs_at] = held
    return bool(len(found))


def _kept(grouped: Doubles, pattern: Pattern) -> Doubles:
    """Of each group [..., m, N], what its highest scores add up to: [..., N]."""
    ordered = np.partition(grouped, pattern.group - pattern.keep, axis=-2)
    return np.asarray(ordered[..., pattern.group - pattern.keep :, :].sum(axis=-2))
