"""A layer as a product of two smaller ones that loses least of its outputs.

Output-PCA: with x the inputs of y = x W + b and C their covariance, the projection of y on the
leading eigenvectors U of W^T C W keeps most of its variance: W' = W U U^T, which is stored as
A = W U and B = U^T, and b' = b + E[x] (W - W'). Equal to the truncated SVD of L^T W with C = L L^T
(Wang et al., SVD-LLM, arXiv 2403.07378), and no Cholesky factor has to exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...ir.errors import InputError

Doubles = NDArray[np.float64]
FLOOR = 0.01
"""What every output weighs at least, in units of the mean."""
Shape = tuple[int, int]
"""Inputs and outputs."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """How the outputs of a layer spread, most first.

    basis: float64 [outputs, n], orthonormal columns, the first ones if not all. energies: float64
    [k], the variance along each, descending and never negative; they add up to that of all outputs.
    """

    basis: Doubles
    energies: Doubles

    def loss(self, rank: int) -> float:
        """The share of the variance that ``rank`` directions leave out, 0 to 1."""
        total = float(self.energies.sum())
        return float(self.energies[rank:].sum()) / total if total > 0 else 0.0


def energy_rank(energies: Doubles, share: float) -> int:
    """The fewest directions, at least one, that hold a share of the variance."""
    held = np.cumsum(energies)
    return int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1


def output_pca(weight: ArrayLike, moments: ArrayLike | None = None) -> Spectrum:
    """Directions of the outputs of x W by their variance.

    weight: [inputs, outputs]. moments: covariance of x where a bias takes up the mean, else
    E[x x^T], [inputs, inputs]; may be singular. None: the identity, the SVD of the weight alone.
    k is the smaller of inputs and outputs. Raises InputError for what is not finite.
    """
    w = _finite(weight)
    c = None if moments is None else _finite(moments)
    inputs, outputs = w.shape
    if outputs <= inputs:
        return principal(w.T @ w if c is None else w.T @ c @ w)
    rooted = w if c is None else _root(c) @ w
    _, values, rows = np.linalg.svd(rooted, full_matrices=False)
    return Spectrum(rows.T, values**2)


def output_energies(weight: ArrayLike, moments: ArrayLike) -> Doubles:
    """The energies of ``output_pca`` alone, descending: cheaper than its basis."""
    w, c = _finite(weight), _finite(moments)
    inputs, outputs = w.shape
    rooted = w if outputs <= inputs else _root(c) @ w
    spread = w.T @ c @ w if outputs <= inputs else rooted @ rooted.T
    return np.clip(np.linalg.eigvalsh((spread + spread.T) / 2)[::-1], 0.0, None)


def principal(moments: ArrayLike) -> Spectrum:
    """The same from the moments [outputs, outputs] of the outputs themselves; may be singular."""
    c = _finite(moments)
    values, vectors = np.linalg.eigh((c + c.T) / 2)
    return Spectrum(vectors[:, ::-1], np.clip(values[::-1], 0.0, None))


def factors(weight: ArrayLike, basis: Doubles, scale: ArrayLike = 1.0) -> tuple[Doubles, Doubles]:
    """A [inputs, rank] and B [rank, outputs] with A B = W S U U^T S^-1, U the columns of ``basis``.

    scale: diagonal of S, [outputs], none zero; ``basis`` then belongs to the outputs of W S. What
    passes between the factors is turned so that every channel has about the same range: in the
    eigenvectors' own order the first would fill the range that 8 bits share out to all.
    """
    turned, sizes = basis @ hartley(basis.shape[1]), np.asarray(scale, np.float64)
    return (np.asarray(weight, np.float64) * sizes) @ turned, (turned.T / sizes)


def channel_scales(squares: ArrayLike) -> Doubles:
    """The roots of what errors of each output weigh, float64 [outputs], none of them zero.

    Where nothing counts, everything does: all ones. A hundredth of the mean is added to each: what
    data says does not matter may matter to other data.
    """
    found = np.asarray(squares, np.float64)
    mean = float(found.mean())
    return np.sqrt(found / mean + FLOOR) if mean > 0 else np.ones_like(found)


def hartley(size: int) -> Doubles:
    """The orthogonal and symmetric matrix cas(2 pi j k / size) / sqrt(size), float64 [size, size].

    Its first row is constant: what comes first is shared out evenly. Source: Bracewell, Discrete
    Hartley transform, J. Opt. Soc. Am. 73, 1983.
    """
    steps = np.arange(size)
    angle = 2 * np.pi * (np.outer(steps, steps) % size) / size
    return np.asarray((np.cos(angle) + np.sin(angle)) / np.sqrt(size))


def second_moments(
    matrix: ArrayLike, total: ArrayLike, count: float, *, centred: bool, ridge: float = 0.0
) -> Doubles:
    """E[x x^T], less E[x] E[x]^T where ``centred``: float64 [K, K].

    matrix, total: sums of x x^T and of x over ``count`` rows. ridge: share of the mean of the
    diagonal that is added to it; directions that no row has then weigh by their weights.
    """
    found = np.asarray(matrix, np.float64) / count
    if centred:
        mean = np.asarray(total, np.float64) / count
        found = found - np.outer(mean, mean)
    level = ridge * float(np.trace(found)) / max(len(found), 1)
    return np.asarray(found + max(level, 0.0) * np.eye(len(found)))


# -- ranks -----------------------------------------------------------------------------


def most_rank(shape: Shape) -> int:
    """The largest r with r (inputs + outputs) < inputs outputs: fewer parameters than before."""
    inputs, outputs = shape
    return (inputs * outputs - 1) // (inputs + outputs)


def share_rank(share: float, shape: Shape) -> float:
    """The rank, not rounded, at which two factors have ``share`` of a layer's parameters."""
    inputs, outputs = shape
    return share * inputs * outputs / (inputs + outputs)


def down_to(multiple: int, rank: float) -> int:
    """The multiple at or below a rank, at least one of it."""
    return max(multiple, int(rank + 1e-9) // multiple * multiple)


def up_to(multiple: int, rank: int) -> int:
    """The multiple at or above a rank."""
    return -(-rank // multiple) * multiple


def shared_ranks(shapes: Sequence[Shape], parameters: float, multiple: int) -> list[int]:
    """Ranks at which factors of all layers together have about ``parameters``, never more.

    Every layer keeps the same share; what rounding down leaves over goes, a multiple at a time,
    to the layer that is farthest below it. A layer keeps at least one multiple.
    """
    whole = sum(inputs * outputs for inputs, outputs in shapes)
    wanted = [share_rank(parameters / whole, shape) for shape in shapes] if whole else []
    ranks = [down_to(multiple, rank) for rank in wanted]
    left = parameters - sum(r * sum(shape) for r, shape in zip(ranks, shapes, strict=True))
    for i in sorted(range(len(shapes)), key=lambda i: ranks[i] / max(wanted[i], 1e-9)):
        step = multiple * sum(shapes[i])
        if step <= left and ranks[i] + multiple <= most_rank(shapes[i]):
            ranks[i], left = ranks[i] + multiple, left - step
    return ranks


def _root(moments: Doubles) -> Doubles:
    """The symmetric square root; what rounding made negative counts as zero."""
    values, vectors = np.linalg.eigh((moments + moments.T) / 2)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T)


def _finite(array: ArrayLike) -> Doubles:
    wide = np.asarray(array, np.float64)
    if not np.isfinite(wide).all():
        raise InputError(
            "a weight or the second moments of activations are not finite",
            hint="look for NaN or infinite values in the weights or the calibration data",
        )
    return wide
