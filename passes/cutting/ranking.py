"""What units cost, in which order they go, and what makes up for them: the numbers of a cut."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from ...ir.digest import contents_digest
from ...ir.graph import constant_array, constant_tensor
from ...ir.storage.tensors import tensor_digest
from ..api import CALIBRATED, CHANGED, GRAMS, REMEMBERED, Context, Gram, GramTable, Looked
from ..math.pruning import Reader, Removal, by_score, magnitude, second_order, weighted
from ..math.refit import Doubles, refit
from .consumers import Consumer, unit_weights
from .norms import output_scale
from .plan import Cut, Cuttable

MAGNITUDE, VARIANCE, WANDA = "magnitude", "variance", "wanda"
"""Scores that are taken once; any other one is of second order."""
MOST = 1e6
"""Change of outputs, as relative squared error, beyond which all are alike."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Numbers for the groups of one graph.

    refit: whether the rows that stay are fitted. normed: whether outputs count as a norm behind
    them lets them. wanted: all activations that will be looked at, in the order in which they are
    needed; they are collected together.
    """

    score: str
    refit: bool
    normed: bool
    model: ir.Model
    ctx: Context
    wanted: tuple[Looked, ...] = ()

    def grams(self) -> GramTable:
        """Of all that is wanted."""
        return self.ctx.analysis(GRAMS, self.wanted)

    def removal(self, found: Cuttable, count: int) -> Removal:
        """The first ``count`` units that go, in order.

        Raises UnfitError where no data reached a layer, or none that says anything.
        """
        compute = partial(self._computed, found, count)
        if self.score == MAGNITUDE:
            return compute()
        removal: Removal = self.ctx.analysis(REMEMBERED, ((count, *self._key(found)), compute))
        return removal

    def costs(self, found: Cuttable, share: float) -> Doubles:
        """Of all units but one in the order in which they go, float64 [units - 1].

        Errors of layers do not compare: they are weighed by how much the model's outputs change
        when this ``share`` of the group goes alone; without data by the sum of all.
        """
        removal = self.removal(found, found.units - 1)
        count = min(max(round(share * found.units), 1), found.units - 1)
        if not self.ctx.analysis(CALIBRATED):
            return removal.costs / (float(removal.costs.sum()) or 1.0)
        if not removal.costs[:count].any():
            count = found.units - 1
        local = float(removal.costs[:count].sum())
        return removal.costs * (self._change(found, removal, count) / local if local > 0 else 1.0)

    def _change(self, found: Cuttable, removal: Removal, count: int) -> float:
        """Of the model's outputs, when ``count`` units go; far too much counts as ``MOST``."""
        cut = Cut(found, np.setdiff1d(np.arange(found.units), removal.order[:count]))

        def measured() -> float:
            change = self.ctx.analysis(CHANGED, self.tensors([cut]))
            return min(change, MOST) if np.isfinite(change) else MOST

        key = ("change", self.score, self.refit, self.normed, found.group.name, count, self._digest)
        known: float = self.ctx.analysis(REMEMBERED, (key, measured))
        return known

    @cached_property
    def _digest(self) -> str:
        return contents_digest(self.model)

    def tensors(self, cuts: Sequence[Cut]) -> dict[str, np.ndarray]:
        """What the consumers hold when units have gone, full-size, by name of the tensor."""
        made: dict[str, np.ndarray] = {}
        for consumer, kept in cut_readers(cuts):
            if self.refit:
                made |= fitted(consumer, kept, consumer.gram(self.grams()))
            else:
                made |= thinned(consumer, kept)
        return made

    def check_observed(self, found: Cuttable) -> None:
        """Raise UnfitError where no data reached a layer, or none that it can be fitted to."""
        for consumer in found.consumers:
            gram = consumer.gram(self.grams())
            if self.refit:
                consumer.usable(gram)

    def _key(self, found: Cuttable) -> tuple[Hashable, ...]:
        """All that the order depends on."""
        parts: list[Hashable] = ["units in order", self.score]
        for consumer in found.consumers:
            tensor = constant_tensor(consumer.weight)
            assert tensor is not None
            seen = tuple(self.grams().origin(o) for o in consumer.observed)
            index = consumer.index.tobytes(), consumer.index.shape
            scale = self._scale(consumer)
            about = consumer.form, consumer.bias is None, scale is not None and scale.tobytes()
            parts.append((tensor_digest(tensor), index, about, seen))
        return tuple(parts)

    def _computed(self, found: Cuttable, count: int) -> Removal:
        if self.score == MAGNITUDE:
            made = unit_weights(found.group.of_role("produces"), self.model)
            read = unit_weights(found.group.of_role("consumes"), self.model)
            return by_score(magnitude(made, read), count)
        readers = [reader for each in found.consumers for reader in self._readers(each)]
        if self.score in (VARIANCE, WANDA):
            return by_score(weighted(readers), count)
        return second_order(readers, count)

    def _scale(self, consumer: Consumer) -> Doubles | None:
        return output_scale(consumer) if self.normed else None

    def _readers(self, consumer: Consumer) -> list[Reader]:
        """One for each group of a convolution, else one."""
        gram, weights = consumer.gram(self.grams()), consumer.matrices()
        scale, rows = self._scale(consumer), consumer.form.rows(consumer.index)
        weights = weights if scale is None else weights * scale
        if self.score == WANDA:
            blocks = [consumer.form.block(i) for i in range(len(weights))]
            moments = [gram.matrix[part, part] / gram.count for part in blocks]
        else:
            second_order = self.score != VARIANCE
            moments = consumer.usable(gram) if second_order else consumer.moments(gram)
        return [Reader(*each) for each in zip(weights, moments, rows, strict=True)]


CutReader: TypeAlias = tuple[Consumer, list[np.ndarray]]
"""A layer, and for each group of it which rows stay."""


def cut_readers(cuts: Sequence[Cut]) -> list[CutReader]:
    """Each layer that reads what is cut, and which of its rows stay; several cuts may meet in one,
    as where it reads concatenated channels."""
    found: dict[str, CutReader] = {}
    for cut in cuts:
        for consumer in cut.of.consumers:
            kept = consumer.kept_rows(cut.gone)
            _, known = found.setdefault(str(consumer.weight.name), (consumer, kept))
            for mine, its in zip(known, kept, strict=True):
                mine &= its
    return list(found.values())


def thinned(consumer: Consumer, kept: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The weight of a consumer with zeros for the rows that go, by its name."""
    made = np.where(np.stack(kept)[:, :, None], consumer.matrices(), 0.0)
    return {str(consumer.weight.name): consumer.stored(made)}


def fitted(consumer: Consumer, kept: Sequence[np.ndarray], gram: Gram) -> Mapping[str, np.ndarray]:
    """The same with the rows that stay fitted to what was observed; and the bias, where it can."""
    weights = consumer.matrices()
    parts = zip(weights, consumer.usable(gram), kept, strict=True)
    made = consumer.stored(np.stack([refit(w, m, k) for w, m, k in parts]))
    found = {str(consumer.weight.name): made}
    if consumer.bias is None:
        return found
    now = consumer.form.matrices(made).astype(np.float64)
    return found | bias_moved(consumer, gram.mean, weights, gram.mean, now)


def bias_moved(
    consumer: Consumer, mean: Doubles, weights: Doubles, mean_now: Doubles, weights_now: Doubles
) -> dict[str, np.ndarray]:
    """The bias that keeps the mean of the outputs, by its name."""
    assert consumer.bias is not None
    before, after = (
        np.einsum("gk,gkn->gn", each.reshape(len(made), -1), made)
        for each, made in ((mean, weights), (mean_now, weights_now))
    )
    change = consumer.form.summed(before - after)
    return {str(consumer.bias.name): _added(consumer.bias, change)}


def _added(bias: ir.Value, change: np.ndarray) -> np.ndarray:
    """A bias with a change [outputs], in its own shape and dtype."""
    array = constant_array(bias)
    assert array is not None
    moved = array.astype(np.float64) + change.reshape(array.shape)
    return np.asarray(moved.astype(array.dtype))
