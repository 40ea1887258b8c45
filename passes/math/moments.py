"""Outputs put right channel by channel: the mean and variance that they had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .refit import Doubles

_LEAST = 1e-2
"""Share of its deviation that a channel must have left to be stretched back to it."""


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each channel, float64 [channels]."""

    mean: Doubles
    variance: Doubles


def channel_moments(arrays: Sequence[NDArray[Any]], axis: int = 1) -> Moments:
    """Over all positions of all arrays but those along ``axis``, in float64."""
    apart = [np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1) for a in arrays]
    count = sum(a.shape[1] for a in apart)
    mean = np.sum([a.sum(axis=1, dtype=np.float64) for a in apart], axis=0) / count
    squares = np.sum([_squares(a, mean) for a in apart], axis=0)
    return Moments(mean, squares / count)


def _squares(rows: NDArray[Any], mean: Doubles) -> Doubles:
    centred = rows - mean[:, None].astype(rows.dtype)
    return np.asarray(np.einsum("cn,cn->c", centred, centred, dtype=np.float64))


def matching(wanted: Moments, found: Moments) -> tuple[Doubles, Doubles]:
    """(factor, summand) [channels] that give a channel the wanted mean and variance.

    As the re-estimation of a batch norm does. A channel of which next to nothing is left is only
    moved to its mean.
    """
    enough = found.variance > _LEAST**2 * wanted.variance
    ratio = np.divide(wanted.variance, found.variance, out=np.ones_like(found.mean), where=enough)
    factor = np.where(wanted.variance > 0, np.sqrt(ratio), 1.0)
    return factor, wanted.mean - factor * found.mean
