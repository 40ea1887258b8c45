"""Zeros and int8 codes together: what stays is fitted on the grid that ``quantize`` will find.

The grid of an output is scale * (-127 … 127), with its largest weight on +-127: then
``affine.quantize_weight`` gives back the same codes and the same scale, bit for bit. Sources:
Frantar and Alistarh, SparseGPT (arXiv 2301.00774), section 3.5, for zeros and codes in one sweep;
Behdin et al., QuantEase (arXiv 2309.01885), for codes fitted one input at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .descent import sweep
from .refit import Doubles
from .sparse import LARGEST, Mask
from .sparse_fit import masked_refit

SWEEPS = 3
"""Over all inputs; later ones change next to nothing."""
_DIGITS = 17
"""Binary ones of a scale: times a code of 7 they are exact in the 24 of float32."""
_LIMITS = np.finfo(np.float32)


@dataclass(frozen=True, eq=False)
class GridFit:
    """codes: whole numbers, float64 [K, N]. scale: float64 [N]. loss: tr(D^T C D) of each output,
    float64 [outputs], D the change of the weight."""

    codes: Doubles
    scale: Doubles
    loss: Doubles

    @property
    def weight(self) -> Doubles:
        """What the codes stand for, exact in float32: float64 [K, N]."""
        return np.asarray(self.codes * self.scale)

    def or_better(self, other: GridFit) -> GridFit:
        """Of each output the one that loses less, this one where both lose the same."""
        better = other.loss < self.loss
        columns = np.tile(better, len(self.scale) // len(better))
        return GridFit(
            np.where(columns, other.codes, self.codes),
            np.where(columns, other.scale, self.scale),
            np.where(better, other.loss, self.loss),
        )


def grid_scales(weight: Doubles, taps: int = 1) -> Doubles:
    """The scale of each column, shared by the ``taps`` columns of an output: float64 [N].

    Column t * outputs + o belongs to output o. The largest weight of an output is at code 127, or
    less than one step in 65,536 beyond it; an output of zeros has the scale 1.
    """
    peaks = np.minimum(_peaks(weight, taps), _LIMITS.max)
    mantissa, exponent = np.frexp(peaks / LARGEST)
    short = np.ldexp(np.floor(np.ldexp(mantissa, _DIGITS)), exponent - _DIGITS)
    # Runtimes flush smaller scales to zero.
    return np.asarray(np.where(peaks > 0, np.maximum(short, _LIMITS.tiny), 1.0))


def fit_on_grid(weight: Doubles, moments: Doubles, mask: Mask, taps: int = 1) -> GridFit:
    """Codes of a weight [K, N] that are zero outside ``mask`` and lose little.

    moments: [K, K], positive definite. From ``masked_refit``, rounded, each input's codes in turn
    become those of least tr(D^T moments D), all others given; the scales stay, and so does the
    largest weight of each output. No output loses more than it does rounded.
    """
    real = masked_refit(weight, moments, mask)
    scale = grid_scales(real, taps)
    codes = np.clip(np.rint(real / scale), -LARGEST, LARGEST)
    held = ~mask | (np.abs(real) == _peaks(real, taps))
    error, shape = weight - codes * scale, weight.shape
    steps, ends = np.broadcast_to(scale, shape), np.broadcast_to(np.float64(LARGEST), shape)
    for _ in range(SWEEPS):
        sweep(codes, error, moments, (steps, -ends, ends), held)
    each = np.einsum("kn,kn->n", error, moments @ error)
    return GridFit(codes, scale, each.reshape(taps, -1).sum(axis=0))


def _peaks(weight: Doubles, taps: int) -> Doubles:
    """The largest magnitude of each output, for each of its columns: [N]."""
    each = np.abs(weight).max(axis=0).reshape(taps, -1).max(axis=0)
    return np.asarray(np.tile(each, taps))
