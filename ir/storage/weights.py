"""Writing a graph with other tensors in the place of its weights, and nothing copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import onnx_ir as ir

Replace = Callable[[ir.Value, ir.TensorProtocol], ir.TensorProtocol]


@contextmanager
def substituted(graphs: Iterable[ir.Graph], replace: Replace) -> Iterator[None]:
    """While open, each initializer holds ``replace(value, tensor)``; afterwards its own again."""
    held = [
        (value, value.const_value)
        for graph in graphs
        for value in graph.initializers.values()
        if value.const_value is not None
    ]
    try:
        for value, tensor in held:
            value.const_value = replace(value, tensor)
        yield
    finally:
        for value, tensor in held:
            value.const_value = tensor


def external_reference(
    tensor: ir.TensorProtocol, location: str, offset: int, name: str | None
) -> ir.ExternalTensor:
    """A tensor of the same dtype and shape whose bytes are said to lie in a file."""
    return ir.ExternalTensor(
        location,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=name or "",
        base_dir="",
    )
