"""Layers of a cut graph put right one after another, each once those in front of it are.

Errors of many layers add up. What a layer reads is no longer what its weight was made for, so it
is fitted to that; and drifts of scale and mean, which the re-estimation of batch norms takes back
where there still are any, are taken back in the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from ...ir.digest import contents_digest
from ...ir.errors import InputError
from ...ir.graph import constant_array, rank
from ...ir.sites import Site, Sites
from ...ir.storage.tensors import tensor_digest
from ..api import REMEMBERED, STEPPED, Context, Makes, Paired, Reads
from ..math.refit import refit_across
from .consumers import Consumer, UnfitError, form_of, own_bias
from .ranking import CutReader, bias_moved

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Stepping:
    """tensors: what stored tensors hold so far, by name, full-size. fitted: layers that are fitted
    anew, with the rows of them that stay. matched: ``matchable`` convolutions."""

    tensors: Tensors
    fitted: Sequence[CutReader]
    matched: Sequence[Site]
    _made: dict[str, np.ndarray] = field(default_factory=dict)

    def run(self, model: ir.Model, ctx: Context) -> dict[str, np.ndarray]:
        """What they hold in the end; of a graph and tensors that were seen before, at once."""
        changed = [(n, tensor_digest(ir.tensor(self.tensors[n]))) for n in sorted(self.tensors)]
        layers = [c.site.name for c, _ in self.fitted], [site.name for site in self.matched]
        key = "stepped", contents_digest(model), str((changed, layers))
        found: dict[str, np.ndarray] = ctx.analysis(REMEMBERED, (key, lambda: self._run(ctx)))
        return dict(found)

    def _run(self, ctx: Context) -> dict[str, np.ndarray]:
        self._made.update(self.tensors)
        steps = [*self._reads(), *self._makes()]
        if steps:
            ctx.analysis(STEPPED, (self.tensors, steps))
        return self._made

    def _reads(self) -> Iterator[Reads]:
        for consumer, kept in self.fitted:
            yield Reads(consumer.observed[0], partial(self._fit, consumer, kept))

    def _makes(self) -> Iterator[Makes]:
        for site in self.matched:
            name = str(site.uses[0].output.name)
            yield Makes(name, partial(self._move, site))

    def _fit(
        self, consumer: Consumer, kept: Sequence[np.ndarray], seen: Paired
    ) -> dict[str, np.ndarray]:
        made = _fitted(consumer, kept, seen)
        self._made.update(made)
        return made

    def _move(self, site: Site, factor: np.ndarray, summand: np.ndarray) -> None:
        """Scale goes into the weight, the mean into the bias."""
        assert site.weight is not None and site.bias is not None
        weight, bias = self._held(site.weight), self._held(site.bias)
        form = form_of(site)
        parts = form.matrices(weight.astype(np.float64))
        columns = np.tile(factor.reshape(form.groups, 1, -1), (1, 1, form.taps_each))
        moved = bias.astype(np.float64) * factor.reshape(bias.shape) + summand.reshape(bias.shape)
        self._made[str(site.weight.name)] = form.stored((parts * columns).astype(weight.dtype))
        self._made[str(site.bias.name)] = moved.astype(bias.dtype)

    def _held(self, value: ir.Value) -> np.ndarray:
        given = self._made.get(str(value.name))
        array = constant_array(value) if given is None else given
        assert array is not None
        return array


def _fitted(consumer: Consumer, kept: Sequence[np.ndarray], seen: Paired) -> dict[str, np.ndarray]:
    """A weight for what is read now, and the bias, where it can.

    Nothing where what is read now is nothing but rounding about its mean: the layer stays as it is.
    """
    weights, count = consumer.matrices(), seen.now.count
    moments, across = consumer.moments(seen.now), _across(consumer, seen)
    parts = zip(weights, moments, across, kept, strict=True)
    try:
        fits = [refit_across(w, m, a, count, k) for w, m, a, k in parts]
    except InputError:
        return {}
    made = consumer.stored(np.stack(fits))
    found = {str(consumer.weight.name): made}
    if consumer.bias is None:
        return found
    now = consumer.form.matrices(made).astype(np.float64)
    return found | bias_moved(consumer, seen.before / count, weights, seen.now.mean, now)


def _across(consumer: Consumer, seen: Paired) -> list[np.ndarray]:
    """For each group the moments of what is read now with what was, as ``Consumer.moments``."""
    count, means = seen.now.count, (seen.now.mean, seen.before / seen.now.count)
    found = []
    for part in map(consumer.form.block, range(consumer.form.groups)):
        about_zero = seen.across[part, part] / count
        mean = np.outer(means[0][part], means[1][part])
        found.append(about_zero if consumer.bias is None else about_zero - mean)
    return found


def steppable(readers: Iterable[CutReader]) -> list[CutReader]:
    """Those of one use, whose rows are all of what they read: nothing is padding of tokens."""
    return [
        (consumer, kept) for consumer, kept in readers
        if len(consumer.site.uses) == 1 and len(consumer.observed) == 1
        and (consumer.site.kind == "conv" or rank(consumer.site.uses[0].input) == 2)
    ]  # fmt: skip


def matchable(sites: Sites, names: Iterable[str], ctx: Context) -> list[Site]:
    """The convolutions among ``names`` that can be matched, in graph order: those with one use and
    a weight and a bias of their own. Of others without a bias a remark tells."""
    wanted, found = set(names), []
    for site in (s for s in sites if s.name in wanted and s.kind == "conv"):
        try:
            bias = own_bias(site)
        except UnfitError:  # no plain convolution, or not the same at each use
            continue
        if bias is None:
            why = "there is no bias of its own to hold its mean, so it is not matched"
            ctx.remark("note", site.name, "no-bias", why)
        elif len(site.uses) == 1 and site.weight is not None and len(site.weight.uses()) == 1:
            found.append(site)
    return found
