"""Scales of blocks along what a linear layer sums over: which shapes suit, how it is rebuilt."""

from __future__ import annotations

import numpy as np

from ...ir.blocked import blocked_weight
from ...ir.graph import constant_tensor
from ...ir.rewriter import Rewriter
from ...ir.rounded import RANKS, rounded_view
from ...ir.sites import Site
from ...targets.schema import Target
from .layers import input_of, uneven_shape

OUTPUTS = 16
"""What outputs are multiples of, as tensor cores take them."""


def unsuited(site: Site, target: Target, block: int) -> tuple[str, str] | None:
    """Code and sentence on why the shapes do not suit; None where they do."""
    tensor, x = constant_tensor(site.weight), input_of(site)
    if tensor is None or x.shape is None:
        return "unknown-rank", "shape inference does not get through it"
    if len(x.shape) not in RANKS:
        return "rank", f"its input has {len(x.shape)} axes; blocks are for 2 or 3"
    inputs, outputs = tensor.shape.numpy()
    if min(inputs, outputs) < target.min_gemm:
        least = target.min_gemm
        return "too-small", f"a {inputs}x{outputs} product is smaller than {least} on a side"
    if inputs % block or outputs % OUTPUTS:
        sentence = f"{inputs} inputs are no blocks of {block}, or {outputs} outputs of {OUTPUTS}"
        return "uneven-shape", sentence
    if x.shape[-1] != inputs:
        return "unknown-size", "the size of what it sums over is not known beforehand"
    uneven = uneven_shape(site, target)
    return ("uneven-shape", uneven) if uneven else None


def lower_blocks(
    site: Site,
    codes: np.ndarray,
    block_scales: np.ndarray,
    rewriter: Rewriter,
    *,
    scale: float | None = None,
    activation: float | None = None,
) -> None:
    """Let a linear layer multiply rounded activations by codes.

    codes: [inputs, outputs]; block_scales: [inputs / block, outputs]. scale, activation: the second
    level of scales of the weight and of the input, where there is one.
    """
    node, block = site.nodes[0], len(codes) // len(block_scales)
    x, old = node.inputs[0], node.inputs[1]
    assert x is not None
    name = f"{site.name}.weight"
    weight = blocked_weight(rewriter, node, name, codes.T, block_scales.T, scale)
    rewriter.set_input(node, 0, rounded_view(rewriter, x, activation, block))
    rewriter.set_input(node, 1, weight)
    rewriter.sweep([old])
