"""The weights that a layer has afterwards: which stay, and what they become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..api import Gram
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
from ..math.sparse_fit import masked_refit
from ..math.sparse_order import Order, best_order
from .gate import STORAGE, Shape
from .layers import Layer

Score = Literal["sparsegpt", "wanda", "magnitude"]
BLOCK = 16
"""Inputs, and outputs, of a block that becomes zero as a whole."""


@dataclass(frozen=True)
class Method:
    """How zeros are chosen, and what makes up for them. ratio: of zeros, where the pattern does
    not say how many."""

    pattern: Shape
    score: Score
    refit: bool
    ratio: float

    @property
    def needs_data(self) -> bool:
        """Whether anything is computed from what layers read."""
        return self.refit or self.score != "magnitude"

    @property
    def grouped(self) -> Pattern | None:
        """The pattern, if it is one of groups."""
        return None if self.pattern in STORAGE else Pattern.of(self.pattern)


def thinned(layer: Layer, method: Method, gram: Gram | None) -> dict[str, np.ndarray]:
    """The weight with zeros, and the bias that keeps the mean, by their names.

    gram: of what the layer reads, None where no data is looked at.
    """
    weights, moments = layer.matrices(), _moments(layer, gram)
    pairs = zip(weights, moments, strict=True)
    stored = layer.stored(np.stack([_matrix(w, m, method) for w, m in pairs]))
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


def _matrix(weight: Doubles, moments: Doubles | None, method: Method) -> Doubles:
    pattern = method.grouped
    if method.score == "sparsegpt" and pattern is not None and moments is not None:
        made, mask = sparsegpt(weight, moments, pattern)
    else:
        mask = _mask(weight, moments, method)
        made = np.where(mask, weight, 0.0)
    if not method.refit or moments is None:
        return made
    return masked_refit(weight, moments, mask)


def _mask(weight: Doubles, moments: Doubles | None, method: Method) -> Mask:
    seen = method.score != "magnitude" and moments is not None
    scores = saliency(weight, np.diagonal(moments) if seen and moments is not None else None)
    if method.grouped is not None:
        return pattern_mask(scores, method.grouped)
    if method.pattern == "block":
        return block_mask(scores, method.ratio, BLOCK)
    return share_mask(scores, method.ratio)
