"""The 8-bit floats of a layer's weight, chosen for small errors of its outputs on real inputs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np

from ...ir.errors import InputError
from ...ir.graph import constant_array
from ...ir.sites import Site
from ..api import GRAMS, REMEMBERED, Context, Gram, GramTable
from ..cutting.consumers import UnfitError
from ..math.float8 import E4M3, round_to_float8
from ..math.float8_gptq import gptq_float8
from ..math.refit import damped
from ..sparse.layers import Layer


@dataclass(frozen=True, eq=False)
class Codes:
    """Of a weight, in its shape; bias: what keeps the mean of the outputs, None where there is no
    bias, or no data to tell."""

    weight: np.ndarray
    bias: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Fit:
    """Codes of the layers of one graph; what all of them read is collected together."""

    sites: Sequence[Site]
    ctx: Context

    def codes(self, site: Site, scale: np.float32) -> Codes:
        """By GPTQ where data reached the layer, else the nearest ones."""
        try:
            layer = Layer.of(site)
        except UnfitError:
            return nearest(site, scale)
        numbers = partial(self._computed, layer, scale)
        return cast(Codes, self.ctx.analysis(REMEMBERED, (self._key(layer, scale), numbers)))

    def _computed(self, layer: Layer, scale: np.float32) -> Codes:
        try:
            gram = layer.gram(self._grams())
        except UnfitError:
            return nearest(layer.site, scale)
        return fitted(layer, gram, scale)

    def _grams(self) -> GramTable:
        return self.ctx.analysis(GRAMS, tuple(dict.fromkeys(self._observed())))

    def _observed(self) -> list[Hashable]:
        found: list[Hashable] = []
        for site in self.sites:
            try:
                found += Layer.of(site).reader.observed
            except UnfitError:
                continue
        return found

    def _key(self, layer: Layer, scale: np.float32) -> tuple[Hashable, ...]:
        bias = layer.reader.bias
        seen = tuple(self._grams().origin(o) for o in layer.reader.observed)
        named = None if bias is None else str(bias.name)
        return "float8", layer.digest(), layer.reader.form, named, float(scale), seen


def nearest(site: Site, scale: np.float32) -> Codes:
    """Each weight rounded by itself."""
    weight = constant_array(site.weight)
    assert weight is not None
    return Codes(round_to_float8(weight, scale))


def fitted(layer: Layer, gram: Gram, scale: np.float32) -> Codes:
    """Codes that lose least by the second moments of what the layer reads; each group alone."""
    weights = layer.matrices()
    try:
        moments = [damped(m, gram.count) for m in layer.moments(gram)]
    except InputError:
        return Codes(round_to_float8(layer.stored(weights), scale))
    parts = [
        gptq_float8(w, m, scale).astype(np.float32) for w, m in zip(weights, moments, strict=True)
    ]
    real = layer.stored(np.stack(parts).astype(np.float64) * np.float64(scale))
    bias = next(iter(layer.corrected(real, gram).values()), None)
    codes = layer.stored(np.stack(parts).astype(np.float64)).astype(E4M3)
    return Codes(codes, bias)
