"""The bias of a layer: the node that adds it, and a new one in its place."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..ir.rewriter import Rewriter
from ..ir.sites import Site, Use


def bias_node(site: Site, use: Use) -> ir.Node:
    """The node that adds the bias."""
    return use.nodes[0] if site.kind == "conv" else use.nodes[-1]


def set_bias(site: Site, bias: np.ndarray | None, rewriter: Rewriter) -> None:
    """Give the site a bias of its own, at all its uses; the old one may be shared."""
    old = site.bias
    if bias is None or old is None:
        return
    new = rewriter.initializer(f"{old.name}_corrected", bias)
    for node in [bias_node(site, use) for use in site.uses]:
        rewriter.set_input(node, list(node.inputs).index(old), new)
    rewriter.sweep([old])
