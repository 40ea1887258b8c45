"""The error that changed weights make: its mean, which a bias takes back, and its size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def bias_correction_linear(
    w: NDArray[Any], w_hat: NDArray[Any], mean: ArrayLike
) -> NDArray[np.float32]:
    """What to add to the bias so that the mean output stays: float32 [out].

    w, w_hat: [in, out] (y = x W + b); mean: E[x], [in]. Exact to first order, for any
    change of weights. Source: Nagel et al., Data-Free Quantization (arXiv 1906.04721), 4.2.
    """
    change = np.subtract(w, w_hat, dtype=np.float64)
    return np.asarray(np.asarray(mean, dtype=np.float64) @ change, dtype=np.float32)


def bias_correction_conv(
    w: NDArray[Any], w_hat: NDArray[Any], mean: ArrayLike, groups: int = 1
) -> NDArray[np.float32]:
    """The same for a convolution, any number of spatial axes: float32 [O].

    w, w_hat: [O, I / groups, ...]; mean: E[x] per input channel, [I]. Exact away from the
    border; where padding supplies zeros the true mean is smaller.
    """
    outputs, inputs = w.shape[:2]
    change = np.subtract(w, w_hat, dtype=np.float64).reshape(outputs, inputs, -1).sum(axis=2)
    blocks = change.reshape(groups, outputs // groups, inputs)
    means = np.asarray(mean, dtype=np.float64).reshape(groups, inputs, 1)
    return np.asarray(blocks @ means, dtype=np.float32).reshape(-1)


def output_error(weight: ArrayLike, other: ArrayLike, gram: ArrayLike | None) -> float:
    """Relative squared error of a linear layer's outputs when ``other`` takes the weight's place.

    weight, other: [in, out]; gram: E[x x^T] in any unit, [in, in], of the data (less the outer
    product of the means where a bias correction follows); None: the identity, the error of the
    weights. tr(D^T G D) / tr(W^T G W) with D = other - weight; 0 when nothing changed,
    infinite when only the original's outputs are all zero.
    """
    matrix = None if gram is None else np.asarray(gram, dtype=np.float64)
    original = np.asarray(weight, dtype=np.float64)
    loss = _energy(np.subtract(other, original, dtype=np.float64), matrix)
    signal = _energy(original, matrix)
    if signal > 0:
        return loss / signal
    return float("inf") if loss > 0 else 0.0


def _energy(w: NDArray[np.float64], gram: NDArray[np.float64] | None) -> float:
    # Rounding can leave a tiny negative energy where the Gram matrix is singular.
    return max(float(np.vdot(w, w if gram is None else gram @ w)), 0.0)
