"""Linear layers and convolutions as two smaller ones: fewer parameters, fewer operations.

Output-PCA (``math.lowrank``): the outputs are projected on the directions in which they spread
most on calibration data, and the bias takes up what that does to their mean. A convolution of k
taps becomes one of k taps to fewer channels and a 1x1 one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import onnx_ir as ir

from ..ir.digest import contents_digest
from ..ir.facts import FACTORIZED, FLOAT, SPARSE
from ..ir.graph import constant_tensor
from ..ir.rewriter import Rewriter
from ..ir.sites import Site
from ..ir.storage.tensors import tensor_digest
from .api import (
    CALIBRATED,
    CHANGED,
    GRAMS,
    REMEMBERED,
    SITES,
    Candidate,
    Context,
    GramTable,
    Looked,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    register,
)
from .factoring.groups import Group, Reason, grouped, reason
from .factoring.importance import Reader, reader_of
from .factoring.lines import Lines, lines_of, lower_lines
from .factoring.lowering import Factors, lower_conv, lower_linear
from .factoring.projection import projected
from .factoring.ranks import NOT_OBSERVED, Ranks
from .factoring.seen import Seen, blind, look
from .math.lowrank import down_to, energy_rank, share_rank, up_to
from .zeros import filled

ENERGY = 0.99
"""Share of the variance that is kept where no option says how far to go."""
NO_DATA = (
    "directions come from real data; give --calibration (method=svd needs none, and loses more)"
)


@dataclass(frozen=True)
class LowRankOptions:
    """rank: of every layer. ratio: share of a layer's parameters that its factors keep.

    energy: share of the variance of a layer's outputs that is kept, 0.99 where nothing else is
    asked for. total: share of the parameters of all linear layers and convolutions that is kept.
    scope: where a total goes: global where the model's outputs change least (measured with each
    layer factorized alone, at three ranks, on a few samples), which leaves some layers whole;
    layer takes the same ratio of each, as method=svd always does. method: pca takes directions
    from calibration data; svd from the weights alone. share: with qkv, query, key and value of an
    attention block have one first factor. convolutions: factorize them, too. split: a convolution
    of k x l taps becomes one of k x l to fewer channels and a 1x1 one (channel), or one of k x 1 to
    fewer channels and one of 1 x l (spatial), where it has several along both. gain: what a layer
    must gain, time by the figures of the target (where it has any), or size alone. exclude:
    selectors of sites to leave whole.
    """

    rank: int | None = None
    ratio: float | None = None
    energy: float | None = None
    total: float | None = None
    scope: Literal["layer", "global"] = "global"
    method: Literal["pca", "svd"] = "pca"
    share: Literal["none", "qkv"] = "none"
    convolutions: bool = True
    split: Literal["channel", "spatial"] = "channel"
    gain: Literal["time", "size"] = "time"
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shares = {"ratio": self.ratio, "energy": self.energy, "total": self.total}
        for name, share in shares.items():
            if share is not None and not 0 < share < 1:
                raise ValueError(f"{name} is {share}, not between 0 and 1")
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank is {self.rank}, not 1 or more")
        given = [name for name, value in {"rank": self.rank, **shares}.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} say the same thing twice; give one of them")


@register
class LowRank(Pass):
    """Replace layers by two smaller ones whose product is nearest to them on real data.

    What it does: the weight of a linear layer or convolution becomes the product of two of small
    rank, by output-PCA with centred covariances: equal to the truncated SVD of the whitened
    weight. The bias takes up the change of the mean; a layer without one keeps none, and the
    moments about zero decide. A convolution becomes one of as many taps to fewer channels, and a
    1x1 one; with ``split=spatial`` one along each axis. Outputs weigh by what reads them: a norm's
    scale behind a residual addition, or in a feed-forward block the next weights. What passes
    between the factors is turned so that one range fits all its channels: 8 bits behind this pass
    lose little.
    When it applies: float layers that nothing else shares, with calibration data, where two
    factors have fewer parameters and, by the target's figures, take less time. Ranks are
    multiples of what suits the target. Before quantization: the factors of rounded weights would
    have full rank.
    What it costs: the variance of the outputs in the directions that are left out, measured per
    site as relative squared error of its output. From fewer rows of data than channels (remark
    ``few-rows``) directions are learnt with a ridge.
    Guarantee: the factors are those whose loss was measured.
    Example: ``low-rank{total=0.8 share=qkv}``
    """

    name = "low-rank"
    semantics = Semantics.LOSSY
    requires = frozenset({FLOAT})
    produces = frozenset({FACTORIZED})
    invalidates = frozenset({SPARSE})
    Options = LowRankOptions
    options: LowRankOptions

    def __init__(self, options: LowRankOptions) -> None:
        super().__init__(options)
        self._planned: dict[str, tuple[Group, int]] = {}
        self._groups: list[Group] = []
        self._table: GramTable | None = None
        self._digest = ""

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        sites = ctx.analysis(SITES)
        excluded = {s.name for selector in self.options.exclude for s in sites.select(selector)}
        layers = sites.of_kind("linear", "conv")
        reasons = {site.name: self._reason(site, excluded, ctx) for site in layers}
        chosen = [site for site in layers if reasons[site.name] is None]
        groups = grouped(sites, chosen, share=self.options.share == "qkv")
        if self.options.split == "spatial":
            groups = [lines_of(group.sites[0]) or group for group in groups]
        self._table, self._groups = None, groups
        self._digest = contents_digest(model) if self.options.total is not None else ""
        ranks = self._ranks(groups, layers, ctx)
        self._planned = {g.name: (g, r) for g, r in ranks.items() if isinstance(r, int)}
        if self._table is None:  # nothing was looked up yet, and what stays whole need not be
            self._groups = [group for group, _ in self._planned.values()]
        for group, found in ranks.items():
            follows = "shared-factor", f"decided with {group.name}: they have one first factor"
            verdict = None if isinstance(found, int) else found
            reasons.update({site.name: verdict or follows for site in group.sites})
        for site in layers:
            why = reasons[site.name]
            if site.name in self._planned:
                yield _candidate(*self._planned[site.name])
            elif why is not None:
                yield Refusal(site.name, *why)

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation | None:
        group, rank = self._planned[candidate.site]
        seen = self._seen(group, ctx)
        if seen is None:
            why = "no calibration feed reached it, or its sums are beyond float32"
            ctx.remark("missed", group.name, "not-observed", why)
            return None
        if seen.few:
            why = f"{seen.rows:.0f} rows of data for {seen.width} channels: a ridge stands in"
            ctx.remark("note", group.name, "few-rows", why)
        made, tensors = projected(group, rank, seen)
        written = {str(use.output.name) for use in group.uses}
        read = dict.fromkeys(str(use.input.name) for use in group.uses)
        return Perturbation(
            inputs=tuple(name for name in read if name not in written),
            outputs=tuple(dict.fromkeys(str(use.output.name) for use in group.uses)),
            tensors=tensors,
            payload=made,
            contraction=max(inputs for _, inputs, _ in (*group.whole, *group.factored(rank))),
        )

    def outline(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        """Factors of zero in the right shapes."""
        group, rank = self._planned[candidate.site]
        inputs, outputs = group.shape
        first, second = np.zeros((inputs, rank), group.dtype), np.zeros((rank, outputs))
        return Perturbation((), (), payload=Factors(first, second.astype(group.dtype)))

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        if perturbation is None:
            return
        made: Factors = perturbation.payload
        group, _ = self._planned[candidate.site]
        if isinstance(group, Lines):
            lower_lines(group, made, rewriter)
        elif group.convolves:
            lower_conv(group.sites[0], made, rewriter)
        else:
            lower_linear(group, made, rewriter)

    # -- how far to go -----------------------------------------------------------------

    def _reason(self, site: Site, excluded: set[str], ctx: Context) -> Reason | None:
        if site.name in excluded:
            return "excluded", "left whole on request"
        if site.kind == "conv" and not self.options.convolutions:
            return "excluded", "convolutions were switched off"
        if self.options.method == "pca" and not ctx.analysis(CALIBRATED):
            return "no-calibration", NO_DATA
        return reason(site) or filled(site, ctx.target, "factors")

    def _ranks(
        self, groups: Sequence[Group], layers: Sequence[Site], ctx: Context
    ) -> dict[Group, int | Reason]:
        """A rank for each group, or why it stays whole; those that stay whole count as such."""
        ranks = Ranks(ctx, self.options.gain)
        if self.options.total is None:
            return {group: ranks.judged(group, self._asked(group, ctx)) for group in groups}
        stored = sum(map(_elements, layers))
        whole = stored - sum(group.parameters for group in groups)
        room = self.options.total * stored - whole
        if self.options.scope == "global" and self.options.method == "pca":
            seen, change = partial(self._seen, ctx=ctx), partial(self._change, ctx)
            found = ranks.measured(groups, room, seen, change)
        else:
            found = ranks.alike(groups, room)
        self._say_missed(found, room, ctx)
        return found

    def _change(self, ctx: Context, group: Group, rank: int) -> float:
        """Of the model's outputs, with one group at a rank and all else as it is."""

        def measured() -> float:
            seen = self._seen(group, ctx)
            assert seen is not None
            return ctx.analysis(CHANGED, projected(group, rank, seen)[1])

        key = ("change", self._key(group, ctx), group.name, rank, self._digest)
        return cast(float, ctx.analysis(REMEMBERED, (key, measured)))

    def _asked(self, group: Group, ctx: Context) -> int | Reason:
        options, multiple = self.options, ctx.target.multiples.rank
        if options.rank is not None:
            return down_to(multiple, options.rank)
        if options.ratio is not None:
            return down_to(multiple, share_rank(options.ratio, group.shape))
        seen = self._seen(group, ctx)
        if seen is None:
            return NOT_OBSERVED
        return up_to(multiple, energy_rank(seen.energies, options.energy or ENERGY))

    def _say_missed(self, found: dict[Group, int | Reason], room: float, ctx: Context) -> None:
        """Where what must stay whole leaves no room for what was asked."""
        kept = sum(r * sum(g.shape) for g, r in found.items() if isinstance(r, int))
        kept += sum(g.parameters for g, r in found.items() if not isinstance(r, int))
        if kept > room:
            said = f"total={self.options.total:g} is out of reach: too much stays whole"
            ctx.remark("missed", "model", "total", said)

    # -- what data says ----------------------------------------------------------------

    def _seen(self, group: Group, ctx: Context) -> Seen | None:
        """Computed once for each weight and what it meets."""
        key = self._key(group, ctx)
        if self.options.method == "svd":
            return cast(Seen, ctx.analysis(REMEMBERED, (key, partial(blind, group))))
        looked = partial(look, group, self._reader(group, ctx), self._grams(ctx))
        return cast("Seen | None", ctx.analysis(REMEMBERED, (key, looked)))

    def _reader(self, group: Group, ctx: Context) -> Reader | None:
        return reader_of(group.sites[0], ctx.analysis(SITES)) if len(group.sites) == 1 else None

    def _grams(self, ctx: Context) -> GramTable:
        """Of all groups, in their order: they are collected together."""
        if self._table is None:
            wanted: dict[Looked, None] = {}
            for group in self._groups:
                wanted |= dict.fromkeys(group.observed)
                reader = self._reader(group, ctx)
                if reader is not None and reader.observed is not None:
                    wanted[reader.observed] = None
            self._table = ctx.analysis(GRAMS, tuple(wanted))
        return self._table

    def _key(self, group: Group, ctx: Context) -> Hashable:
        """All that the spectrum depends on."""
        reader = self._reader(group, ctx)
        read = [site.weight for site in group.sites] + ([] if reader is None else [reader.weight])
        tensors = [constant_tensor(value) for value in read]
        digests = tuple(tensor_digest(tensor) for tensor in tensors if tensor is not None)
        seen: tuple[Hashable, ...] = ()
        if self.options.method == "pca":
            more: tuple[Looked, ...] = (
                (reader.observed,) if reader is not None and reader.observed else ()
            )
            seen = tuple(map(self._grams(ctx).origin, (*group.observed, *more)))
        kind = type(group).__name__, self.options.method
        return (self.name, digests, kind, group.corrected, seen)


def _candidate(group: Group, rank: int) -> Candidate:
    made = rank * sum(group.shape)
    details: dict[str, Any] = {"rank": rank, "parameters": round(made / group.parameters, 4)}
    if len(group.sites) > 1:
        details["layers"] = [site.name for site in group.sites]
    saving = (group.parameters - made) * group.dtype.itemsize
    return Candidate(group.name, f"rank={rank}", saving, details)


def _elements(site: Site) -> int:
    tensor = constant_tensor(site.weight)
    return 0 if tensor is None else int(tensor.size)
