"""Sums of two u8 x s8 products that a CPU keeps in 16 bits: proof, codes that hold, and the loss.

Without VNNI, uint8 activations and int8 weights are multiplied by VPMADDUBSW, which adds
a1*w1 + a2*w2 of two neighbours along K in an int16 that saturates (Intel Software Developer's
Manual, volume 2, PMADDUBSW). It multiplies the codes themselves, before any zero point.

Which two: ONNX Runtime packs K in quads from row 0 (MLAS, qgemm_kernel_avx2.cpp, PackedK = 4;
blocks of K are multiples of 4; the tail is filled with zeros; QgemvU8S8KernelAvx2.asm interleaves
rows alike), so pairs are rows 2i and 2i + 1. A convolution's K runs over kernel positions and
then over the input channels of its group (qlinearconv.cc, ReorderFilter; ConvSymKernelAvx2.asm).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from ...ir.errors import InputError

LOWEST, HIGHEST = -(1 << 15), (1 << 15) - 1
"""Of a sum of two products."""
LARGEST_CODE = 255
"""Of an activation. A calibrated range is chosen to be filled, and what lies beyond it becomes
255, too: only a range that was given can promise less."""
ROOM = HIGHEST // LARGEST_CODE
"""Most that two weights of one sign may come to: 255 * 128 < 2^15 < 255 * 129."""

Codes = NDArray[np.int8]
_PART = 1 << 20  # elements that are looked at at a time


class Worst(NamedTuple):
    """The sum that lies furthest outside of 16 bits, and where: row is the pair's first."""

    sum: int
    row: int
    column: int


def conv_rows(weight: NDArray[Any]) -> NDArray[Any]:
    """Filters [M, C, k...] as [k... * C, M], K in the order in which the kernels walk it."""
    return np.moveaxis(weight, (0, 1), (-1, -2)).reshape(-1, weight.shape[0])


def conv_filters(rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The inverse of ``conv_rows``: [k... * C, M] -> filters of that shape."""
    outputs, channels, *kernel = shape
    wide = rows.reshape(*kernel, channels, outputs)
    return np.ascontiguousarray(np.moveaxis(wide, (-1, -2), (0, 1)))


def conv_patches(
    x: NDArray[Any],
    kernel: Sequence[int],
    pads: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    fill: int,
) -> NDArray[Any]:
    """What a convolution of one group multiplies by ``conv_rows``: x [n, C, d...] -> [M, k... * C].

    pads: as ONNX has them, all starts and then all ends. fill: the code of zero.
    """
    spatial = len(kernel)
    around = [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    padded = np.pad(x, around, constant_values=fill)
    windows = sliding_window_view(padded, reach, axis=tuple(range(2, 2 + spatial)))
    steps = [slice(None, None, step) for step in (1, 1, *strides, *dilations)]
    wide = windows[tuple(steps)]  # [n, C, outputs..., k...]
    rows = np.moveaxis(wide, 1, -1)
    return rows.reshape(-1, int(np.prod(kernel)) * x.shape[1])


def sums_in_pairs(shape: tuple[int, ...], groups: int) -> bool:
    """Whether a convolution's products are added in 16 bits: filters [M, C, k...].

    Not where each channel stands alone: such kernels widen the factors to 32 bits first (MLAS,
    qdwconv_avx2.cpp; ConvSymKernelAvx2.asm, the depthwise kernels).
    """
    return not (shape[1] == 1 and shape[0] == groups)


def extremes(
    q: Codes, largest: ArrayLike = LARGEST_CODE
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Lowest and highest sum of each pair: q int8 [K, N] -> two int32 [ceil(K / 2), N].

    largest: activation code, of all rows or of each [K]; the smallest is 0. A pair is at an
    extreme where its weights of one sign meet the largest codes and those of the other meet 0.
    """
    codes = np.broadcast_to(np.asarray(largest, np.int32), q.shape[:1])
    products = _pairs(q.astype(np.int32) * codes[:, None])
    low, high = np.minimum(products, 0).sum(axis=1), np.maximum(products, 0).sum(axis=1)
    return low.astype(np.int32), high.astype(np.int32)


def can_saturate(q: Codes, largest: ArrayLike = LARGEST_CODE) -> NDArray[np.bool_]:
    """Pair by pair, whether activations up to ``largest`` can take its sum out of 16 bits.

    Exact both ways: bool [ceil(K / 2), N] for q int8 [K, N].
    """
    low, high = extremes(q, largest)
    return np.asarray((low < LOWEST) | (high > HIGHEST))


def worst_pair(q: Codes, largest: ArrayLike = LARGEST_CODE) -> Worst | None:
    """The pair that can leave 16 bits furthest; None where no pair can."""
    furthest, most = None, 0
    for part in _columns(q):
        low, high = extremes(q[:, part], largest)
        beyond = np.maximum(high - HIGHEST, LOWEST - low)
        if beyond.size == 0 or beyond.max() <= most:
            continue
        row, column = (int(i) for i in np.unravel_index(int(np.argmax(beyond)), beyond.shape))
        found = high[row, column] if high[row, column] > HIGHEST else low[row, column]
        furthest, most = Worst(int(found), 2 * row, part.start + column), int(beyond.max())
    return furthest


def safe_codes(w: NDArray[Any]) -> tuple[Codes, NDArray[np.float32]]:
    """Symmetric codes of which no pair can saturate: w [K, N] -> int8 [K, N], scale float32 [N].

    Each column gets the finest scale at which neither a weight exceeds 127 nor a pair of one
    sign 128: 8 bits where no pair is in the way, and never fewer than 7, whatever the weights
    (64 + 64). A column of zeros takes the largest scale of the others. Moving the worst pairs
    instead, for a finer scale, was tried: it gains half a percent of the error. Raises InputError
    for weights that are not finite.
    """
    codes, scale = np.empty(w.shape, np.int8), np.zeros(w.shape[1], np.float32)
    for part in _columns(w):
        values = np.asarray(w[:, part], np.float32)
        scale[part] = _finest(values)
        steps = np.where(scale[part] > 0, scale[part], np.float32(1))
        with np.errstate(invalid="ignore"):
            codes[:, part] = _rounded(np.asarray(values / steps, np.float32))
    if not np.isfinite(scale).all():
        raise InputError(
            "weights to quantize hold NaN or infinite values",
            hint="repair or retrain the model: these weights have no quantized form",
        )
    largest = scale.max(initial=0.0)
    return codes, np.where(scale > 0, scale, largest if largest > 0 else np.float32(1))


def bits_kept(q: Codes) -> float:
    """Bits that the codes of an average column [K, N] span: 8 for a largest code of 127."""
    peaks = np.abs(q.astype(np.int16)).max(axis=0, initial=0)
    used = peaks[peaks > 0]
    return float(np.mean(np.log2(used + 1.0))) + 1 if used.size else 8.0


def saturating_product(a: NDArray[np.uint8], q: Codes) -> NDArray[np.int64]:
    """What kernels without VNNI make of a @ q: uint8 [M, K], int8 [K, N] -> int64 [M, N].

    The exact product, less what each pair that can saturate loses on these activations.
    """
    total = np.rint(a.astype(np.float64) @ q.astype(np.float64)).astype(np.int64)
    left, right = _pairs(a.T.astype(np.int32)), _pairs(q.astype(np.int32))
    unsafe = can_saturate(q)
    for row in np.flatnonzero(unsafe.any(axis=1)):
        columns = np.flatnonzero(unsafe[row])
        sums = left[row].T @ right[row][:, columns]
        total[:, columns] += np.clip(sums, LOWEST, HIGHEST) - sums
    return total


def _finest(w: NDArray[np.float32]) -> NDArray[np.float32]:
    first, second = _pairs(w).swapaxes(0, 1)
    together = np.abs(np.where((first > 0) == (second > 0), first + second, 0))
    peaks = np.abs(w).max(axis=0, initial=0.0)
    scale = np.maximum(peaks / np.float32(127), together.max(axis=0, initial=0.0) / ROOM)
    # Runtimes flush what is smaller than the smallest normal number to zero, and divide by it.
    usable = np.maximum(scale, np.finfo(np.float32).tiny)
    return np.where(peaks == 0, np.float32(0), usable).astype(np.float32)


def _rounded(steps: NDArray[np.float32]) -> Codes:
    """The nearest codes of weights [K, N] in steps of their scale.

    Two that are rounded up may come to one more than there is room for: then the one that was
    rounded up further is rounded down.
    """
    codes = _pairs(np.clip(np.rint(steps), -127, 127))
    over = np.abs(codes).sum(axis=1) > ROOM
    over &= codes.prod(axis=1) > 0
    row, column = np.nonzero(over)
    up = np.abs(codes[row, :, column]) - np.abs(_pairs(steps)[row, :, column])
    side = np.argmax(up, axis=1)
    codes[row, side, column] -= np.sign(codes[row, side, column])
    return codes.reshape(-1, steps.shape[1])[: len(steps)].astype(np.int8)


def _pairs(rows: NDArray[Any]) -> NDArray[Any]:
    """[K, N] -> [ceil(K / 2), 2, N], an odd last row beside zeros."""
    if len(rows) % 2:
        rows = np.concatenate([rows, np.zeros_like(rows[:1])])
    return rows.reshape(-1, 2, rows.shape[1])


def _columns(w: NDArray[Any]) -> Iterator[slice]:
    step = max(1, _PART // max(w.shape[0], 1))
    yield from (slice(i, i + step) for i in range(0, w.shape[1], step))
