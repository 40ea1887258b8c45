"""The bytes of a tensor in pieces: nothing is mapped, and no large tensor is held whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import InputError

PIECE = 1 << 22  # bytes handed on at a time; a multiple of every item's size

Array = npt.NDArray[Any]


def pieces(tensor: ir.TensorProtocol, size: int = PIECE) -> Iterator[memoryview]:
    """A tensor's bytes (little endian, packed as in a file), ``size`` at a time, the last fewer.

    Pieces of a file are buffers of their own, so that they can be handed to other threads; those
    of a tensor in memory are views of it. Raises ``InputError`` where a file is shorter than it
    was, or has become a link to outside its folder.
    """
    if isinstance(tensor, ir.ExternalTensor):
        yield from _of_file(tensor, size)
        return
    own = getattr(tensor, "pieces", None)
    if own is not None:
        yield from own(size)
        return
    whole = _bytes_view(tensor)
    for start in range(0, len(whole), size):
        yield whole[start : start + size]


def array_of(tensor: ir.TensorProtocol) -> Array:
    """The elements of a tensor in memory, as numpy has them; read from its file, not mapped."""
    if not isinstance(tensor, ir.ExternalTensor) or is_packed(tensor.dtype):
        return tensor.numpy()
    flat = np.empty(tensor.nbytes, np.uint8)
    with _opened(tensor) as file:
        _fill(file, flat.data, tensor)
    return flat.view(little(tensor.dtype)).reshape(tensor.shape.numpy())


def little(dtype: ir.DataType) -> np.dtype[Any]:
    """How the elements of a tensor lie in a file, for types of whole bytes."""
    return np.dtype(dtype.numpy()).newbyteorder("<")


def is_packed(dtype: ir.DataType) -> bool:
    """Whether several elements share a byte."""
    return dtype == ir.DataType.STRING or dtype.bitwidth < 8


def _of_file(tensor: ir.ExternalTensor, size: int) -> Iterator[memoryview]:
    left = tensor.nbytes
    with _opened(tensor) as file:
        while left:
            buffer = np.empty(min(size, left), np.uint8).data
            _fill(file, buffer, tensor)
            yield buffer
            left -= len(buffer)


def _fill(file: IO[bytes], buffer: memoryview, tensor: ir.ExternalTensor) -> None:
    start = 0
    while start < len(buffer):
        count = file.readinto(buffer[start:])  # type: ignore[attr-defined]
        if not count:
            raise _unreadable(tensor, "the file has become shorter")
        start += count


def _opened(tensor: ir.ExternalTensor) -> IO[bytes]:
    path, base = os.path.realpath(tensor.path), os.fspath(tensor.base_dir)
    root = os.path.realpath(base)
    # Checked on import, too; but links can be made at any time.
    if base and os.path.commonpath([root, path]) != root:
        raise _unreadable(tensor, "it has become a link to a file outside the model's folder")
    try:
        file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise _unreadable(tensor, error.strerror or str(error)) from error
    if base and os.fstat(file.fileno()).st_nlink > 1:
        file.close()
        raise _unreadable(tensor, "it has become a file with several hard links")
    file.seek(tensor.offset or 0)
    return file


def _unreadable(tensor: ir.ExternalTensor, why: str) -> InputError:
    return InputError(
        f"the weights of {tensor.name!r} cannot be read: {why}",
        where=os.fspath(tensor.path),
        hint="leave the model's files alone while planish works",
    )


def _bytes_view(tensor: ir.TensorProtocol) -> memoryview:
    raw = getattr(tensor, "raw", None)
    if isinstance(tensor, ir.Tensor) and isinstance(raw, np.ndarray):
        plain = raw.flags.c_contiguous and raw.dtype.newbyteorder("<") == raw.dtype
        if plain and raw.size and not is_packed(tensor.dtype):
            return raw.reshape(-1).view(np.uint8).data
    return memoryview(tensor.tobytes())
