"""Element types that the runtime computes with and numpy has no name for: bf16, fp8, 4 bits.

Arrays of them are those of ``onnx_ir`` (dtypes of ``ml_dtypes``); the runtime wants their bytes,
two 4-bit or four 2-bit numbers in a byte, the first in the lowest bits.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array: TypeAlias = npt.NDArray[Any]

FOREIGN_TYPES = {
    "bfloat16": ir.DataType.BFLOAT16,
    "float8e4m3fn": ir.DataType.FLOAT8E4M3FN,
    "float8e4m3fnuz": ir.DataType.FLOAT8E4M3FNUZ,
    "float8e5m2": ir.DataType.FLOAT8E5M2,
    "float8e5m2fnuz": ir.DataType.FLOAT8E5M2FNUZ,
    "float4e2m1": ir.DataType.FLOAT4E2M1,
    "int4": ir.DataType.INT4,
    "uint4": ir.DataType.UINT4,
    "int2": ir.DataType.INT2,
    "uint2": ir.DataType.UINT2,
}
"""By the name that the runtime gives them inside ``tensor(…)``."""


def to_bytes(array: Array, dtype: ir.DataType) -> bytes:
    """The bytes of an array as the runtime stores them, packed below 8 bits."""
    return ir.Tensor(np.ascontiguousarray(array), dtype=dtype).tobytes()


def from_bytes(data: bytes, shape: tuple[int, ...], dtype: ir.DataType) -> Array:
    """The array of that shape and dtype in bytes of the runtime."""
    if dtype.bitwidth >= 8:
        return np.frombuffer(data, dtype.numpy()).reshape(shape).copy()
    packed = np.frombuffer(data, np.uint8)
    return ir.PackedTensor(packed, dtype, shape=ir.Shape(shape)).numpy()


def byte_count(shape: tuple[int, ...], dtype: ir.DataType) -> int:
    """Bytes that a tensor takes, the last one filled up."""
    return -(-int(np.prod(shape, dtype=np.int64)) * dtype.bitwidth // 8)
