"""Layers that a small pass can take as they are: which, and why others are left alone."""

from __future__ import annotations

import onnx_ir as ir

from ..ir.facts import FLOAT
from ..ir.graph import constant_tensor
from ..ir.sites import Site


def not_plain(site: Site) -> tuple[str, str] | None:
    """A code and a sentence for a layer that is not plain, None for one that is.

    A plain layer stands in the main graph and has a weight of its own, stored in float32 as the
    operator reads it: new contents of the same shape for ``site.weight`` change this layer, and
    nothing else.
    """
    tensor = constant_tensor(site.weight)
    if site.weight is None or tensor is None or site.input is None or site.output is None:
        return "no-weight", "its weight is not stored"
    if site.nested:
        return "nested", "it stands in the body of a node"
    if FLOAT not in site.facts or tensor.dtype != ir.DataType.FLOAT:
        return "not-float32", f"its weight is stored in {tensor.dtype.name}"
    own = {*site.nodes, *site.weight_path}
    if len(site.uses) != 1 or site.weight.is_graph_output() or site.ties:
        return "shared", "several layers share its weight"
    if site.weight_path:
        return "computed", "its weight is computed from what is stored"
    if any(use.node not in own for use in site.weight.uses()):
        return "shared", "something else reads its weight, too"
    return None
