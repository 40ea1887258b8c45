"""Fingerprints of graphs: did anything change, have we seen this before?

Three levels. The structure digest covers operators, attributes, edges, opsets, the signature, and
the dtypes and shapes of the weights. The contents digest adds the bytes of the weights. The cone
digest is the contents digest of what one value is computed from. None of them looks at internal
names, doc strings, metadata, or the order of independent nodes. Constants that still are node
attributes count as attributes: by their bytes, at every level.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir
from blake3 import blake3

from .fingerprint import Forward, combine, model_fingerprint, opsets, value_fingerprint
from .storage.tensors import HASH_SIZE, tensor_digest, tensor_face

__all__ = [
    "cone_digest",
    "cone_digests",
    "contents_digest",
    "file_digest",
    "structure_digest",
    "tensor_digest",
]

_CHUNK = 1 << 20


def structure_digest(model: ir.Model) -> str:
    """32 hex characters over everything but the bytes of the weights."""
    return model_fingerprint(model, tensor_face).hex()


def contents_digest(model: ir.Model) -> str:
    """32 hex characters over the structure and the bytes of the weights."""
    return model_fingerprint(model, tensor_digest).hex()


def cone_digest(value: ir.Value) -> str:
    """32 hex characters over all that ``value`` is computed from, weights included.

    Graph inputs count by name, dtype and shape. For a value in the main graph its opset imports
    count, too; a subgraph has none of its own.
    """
    return cone_digests([value])[0]


def cone_digests(values: Iterable[ir.Value]) -> list[str]:
    """The cone digests of many values of one graph, in one walk over it."""
    forward = Forward(tensor_digest)
    return [_cone(value, forward) for value in values]


def file_digest(path: Path, *more: Path) -> str:
    """BLAKE3 of a file's bytes (``b3sum -l 16`` prints the same); OSError if unreadable.

    With ``more`` (external weights) the digest of all their digests.
    """
    if more:
        return combine(*(file_digest(p).encode() for p in (path, *more))).hex()
    digest = blake3()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest(HASH_SIZE)


def _cone(value: ir.Value, forward: Forward) -> str:
    graph = value.graph
    imports = b"" if graph is None else opsets(graph)
    return combine(b"cone", imports, value_fingerprint(value, forward)).hex()
