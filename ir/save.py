"""Models on disk: the same bytes each time, complete or not at all, never over their own source."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import onnx_ir as ir

from .errors import PlanishError
from .graph import all_graphs
from .storage.atomic import write_together
from .storage.external import load_attributes
from .storage.fan import Fan
from .storage.stream import pieces
from .storage.tensors import (
    HASH_SIZE,
    all_tensors,
    hasher,
    in_memory,
    is_hashed,
    remember,
    source_file,
    write_bytes,
)
from .storage.weights import external_reference, substituted

INLINE_BELOW = 1024  # bytes; smaller tensors stay in the model file
LIMIT = (1 << 31) - 1  # bytes of one protobuf message
LARGE, PAGE, LINE = 1 << 20, 4096, 64  # bytes; large tensors start on a page, others on a line
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_one_file: ContextVar[int] = ContextVar("one_file", default=1 << 30)

Hash = Any  # hashlib's objects have no public type
_Piece = tuple[bytes | memoryview, Hash | None]


def save_model(
    model: ir.Model,
    path: Path,
    *,
    external_threshold: int | None = None,
    ir_version: int | None = None,
    record: dict[Path, str] | None = None,
    hash_tensors: bool = True,
) -> list[Path]:
    """Write the model and, where its weights exceed ``external_threshold`` bytes, a data file.

    external_threshold: 1 GB unless ``one_file_up_to`` says otherwise.
    Saving a model twice gives the same bytes. Each file is complete before it takes its name. The
    data file stands beside the model as ``<name>.data``, or ``<name>-1.data`` and so on where the
    model's own tensors read from that one. ir_version: written instead of the model's own.
    record: gets the SHA-256 of each file, made while it is written, as the digests of its tensors
    are then unless ``hash_tensors`` says no. Large weights pass through memory in pieces.

    Returns the files written, the model file first. Raises ``PlanishError`` when the disk is full
    or the folder cannot be written to; then no file is changed, half written or left behind.
    """
    path = Path(path)
    _check_target(model, path)
    load_attributes(model.graph)
    with _explained(path):
        most = _one_file.get() if external_threshold is None else external_threshold
        if total_bytes(model) <= most:
            message = serialized(_inline_proto(model, ir_version))
            write_together({path: lambda file: _write(file, message)})
            _record(record, path, message)
            return [path]
        data = _data_path(model, path)
        plan, proto = _external_proto(model, data.name, ir_version)
        message = serialized(proto)
        write = plan.write if record is None else plan.hashed_writer(hash_tensors)
        write_together({data: write, path: lambda file: _write(file, message)})
        if record is not None:
            record[data] = plan.sha256
            _record(record, path, message)
        return [path, data]


def save_content(content: bytes, path: Path) -> None:
    """Write the bytes of a model; as ``save_model`` in all else."""
    with _explained(path):
        write_together({path: lambda file: _write(file, content)})


@contextmanager
def one_file_up_to(count: int) -> Iterator[None]:
    """While open, models with more bytes of weights are saved with a data file.

    A model of one file is made in memory, several times over.
    """
    before = _one_file.set(count)
    try:
        yield
    finally:
        _one_file.reset(before)


def to_bytes(model: ir.Model, *, ir_version: int | None = None) -> bytes:
    """The model as one message, weights included; ``PlanishError`` beyond 2 GB."""
    size = total_bytes(model)
    if size > LIMIT:
        raise _too_large(size)
    load_attributes(model.graph)
    return serialized(_inline_proto(model, ir_version))


def saved_bytes(model: ir.Model) -> int:
    """Bytes of the one file that ``save_model`` would write; nothing is written, nothing read."""
    apart = 0

    def shell(value: ir.Value, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        nonlocal apart
        if tensor.dtype == ir.DataType.STRING or tensor.nbytes < INLINE_BELOW:
            return in_memory(tensor)
        apart += tensor.nbytes
        return ir.Tensor(np.empty(0, np.uint8), name=value.name)

    with substituted(all_graphs(model), shell):
        return apart + int(_proto(model, None).ByteSize())


def total_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, of subgraphs too; a tensor that several share counts for each."""
    values = (v for g in all_graphs(model) for v in g.initializers.values())
    return sum(_nbytes(v.const_value) for v in values if v.const_value is not None)


@dataclass
class _DataFile:
    """Where each tensor goes in a data file; a tensor held by several values goes there once.

    sha256: of the whole file, once a ``hashed_writer`` has written it.
    """

    name: str
    size: int = 0
    sha256: str = ""
    places: dict[Hashable, tuple[int, ir.TensorProtocol]] = field(default_factory=dict)

    def place(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if tensor.dtype == ir.DataType.STRING or tensor.nbytes < INLINE_BELOW:
            return in_memory(tensor)
        key = _identity(tensor)
        if key not in self.places:
            step = PAGE if tensor.nbytes >= LARGE else LINE
            offset = -(-self.size // step) * step
            self.places[key] = offset, tensor
            self.size = offset + tensor.nbytes
        return external_reference(tensor, self.name, self.places[key][0], value.name)

    def write(self, file: IO[bytes]) -> None:
        for offset, tensor in self.places.values():
            file.write(bytes(offset - file.tell()))
            write_bytes(tensor, file.write)

    def hashed_writer(self, tensors: bool) -> Callable[[IO[bytes]], None]:
        """``write``, hashing on the way: the file, and the tensors if these are asked for."""
        return lambda file: self._write_hashed(file, tensors)

    def _write_hashed(self, file: IO[bytes], tensors: bool) -> None:
        """Hashes are made in threads beside the writing."""
        whole = hashlib.sha256()
        states: list[tuple[ir.TensorProtocol, Hash]] = []
        consumers: tuple[Callable[[_Piece], object], ...] = (
            lambda piece: file.write(piece[0]),
            lambda piece: whole.update(piece[0]),
            lambda piece: piece[1] and piece[1].update(piece[0]),
        )
        position = 0
        with Fan[_Piece](*consumers) as fan:
            for offset, tensor in self.places.values():
                fan.put((bytes(offset - position), None))
                state = hasher(tensor) if tensors and not is_hashed(tensor) else None
                for piece in pieces(tensor):
                    fan.put((piece, state))
                position = offset + tensor.nbytes
                if state is not None:
                    states.append((tensor, state))
        for tensor, state in states:
            remember(tensor, state.hexdigest(HASH_SIZE))
        self.sha256 = whole.hexdigest()


def _record(record: dict[Path, str] | None, path: Path, message: bytes) -> None:
    if record is not None:
        record[path] = hashlib.sha256(message).hexdigest()


def _identity(tensor: ir.TensorProtocol) -> Hashable:
    """Equal for tensors that are one object, or the same bytes of one file."""
    if isinstance(tensor, ir.ExternalTensor):
        return tensor.path, tensor.offset, tensor.nbytes
    return id(tensor)


def _nbytes(tensor: ir.TensorProtocol) -> int:
    if tensor.dtype == ir.DataType.STRING:
        return sum(len(s) for s in tensor.numpy().reshape(-1).tolist())
    return tensor.nbytes


def _inline_proto(model: ir.Model, ir_version: int | None) -> onnx.ModelProto:
    with substituted(all_graphs(model), lambda _, tensor: in_memory(tensor)):
        return _proto(model, ir_version)


def _external_proto(
    model: ir.Model, name: str, ir_version: int | None
) -> tuple[_DataFile, onnx.ModelProto]:
    plan = _DataFile(name)
    with substituted(all_graphs(model), plan.place):
        return plan, _proto(model, ir_version)


def _proto(model: ir.Model, ir_version: int | None) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    if ir_version is not None:
        proto.ir_version = ir_version
    return proto


def serialized(proto: onnx.ModelProto) -> bytes:
    """The bytes of a file, the same each time. Raises PlanishError beyond 2 GB."""
    try:
        message: bytes = proto.SerializeToString(deterministic=True)
        return message
    except Exception as error:  # protobuf's EncodeError: the weights fit, their packing did not
        raise _too_large(proto.ByteSize()) from error


def _too_large(size: int) -> PlanishError:
    return PlanishError(
        f"a model of {size / 1e9:.1f} GB does not fit into one ONNX file, which ends at 2.1 GB",
        hint="save it with a lower external_threshold: weights then go to a file beside it",
    )


def _check_target(model: ir.Model, path: Path) -> None:
    if path.is_dir():
        raise PlanishError(
            "the model cannot be saved: a folder has its name",
            where=str(path),
            hint="choose another name",
        )
    if os.path.realpath(path) in _sources(model):
        raise PlanishError(
            "the model cannot be saved over a file that its weights are read from",
            where=str(path),
            hint="choose another name",
        )


def _sources(model: ir.Model) -> set[str]:
    files = (source_file(tensor) for _, tensor in all_tensors(model.graph))
    return {os.path.realpath(f) for f in files if f is not None}


def _data_path(model: ir.Model, path: Path) -> Path:
    sources, count = _sources(model), 0
    data = path.with_name(f"{path.name}.data")
    while os.path.realpath(data) in sources:
        count += 1
        data = path.with_name(f"{path.name}-{count}.data")
    return data


def _write(file: IO[bytes], data: bytes) -> None:
    file.write(data)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say what an operating system error means for saving to ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            what, hint = "there is no room for the model", "free some space, or save elsewhere"
        else:
            what = f"the model cannot be saved: {error.strerror or error}"
            hint = f"check that {path.parent} exists and can be written to"
        raise PlanishError(what, where=str(path), hint=hint) from error
