"""Tensors are immutable: here is what makes numpy say so."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..graph import all_graphs


def seal(model: ir.Model) -> None:
    """Let nobody write into the weights of a model; arrays that a caller holds stay writable.

    A tensor that several values hold stays one.
    """
    known: dict[int, ir.TensorProtocol] = {}
    values = [v for graph in all_graphs(model) for v in graph.initializers.values()]
    held = [(value, value.const_value) for value in values if value.const_value is not None]
    for value, tensor in held:
        value.const_value = known.setdefault(id(tensor), sealed(tensor))


def sealed(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The tensor, its array read-only; those in files and in protos are so anyway."""
    if type(tensor) is not ir.Tensor or not isinstance(tensor.raw, np.ndarray):
        return tensor
    if not tensor.raw.flags.writeable:
        return tensor
    view = read_only(tensor.raw)
    return ir.Tensor(
        view, tensor.dtype, shape=tensor.shape, name=tensor.name, doc_string=tensor.doc_string
    )


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written through."""
    view = array.view()
    view.flags.writeable = False
    return view
