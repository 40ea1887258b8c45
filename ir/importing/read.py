"""A model file as a proto, or a message that says what the file is instead."""

from __future__ import annotations

import difflib
import os
import stat
from pathlib import Path

import onnx

from ..errors import InputError
from ..storage.stamp import Stamp, changed
from .wire import check_wire

PROTOBUF_LIMIT = (1 << 31) - 1  # bytes; larger models keep their weights in files beside them

# What people hand over instead of a model, by how the bytes begin.
_LOOKALIKES: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the model itself",
        "fetch the model with `git lfs pull`",
    ),
    (b"PK\x03\x04", "a zip archive, such as a PyTorch checkpoint", "export it to ONNX first"),
    (b"\x80\x02", "a pickle, such as an old PyTorch checkpoint", "export it to ONNX first"),
    (b"\x89HDF", "an HDF5 file, such as a Keras model", "convert it with tf2onnx"),
    (b"<!DOCTYPE", "a web page", "the download went wrong; fetch the raw file"),
    (b"<html", "a web page", "the download went wrong; fetch the raw file"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
)
_TFLITE = b"TFL3"
_ORT = b"ORTM"


def read_proto(path: Path) -> tuple[onnx.ModelProto, Stamp]:
    """Parse an ONNX file, and say in which state it was; its external weights are not read.

    Raises ``InputError``: no such file, a folder, not readable, empty, too large, truncated, not
    ONNX, of more parts than ``wire`` allows, or written to meanwhile.
    """
    data, stamp = _bytes(path)
    proto = onnx.ModelProto()
    if not check_wire(data, str(path)):
        raise _not_onnx(path, data)
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError, which is no dependency of its own
        raise _not_onnx(path, data) from error
    if not proto.HasField("graph"):
        raise _not_onnx(path, data)
    if not proto.HasField("ir_version"):
        if not proto.graph.node:
            raise _not_onnx(path, data)
        hint = "it was not written by an ONNX exporter; set model.ir_version and save it again"
        raise InputError("the model names no IR version", where=str(path), hint=hint)
    return proto, stamp


def _bytes(path: Path) -> tuple[bytes, Stamp]:
    try:
        if not path.exists():
            raise InputError("there is no such model file", where=str(path), hint=_similar(path))
        if path.is_dir():
            raise InputError("the model is a folder", where=str(path), hint=_inside(path))
        return _content(path)
    except OSError as error:
        hint = "check its name and its permissions"
        raise InputError(
            f"the model cannot be read: {error.strerror}", where=str(path), hint=hint
        ) from error


def _content(path: Path) -> tuple[bytes, Stamp]:
    # Not blocking: opening a pipe would wait for somebody to write into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            what = "the model is not a regular file"
            raise InputError(what, where=str(path), hint="copy it first")
        if found.st_size > PROTOBUF_LIMIT:
            raise _too_large(path, found.st_size)
        data = file.read(found.st_size)
        before = Stamp.of(path, found)
        if len(data) != found.st_size or Stamp.of(path, os.fstat(file.fileno())) != before:
            raise changed(path)
    if not data:
        hint = "export or download it again"
        raise InputError("the model file is empty", where=str(path), hint=hint)
    return data, before


def _similar(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist either; check the path"
    return (
        _near(path)
        or _models(folder)
        or "check the path; a relative one starts at the working directory"
    )


def _near(path: Path) -> str:
    """The models beside it whose names are spelled almost alike, "" where none is."""
    stems = {name.removesuffix(".onnx").lower(): name for name in _names(path.parent)}
    close = difflib.get_close_matches(path.stem.lower(), stems, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(repr(stems[stem]) for stem in close)}?" if close else ""


def _inside(path: Path) -> str:
    return _models(path) or "name the .onnx file itself"


def _models(folder: Path) -> str:
    found = _names(folder)
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"name one of its models: {', '.join(found[:5])}{more}" if found else ""


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.glob("*.onnx"))
    except OSError:
        return []


def _too_large(path: Path, size: int) -> InputError:
    return InputError(
        f"the file holds {size / 1e9:.1f} GB; an ONNX file ends at 2.1 GB",
        where=str(path),
        hint="save the model with external data",
    )


def _not_onnx(path: Path, data: bytes) -> InputError:
    for start, what, hint in _LOOKALIKES:
        if data.startswith(start):
            return InputError(f"the file is {what}", where=str(path), hint=hint)
    if data[4:8] in (_TFLITE, _ORT):
        what = "a TensorFlow Lite model" if data[4:8] == _TFLITE else "an ORT-format model"
        hint = "planish compiles ONNX; give it the model this one was made from"
        return InputError(f"the file is {what}", where=str(path), hint=hint)
    return InputError(
        "the file is truncated or not an ONNX model",
        where=str(path),
        hint=f"it has {len(data):,} bytes; compare with the original, then copy or export it again",
    )
