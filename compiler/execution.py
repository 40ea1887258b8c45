"""Run an ``onnx_ir`` model that lies in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from ..ir.save import save_model, to_bytes
from ..targets.runtime import Optimize, Session, open_session

IN_MEMORY_BYTES = 1 << 29
"""Above this a model goes to the runtime through a file, so that it is not held twice."""


@contextmanager
def running(model: ir.Model, *, threads: int = 0, optimize: Optimize = "all") -> Iterator[Session]:
    """A session on the model; large models pass through a temporary file."""
    if weight_bytes(model) <= IN_MEMORY_BYTES:
        yield open_session(to_bytes(model), threads=threads, optimize=optimize)
        return
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        path = Path(folder, "model.onnx")
        save_model(model, path, external_threshold=0)
        yield open_session(path, threads=threads, optimize=optimize)


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers of the main graph, each counted once."""
    return sum(
        v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None
    )


def names(values: Sequence[ir.Value]) -> list[str]:
    """Names of values, in order."""
    return [str(v.name) for v in values]
