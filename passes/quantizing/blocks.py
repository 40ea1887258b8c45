"""Whether a linear layer's shapes suit scales of blocks along what is summed over."""

from __future__ import annotations

from ...ir.graph import constant_tensor
from ...ir.rounded import RANKS
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
