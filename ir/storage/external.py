"""Weights in files beside the model: they must be there, complete, and inside its folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from ..digest import file_digest
from ..errors import InputError
from ..fingerprint import combine
from .tensors import all_tensors, in_memory, tensor_digest


def check_external(model: ir.Model, folder: Path | None, where: str) -> list[Path]:
    """The files that hold weights, each once, in the order of first use.

    folder: where the model file lies, None for a model that was never a file; its tensors then
    say themselves where they are. From here on they are found whatever the working directory.
    Raises ``InputError`` for a file that is missing, too short, outside the folder (by its name
    or through a link), or no file at all.
    """
    files: dict[Path, None] = {}
    for name, tensor in all_tensors(model.graph):
        if isinstance(tensor, ir.ExternalTensor):
            files[_checked(tensor, name, folder, where)] = None
    return list(files)


def external_tensors(model: ir.Model) -> list[ir.ExternalTensor]:
    """The tensors that lie in files, in the order of first use."""
    found = (tensor for _, tensor in all_tensors(model.graph))
    return list(dict.fromkeys(t for t in found if isinstance(t, ir.ExternalTensor)))


def source_digest(path: Path, weights: Sequence[ir.ExternalTensor]) -> str:
    """32 hex characters over a model file and the weights that it names in other files.

    Without such weights that of the file (``b2sum -l 128``). Gaps between weights do not count:
    each weight is read once, for this and for all else that is asked of its bytes.
    """
    if not weights:
        return file_digest(path)
    return combine(file_digest(path).encode(), *(tensor_digest(t).encode() for t in weights)).hex()


def load_attributes(graph: ir.Graph) -> None:
    """Read external tensors among a graph's node attributes: only initializers stay lazy."""
    for node in graph.all_nodes():
        for name, attr in list(node.attributes.items()):
            if attr.type != ir.AttributeType.TENSOR or attr.is_ref() or attr.value is None:
                continue
            tensor = attr.as_tensor()
            if isinstance(tensor, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, in_memory(tensor))


def _checked(tensor: ir.ExternalTensor, name: str, folder: Path | None, where: str) -> Path:
    location = os.fspath(tensor.location)
    base = folder if folder is not None else _own_folder(tensor, name, where)
    problem = _outside(location, base)
    if problem:
        raise InputError(
            f"the weights of {name!r} are said to lie in {_shown(location)}, {problem}",
            where=where,
            hint="do not trust this file unless you know who made it; a link is fine once copied",
        )
    path = base / location
    problem = incomplete(tensor, path)
    if problem:
        raise InputError(
            f"the weights of {name!r} cannot be read: {problem}",
            where=where,
            hint=f"put the complete {_shown(location)} into {base}, next to the model",
        )
    tensor.base_dir = base
    return path


def _own_folder(tensor: ir.ExternalTensor, name: str, where: str) -> Path:
    if not os.fspath(tensor.base_dir):
        hint = "give planish the path of the model file instead"
        what = f"the weights of {name!r} lie in a file, and the model does not say in which folder"
        raise InputError(what, where=where, hint=hint)
    return Path(tensor.base_dir).absolute()


def _outside(location: str, base: Path) -> str:
    if "_ORT_MEM_ADDR_" in location:
        return "which is an address in memory"
    if not location or "\0" in location or Path(location).is_absolute():
        return "which is not a path inside the model's folder"
    if Path(os.path.normpath(location)).parts[:1] == ("..",):
        return "which is outside the model's folder"
    real = Path(os.path.realpath(base / location))
    if not real.is_relative_to(os.path.realpath(base)):
        return f"which is a link to {real}, outside the model's folder"
    return ""


def incomplete(tensor: ir.ExternalTensor, path: Path) -> str:
    """Why a tensor cannot be read from a file, "" where it can."""
    found = _stat(path)
    if found is None:
        return "the file is missing"
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file"
    if found.st_nlink > 1:
        # onnx and onnx_ir refuse these when they read, so say it now.
        return "the file has several hard links, which readers of ONNX refuse; copy it"
    offset, length = tensor.offset or 0, tensor.length
    if offset < 0 or (length is not None and length != tensor.nbytes):
        return f"the model asks for {length} bytes at {offset}, its shape for {tensor.nbytes}"
    if offset + tensor.nbytes > found.st_size:
        return f"the file ends at {found.st_size:,} bytes, {offset + tensor.nbytes:,} are needed"
    return "" if os.access(path, os.R_OK) else "the file is not readable"


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):  # no such file, a name too long, a name that can be none
        return None


def _shown(location: str) -> str:
    return repr(location if len(location) <= 80 else location[:79] + "…")
