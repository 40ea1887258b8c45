"""What data says of the outputs of layers: their directions, their mean, how many rows said so."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from ...ir.graph import constant_array
from ..api import Gram, Looked
from ..math.lowrank import (
    Spectrum,
    most_rank,
    output_energies,
    output_pca,
    principal,
    second_moments,
)
from .groups import Group
from .importance import Reader, importance

RIDGE, RIDGE_FEW = 1e-6, 1e-2
"""Share of the mean variance that every channel has at least; with fewer rows than channels."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What data says of a group. energies: float64 [k], the variance of the outputs along each of
    their directions, descending. spectrum: of the outputs times ``scale``, float64 [outputs].
    mean: of what was observed, float64 [channels], None without data. rows: how many were seen;
    width: how many would be needed at least."""

    energies: np.ndarray
    spectrum: Spectrum
    scale: np.ndarray
    mean: np.ndarray | None = None
    rows: float = 0.0
    width: int = 0

    @property
    def few(self) -> bool:
        """Whether there were fewer rows than channels."""
        return 0 < self.rows < self.width


def blind(group: Group) -> Seen:
    """What the weights alone say."""
    spectrum = output_pca(group.matrix())
    return _few(Seen(spectrum.energies, spectrum, np.ones(group.shape[1])), group)


def look(group: Group, reader: Reader | None, grams: Mapping[Looked, Gram]) -> Seen | None:
    """What was observed of a group; None where it was not, or the sums are beyond float32.

    reader: what reads its outputs, where that weighs them.
    """
    known = [gram for observed in group.observed if (gram := grams.get(observed)) is not None]
    if len(known) < len(group.observed):
        return None
    gram, scale = reduce(operator.add, known), np.ones(group.shape[1])
    ridge = RIDGE_FEW if gram.count < len(gram.matrix) else RIDGE
    moments = second_moments(
        gram.matrix, gram.total, gram.count, centred=group.corrected, ridge=ridge
    )
    about = gram.mean, gram.count, len(moments)
    if group.convolves or reader is None:
        made = group.observes_outputs
        spectrum = principal(moments) if made else output_pca(group.matrix(), moments)
        return _few(Seen(spectrum.energies, spectrum, scale, *about), group)
    weight = group.matrix()
    scale = importance(reader, np.einsum("ij,ij->j", weight, moments @ weight), grams)
    spectrum = output_pca(weight * scale, moments)
    return _few(Seen(output_energies(weight, moments), spectrum, scale, *about), group)


def corrected(group: Group, first: np.ndarray, second: np.ndarray, seen: Seen) -> list[np.ndarray]:
    """The biases that keep the mean of each output; none where there are none to correct."""
    if not group.corrected or seen.mean is None:
        return []
    biases = [b for site in group.sites if (b := constant_array(site.bias)) is not None]
    if group.observes_outputs:
        mean = seen.mean - biases[0]
        narrow = mean @ second.T.astype(np.float64)
    else:
        mean, narrow = seen.mean @ group.matrix(), seen.mean @ first
    parts = group.summed(mean - narrow @ second)
    return [(b + part).astype(b.dtype) for b, part in zip(biases, parts, strict=True)]


def _few(seen: Seen, group: Group) -> Seen:
    """As many directions as can be of use: the others are not kept."""
    basis = np.ascontiguousarray(seen.spectrum.basis[:, : most_rank(group.shape)])
    return replace(seen, spectrum=Spectrum(basis, seen.spectrum.energies))
