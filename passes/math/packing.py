"""Block codes in the bytes that ONNX Runtime's operators of few bits read.

Source: com.microsoft MatMulNBits and GatherBlockQuantized (contrib operator schemas): codes are
packed along the inputs, the first in the lowest bits of its byte; a row's last block is padded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import UsageError
from .blockcodes import BlockCodes, block_count, column_parts, middle

PACKED_WIDTHS = (2, 4, 8)

Bytes = NDArray[np.uint8]
Packed = tuple[Bytes, NDArray[np.float32], Bytes | None]


def pack_nbits(coded: BlockCodes) -> Packed:
    """Inputs of MatMulNBits for a weight [K, N]: B, scales, zero points (None: symmetric).

    B: uint8 [N, blocks, block * bits / 8], the last block padded with the zero point's default.
    scales: float32 [N, blocks]. zero points: uint8 [N, ceil(blocks * bits / 8)].
    Raises UsageError for widths and blocks that do not fill bytes.
    """
    bits, block = coded.bits, coded.block
    if bits not in PACKED_WIDTHS or block * bits % 8:
        raise UsageError(f"blocks of {block} codes of {bits} bits have no packed form")
    inputs, outputs = coded.codes.shape
    blocks = block_count(inputs, block)
    packed = np.empty((outputs, blocks * block * bits // 8), np.uint8)
    for part in column_parts(inputs, outputs):
        packed[part] = _pack(_padded(coded.codes[:, part].T, blocks * block, bits), bits)
    scales = np.ascontiguousarray(coded.scale.T)
    return packed.reshape(outputs, blocks, -1), scales, _packed_zeros(coded)


def pack_rows(coded: BlockCodes) -> Packed:
    """Inputs of GatherBlockQuantized for a table [V, D], coded as the weight [D, V].

    data: uint8 [V, D * bits / 8]; scales float32 [V, blocks]; zero points uint8
    [V, ceil(blocks * bits / 8)], None: symmetric. gather_axis 0, quantize_axis 1. Where D is
    whole blocks, these are the bytes of MatMulNBits of a tied head.
    Raises UsageError for widths and rows that do not fill bytes.
    """
    inputs, outputs = coded.codes.shape
    if inputs * coded.bits % 8:
        raise UsageError(f"rows of {inputs} codes of {coded.bits} bits do not fill bytes")
    packed, scales, zeros = pack_nbits(coded)
    rows = packed.reshape(outputs, -1)[:, : inputs * coded.bits // 8]
    return np.ascontiguousarray(rows), scales, zeros


def _packed_zeros(coded: BlockCodes) -> Bytes | None:
    if coded.zero_point is None:
        return None
    per_byte = 8 // coded.bits
    blocks = len(coded.zero_point)
    whole = -(-blocks // per_byte) * per_byte
    return _pack(_padded(coded.zero_point.T, whole, coded.bits), coded.bits)


def _padded(rows: NDArray[Any], length: int, bits: int) -> Bytes:
    padded = np.full((len(rows), length), middle(bits), np.uint8)
    padded[:, : rows.shape[1]] = rows
    return padded


def _pack(rows: Bytes, bits: int) -> Bytes:
    """[R, C] codes -> [R, C * bits / 8] bytes."""
    packed = np.zeros((len(rows), rows.shape[1] * bits // 8), np.uint8)
    for place in range(8 // bits):
        packed |= rows[:, place :: 8 // bits] << np.uint8(place * bits)
    return packed
