"""Weights that are not here: their dtype and shape are known, their bytes are not.

A digest may be known all the same: of what was left out on purpose, by who left it out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from ..errors import InputError
from ..fingerprint import combine
from ..graph import all_graphs
from .external import incomplete
from .tensors import assume

DIGEST_KEY = "planish.digest"
"""Of a tensor that was left out of a file: ``tensor_digest`` of what it was."""


class Absent(ir.LazyTensor):
    """A tensor whose bytes nobody has. told: whether its digest is that of the bytes all the same.

    Reading it raises InputError.
    """

    def __init__(self, tensor: ir.ExternalTensor, why: str) -> None:
        super().__init__(
            self._refuse, tensor.dtype, ir.Shape(tensor.shape.numpy()), name=tensor.name
        )
        self.location, self.why = os.fspath(tensor.location), why
        digest = tensor.metadata_props.get(DIGEST_KEY, "")
        self.told = bool(digest)
        assume(self, digest or _reference(tensor))

    def _refuse(self) -> ir.TensorProtocol:
        raise InputError(
            f"the weights of {self.name!r} are not here: {self.why}",
            hint=f"put the file {self.location!r} next to the model",
        )


def is_absent(tensor: ir.TensorProtocol | None) -> bool:
    """Whether the bytes of a tensor are not here."""
    return isinstance(tensor, Absent)


def is_unknown(tensor: ir.TensorProtocol | None) -> bool:
    """Whether nothing tells what a tensor holds, not even a digest."""
    return isinstance(tensor, Absent) and not tensor.told


def stand_in(model: ir.Model, folder: Path) -> list[Absent]:
    """Let ``Absent`` stand for each initializer whose file in ``folder`` is missing or too short;
    those that do. A tensor that several values hold stays one."""
    made: dict[int, Absent] = {}
    for value in _initializers(model):
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        if id(tensor) not in made:
            path = folder / os.fspath(tensor.location)
            why = incomplete(tensor, path)
            if not why:
                continue
            tensor.base_dir = folder
            made[id(tensor)] = Absent(tensor, why)
        value.const_value = made[id(tensor)]
    return list(made.values())


def unknown_weights(model: ir.Model) -> list[str]:
    """Names of the constants of which nothing but dtype and shape is known."""
    return [str(value.name) for value in _initializers(model) if is_unknown(value.const_value)]


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    return (v for graph in all_graphs(model) for v in list(graph.initializers.values()))


def _reference(tensor: ir.ExternalTensor) -> str:
    """Two names of one place in one file are equal, whatever stands there."""
    place = os.path.realpath(tensor.path), tensor.offset or 0, tensor.nbytes
    shape = tuple(tensor.shape.numpy())
    return combine(b"absent", repr((place, tensor.dtype.name, shape)).encode()).hex()[:32]
