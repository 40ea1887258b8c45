"""8-bit floats (E4M3) in blocks of 32 that share a power of two (MXFP8).

Sources: OCP Microscaling Formats 1.0 (E4M3 with E8M0 scales); the power of two is the least that
holds the block's largest number, as NVIDIA Model-Optimizer has it (modelopt/onnx, compute_e8m0):
the format's own, one lower, would let numbers saturate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...ir.errors import UsageError
from .blockcodes import checked_weight
from .float8 import E4M3, LARGEST

Floats = NDArray[np.float32]
BLOCK = 32
LEAST_EXPONENT = -126
"""Of a scale: runtimes flush smaller float32 numbers to zero."""


@dataclass(frozen=True)
class MxCodes:
    """A weight [K, N] in blocks of 32 along K.

    codes: E4M3 [K, N]. scales: float32 powers of two [K / 32, N].
    """

    codes: NDArray[Any]
    scales: Floats


def power_above(x: ArrayLike) -> Floats:
    """The least power of two that is not below x >= 0, 2^-126 at least: float32, the same shape."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float32))
    exponent = np.where(mantissa > 0.5, exponent, exponent - 1)
    exponent = np.where(mantissa > 0, np.maximum(exponent, LEAST_EXPONENT), LEAST_EXPONENT)
    return np.asarray(np.ldexp(np.float32(1), exponent), np.float32)


def round_mx(weight: ArrayLike) -> MxCodes:
    """A weight [K, N], any float dtype, K a multiple of 32, in codes.

    Raises InputError for weights that are not finite, UsageError for another K.
    """
    array = checked_weight(weight)
    inputs, outputs = array.shape
    if inputs % BLOCK:
        raise UsageError(f"{inputs} inputs do not fall in blocks of {BLOCK}")
    parts = array.astype(np.float32).reshape(-1, BLOCK, outputs)
    scales = power_above(np.abs(parts).max(axis=1) / np.float32(LARGEST))
    codes = (parts / scales[:, None]).astype(E4M3)
    return MxCodes(codes.reshape(inputs, outputs), scales)


def dequantize_mx(coded: MxCodes) -> Floats:
    """The weights that codes stand for, float32 [K, N]."""
    return np.asarray(coded.codes.astype(np.float32) * np.repeat(coded.scales, BLOCK, axis=0))


def round_rows_mx(x: Floats) -> Floats:
    """Activations [..., K] rounded in blocks of 32 along K: what is computed at run time."""
    parts = x.reshape(*x.shape[:-1], -1, BLOCK)
    peak = np.abs(parts).max(axis=-1, keepdims=True)
    scales = power_above(peak / np.float32(LARGEST))
    codes = np.clip(parts / scales, -LARGEST, LARGEST).astype(E4M3)
    return np.asarray((codes.astype(np.float32) * scales).reshape(x.shape), np.float32)
