"""The weights that a layer has afterwards: which stay, and what they become."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import numpy as np

from ...ir.errors import InputError
from ..api import GRAMS, REMEMBERED, Context, Gram, GramTable
from ..cutting.consumers import UnfitError
from ..math.refit import Doubles, damped
from ..math.sparse import (
    Mask,
    Pattern,
    block_mask,
    pattern_mask,
    saliency,
    share_mask,
    sparsegpt,
)
from ..math.sparse_codes import fit_on_grid
from ..math.sparse_fit import masked_refit
from ..math.sparse_order import Order, best_order
from .gate import STORAGE, Shape
from .layers import Layer

Score = Literal["sparsegpt", "wanda", "magnitude"]
Codes = Literal["none", "int8"]
Tensors = dict[str, np.ndarray]
BLOCK = 16
"""Inputs, and outputs, of a block that becomes zero as a whole."""


@dataclass(frozen=True)
class Method:
    """How zeros are chosen, and what makes up for them. ratio: of zeros, where the pattern does
    not say how many. codes: what the others become, fitted with data in any case."""

    pattern: Shape
    score: Score
    refit: bool
    ratio: float
    codes: Codes = "none"

    @property
    def needs_data(self) -> bool:
        """Whether anything is computed from what layers read."""
        return self.refit or self.score != "magnitude"

    @property
    def grouped(self) -> Pattern | None:
        """The pattern, if it is one of groups."""
        return None if self.pattern in STORAGE else Pattern.of(self.pattern)


Compute = Callable[[Layer, Method, Gram | None], Any]


@dataclass(frozen=True, eq=False)
class Numbers:
    """Those of the layers of one graph. layers: all that will be asked for, in that order; what
    they read is collected together."""

    method: Method
    layers: tuple[Layer, ...]
    ctx: Context

    def order(self, layer: Layer) -> Order:
        """The new order of the channels that a layer reads. Raises UnfitError where no data
        reached it, or none that can be used."""
        return cast(Order, self._recalled("order", order_of, layer))

    def thinned(self, layer: Layer) -> Tensors:
        """The weight with zeros, and the bias, by name. Raises UnfitError as ``order`` does."""
        return cast(Tensors, self._recalled("weights", thinned, layer))

    def few(self, layer: Layer) -> str:
        """What is said of a layer that fewer rows of data met than it has inputs, else nothing."""
        gram = self._gram(layer)
        if gram is None or gram.count >= len(gram.mean):
            return ""
        return f"{gram.count:.0f} rows of data for {len(gram.mean)} inputs: a ridge stands in"

    def _recalled(self, what: str, compute: Compute, layer: Layer) -> Any:
        """Computed once for each weight and what it meets."""
        gram = self._gram(layer)
        numbers = partial(compute, layer, self.method, gram)
        try:
            return self.ctx.analysis(REMEMBERED, ((what, *self._key(layer)), numbers))
        except InputError as error:
            raise UnfitError("not-usable", error.what) from error

    def _gram(self, layer: Layer) -> Gram | None:
        return layer.gram(self._grams()) if self.method.needs_data else None

    def _grams(self) -> GramTable:
        wanted = (o for layer in self.layers for o in layer.reader.observed)
        return self.ctx.analysis(GRAMS, tuple(dict.fromkeys(wanted)))

    def _key(self, layer: Layer) -> tuple[Hashable, ...]:
        seen: tuple[Hashable, ...] = ()
        if self.method.needs_data:
            seen = tuple(self._grams().origin(o) for o in layer.reader.observed)
        bias = layer.reader.bias
        named = str(layer.reader.weight.name), None if bias is None else str(bias.name)
        about = layer.reader.form, layer.order.tobytes(), named, self.method
        return ("sparsify", layer.digest(), about, seen)


def thinned(layer: Layer, method: Method, gram: Gram | None) -> Tensors:
    """The weight with zeros, and the bias that keeps the mean, by their names.

    gram: of what the layer reads, None where no data is looked at.
    """
    pairs = zip(layer.matrices(), _moments(layer, gram), strict=True)
    taps = layer.reader.form.taps_each
    stored = layer.stored(np.stack([_matrix(w, m, method, taps) for w, m in pairs]))
    found = {str(layer.reader.weight.name): stored}
    return found | ({} if gram is None else layer.corrected(stored, gram))


def order_of(layer: Layer, method: Method, gram: Gram | None) -> Order:
    """An order of the input channels in which the pattern keeps more, [channels].

    Taps of a convolution are judged side by side.
    """
    pattern = method.grouped
    assert pattern is not None
    scores = [
        saliency(w, None if m is None else np.diagonal(m))
        for w, m in zip(layer.matrices(), _moments(layer, gram), strict=True)
    ]
    apart = np.stack(scores).reshape(-1, layer.channels, scores[0].shape[1])
    return best_order(np.concatenate(list(apart), axis=1), pattern)


def _moments(layer: Layer, gram: Gram | None) -> list[Doubles] | list[None]:
    if gram is None:
        return [None] * layer.reader.form.groups
    return [damped(moments, gram.count) for moments in layer.moments(gram)]


def _matrix(weight: Doubles, moments: Doubles | None, method: Method, taps: int) -> Doubles:
    made, mask = _thinned(weight, moments, method)
    if moments is None:
        return made
    if method.codes == "int8":
        return _coded(weight, moments, mask, method, taps)
    return masked_refit(weight, moments, mask) if method.refit else made


def _thinned(weight: Doubles, moments: Doubles | None, method: Method) -> tuple[Doubles, Mask]:
    """The weight before anything is fitted, and which of it stays."""
    pattern = method.grouped
    if method.score == "sparsegpt" and pattern is not None and moments is not None:
        return sparsegpt(weight, moments, pattern)
    mask = _mask(weight, moments, method)
    return np.where(mask, weight, 0.0), mask


def _coded(weight: Doubles, moments: Doubles, mask: Mask, method: Method, taps: int) -> Doubles:
    """On a grid, with the zeros of ``mask``, or where an output then loses less with those of a
    sweep that rounds what stays on its way."""
    found, pattern = fit_on_grid(weight, moments, mask, taps), method.grouped
    if method.score != "sparsegpt" or pattern is None:
        return found.weight
    _, together = sparsegpt(weight, moments, pattern, found.scale)
    return found.or_better(fit_on_grid(weight, moments, together, taps)).weight


def _mask(weight: Doubles, moments: Doubles | None, method: Method) -> Mask:
    seen = method.score != "magnitude" and moments is not None
    scores = saliency(weight, np.diagonal(moments) if seen and moments is not None else None)
    if method.grouped is not None:
        return pattern_mask(scores, method.grouped)
    if method.pattern == "block":
        return block_mask(scores, method.ratio, BLOCK)
    return share_mask(scores, method.ratio)
