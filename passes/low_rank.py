"""Linear layers and convolutions as two smaller ones: fewer parameters, fewer operations.

Output-PCA (``math.lowrank``): the outputs are projected on the directions in which they spread
most on calibration data, and the bias takes up what that does to their mean. A convolution of k
taps becomes one of k taps to fewer channels and a 1x1 one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from ..ir.facts import FACTORIZED, FLOAT
from ..ir.graph import attribute, constant_array, constant_tensor
from ..ir.rewriter import Rewriter
from ..ir.sites import Site
from ..ir.storage.tensors import tensor_digest
from .api import (
    CALIBRATED,
    GRAMS,
    PREDICTED,
    REMEMBERED,
    SITES,
    Candidate,
    Context,
    Gram,
    GramTable,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    register,
)
from .factoring import Group, Reason, bias_node, grouped, kernel_shape, reason
from .math.lowrank import (
    Spectrum,
    down_to,
    factors,
    most_rank,
    output_pca,
    principal,
    second_moments,
    share_rank,
    shared_ranks,
    up_to,
)

ENERGY = 0.99
"""Share of the variance that is kept where no option says how far to go."""
RIDGE, RIDGE_FEW = 1e-6, 1e-2
"""Share of the mean variance that every channel has at least; with fewer rows than channels."""
NO_DATA = (
    "directions come from real data; give --calibration (method=svd needs none, and loses more)"
)


@dataclass(frozen=True)
class LowRankOptions:
    """rank: of every layer. ratio: share of a layer's parameters that its factors keep.

    energy: share of the variance of a layer's outputs that is kept, 0.99 where nothing else is
    asked for. total: share of the parameters of all linear layers and convolutions that is kept,
    with the same ratio for each that is factorized. method: pca takes directions from
    calibration data; svd from the weights alone. share: with qkv, query, key and value of an
    attention block have one first factor. convolutions: factorize them, too. gain: what a layer
    must gain, time by the figures of the target (where it has any), or size alone. exclude:
    selectors of sites to leave whole.
    """

    rank: int | None = None
    ratio: float | None = None
    energy: float | None = None
    total: float | None = None
    method: Literal["pca", "svd"] = "pca"
    share: Literal["none", "qkv"] = "none"
    convolutions: bool = True
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


@dataclass(frozen=True, eq=False)
class Seen:
    """What data says of a group. mean: of what was observed, float64 [channels], None without
    data. rows: how many were seen; width: how many would be needed at least."""

    spectrum: Spectrum
    mean: np.ndarray | None = None
    rows: float = 0.0
    width: int = 0


@dataclass(frozen=True, eq=False)
class Factors:
    """What lowering builds from: A [inputs, rank], B [rank, outputs], new biases by site."""

    first: np.ndarray
    second: np.ndarray
    biases: tuple[np.ndarray, ...] = ()


@register
class LowRank(Pass):
    """Replace layers by two smaller ones whose product is nearest to them on real data.

    What it does: the weight of a linear layer or convolution becomes the product of two of small
    rank, by output-PCA with centred covariances: equal to the truncated SVD of the whitened
    weight. The bias takes up the change of the mean; a layer without one keeps none, and the
    moments about zero decide. A convolution becomes one of as many taps to fewer channels, and a
    1x1 one. What passes between the factors is turned so that one range
    fits all its channels: 8 bits behind this pass lose little.
    When it applies: float layers that nothing else shares, with calibration data, where two
    factors have fewer parameters and, by the target's figures, take less time. Ranks are
    multiples of what suits the target. Before quantization: the factors of rounded weights would
    have full rank.
    What it costs: the variance of the outputs in the directions that are left out, measured per
    site as relative squared error of its output. From fewer rows of data than channels (remark
    ``few-rows``) directions are learnt with a ridge.
    Guarantee: the factors are those whose loss was measured.
    Example: ``low-rank{total=0.8 gain=size exclude=classifier}``
    """

    name = "low-rank"
    semantics = Semantics.LOSSY
    requires = frozenset({FLOAT})
    produces = frozenset({FACTORIZED})
    Options = LowRankOptions
    options: LowRankOptions

    def __init__(self, options: LowRankOptions) -> None:
        super().__init__(options)
        self._planned: dict[str, tuple[Group, int]] = {}
        self._groups: list[Group] = []
        self._table: GramTable | None = None

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        sites = ctx.analysis(SITES)
        excluded = {s.name for selector in self.options.exclude for s in sites.select(selector)}
        layers = sites.of_kind("linear", "conv")
        reasons = {site.name: self._reason(site, excluded, ctx) for site in layers}
        chosen = [site for site in layers if reasons[site.name] is None]
        groups = grouped(sites, chosen, share=self.options.share == "qkv")
        self._table, self._groups = None, groups
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
        if 0 < seen.rows < seen.width:
            why = f"{seen.rows:.0f} rows of data for {seen.width} channels: a ridge stands in"
            ctx.remark("note", group.name, "few-rows", why)
        weight = group.matrix()
        first, second = (
            f.astype(group.dtype) for f in factors(weight, seen.spectrum.basis[:, :rank])
        )
        product = first.astype(np.float64) @ second
        biases = tuple(_corrected(group, weight, second, seen))
        made = {str(use.output.name) for use in group.uses}
        read = dict.fromkeys(str(use.input.name) for use in group.uses)
        sites = zip(group.sites, biases, strict=False)
        return Perturbation(
            inputs=tuple(name for name in read if name not in made),
            outputs=tuple(dict.fromkeys(str(use.output.name) for use in group.uses)),
            tensors=group.stored(product.astype(group.dtype))
            | {str(site.bias.name): bias for site, bias in sites if site.bias is not None},
            payload=Factors(first, second, biases),
            contraction=max(group.shape[0], rank),
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
        if group.convolves:
            _lower_conv(group.sites[0], made, rewriter)
        else:
            _lower_linear(group, made, rewriter)

    # -- how far to go -----------------------------------------------------------------

    def _reason(self, site: Site, excluded: set[str], ctx: Context) -> Reason | None:
        if site.name in excluded:
            return "excluded", "left whole on request"
        if site.kind == "conv" and not self.options.convolutions:
            return "excluded", "convolutions were switched off"
        if self.options.method == "pca" and not ctx.analysis(CALIBRATED):
            return "no-calibration", NO_DATA
        return reason(site)

    def _ranks(
        self, groups: Sequence[Group], layers: Sequence[Site], ctx: Context
    ) -> dict[Group, int | Reason]:
        """A rank for each group, or why it stays whole; those that stay whole count as such."""
        if self.options.total is None:
            return {group: self._judged(group, self._asked(group, ctx), ctx) for group in groups}
        parameters = self.options.total * sum(_elements(site) for site in layers)
        whole = sum(map(_elements, layers)) - sum(group.parameters for group in groups)
        found: dict[Group, int | Reason] = {}
        while left := [g for g in groups if not isinstance(found.get(g), tuple)]:
            kept = sum(g.parameters for g in groups if g not in left)
            room = max(parameters - whole - kept, 0.0)
            ranks = shared_ranks([g.shape for g in left], room, ctx.target.multiples.rank)
            judged = {g: self._judged(g, r, ctx) for g, r in zip(left, ranks, strict=True)}
            found |= judged
            if not any(isinstance(rank, tuple) for rank in judged.values()):
                break
        self._say_missed(found, parameters - whole, ctx)
        return {group: found[group] for group in groups}

    def _asked(self, group: Group, ctx: Context) -> int | Reason:
        options, multiple = self.options, ctx.target.multiples.rank
        if options.rank is not None:
            return down_to(multiple, options.rank)
        if options.ratio is not None:
            return down_to(multiple, share_rank(options.ratio, group.shape))
        seen = self._seen(group, ctx)
        if seen is None:
            return "not-observed", "no calibration feed reached it"
        return up_to(multiple, seen.spectrum.rank(options.energy or ENERGY))

    def _judged(self, group: Group, rank: int | Reason, ctx: Context) -> int | Reason:
        most, (inputs, outputs) = most_rank(group.shape), group.shape
        if not isinstance(rank, int):
            return rank
        if ctx.target.multiples.rank > most:
            multiple = ctx.target.multiples.rank
            return "too-small", f"no multiple of {multiple} is a rank that saves parameters"
        if rank > most:
            sizes = f"{inputs}x{outputs}"
            return (
                "no-saving",
                f"rank {rank} is too much: factors of {sizes} save up to rank {most}",
            )
        return self._slower(group, rank, ctx) or rank

    def _slower(self, group: Group, rank: int, ctx: Context) -> Reason | None:
        if self.options.gain == "size":
            return None
        inputs = group.shape[0]
        whole = tuple((group.table, inputs, width) for width in group.widths)
        second = tuple((group.second_table, rank, width) for width in group.widths)
        rows = (str(group.uses[0].output.name), _channel_axis(group))
        before = ctx.analysis(PREDICTED, (rows, whole))
        after = ctx.analysis(PREDICTED, (rows, ((group.table, inputs, rank), *second)))
        if before is None or after is None or after < before:
            return None
        said = f"as factors of rank {rank} it would take {after:.4f} ms, as it is {before:.4f} ms"
        return "slower", f"by the target's figures {said}; gain=size takes the smaller file"

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
        asked = self._key(group, ctx), partial(self._look, group, ctx)
        found: Seen | None = ctx.analysis(REMEMBERED, asked)
        return found

    def _look(self, group: Group, ctx: Context) -> Seen | None:
        most = most_rank(group.shape)
        if self.options.method == "svd":
            return _few(Seen(output_pca(group.matrix())), most)
        table = self._grams(ctx)
        found = [gram for observed in group.observed if (gram := table.get(observed)) is not None]
        if len(found) < len(group.observed):
            return None
        gram = _summed(found)
        ridge = RIDGE_FEW if gram.count < len(gram.matrix) else RIDGE
        moments = second_moments(
            gram.matrix, gram.total, gram.count, centred=group.corrected, ridge=ridge
        )
        spectrum = principal(moments) if group.convolves else output_pca(group.matrix(), moments)
        return _few(Seen(spectrum, gram.mean, gram.count, len(gram.matrix)), most)

    def _grams(self, ctx: Context) -> GramTable:
        """Of all groups, in their order: they are collected together."""
        if self._table is None:
            wanted = dict.fromkeys(observed for g in self._groups for observed in g.observed)
            self._table = ctx.analysis(GRAMS, tuple(wanted))
        return self._table

    def _key(self, group: Group, ctx: Context) -> Hashable:
        """All that the spectrum depends on."""
        tensors = [constant_tensor(site.weight) for site in group.sites]
        digests = tuple(tensor_digest(tensor) for tensor in tensors if tensor is not None)
        seen: tuple[Hashable, ...] = ()
        if self.options.method == "pca":
            seen = tuple(map(self._grams(ctx).origin, group.observed))
        return (self.name, digests, self.options.method, group.corrected, seen)


def _candidate(group: Group, rank: int) -> Candidate:
    made = rank * sum(group.shape)
    details: dict[str, Any] = {"rank": rank, "parameters": round(made / group.parameters, 4)}
    if len(group.sites) > 1:
        details["layers"] = [site.name for site in group.sites]
    saving = (group.parameters - made) * group.dtype.itemsize
    return Candidate(group.name, f"rank={rank}", saving, details)


def _few(seen: Seen, most: int) -> Seen:
    """As many directions as can be of use: the others are not kept."""
    spectrum = Spectrum(np.ascontiguousarray(seen.spectrum.basis[:, :most]), seen.spectrum.energies)
    return Seen(spectrum, seen.mean, seen.rows, seen.width)


def _summed(grams: Sequence[Gram]) -> Gram:
    matrix = sum((gram.matrix for gram in grams[1:]), grams[0].matrix)
    total = sum((gram.total for gram in grams[1:]), grams[0].total)
    return Gram(matrix, total, sum(gram.count for gram in grams))


def _corrected(
    group: Group, weight: np.ndarray, second: np.ndarray, seen: Seen
) -> list[np.ndarray]:
    """The biases that keep the mean of each output; none where there are none to correct."""
    if not group.corrected or seen.mean is None:
        return []
    biases = [b for site in group.sites if (b := constant_array(site.bias)) is not None]
    mean = seen.mean - biases[0] if group.convolves else seen.mean @ weight
    shift = mean - (mean @ second.T.astype(np.float64)) @ second
    parts = np.split(shift, np.cumsum(group.widths)[:-1])
    return [(b + part).astype(b.dtype) for b, part in zip(biases, parts, strict=True)]


# -- lowering --------------------------------------------------------------------------


def _lower_linear(group: Group, made: Factors, rewriter: Rewriter) -> None:
    """``MatMul(x, W)`` becomes ``MatMul(MatMul(x, A), B)``; layers of a group share the first."""
    first = rewriter.initializer(f"{group.name}.weight_in", made.first)
    between: dict[ir.Value, ir.Value] = {}
    parts = np.split(made.second, np.cumsum(group.widths)[:-1], axis=1)
    for index, (site, part) in enumerate(zip(group.sites, parts, strict=True)):
        second = rewriter.initializer(f"{site.name}.weight_out", np.ascontiguousarray(part))
        for use in site.uses:
            node = use.nodes[0]
            x, old = node.inputs[:2]
            assert x is not None
            if x not in between:
                between[x] = _in_front(rewriter, node, [x, first])
            rewriter.set_input(node, 0, between[x])
            rewriter.set_input(node, 1, second)
            rewriter.sweep([old])
        _set_bias(site, made.biases[index : index + 1], rewriter)


def _lower_conv(site: Site, made: Factors, rewriter: Rewriter) -> None:
    """One of as many taps to fewer channels, then a 1x1 one with the bias."""
    kernel, rank = kernel_shape(site), made.first.shape[1]
    ones = [1] * (len(kernel) - 1)
    taps, point = made.first.T.reshape(rank, *kernel), made.second.T.reshape(-1, rank, *ones)
    first = rewriter.initializer(f"{site.name}.weight_in", np.ascontiguousarray(taps))
    second = rewriter.initializer(f"{site.name}.weight_out", np.ascontiguousarray(point))
    _set_bias(site, made.biases, rewriter)
    for node in [use.nodes[0] for use in site.uses]:
        read = list(node.inputs)
        narrow = _in_front(rewriter, node, [read[0], first])
        wide = [narrow, second, *read[2:]]
        name, given = f"{node.name}_out", {"kernel_shape": ones}
        out = rewriter.insert(
            "Conv", wide, before=node, attributes=given, name=name, origins=[node]
        )
        rewriter.take_over(node.outputs[0], out.outputs[0])
        rewriter.remove(node)
        rewriter.sweep(read)


def _in_front(rewriter: Rewriter, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Value:
    """The output of a node of the same kind, in front of it."""
    attributes = {name: attribute(node, name) for name in node.attributes}
    attributes = {name: value for name, value in attributes.items() if value is not None}
    made = rewriter.insert(
        node.op_type, inputs, before=node, attributes=attributes, name=f"{node.name}_in",
        origins=[node],
    )  # fmt: skip
    return made.outputs[0]


def _set_bias(site: Site, biases: Sequence[np.ndarray], rewriter: Rewriter) -> None:
    """Give the site a bias of its own; the old one may be shared."""
    for bias in biases:
        new = rewriter.initializer(f"{site.name}.bias_corrected", bias)
        for node in [bias_node(site, use) for use in site.uses]:
            rewriter.set_input(node, list(node.inputs).index(site.bias), new)
        rewriter.sweep([site.bias])


def _channel_axis(group: Group) -> int:
    return 1 if group.convolves else len(group.uses[0].output.shape or ()) - 1


def _elements(site: Site) -> int:
    tensor = constant_tensor(site.weight)
    return 0 if tensor is None else int(tensor.size)
