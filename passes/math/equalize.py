"""Scales that move range between activations and weights without changing the function."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...ir.errors import InputError, UsageError

_LEAST, _MOST = 1e-5, 1e5


def smooth_scale(act_absmax: ArrayLike, w_absmax: ArrayLike, alpha: float) -> NDArray[np.float32]:
    """SmoothQuant: s = max|x|^alpha / max|W|^(1 - alpha) per input channel, float32 [C].

    act_absmax [C]: largest |x| of each channel; w_absmax [C]: largest |W| of each input
    channel over all consumers that share s. Use as x / s and W * s. Both maxima and s are
    at least 1e-5; a channel that is dead on either side gets 1.
    Source: Xiao et al., SmoothQuant, ICML 2023 (arXiv 2211.10438), equation 4.
    Raises UsageError for alpha outside [0, 1], InputError for maxima that cannot be.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"the smoothing strength alpha is {alpha}, not between 0 and 1")
    activation, weight = _checked(act_absmax, w_absmax)
    act, w = np.maximum(activation, _LEAST), np.maximum(weight, _LEAST)
    scale = np.clip(act**alpha / w ** (1 - alpha), _LEAST, None)
    return _alive(scale, activation, weight)


def cross_layer_scale(r1: ArrayLike, r2: ArrayLike) -> NDArray[np.float32]:
    """Cross-layer equalization: s = sqrt(r1 / r2), float32 [C], between 1e-5 and 1e5.

    r1 [C]: largest |W1| of each output channel; r2 [C]: largest |W2| of each input channel.
    W1 / s (and its bias) and W2 * s then both have sqrt(r1 * r2); legal through functions
    with f(s x) = s f(x) such as ReLU. A channel that is dead on either side gets 1.
    Source: Nagel et al., Data-Free Quantization, ICCV 2019 (arXiv 1906.04721), equation 11.
    """
    first, second = _checked(r1, r2)
    ratio = first / np.where(second > 0, second, 1.0)
    return _alive(np.clip(np.sqrt(ratio), _LEAST, _MOST), first, second)


def channel_absmax(w: NDArray[Any], axis: int) -> NDArray[np.float32]:
    """Largest |w| of each index of ``axis``: float [...] -> float32 [C]."""
    others = tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    peaks = np.maximum(w.max(axis=others, initial=0.0), -w.min(axis=others, initial=0.0))
    return np.asarray(peaks, dtype=np.float32)


def conv_input_absmax(w: NDArray[Any], groups: int) -> NDArray[np.float32]:
    """Largest |w| of each input channel of a convolution: [O, I/g, ...] -> float32 [I]."""
    outputs, inputs = w.shape[:2]
    blocks = w.reshape(groups, outputs // groups, inputs, -1)
    peaks = np.maximum(blocks.max(axis=(1, 3), initial=0.0), -blocks.min(axis=(1, 3), initial=0.0))
    return np.asarray(peaks, dtype=np.float32).reshape(-1)


def _checked(one: ArrayLike, two: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(one, dtype=np.float64), np.asarray(two, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise InputError(
            f"channel maxima of shapes {first.shape} and {second.shape} do not belong together"
        )
    for values in (first, second):
        if not (np.all(np.isfinite(values)) and np.all(values >= 0)):
            raise InputError(
                "a channel maximum is negative or not finite",
                hint="look for NaN or infinite values in the calibration data or the weights",
            )
    return first, second


def _alive(
    scale: NDArray[np.float64], one: NDArray[np.float64], two: NDArray[np.float64]
) -> NDArray[np.float32]:
    return np.where((one > 0) & (two > 0), scale, 1.0).astype(np.float32)
