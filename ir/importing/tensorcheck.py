"""Whether a tensor in a proto holds what its dtype and shape promise."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import onnx
import onnx_ir as ir

from ..errors import InputError

MAX_RANK = 64
"""Of numpy; ONNX Runtime stops sooner."""
MAX_BITS = 1 << 63  # sizes in bits are still numbers of the machine then

_DAMAGED = "the file is damaged; export it again"
_FILE_POSITION = re.compile(r"[0-9]{1,18}")
_DATA_TYPES = frozenset(t.value for t in ir.DataType if t != ir.DataType.UNDEFINED)


def check_sparse(sparse: onnx.SparseTensorProto, label: str, where: str) -> None:
    """Raise ``InputError`` where the values or indices of a sparse tensor are incomplete."""
    check_tensor(sparse.values, f"values of {label}", where)
    check_tensor(sparse.indices, f"indices of {label}", where)
    _check_dims(list(sparse.dims), sparse.values.data_type, label, where)


def check_tensor(tensor: onnx.TensorProto, label: str, where: str) -> None:
    """Raise ``InputError`` for an unknown dtype, an impossible shape, or missing data.

    The file of external data is looked at when its folder is known.
    """
    if tensor.data_type not in _DATA_TYPES:
        what = f"{label} is of no known data type ({tensor.data_type})"
        raise InputError(what, where=where, hint="export the model with a released onnx")
    _check_dims(list(tensor.dims), tensor.data_type, label, where)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_entries(tensor, label, where)
        return
    wanted, held = _elements(tensor)
    if held == wanted:
        return
    what = f"{label} should hold {wanted:,} numbers or bytes for its shape, but holds {held:,}"
    if held == 0:
        what = f"{label} holds no data: its weights were stripped or lost"
    raise InputError(what, where=where, hint="export or download the model again, with its weights")


def check_rank(info: onnx.ValueInfoProto, where: str) -> None:
    """Raise ``InputError`` for a declared shape of more axes than any runtime takes."""
    axes = len(info.type.tensor_type.shape.dim)
    if axes > MAX_RANK:
        what = f"{info.name!r} has {axes:,} axes; no runtime takes more than {MAX_RANK}"
        raise InputError(what, where=where, hint=_DAMAGED)


def _check_dims(dims: list[int], data_type: int, label: str, where: str) -> None:
    hint = _DAMAGED
    if len(dims) > MAX_RANK:
        what = f"{label} has {len(dims):,} axes; no runtime takes more than {MAX_RANK}"
        raise InputError(what, where=where, hint=hint)
    if any(d < 0 for d in dims):
        raise InputError(f"{label} has a negative size: {dims}", where=where, hint=hint)
    # Sizes of zero do not count: numpy multiplies the others all the same.
    if math.prod(d for d in dims if d) * _bits(data_type) >= MAX_BITS:
        raise InputError(f"{label} is larger than any memory: {dims}", where=where, hint=hint)


def _bits(data_type: int) -> int:
    dtype = ir.DataType(data_type)
    return 64 if dtype == ir.DataType.STRING else dtype.bitwidth


def _check_entries(tensor: onnx.TensorProto, label: str, where: str) -> None:
    """The offset and length of external data are numbers that a file can have."""
    if tensor.data_type == ir.DataType.STRING:
        what = f"{label} holds texts, which ONNX cannot keep in another file"
        raise InputError(what, where=where, hint="save the model with this tensor inside the file")
    for entry in tensor.external_data:
        if entry.key in ("offset", "length") and not _FILE_POSITION.fullmatch(entry.value):
            shown = repr(entry.value if len(entry.value) <= 40 else entry.value[:39] + "…")
            raise InputError(
                f"the {entry.key} of the data of {label} is {shown}, which is no place in a file",
                where=where,
                hint="the file is damaged, or made to do harm; export the model again",
            )


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
