"""Which units of an axis can go, and what that costs the layers that read the axis.

A reader is a weight W [K, N] with y = x W; C [K, K] holds the second moments of its inputs x, about
their mean where a bias takes the mean back. When the rows R go and those that stay are fitted to
make up for them (``refit``), the squared error of y grows by

    tr(W_R^T ([C^-1]_RR)^-1 W_R).

Of one input that is the optimal brain surgeon's |W_j|^2 / [C^-1]_jj. Of all inputs of a head it is
tr(W_h^T S W_h) with the Schur complement S = C_hh - C_hr C_rr^-1 C_rh, what of the head no other
input tells. Sources: Hassibi and Stork, Optimal Brain Surgeon (NIPS 1992); Kurtic et al., ZipLM
(arXiv 2302.04089), for blocks one after another; Sun et al., Wanda (arXiv 2306.11695); An et al.,
FLAP (arXiv 2312.11983).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .refit import Doubles, inverted

Indices = NDArray[np.int64]
Units = tuple[NDArray[Any], Indices]
"""A weight [K, ...] with the axis in front, and the positions [units, k] of each unit along it, -1
where a unit has fewer."""
_PANEL = 32
"""Units between two updates of whole matrices."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A weight that reads the axis. weight: float64 [K, N]. moments: float64 [K, K] of its inputs,
    a row of data, invertible (``damped``). index: int64 [units, k], the rows of each unit, -1 where
    a unit has fewer."""

    weight: Doubles
    moments: Doubles
    index: Indices


@dataclass(frozen=True, eq=False)
class Removal:
    """Units in the order in which they go, int64 [count], and what each costs, float64 [count]."""

    order: Indices
    costs: Doubles


# -- scores of single units ----------------------------------------------------------------


def magnitude(made: Sequence[Units], read: Sequence[Units]) -> Doubles:
    """Norm of the weights that make a unit times that of those that read it, float64 [units].

    Biases make nothing: leave them out.
    """
    return np.asarray(np.sqrt(_squares(made) * _squares(read)))


def _squares(parts: Sequence[Units]) -> Doubles:
    if not parts:
        return np.ones(1)
    total = np.zeros(len(parts[0][1]))
    for weight, index in parts:
        rows = np.square(np.asarray(weight, np.float64)).reshape(len(weight), -1).sum(axis=1)
        total += np.append(rows, 0.0)[index].sum(axis=1)  # no position is the last one
    return total


def weighted(readers: Sequence[Reader]) -> Doubles:
    """Energy that each unit brings to the outputs, float64 [units]: sum_j C_jj |W_j|^2.

    With moments about zero that is Wanda's score of whole rows, with those about the mean FLAP's:
    a unit that hardly varies can be replaced by a bias.
    """
    return np.asarray(np.sum([_energies(reader) for reader in readers], axis=0))


def _energies(reader: Reader) -> Doubles:
    rows = np.einsum("kn,kn->k", reader.weight, reader.weight) * np.diagonal(reader.moments)
    return np.asarray(np.append(rows, 0.0)[reader.index].sum(axis=1))  # no row is the last one


def by_score(scores: Doubles, count: int) -> Removal:
    """The ``count`` units of the lowest scores; ties go to the first."""
    order = np.argsort(scores, kind="stable")[:count]
    return Removal(order.astype(np.int64), np.asarray(scores)[order])


# -- one after another ---------------------------------------------------------------------


def second_order(readers: Sequence[Reader], count: int) -> Removal:
    """``count`` units, each the cheapest once those before it are gone and made up for.

    Exact: costs[:n].sum() is the whole cost of the first n, over all readers. Takes about
    2 K^3 / 3 + count K (2 N + K) flops a reader.
    """
    states = [_Elimination(_filled(reader)) for reader in readers]
    gone = np.zeros(len(readers[0].index), bool)
    order, costs = np.empty(count, np.int64), np.empty(count)
    for step in range(count):
        total = np.sum([state.costs() for state in states], axis=0)
        unit = int(np.argmin(np.where(gone, np.inf, total)))
        order[step], costs[step], gone[unit] = unit, max(float(total[unit]), 0.0), True
        for state in states:
            state.remove(unit)
    return Removal(order, costs)


def _filled(reader: Reader) -> Reader:
    """Where a unit has fewer rows than others, rows of its own that nothing reads."""
    missing = reader.index < 0
    count, inputs = int(missing.sum()), len(reader.weight)
    if not count:
        return reader
    index = reader.index.copy()
    index[missing] = inputs + np.arange(count)
    weight = np.concatenate([reader.weight, np.zeros((count, reader.weight.shape[1]))])
    moments = np.eye(inputs + count) * float(np.diagonal(reader.moments).mean())
    moments[:inputs, :inputs] = reader.moments
    return Reader(weight, moments, index)


class _Elimination:
    """A reader from which units are removed; the rows that stay are fitted after each.

    With P = C^-1 as it stands, V = P[:, r] and A = V P_rr^-1, removing r makes P - A V^T of P and
    W - A W_r of W. Diagonal blocks of P and of W W^T, which costs need, are kept up to date;
    the matrices follow every ``_PANEL`` units.
    """

    def __init__(self, reader: Reader) -> None:
        self._index = index = reader.index
        self._inverse, self._weight = inverted(reader.moments), reader.weight.copy()
        self._spread = self._inverse[index[:, :, None], index[:, None, :]]
        rows = self._weight[index]
        self._energy = rows @ rows.transpose(0, 2, 1)
        (inputs, outputs), held = self._weight.shape, _PANEL * index.shape[1]
        self._fits, self._columns = np.zeros((inputs, held)), np.zeros((inputs, held))
        self._rows, self._filled = np.zeros((held, outputs)), 0

    def costs(self) -> Doubles:
        """Of removing each unit now, float64 [units]; of those that are gone 0."""
        if self._index.shape[1] == 1:
            return np.asarray(self._energy[:, 0, 0] / self._spread[:, 0, 0])
        return np.asarray(np.trace(np.linalg.solve(self._spread, self._energy), axis1=1, axis2=2))

    def remove(self, unit: int) -> None:
        """Take a unit out, and fit the others to it."""
        rows, done = self._index[unit], slice(0, self._filled)
        earlier = self._fits[rows, done]
        column = self._inverse[:, rows] - self._columns[:, done] @ earlier.T
        own = self._weight[rows] - earlier @ self._rows[done]
        fit = np.linalg.solve(self._spread[unit], column.T).T
        self._follow(fit, column, own)
        self._spread[unit], self._energy[unit] = np.eye(len(rows)), 0.0
        self._keep(fit, column, own)

    def _follow(self, fit: Doubles, column: Doubles, own: Doubles) -> None:
        """The diagonal blocks after P - fit column^T and W - fit own."""
        done = slice(0, self._filled)
        shared = self._weight @ own.T - self._fits[:, done] @ (self._rows[done] @ own.T)
        fits, columns, crossed = (matrix[self._index] for matrix in (fit, column, shared))
        self._spread -= fits @ columns.transpose(0, 2, 1)
        cross = fits @ crossed.transpose(0, 2, 1)
        square = fits @ (own @ own.T) @ fits.transpose(0, 2, 1)
        self._energy += square - cross - cross.transpose(0, 2, 1)

    def _keep(self, fit: Doubles, column: Doubles, own: Doubles) -> None:
        place = slice(self._filled, self._filled + len(own))
        self._fits[:, place], self._columns[:, place], self._rows[place] = fit, column, own
        self._filled = place.stop
        if self._filled == self._rows.shape[0]:
            self._inverse -= self._fits @ self._columns.T
            self._weight -= self._fits @ self._rows
            self._filled = 0
