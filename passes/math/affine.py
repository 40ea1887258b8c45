"""Affine 8-bit quantization: parameters, rounding and weights, as ONNX defines them.

Source: ONNX QuantizeLinear and DequantizeLinear (divide in float32, round half to even,
add the zero point, saturate). A range always contains zero, so that zero is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...ir.errors import InputError, UsageError, near

Dtype = Literal["uint8", "int8"]

_LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
# The smallest normal float32: runtimes flush smaller scales to zero, then divide by them.
_PART = 1 << 20  # elements that are converted at a time
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


def integer_limits(dtype: str) -> tuple[int, int]:
    """Smallest and largest code of ``dtype``. Raises UsageError for any but uint8 and int8."""
    if dtype not in _LIMITS:
        raise UsageError(f"no 8-bit type is called {dtype!r}", hint=near(dtype, _LIMITS))
    return _LIMITS[dtype]


def affine_grids(
    lo: ArrayLike, hi: ArrayLike, *, dtype: str, symmetric: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scales and zero points of many ranges at once: lo, hi [...] -> float32 [...], int64 [...].

    Each range is first widened to contain zero. Asymmetric: scale = (hi - lo) / 255.
    Symmetric: scale = max(-lo, hi) / 127, zero point in the middle (0 or 128). The scale is
    a normal float32 above zero also for empty and denormal ranges (1 for lo = hi = 0).
    Raises InputError for a range that is not finite, or whose ends are swapped.
    """
    qmin, qmax = integer_limits(dtype)
    low, high = _checked_ranges(lo, hi)
    span = 2.0 * np.maximum(-low, high) if symmetric else high - low
    steps = 254.0 if symmetric else 255.0
    scale = np.where(span > 0, np.maximum(span / steps, _SMALLEST_SCALE), 1.0)
    narrow = scale.astype(np.float32)
    if symmetric:
        return narrow, np.full(narrow.shape, (qmin + qmax + 1) // 2, dtype=np.int64)
    zero_point = np.clip(np.rint(qmin - low / narrow.astype(np.float64)), qmin, qmax)
    return narrow, zero_point.astype(np.int64)


def affine_params(lo: float, hi: float, *, dtype: str, symmetric: bool) -> tuple[np.float32, int]:
    """Scale and zero point of one range; see ``affine_grids``."""
    scale, zero_point = affine_grids(lo, hi, dtype=dtype, symmetric=symmetric)
    return np.float32(scale), int(zero_point)


def quantize(
    x: ArrayLike, scale: ArrayLike, zero_point: ArrayLike, dtype: str, axis: int | None = None
) -> NDArray[Any]:
    """QuantizeLinear: float [...] -> codes of ``dtype``, same shape.

    ``scale`` (float32) and ``zero_point`` are scalars, or [C] along ``axis``. Infinities
    saturate; NaN has no code and must not occur.
    """
    qmin, qmax = integer_limits(dtype)
    values = np.asarray(x, dtype=np.float32)
    steps = _along(np.asarray(scale, dtype=np.float32), values.ndim, axis)
    offset = _along(np.asarray(zero_point, dtype=np.float32), values.ndim, axis)
    with np.errstate(over="ignore"):
        codes = np.rint(values / steps) + offset
    return np.asarray(np.clip(codes, qmin, qmax), dtype=dtype)


def dequantize(
    q: NDArray[Any], scale: ArrayLike, zero_point: ArrayLike, axis: int | None = None
) -> NDArray[np.float32]:
    """DequantizeLinear: codes [...] -> float32 [...], (q - zero_point) * scale."""
    steps = _along(np.asarray(scale, dtype=np.float32), q.ndim, axis)
    offset = _along(np.asarray(zero_point, dtype=np.int32), q.ndim, axis)
    result = np.empty(q.shape, np.float32)
    for part in _parts(q):
        shifted = q[part].astype(np.int32) - _part(offset, part)
        result[part] = shifted.astype(np.float32) * _part(steps, part)
    return result


def fake_quantize(
    x: ArrayLike, scale: ArrayLike, zero_point: ArrayLike, dtype: str, axis: int | None = None
) -> NDArray[np.float32]:
    """What is left of ``x`` after a quantize and dequantize pair: float32, same shape."""
    return dequantize(quantize(x, scale, zero_point, dtype, axis), scale, zero_point, axis)


def quantize_weight(
    w: NDArray[Any], axis: int, bits: int = 8, *, min_scale: ArrayLike = 0.0
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric weights per channel: float [...] -> int8 [...], scale float32 [C].

    C = w.shape[axis]; rows of an embedding table are axis 0. scale = max|w| / qmax with
    qmax = 127 for 8 bits and 63 for 7. A channel of zeros takes the largest scale of the
    others: a bias kept in steps of (input scale * this scale) must neither overflow nor
    lose its digits. ``min_scale`` (scalar or [C]) raises scales further for that reason.
    Raises InputError for weights that are not finite, UsageError for other widths.
    """
    if bits not in (7, 8):
        raise UsageError(f"weights can have 7 or 8 bits here, not {bits}")
    qmax = 2 ** (bits - 1) - 1
    values = np.asarray(w, dtype=np.float32)
    scale = _channel_scales(values, axis, qmax)
    scale = np.maximum(scale, np.asarray(min_scale, dtype=np.float32))
    steps = _along(scale, values.ndim, axis)
    codes = np.empty(values.shape, np.int8)
    for part in _parts(values):
        codes[part] = np.clip(np.rint(values[part] / _part(steps, part)), -qmax, qmax)
    return codes, scale


def _checked_ranges(lo: ArrayLike, hi: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    low, high = np.asarray(lo, dtype=np.float64), np.asarray(hi, dtype=np.float64)
    limit = float(np.finfo(np.float32).max)
    if not (np.all(np.abs(low) <= limit) and np.all(np.abs(high) <= limit)):
        raise InputError(
            f"a range to quantize is not finite in float32: {lo!r} to {hi!r}",
            hint="look for NaN or infinite values in the calibration data or the model",
        )
    if np.any(low > high):
        raise InputError(f"a range to quantize ends before it begins: {lo!r} to {hi!r}")
    return np.minimum(low, 0.0), np.maximum(high, 0.0)


def _along(values: NDArray[Any], ndim: int, axis: int | None) -> NDArray[Any]:
    if values.ndim == 0 or axis is None:
        return values
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def _parts(array: NDArray[Any]) -> Iterator[Any]:
    """Indices of some rows at a time: temporaries of a whole table would be as large as it."""
    if array.size <= _PART or array.ndim == 0:
        yield ...
        return
    step = max(1, _PART * array.shape[0] // array.size)
    for start in range(0, array.shape[0], step):
        yield slice(start, start + step)


def _part(along: NDArray[Any], part: Any) -> NDArray[Any]:
    """Those of the scales that belong to some rows; all where they do not lie along rows."""
    return along if along.ndim == 0 or along.shape[0] == 1 else along[part]


def _channel_scales(w: NDArray[np.float32], axis: int, qmax: int) -> NDArray[np.float32]:
    others = tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    # Two reductions instead of max(abs(w)): no copy of a large table.
    peaks = np.maximum(w.max(axis=others, initial=0.0), -w.min(axis=others, initial=0.0))
    if not np.all(np.isfinite(peaks)):
        raise InputError(
            "weights to quantize hold NaN or infinite values",
            hint="repair or retrain the model: these weights have no quantized form",
        )
    scale = np.maximum(peaks / np.float32(qmax), np.float32(_SMALLEST_SCALE))
    fallback = scale[peaks > 0].max(initial=0.0) or 1.0 / qmax
    return np.where(peaks > 0, scale, np.float32(fallback)).astype(np.float32)
