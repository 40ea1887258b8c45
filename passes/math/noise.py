"""The rounding noise that 8-bit layers will make, in closed form, before anything is rounded.

Errors of rounding are taken as uniform and independent, variance step^2 / 12. Both terms are
squared errors of the outputs, summed over outputs, for one position (a token, a pixel).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reader:
    """What the noise of a layer depends on, of its weight.

    energy: sum of W^2 over the outputs and taps of each input channel, float64 [C]. peaks:
    largest |W| over the taps, [groups, C / groups, outputs / groups]. taps: weights between one
    input channel and one output (1, or the size of the filter).
    """

    energy: Vector
    peaks: NDArray[Any]
    taps: int


@dataclass(frozen=True, eq=False)
class Spread:
    """How far each channel of an activation reaches: float64 [C] each.

    live: share of the elements that are not zero, as behind a Relu; zero rounds without error.
    """

    low: Vector
    high: Vector
    mean_square: Vector
    live: float = 1.0

    @property
    def absmax(self) -> Vector:
        """Largest |x| of each channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


def linear_reader(w: NDArray[Any]) -> Reader:
    """Of a linear layer, w [in, out]."""
    return Reader(np.einsum("kn,kn->k", w, w, dtype=np.float64), np.abs(w)[None], 1)


def conv_reader(w: NDArray[Any], groups: int) -> Reader:
    """Of a convolution, w [O, I / groups, ...]."""
    outputs, inputs = w.shape[:2]
    blocks = w.reshape(groups, outputs // groups, inputs, -1)
    energy = np.einsum("goit,goit->gi", blocks, blocks, dtype=np.float64).reshape(-1)
    peaks = np.abs(blocks).max(axis=3, initial=0.0).transpose(0, 2, 1)
    return Reader(energy, peaks, int(blocks.shape[3]))


def int8_noise(scale: Vector, x: Spread, readers: Sequence[Reader], levels: int) -> float:
    """Squared error of the outputs when x / scale and scale * W are rounded to 8 bits.

    Activations: one asymmetric range for all channels, 255 steps. Weights: symmetric per output
    channel, ``levels`` steps on each side (127, or 63 for 7 bits).
    """
    activation = x.live * rounding_noise(x.low / scale, x.high / scale)
    moments = x.mean_square / scale**2
    squared = scale**2
    return sum(
        activation * float(reader.energy @ squared) + _weight_noise(reader, scale, moments, levels)
        for reader in readers
    )


def rounding_noise(low: Vector, high: Vector) -> float:
    """Mean squared error of rounding to 8 bits in one range for all channels, low and high [C]."""
    reach = max(float(np.max(high)), 0.0) - min(float(np.min(low)), 0.0)
    return (reach / 255.0) ** 2 / 12.0


def _weight_noise(reader: Reader, scale: Vector, moments: Vector, levels: int) -> float:
    groups, inputs, _ = reader.peaks.shape
    factors = scale.reshape(groups, inputs, 1).astype(reader.peaks.dtype)
    steps = (reader.peaks * factors).max(axis=1, initial=0.0).astype(np.float64) / levels
    energy = moments.reshape(groups, inputs).sum(axis=1)
    return float(reader.taps * ((steps**2).sum(axis=1) @ energy)) / 12.0
