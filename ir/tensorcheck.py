"""Whether a tensor in a proto holds what its dtype and shape promise."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx
import onnx_ir as ir

from .errors import InputError

_DATA_TYPES = frozenset(t.value for t in ir.DataType if t != ir.DataType.UNDEFINED)


def check_sparse(sparse: onnx.SparseTensorProto, label: str, where: str) -> None:
    """Raise ``InputError`` where the values or indices of a sparse tensor are incomplete."""
    check_tensor(sparse.values, f"values of {label}", where)
    check_tensor(sparse.indices, f"indices of {label}", where)


def check_tensor(tensor: onnx.TensorProto, label: str, where: str) -> None:
    """Raise ``InputError`` for an unknown dtype, a negative size, or missing data.

    External data is looked at when its file is known.
    """
    if tensor.data_type not in _DATA_TYPES:
        what = f"{label} is of no known data type ({tensor.data_type})"
        raise InputError(what, where=where, hint="export the model with a released onnx")
    if any(d < 0 for d in tensor.dims):
        what = f"{label} has a negative size: {list(tensor.dims)}"
        raise InputError(what, where=where, hint="the file is damaged; export it again")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    wanted, held = _elements(tensor)
    if held == wanted:
        return
    what = f"{label} should hold {wanted:,} numbers or bytes for its shape, but holds {held:,}"
    if held == 0:
        what = f"{label} holds no data: its weights were stripped or lost"
    raise InputError(what, where=where, hint="export or download the model again, with its weights")


def _elements(tensor: onnx.TensorProto) -> tuple[int, int]:
    """How many entries the shape asks for, and how many there are, in the field that holds them."""
    size, dtype = math.prod(tensor.dims), ir.DataType(tensor.data_type)
    if dtype == ir.DataType.STRING:
        return size, len(tensor.string_data)
    bits = dtype.bitwidth
    if tensor.HasField("raw_data"):
        return math.ceil(size * bits / 8), len(tensor.raw_data)
    field, entries = _typed_field(dtype)
    return entries(size), len(getattr(tensor, field))


def _typed_field(dtype: ir.DataType) -> tuple[str, Callable[[int], int]]:
    """The repeated field that holds this dtype when there are no raw bytes, and its length."""
    fields = {
        ir.DataType.FLOAT: ("float_data", 1),
        ir.DataType.COMPLEX64: ("float_data", 2),
        ir.DataType.DOUBLE: ("double_data", 1),
        ir.DataType.COMPLEX128: ("double_data", 2),
        ir.DataType.INT64: ("int64_data", 1),
        ir.DataType.UINT64: ("uint64_data", 1),
        ir.DataType.UINT32: ("uint64_data", 1),
    }
    field, times = fields.get(dtype, ("int32_data", 1))
    packed = 8 // dtype.bitwidth if dtype.bitwidth in (2, 4) else 1
    return field, lambda size: math.ceil(size * times / packed)
