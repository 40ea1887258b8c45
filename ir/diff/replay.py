"""A difference as a patch: plain data that makes the second graph out of the first.

The patch holds nodes, attributes and wiring; tensors it names by digest, and takes them from a
store. What it makes has the contents digest of the second graph: names inside may differ.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ..errors import InputError
from ..storage.tensors import tensor_digest
from .changes import GraphDiff
from .patch import Patch
from .reading import Player
from .writing import Writer

__all__ = ["Patch", "patch_of", "replay", "store_of"]


def patch_of(diff: GraphDiff) -> Patch:
    """The patch that makes ``diff.after`` out of ``diff.before``.

    Raises InputError where the bytes of a constant are missing and nothing tells what it was.
    """
    missing = [name for names in diff.unknown for name in names]
    if missing:
        raise InputError(
            f"the bytes of {len(missing)} constants are missing, such as {missing[0]!r}: "
            "what they were cannot be played",
            hint="put the files of the weights next to both models",
        )
    return Writer(diff).patch()


def replay(before: ir.Model, patch: Patch, tensors: Mapping[str, ir.TensorProtocol]) -> ir.Model:
    """The second graph, out of the first one (which stays as it is) and tensors by digest.

    Raises InputError where the graph is not the one that the patch was made for, or a tensor is
    missing.
    """
    return Player(before.clone(), patch, tensors).model()


def store_of(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The constants of a model by digest."""
    held = (v.const_value for v in model.graph.initializers.values())
    return {tensor_digest(tensor): tensor for tensor in held if tensor is not None}
