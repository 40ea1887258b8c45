"""What can be said of one tensor without changing it: its digest, its file, its finiteness."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir
from blake3 import blake3

from .stream import array_of, is_packed, little, pieces

HASH_SIZE = 16  # bytes of a digest: 32 hex characters
READERS = 4  # threads at most that read weights; each holds one piece
_digests: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_findings: WeakKeyDictionary[Any, tuple[int, int]] = WeakKeyDictionary()


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
    if not is_packed(tensor.dtype):
        return ir.Tensor(array_of(tensor), dtype=tensor.dtype, name=tensor.name)
    copy = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
    release(tensor)
    return copy


def write_bytes(tensor: ir.TensorProtocol, write: Callable[[memoryview], object]) -> None:
    """Hand a tensor's bytes (little endian, packed as in a file) to ``write``, in pieces.

    Nothing is mapped, and no more than a block of a large tensor is in memory.
    """
    for piece in pieces(tensor):
        write(piece)


def release(tensor: ir.TensorProtocol) -> None:
    """Unmap an external tensor's file; it is mapped again when next read."""
    if isinstance(tensor, ir.ExternalTensor):
        with contextlib.suppress(BufferError):  # somebody still holds a view: leave it mapped
            tensor.release()


def nonfinite(tensor: ir.TensorProtocol) -> tuple[int, int]:
    """How many elements are NaN and how many are infinite; (0, 0) for integers and strings."""
    if not tensor.dtype.is_floating_point():
        return 0, 0
    try:
        known = _findings.get(tensor)
    except TypeError:  # a foreign tensor class without weak references
        known = None
    if known is not None:
        return known
    counts = _Finite(tensor.dtype)
    for piece in pieces(tensor):
        counts.update(piece)
    return counts.nan, counts.infinite


def survey(tensors: Iterable[ir.TensorProtocol]) -> None:
    """Read tensors that lie in files once, several at a time: ``tensor_digest`` and ``nonfinite``
    then know the answer. Raises ``InputError`` where one cannot be read."""
    outside = [t for t in tensors if isinstance(t, ir.ExternalTensor) and t not in _digests]
    stop = threading.Event()
    pool = ThreadPoolExecutor(min(READERS, os.cpu_count() or 1))
    try:
        for done in [pool.submit(_read_once, tensor, stop) for tensor in outside]:
            done.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def hasher(tensor: ir.TensorProtocol) -> Any:
    """BLAKE3 of what ``tensor_digest`` covers before the tensor's bytes: seven times as fast on
    them as BLAKE2b. Its ``hexdigest`` takes ``HASH_SIZE``."""
    return blake3(tensor_face(tensor).encode())


def is_hashed(tensor: ir.TensorProtocol) -> bool:
    """Whether the digest is known without reading the tensor."""
    try:
        return tensor in _digests
    except TypeError:
        return True


def remember(tensor: ir.TensorProtocol, digest: str) -> None:
    """Note what ``hasher`` made of the tensor's bytes while these were on their way."""
    with contextlib.suppress(TypeError):
        _digests[tensor] = digest


def assume(tensor: ir.TensorProtocol, digest: str) -> None:
    """Of a tensor whose bytes are not here: its digest, and that nothing speaks against them."""
    _digests[tensor] = digest
    _findings[tensor] = 0, 0


def _read_once(tensor: ir.ExternalTensor, stop: threading.Event) -> None:
    state = hasher(tensor)
    counts = _Finite(tensor.dtype)
    for piece in pieces(tensor):
        if stop.is_set():
            return
        state.update(piece)
        counts.update(piece)
    _findings[tensor] = counts.nan, counts.infinite
    _digests[tensor] = state.hexdigest(HASH_SIZE)


class _Finite:
    """Counts NaN and infinities in the bytes of a tensor."""

    def __init__(self, dtype: ir.DataType) -> None:
        self.nan = self.infinite = 0
        floats = dtype.is_floating_point() and not is_packed(dtype)  # the packed ones have none
        self._dtype = little(dtype) if floats else None

    def update(self, piece: memoryview) -> None:
        if self._dtype is None:
            return
        part = np.frombuffer(piece, self._dtype)
        bad = int(part.size - np.count_nonzero(np.isfinite(part)))
        if bad:
            nans = int(np.count_nonzero(np.isnan(part)))
            self.nan, self.infinite = self.nan + nans, self.infinite + bad - nans


def _digest(tensor: ir.TensorProtocol) -> str:
    state = hasher(tensor)
    if tensor.dtype == ir.DataType.STRING:
        for item in _strings(tensor):
            state.update(struct.pack("<q", len(item)) + item)
    else:
        write_bytes(tensor, state.update)
    digest: str = state.hexdigest(HASH_SIZE)
    return digest


def _strings(tensor: ir.TensorProtocol) -> Iterator[bytes]:
    for item in tensor.numpy().reshape(-1).tolist():
        yield item if isinstance(item, bytes) else str(item).encode()
