"""What can be said of one tensor without changing it: its digest, its file, its finiteness."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir

HASH_SIZE = 16  # bytes of BLAKE2b: 32 hex characters
_CHUNK = 1 << 20  # elements looked at in one go
_digests: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def tensor_digest(tensor: ir.TensorProtocol) -> str:
    """32 hex characters over dtype, shape and bytes; -0.0 and 0.0 differ, so do NaN payloads.

    Tensors are immutable, so the digest is remembered for as long as the tensor object lives.
    """
    try:
        known = _digests.get(tensor)
    except TypeError:  # a foreign tensor class without weak references
        return _digest(tensor)
    if known is None:
        known = _digests[tensor] = _digest(tensor)
    return known


def tensor_face(tensor: ir.TensorProtocol) -> str:
    """``FLOAT[384,1536]``: dtype and shape."""
    return f"{tensor.dtype.name}[{','.join(str(d) for d in tensor.shape)}]"


def all_tensors(graph: ir.Graph) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Every tensor of a graph and its subgraphs with a name to show: weights and attributes."""
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            yield name, value.const_value
    for node in graph:
        for attr in node.attributes.values():
            if not attr.is_ref():
                yield from _in_attribute(f"{node.name}.{attr.name}", attr)


def _in_attribute(name: str, attr: ir.Attr) -> Iterator[tuple[str, ir.TensorProtocol]]:
    if attr.value is None:
        return
    if attr.type == ir.AttributeType.TENSOR:
        yield name, attr.as_tensor()
    elif attr.type == ir.AttributeType.TENSORS:
        yield from ((name, tensor) for tensor in attr.as_tensors())
    elif attr.type == ir.AttributeType.GRAPH:
        yield from all_tensors(attr.as_graph())
    elif attr.type == ir.AttributeType.GRAPHS:
        for graph in attr.as_graphs():
            yield from all_tensors(graph)


def source_file(tensor: ir.TensorProtocol) -> Path | None:
    """The file a lazy tensor reads from, None for one in memory."""
    return Path(tensor.path) if isinstance(tensor, ir.ExternalTensor) else None


def in_memory(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The tensor itself, or a copy of one that reads from a file."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    copy = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
    release(tensor)
    return copy


def write_bytes(tensor: ir.TensorProtocol, write: Callable[[bytes], object]) -> None:
    """Hand a tensor's bytes (little endian, packed as in a file) to ``write``.

    External data comes in chunks and is not mapped; a tensor in memory comes in one piece.
    """
    if hasattr(tensor, "tofile"):
        tensor.tofile(_Sink(write))
    else:
        write(tensor.tobytes())


def release(tensor: ir.TensorProtocol) -> None:
    """Unmap an external tensor's file; it is mapped again when next read."""
    if isinstance(tensor, ir.ExternalTensor):
        with contextlib.suppress(BufferError):  # somebody still holds a view: leave it mapped
            tensor.release()


def nonfinite(tensor: ir.TensorProtocol) -> tuple[int, int]:
    """How many elements are NaN and how many are infinite; (0, 0) for integers and strings."""
    if not tensor.dtype.is_floating_point():
        return 0, 0
    found = _nonfinite(tensor.numpy().reshape(-1))
    release(tensor)
    return found


def _nonfinite(flat: np.ndarray[tuple[int], np.dtype[Any]]) -> tuple[int, int]:
    # A function of its own: a view that is still alive would keep the file mapped.
    nan = infinite = 0
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        bad = int(part.size - np.count_nonzero(np.isfinite(part)))
        if bad:
            nans = int(np.count_nonzero(np.isnan(part)))
            nan, infinite = nan + nans, infinite + bad - nans
    return nan, infinite


def _digest(tensor: ir.TensorProtocol) -> str:
    digest = hashlib.blake2b(tensor_face(tensor).encode(), digest_size=HASH_SIZE)
    if tensor.dtype == ir.DataType.STRING:
        for item in _strings(tensor):
            digest.update(struct.pack("<q", len(item)) + item)
    else:
        write_bytes(tensor, digest.update)
    return digest.hexdigest()


class _Sink:
    """A file that can only be written to: no tensor takes a short cut through its descriptor."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, data: Any) -> int:
        # PyTorch's tensors hand over ctypes arrays, which hashes refuse.
        found = data if isinstance(data, bytes) else bytes(data)
        self._write(found)
        return len(found)


def _strings(tensor: ir.TensorProtocol) -> Iterator[bytes]:
    for item in tensor.numpy().reshape(-1).tolist():
        yield item if isinstance(item, bytes) else str(item).encode()
