"""Weights in codes of few bits with one scale, and maybe a zero point, for each block of inputs.

Source: com.microsoft MatMulNBits (ONNX Runtime's contrib operators): w = (q - z) * scale in
float32, blocks of consecutive inputs, the last one cut short.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...ir.errors import InputError, UsageError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Codes = NDArray[np.uint8]

WIDTHS = range(2, 9)
_PART = 1 << 19  # elements that are coded at a time


@dataclass(frozen=True)
class BlockCodes:
    """A weight [K, N] (in, out) in blocks along K; the last block may be short.

    codes: uint8 [K, N], 0 … 2^bits - 1. scale: float32 [blocks, N], may be negative.
    zero_point: uint8 [blocks, N], or None where it is 2^(bits-1) everywhere (symmetric).
    """

    codes: Codes
    scale: Floats
    zero_point: Codes | None
    bits: int
    block: int

    def zeros(self) -> Codes:
        """The zero points of all blocks, uint8 [blocks, N], stored or implied."""
        if self.zero_point is not None:
            return self.zero_point
        return np.full(self.scale.shape, middle(self.bits), np.uint8)


def dequantize_blocks(coded: BlockCodes) -> Floats:
    """The weights that the codes stand for, as the runtime computes them: float32 [K, N]."""
    inputs, outputs = coded.codes.shape
    weight = np.empty((inputs, outputs), np.float32)
    for part in column_parts(inputs, outputs):
        steps = spread(coded.scale[:, part], coded.block, inputs)
        weight[:, part] = centred(coded, part) * steps
    return weight


def centred(coded: BlockCodes, part: slice) -> Floats:
    """Codes less their zero points, of some outputs: float32 [K, outputs]."""
    codes = coded.codes[:, part].astype(np.float32)
    codes -= spread(coded.zeros()[:, part], coded.block, len(codes))
    return codes


def row_grids(coded: BlockCodes, part: slice) -> tuple[Doubles, Doubles]:
    """Scale and zero point of every weight of some outputs: float64 [K, outputs] each."""
    inputs = len(coded.codes)
    scale = spread(coded.scale[:, part], coded.block, inputs)
    zeros = spread(coded.zeros()[:, part], coded.block, inputs)
    return scale.astype(np.float64), zeros.astype(np.float64)


def middle(bits: int) -> int:
    """The zero point of symmetric codes."""
    return 1 << (bits - 1)


def top(bits: int) -> int:
    """The largest code."""
    return (1 << bits) - 1


def check_layout(bits: int, block: int) -> None:
    """Raises UsageError for widths other than 2 … 8 bits and for empty blocks."""
    if bits not in WIDTHS:
        raise UsageError(f"codes can have 2 to 8 bits, not {bits}")
    if block < 1:
        raise UsageError(f"a block holds at least one weight, not {block}")


def checked_weight(weight: ArrayLike) -> NDArray[Any]:
    """The weight as a floating array [K, N], not copied. Raises InputError for NaN, infinity."""
    array = np.asarray(weight)
    if array.ndim != 2 or array.dtype.kind != "f" or array.size == 0:
        raise InputError(f"no weight to code: {array.dtype}{list(array.shape)}, wants float [K, N]")
    limit = float(np.finfo(np.float32).max)
    if not (float(np.max(array)) <= limit and float(np.min(array)) >= -limit):
        raise InputError(
            "weights to code hold NaN or values that are infinite in float32",
            hint="repair or retrain the model: these weights have no quantized form",
        )
    return array


def column_parts(inputs: int, outputs: int) -> Iterator[slice]:
    """Some outputs at a time, so that temporaries stay small whatever the weight's size."""
    step = max(1, _PART // inputs)
    for start in range(0, outputs, step):
        yield slice(start, min(outputs, start + step))


def block_count(inputs: int, block: int) -> int:
    """How many blocks cover the inputs."""
    return -(-inputs // block)


def blocked(values: NDArray[Any], block: int) -> NDArray[Any]:
    """[K, N] as [blocks, block, N], zeros after the last input."""
    inputs, outputs = values.shape
    blocks = block_count(inputs, block)
    padded = np.zeros((blocks * block, outputs), values.dtype)
    padded[:inputs] = values
    return padded.reshape(blocks, block, outputs)


def spread(per_block: NDArray[Any], block: int, inputs: int) -> NDArray[Any]:
    """One row for each input of what is there for each block: [blocks, N] -> [K, N]."""
    return np.repeat(per_block, block, axis=0)[:inputs]
