"""Cut units of an axis that layers share: what the passes ``prune-…`` do alike.

Indices that are cut together come from ``ir.axes``, numbers from ``math.pruning`` and
``math.refit``. Groups that meet in one weight (hidden layers in a row) are one edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ..ir.axes.cut import cut_group
from ..ir.axes.groups import AxisGroup, Kind
from ..ir.errors import UsageError
from ..ir.facts import FLOAT, PRUNED, SPARSE
from ..ir.rewriter import Rewriter
from ..ir.sites import Sites
from .api import (
    AXES,
    CALIBRATED,
    SITES,
    Candidate,
    Context,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
)
from .cutting.budget import Budget, amounts
from .cutting.consumers import UnfitError, check_layers, consumers_of
from .cutting.counts import ladder, nearest, shared
from .cutting.missed import missed_blocks, stacked_layers
from .cutting.plan import Cut, Cuttable, joined, title
from .cutting.ranking import MAGNITUDE, Ranking
from .cutting.region import CutRegion, cut_region
from .math.pruning import Indices
from .zeros import filled

_NEAR = 0.02
"""By what share a request may be missed without a word: counts are whole, and multiples."""


@dataclass(frozen=True)
class PruneOptions:
    """What all passes of this kind take; see their pages."""

    ratio: float = 0.25
    keep: int | None = None
    of: Literal["units", "flops", "parameters"] = "units"
    score: str = "obs"
    refit: bool = True
    scope: Literal["layer", "global"] = "global"
    multiples: bool = True
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio is {self.ratio:g}, not between 0 and 1: the share to remove")
        if self.keep is not None and self.keep < 1:
            raise ValueError(f"keep is {self.keep}, not 1 or more")

    @property
    def together(self) -> bool:
        """Whether the request is one over all layers."""
        return self.scope == "global" and self.keep is None

    @property
    def needs_data(self) -> bool:
        """Whether anything is computed from what layers read."""
        return self.refit or self.score != MAGNITUDE


class Prune(Pass):
    """Base of the passes that remove units of one ``kind``.

    multiple: which of the target's multiples the kept number is rounded to. noun: of units.
    normed: whether outputs count as a norm behind them lets them; measured, it serves neurons, and
    heads not.
    """

    kind: ClassVar[Kind]
    multiple: ClassVar[Literal["channels", "heads"]]
    noun: ClassVar[str]
    normed: ClassVar[bool] = False
    semantics = Semantics.LOSSY
    requires = frozenset({FLOAT})
    produces = frozenset({PRUNED})
    invalidates = frozenset({SPARSE})
    options: PruneOptions

    def __init__(self, options: PruneOptions) -> None:
        super().__init__(options)
        self._cuts: dict[str, tuple[tuple[Cut, ...], CutRegion]] = {}
        self._ranking: Ranking | None = None

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        sites, groups = ctx.analysis(SITES), ctx.analysis(AXES)
        excluded = {s.name for selector in self.options.exclude for s in sites.select(selector)}
        chosen = list[Cuttable]()
        for group in (g for g in groups.values() if g.kind == self.kind):
            try:
                chosen.append(self._cuttable(group, sites, excluded, ctx))
            except UnfitError as reason:
                yield Refusal(title(group, sites), reason.code, str(reason))
        yield from missed_blocks(self.kind, sites, groups)
        yield from stacked_layers(self.kind, model)
        self._check_keep([found.units for found in chosen])
        cuts = list[Cut]()
        for found, verdict in zip(chosen, self._decided(model, chosen, ctx), strict=True):
            if isinstance(verdict, UnfitError):
                yield Refusal(title(found.group, sites), verdict.code, str(verdict))
            else:
                cuts.append(Cut(found, verdict))
        yield from self._offers(model, cuts, sites)

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        cuts, region = self._cuts[candidate.site]
        assert self._ranking is not None
        for cut in cuts:
            self._say_few_rows(cut, self._ranking)
        tensors = self._ranking.tensors(cuts)
        return Perturbation(
            region.inputs, region.outputs, tensors, payload=cuts, contraction=region.contraction
        )

    def outline(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        """Which units go; the weights of the others stay as they are."""
        return Perturbation((), (), payload=self._cuts[candidate.site][0])

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        assert perturbation is not None
        for name, array in perturbation.tensors.items():
            rewriter.set_tensor(model.graph.initializers[name], array)
        for cut in perturbation.payload:
            cut_group(rewriter, cut.of.group, cut.keep.tolist())

    # -- inside ------------------------------------------------------------------------

    def _cuttable(
        self, group: AxisGroup, sites: Sites, excluded: set[str], ctx: Context
    ) -> Cuttable:
        """The group, if it can be cut; raises UnfitError."""
        if not group.cuttable:
            raise UnfitError(group.code, group.sentence)
        if not excluded.isdisjoint(group.sites):
            raise UnfitError("excluded", "left whole on request")
        check_layers(group, sites)
        sparse = (
            filled(sites.by_name[name], ctx.target, "a cut and a fit") for name in group.sites
        )
        for reason in filter(None, sparse):
            raise UnfitError(*reason)
        if self.options.needs_data and not ctx.analysis(CALIBRATED):
            raise UnfitError(
                "no-calibration",
                "what can go is learnt from real data: give --calibration, or ask for "
                "score=magnitude refit=false",
            )
        return Cuttable(group, consumers_of(group, sites))

    def _check_keep(self, units: Sequence[int]) -> None:
        keep, most = self.options.keep, max(units, default=0)
        if keep is not None and units and keep > most:
            raise UsageError(
                f"keep={keep} is more {self.noun} than any layer has: {most}",
                where=self.name,
                hint=f"give a count below {most}, or ratio= for a share to remove",
            )

    def _decided(
        self, model: ir.Model, chosen: Sequence[Cuttable], ctx: Context
    ) -> list[Indices | UnfitError]:
        """The units that each group keeps, or why it keeps all."""
        options = self.options
        looked_at = chosen if options.needs_data else ()
        seen = tuple(dict.fromkeys(o for found in looked_at for o in found.observed))
        ranking = Ranking(options.score, options.refit, self.normed, model, ctx, seen)
        self._ranking = ranking
        multiple = getattr(ctx.target.multiples, self.multiple) if options.multiples else 1
        verdicts = [self._unfit(found) for found in chosen]
        fit = [found for found, why in zip(chosen, verdicts, strict=True) if why is None]
        counts = iter(self._counts(fit, [ladder(found.units, multiple) for found in fit], ctx))
        return [
            self._kept(found, next(counts), multiple) if why is None else why
            for found, why in zip(chosen, verdicts, strict=True)
        ]

    def _unfit(self, found: Cuttable) -> UnfitError | None:
        """Why no data says anything of a group, where it is to be weighed against others."""
        if not (self.options.together and self.options.needs_data):
            return None
        assert self._ranking is not None
        try:
            self._ranking.check_observed(found)
        except UnfitError as reason:
            return reason
        return None

    def _counts(
        self, chosen: Sequence[Cuttable], ladders: Sequence[Sequence[int]], ctx: Context
    ) -> list[int]:
        """How many units of each group stay."""
        options, ranking = self.options, self._ranking
        assert ranking is not None
        if options.keep is not None or (options.of == "units" and not options.together):
            return [nearest(rungs, self._wanted(rungs[0])) for rungs in ladders]
        costs = partial(ranking.costs, share=options.ratio)
        if options.of == "units":
            ways = shared(chosen, ladders, [np.ones(found.units) for found in chosen], costs)
            return ways.counts(options.ratio * sum(found.units for found in chosen))
        held = Budget(
            amounts(options.of, ctx.analysis(SITES), ctx), chosen, [self._order(f) for f in chosen]
        )
        counts_at: Callable[[float], Sequence[int]] = partial(_alike, ladders)
        if options.together:
            savings = [held.savings(number) for number in range(len(chosen))]
            counts_at = shared(chosen, ladders, savings, costs).part
        counts = held.nearest((1 - options.ratio) * held.total, counts_at)
        self._say_reached(held, counts, ctx)
        return counts

    def _order(self, found: Cuttable) -> Indices:
        """The units as they go; as they are where no data tells."""
        assert self._ranking is not None
        try:
            return self._ranking.removal(found, found.units - 1).order
        except UnfitError:
            return np.arange(found.units)

    def _say_reached(self, held: Budget, counts: Sequence[int], ctx: Context) -> None:
        gone = 1 - held.left(counts) / (held.total or 1.0)
        asked = f"{100 * self.options.ratio:.3g} % of the {self.options.of}"
        if counts and abs(gone - self.options.ratio) > _NEAR:
            why = f"{asked} were asked for, {100 * gone:.3g} % can go, as the groups are"
            ctx.remark("note", "model", "out-of-reach", why)

    def _wanted(self, units: int) -> float:
        keep = self.options.keep
        return units - self.options.ratio * units if keep is None else min(keep, units)

    def _kept(self, found: Cuttable, count: int, multiple: int) -> Indices | UnfitError:
        """The units that stay when ``count`` do."""
        ranking, options = self._ranking, self.options
        assert ranking is not None
        try:
            if options.needs_data and (count == found.units or options.score == MAGNITUDE):
                ranking.check_observed(found)
            if count == found.units:
                return self._whole(found.units, multiple)
            ordered = found.units - (1 if options.together else count)
            gone = ranking.removal(found, ordered).order
        except UnfitError as reason:
            return reason
        gone = gone[: found.units - count]
        left = np.setdiff1d(np.arange(found.units), gone).astype(np.int64)
        return _with_some_of_all(found.group, left, gone)

    def _whole(self, units: int, multiple: int) -> UnfitError:
        """Why all units stay."""
        if units <= multiple and multiple > 1:
            why = f"{self.noun} are kept in multiples of {multiple}, and it has {units}"
            return UnfitError("multiple", f"{why}; multiples=false cuts to any number")
        if self.options.keep is not None:
            return UnfitError("nothing-to-remove", f"it has {units} {self.noun}, all are kept")
        why = f"its share of the request is none of {units} {self.noun}"
        return UnfitError("nothing-to-remove", why)

    def _offers(
        self, model: ir.Model, cuts: Sequence[Cut], sites: Sites
    ) -> Iterator[Candidate | Refusal]:
        self._cuts = {}
        for together in joined(cuts):
            name = title(together[0].of.group, sites)
            readers = [consumer for cut in together for consumer in cut.of.consumers]
            try:
                region = cut_region(model, [cut.of.group for cut in together], readers)
            except UnfitError as reason:
                yield Refusal(name, reason.code, str(reason))
                continue
            self._cuts[name] = together, region
            yield _candidate(name, together, model)

    def _say_few_rows(self, cut: Cut, ranking: Ranking) -> None:
        for consumer in cut.of.consumers if self.options.refit else ():
            gram = consumer.gram(ranking.grams())
            rows, inputs = gram.count, len(gram.mean)
            if rows < inputs:
                why = f"{rows:.0f} rows of data for {inputs} inputs: a ridge stands in"
                ranking.ctx.remark("note", consumer.site.name, "few-rows", why)
            if consumer.form.coarse:
                why = f"it has too many inputs to fit each of {consumer.form.taps_each} taps"
                ranking.ctx.remark("note", consumer.site.name, "coarse", why)


def _with_some_of_all(group: AxisGroup, left: Indices, gone: Indices) -> Indices:
    """The units that stay, with the last of those that go where nothing would be left of a tensor:
    of one half of a split, say."""
    for unit in gone[::-1]:
        emptied = group.emptied(left)
        if not emptied:
            break
        more = np.union1d(left, [unit]).astype(np.int64)
        left = more if len(group.emptied(more)) < len(emptied) else left
    return left


def _alike(ladders: Sequence[Sequence[int]], share: float) -> list[int]:
    """The counts that stay when the same share of every group goes."""
    return [nearest(rungs, (1 - share) * rungs[0]) for rungs in ladders]


def _candidate(name: str, cuts: Sequence[Cut], model: ir.Model) -> Candidate:
    kept, units = sum(len(cut.keep) for cut in cuts), sum(cut.of.units for cut in cuts)
    details = {cut.of.group.name: cut.about() for cut in cuts}
    saving = sum(cut.saving(model) for cut in cuts)
    return Candidate(name, f"{kept}-of-{units}", saving, {"groups": details})
