"""A graph without its weights: small, and still comparable, as each weight leaves its digest."""

from __future__ import annotations

import onnx_ir as ir

from .graph import all_graphs
from .provenance import without_implied_origins
from .save import INLINE_BELOW, serialized
from .storage.absent import DIGEST_KEY
from .storage.external import load_attributes
from .storage.tensors import in_memory, is_hashed, tensor_digest
from .storage.weights import external_reference, substituted

NOWHERE = "weights-left-out"
"""The file that weights are said to lie in. Nobody writes one of that name."""


def outline(model: ir.Model, *, read: bool = True) -> bytes:
    """The model as a file in which tensors of 1,024 bytes and more are dtype, shape and digest.

    ``load_model(path, lenient=True)`` reads it. read: whether weights may be read for their
    digest; otherwise those whose digest is not known yet have none.
    """

    def left_out(value: ir.Value, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if tensor.dtype == ir.DataType.STRING or tensor.nbytes < INLINE_BELOW:
            return in_memory(tensor)
        kept = external_reference(tensor, NOWHERE, 0, value.name)
        if read or is_hashed(tensor):
            kept.metadata_props[DIGEST_KEY] = tensor_digest(tensor)
        return kept

    load_attributes(model.graph)
    with without_implied_origins(model), substituted(all_graphs(model), left_out):
        return serialized(ir.to_proto(model))
