"""How much the error of each output of a layer matters to what reads it.

Of all directions in which outputs spread, those count that go on. Behind an activation function a
channel counts by the variance that it hands to the next layer; behind a residual addition by the
scale of the norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.graph import constant_array, dims
from ...ir.norms import scale_behind
from ...ir.sites import Site, Sites
from ..api import Gram, Looked, Observed
from ..math.lowrank import Doubles, channel_scales
from .groups import reason


@dataclass(frozen=True, eq=False)
class Reader:
    """What outputs meet next. weight: the scale [outputs] of a norm, or the weight [outputs, N] of
    a layer; observed: what that layer reads."""

    weight: ir.Value
    observed: Observed | None = None


def reader_of(site: Site, sites: Sites) -> Reader | None:
    """What reads a linear layer, None where it is not known how that weighs its outputs."""
    if len(site.uses) != 1 or site.output is None:
        return None
    block = sites.by_name.get(site.parent or "")
    if block is not None and site.name in (block.roles.get("up"), block.roles.get("gate")):
        return _next_layer(site, sites.by_name.get(block.roles.get("down", "")))
    outputs = _outputs(site)
    scale = scale_behind(site.output, outputs) if isinstance(outputs, int) else None
    return None if scale is None else Reader(scale)


def importance(reader: Reader, spread: Doubles, grams: Mapping[Looked, Gram]) -> Doubles:
    """A factor for each output: its errors count with its square, float64 [outputs].

    spread: variance of the outputs. All ones where what the reader reads was not observed.
    """
    weight = constant_array(reader.weight)
    if weight is None:
        return np.ones(len(spread))
    squares = (weight.astype(np.float64).reshape(len(spread), -1) ** 2).sum(axis=1)
    if reader.observed is None:
        return channel_scales(squares)
    gram = grams.get(reader.observed)
    if gram is None:
        return np.ones(len(spread))
    handed = np.diagonal(gram.matrix) / gram.count - gram.mean**2
    slope = np.divide(handed, spread, out=np.zeros_like(spread), where=spread > 0)
    return channel_scales(np.maximum(slope, 0.0) * squares)


def _next_layer(site: Site, down: Site | None) -> Reader | None:
    if down is None or down.weight is None or len(down.uses) != 1 or reason(down) is not None:
        return None
    shape, x = dims(down.weight), down.input
    if shape is None or shape[0] != _outputs(site) or x is None or x.shape is None:
        return None
    return Reader(down.weight, (str(x.name), len(x.shape) - 1))


def _outputs(site: Site) -> int | str | None:
    return (dims(site.weight) or (None,))[-1]
