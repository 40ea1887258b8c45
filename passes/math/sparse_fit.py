"""The weights that a mask keeps, fitted to make up for those that it takes.

With C the moments of the inputs of y = x W, damped by a ridge (``refit.damped``), and K the rows
that stay in one column w, the change d of that column that loses least, d^T C d, makes it
C_KK^-1 (C w)_K there. Each column has rows of its own, so each has a system of its own.

Where few rows stay, each is solved as it is. That takes 2/3 s^3 flops for s rows of a column, hours
for one layer of a large language model; there all columns take the steps of conjugate gradients
together, each a product with C (Hestenes, Stiefel 1952, with the diagonal as preconditioner). Every
step loses less than the one before it; 25 to 100 come within some tenths of a percent of the least.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .refit import Doubles
from .sparse import Mask

Columns = NDArray[np.intp]

DIRECT = 768
"""The most rows that stay in a column whose system is solved as it is."""
SETTLED = 1e-4
"""Of what a block of columns loses: steps end where one gains less."""
STEPS = 200
_BYTES = 32 << 20
"""Of systems, or of columns, that are worked on in one go."""


def masked_refit(weight: Doubles, moments: Doubles, mask: Mask, *, direct: int = DIRECT) -> Doubles:
    """A weight [K, N] that is zero outside ``mask`` and loses least: float64 [K, N].

    moments: [K, K], positive definite. direct: with more rows than so in a column it is fitted in
    steps, to some tenths of a percent of the least loss of a block of columns. Raises LinAlgError
    where a system is singular, or a step finds that moments are not positive definite.
    """
    wanted = moments @ weight
    made, counts = np.zeros_like(wanted), mask.sum(axis=0)
    for part in _blocks(np.flatnonzero(counts > direct), 8 * len(weight)):
        made[:, part] = _stepwise(weight[:, part], moments, mask[:, part], wanted[:, part])
    for count in np.unique(counts[(counts > 0) & (counts <= direct)]):
        for part in _blocks(np.flatnonzero(counts == count), int(8 * count * count)):
            rows = np.nonzero(mask[:, part].T)[1].reshape(len(part), count)
            systems = moments[rows[:, :, None], rows[:, None, :]]
            right = wanted[rows, part[:, None]]
            made[rows, part[:, None]] = np.linalg.solve(systems, right[..., None])[..., 0]
    return made


def _blocks(columns: Columns, each: int) -> list[Columns]:
    """In parts of which none takes much more than ``_BYTES``, at ``each`` bytes a column."""
    step = max(1, _BYTES // each)
    return [columns[start : start + step] for start in range(0, len(columns), step)]


def _stepwise(weight: Doubles, moments: Doubles, mask: Mask, wanted: Doubles) -> Doubles:
    """By conjugate gradients on the rows that stay, all columns side by side."""
    made = np.where(mask, weight, 0.0)
    scale = 1.0 / np.diagonal(moments)[:, None]
    missing = wanted - moments @ made
    lost = _inner(weight - made, missing)
    rest = np.where(mask, missing, 0.0)
    step = scale * rest
    slope = _inner(rest, step)
    for _ in range(STEPS):
        ahead = np.where(mask, moments @ step, 0.0)
        curve = _inner(step, ahead)
        if (curve < 0).any() or (slope < 0).any():
            raise np.linalg.LinAlgError("the moments are not positive definite")
        length = np.divide(slope, curve, out=np.zeros_like(curve), where=curve > 0)
        made += length * step
        rest -= length * ahead
        lost -= length * slope
        if (length * slope).sum() <= SETTLED * lost.sum():
            break
        towards = scale * rest
        before, slope = slope, _inner(rest, towards)
        turn = np.divide(slope, before, out=np.zeros_like(before), where=before > 0)
        step = towards + turn * step
    return made


def _inner(a: Doubles, b: Doubles) -> Doubles:
    """Of the columns of two matrices [K, N]: [N]."""
    return np.asarray(np.einsum("kn,kn->n", a, b))
