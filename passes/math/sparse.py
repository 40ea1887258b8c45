"""Which weights become zero: at most n of every m in a row along the inputs, or the least anywhere.

A weight W [K, N] with y = x W has its groups along axis 0: rows 0 to m - 1 of a column, the m rows
behind them, and so on. Sources: Mishra et al., Accelerating Sparse Deep Neural Networks (arXiv
2104.08378), for patterns; Sun et al., Wanda (arXiv 2306.11695); Frantar and Alistarh, SparseGPT
(arXiv 2301.00774), here with all weights of a group that go chosen together.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .refit import Doubles

Mask = NDArray[np.bool_]
LARGEST = 127
"""Code of 8 bits, its sign aside."""
_PANEL = 128  # inputs between two products of whole matrices


@dataclass(frozen=True)
class Pattern:
    """``keep`` of ``group`` weights in a row stay: 2:4 is Pattern(2, 4)."""

    keep: int
    group: int

    @classmethod
    def of(cls, text: str) -> Pattern:
        """From "2:4"."""
        keep, group = text.split(":")
        return cls(int(keep), int(group))

    @property
    def share(self) -> float:
        """Of the weights, those that become zero."""
        return 1 - self.keep / self.group


def holds(weight: ArrayLike, pattern: Pattern) -> bool:
    """Whether each group of each column [K, N] has at most ``keep`` weights that are not zero."""
    array = np.asarray(weight)
    if array.shape[0] % pattern.group:
        return False
    counts = np.count_nonzero(array.reshape(-1, pattern.group, array.shape[1]), axis=1)
    return bool(counts.max(initial=0) <= pattern.keep)


# -- masks of the highest scores -----------------------------------------------------------


def pattern_mask(scores: Doubles, pattern: Pattern) -> Mask:
    """The ``keep`` highest scores of every group stay, of equal ones the first: bool [K, N]."""
    grouped = scores.reshape(-1, pattern.group, scores.shape[1])
    order = np.argsort(-grouped, axis=1, kind="stable")
    mask = np.zeros(grouped.shape, bool)
    np.put_along_axis(mask, order[:, : pattern.keep], True, axis=1)
    return mask.reshape(scores.shape)


def share_mask(scores: Doubles, share: float) -> Mask:
    """The lowest ``share`` of each column goes, ties the last first: bool [K, N]."""
    gone = round(share * len(scores))
    order = np.argsort(scores[::-1], axis=0, kind="stable")[:gone]
    mask = np.ones(scores.shape, bool)
    np.put_along_axis(mask, len(scores) - 1 - order, False, axis=0)
    return mask


def block_mask(scores: Doubles, share: float, block: int) -> Mask:
    """Blocks of ``block`` inputs by ``block`` outputs go, the ``share`` with the lowest sums.

    What is left over at the edges forms smaller blocks, judged by their means. bool [K, N].
    """
    inputs, outputs = scores.shape
    rows, columns = np.arange(0, inputs, block), np.arange(0, outputs, block)
    sums = np.add.reduceat(np.add.reduceat(scores, rows, axis=0), columns, axis=1)
    sizes = np.outer(np.diff([*rows, inputs]), np.diff([*columns, outputs]))
    order = np.argsort((sums / sizes).reshape(-1), kind="stable")
    kept = np.ones(sums.size, bool)
    kept[order[: round(share * sums.size)]] = False
    places = np.ix_(np.arange(inputs) // block, np.arange(outputs) // block)
    return np.asarray(kept.reshape(sums.shape)[places])


def saliency(weight: Doubles, energy: Doubles | None) -> Doubles:
    """Wanda's score squared, W_ij^2 E[x_i^2]; without an energy [K] that of magnitude, W_ij^2."""
    squares = np.square(weight)
    return squares if energy is None else np.asarray(squares * energy[:, None])


# -- one group after another ---------------------------------------------------------------


def sparsegpt(
    weight: Doubles, moments: Doubles, pattern: Pattern, scale: Doubles | None = None
) -> tuple[Doubles, Mask]:
    """A weight [K, N] with the pattern, whose errors later inputs make up for, and its mask.

    moments: [K, K] of the inputs, positive definite (``refit.damped``). Groups are taken in order.
    With H the moments of a group and of all inputs behind it, leaving out the weights S of one
    column costs w_S^T [H^-1]_SS^-1 w_S when the others are fitted; the cheapest S of the group
    goes, then w -= H^-1[:, S] [H^-1]_SS^-1 w_S. Takes about K^3 + K^2 N flops.
    scale: [N]; the others of the group are then rounded one by one to multiples of it, up to
    ``LARGEST``, the rest of the group and all behind it making up for that, too; and the cheapest
    S is the one that costs least with all that was rounded.
    """
    inputs, size = len(weight), pattern.group
    factor = inverse_factor(moments)
    made, mask = weight.copy(), np.ones(weight.shape, bool)
    held = np.zeros_like(made)
    for start in range(0, inputs, panel := max(_PANEL // size, 1) * size):
        stop = min(start + panel, inputs)
        made[start:stop] -= factor[:start, start:stop].T @ held[:start]
        for first in range(start, stop, size):
            here, behind = slice(first, first + size), slice(first, stop)
            held[here], mask[here] = _cheapest(made[here], factor[here, here], pattern, scale)
            made[behind] -= factor[here, behind].T @ held[here]
    return np.where(mask, made, 0.0), mask


def inverse_factor(moments: Doubles) -> Doubles:
    """The upper R with moments^-1 = R^T R; its last rows and columns are those of the last inputs.

    From the Cholesky factor of the matrix read backwards, without squaring its condition.
    """
    lower = np.linalg.cholesky(moments[::-1, ::-1])
    return np.asarray(np.triu(np.linalg.inv(lower[::-1, ::-1])))


def _cheapest(
    weight: Doubles, factor: Doubles, pattern: Pattern, scale: Doubles | None
) -> tuple[Doubles, Mask]:
    """For each column of one group [m, N] the set that goes: what moves [m, N], and what stays.

    factor: R of the group, [m, m]. The squared length of a move is its cost.
    """
    best = np.full(weight.shape[1], np.inf)
    moves, mask = np.zeros_like(weight), np.ones(weight.shape, bool)
    for chosen in map(list, combinations(range(pattern.group), pattern.group - pattern.keep)):
        move = _move(weight, factor, chosen)
        if scale is not None:
            move = _rounded(weight, factor, chosen, move, scale)
        cost = np.einsum("mn,mn->n", move, move)
        better = cost < best
        best[better], moves[:, better] = cost[better], move[:, better]
        mask[:, better] = True
        mask[np.ix_(np.array(chosen), np.flatnonzero(better))] = False
    return moves, mask


def _move(change: Doubles, factor: Doubles, chosen: list[int]) -> Doubles:
    """What takes ``change`` [m, N] from the weights S of a group at least cost: with A = R[:, S],
    A (A^T A)^-1 change_S, of which R^T times goes from the group."""
    spread = factor[:, chosen]
    return np.asarray(spread @ np.linalg.solve(spread.T @ spread, change[chosen]))


def _rounded(
    weight: Doubles, factor: Doubles, chosen: list[int], move: Doubles, scale: Doubles
) -> Doubles:
    """What moves when those that stay are rounded, too, the first of them first."""
    change, done = weight.copy(), list(chosen)
    for row in (row for row in range(len(weight)) if row not in chosen):
        now = weight[row] - factor[:, row] @ move
        change[row] -= np.clip(np.rint(now / scale), -LARGEST, LARGEST) * scale
        done.append(row)
        move = _move(change, factor, done)
    return move
