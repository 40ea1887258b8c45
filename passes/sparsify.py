"""Zeros in a pattern that kernels skip: 2:4, and what else a target declares.

Which weights go is chosen by SparseGPT (``math.sparse``), those that stay are fitted to make up for
them (``math.sparse_fit``), and where the order of channels is free it is chosen so that the pattern
takes less (``math.sparse_order``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from ..ir.axes.groups import AxisGroup
from ..ir.facts import FLOAT, SPARSE
from ..ir.rewriter import Rewriter
from ..ir.sites import Site
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
    register,
)
from .cutting.consumers import UnfitError
from .cutting.region import CutRegion, cut_region
from .math.sparse import pattern_mask
from .sparse.gate import STORAGE, Reason, layer_of, no_codes, no_gain, no_kernel, unfit
from .sparse.layers import Layer
from .sparse.numbers import Codes, Method, Numbers, Tensors
from .sparse.orders import free_axes, reorder

NO_DATA = (
    "which weights can go is learnt from real data: give --calibration, or ask for "
    "score=magnitude refit=false"
)
NO_GRID = "codes are for kernels that skip zeros"
STORED = "no kernel skips these zeros: files become smaller once compressed, and nothing faster"


@dataclass(frozen=True)
class SparsifyOptions:
    """pattern: of n:m, n weights of every m in a row along the input channels stay; unstructured
    (any weights) and block (16 by 16) are for storage only. score: sparsegpt, groups one after
    another, later weights making up for those that go; wanda, weights times the energy of what
    they meet; magnitude, weights alone. refit: fit what stays by least squares. codes: int8, zeros
    and the codes of the rest are chosen together, and quantize behind it rounds nothing. permute:
    choose the order of channels where it is free. ratio: share of zeros where the pattern does not
    say it. convolutions: take them, too. small: also layers of sizes from which kernels for zeros
    gain nothing. exclude: selectors of sites to leave whole.
    """

    pattern: Literal["2:4", "1:4", "4:8", "2:8", "unstructured", "block"] = "2:4"
    score: Literal["sparsegpt", "wanda", "magnitude"] = "sparsegpt"
    refit: bool = True
    codes: Codes = "none"
    permute: bool = True
    ratio: float = 0.5
    convolutions: bool = True
    small: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio is {self.ratio:g}, not between 0 and 1: the share of zeros")
        if self.codes != "none" and self.pattern in STORAGE:
            raise ValueError(f"{NO_GRID}, and none skips pattern={self.pattern}: ask for 2:4")
        if self.codes != "none" and not self.refit:
            raise ValueError(
                f"codes={self.codes} fits what stays on a grid: refit=false wants codes=none"
            )


@dataclass(frozen=True, eq=False)
class Free:
    """An axis that one layer alone reads, so that its order can be chosen. makers: the layers that
    make it and get zeros of their own. region: from what they read to what the reader computes."""

    axis: AxisGroup
    makers: tuple[Layer, ...]
    region: CutRegion


@register
class Sparsify(Pass):
    """Set weights to zero in a pattern that sparse kernels skip, and fit the others.

    What it does: of every four weights in a row along the input channels, two become zero (2:4;
    other patterns where a target has kernels for them). Groups are taken one after another, each
    losing the weights that cost least once all behind them make up for it; then what stays is
    fitted by least squares, column by column, and the bias takes up the mean. Where one layer
    alone reads an axis (hidden units of feed-forward blocks), channels are first put into an order
    in which the pattern takes less, here and in the layers that make them. With ``codes=int8``
    the weights that stay are rounded to 8 bits (symmetric, one scale for each output) while zeros
    are chosen, and are fitted on that grid, code by code; they are stored as floats that lie on it.
    ``quantize{scheme=static}`` behind it finds these codes, and its rounding costs nothing more.
    When it applies: float linear layers and convolutions, with calibration data, where the target
    declares kernels for the pattern and the layer meets their sizes. Weights are stored with their
    zeros. Only on request, after everything that changes shapes and before quantization, which
    keeps zeros.
    What it costs: measured per layer as relative squared error of its output. Half of the weights
    is a lot: feed-forward layers take it better than attention. The loss of a layer whose channels
    are reordered holds that of the layers that make them. With fewer rows of data than inputs
    (remark ``few-rows``) a ridge holds the fit to the weights as they were. ``codes=int8`` gains
    next to nothing on MiniLM, since 8 bits cost little beside half of the weights: for
    nvidia-jetson-orin, quantized behind it, cosine 0.8791 and Spearman 81.99 % instead of 0.8789
    and 81.88 (float: 82.03; one draw of calibration data, within chance); it takes twice as long
    or more.
    Guarantee: the weights are those whose loss was measured; the pattern is a fact of the site,
    checked again behind every later pass.
    Example: ``sparsify{exclude=*.attention.*}``
    """

    name = "sparsify"
    semantics = Semantics.LOSSY
    requires = frozenset({FLOAT})
    produces = frozenset({SPARSE})
    joint = True
    Options = SparsifyOptions
    options: SparsifyOptions

    def __init__(self, options: SparsifyOptions) -> None:
        super().__init__(options)
        self._layers: dict[str, Layer] = {}
        self._free: dict[str, Free] = {}
        self._made: dict[str, Tensors] = {}

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        sites = ctx.analysis(SITES)
        excluded = {s.name for selector in self.options.exclude for s in sites.select(selector)}
        judged = {
            site.name: self._judged(site, excluded, ctx) for site in sites.of_kind("linear", "conv")
        }
        self._layers = {n: found for n, found in judged.items() if isinstance(found, Layer)}
        self._free, self._made = dict(self._free_axes(model, excluded, ctx)), {}
        self._say(ctx)
        for name, found in judged.items():
            yield self._candidate(name) if isinstance(found, Layer) else Refusal(name, *found)

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation | None:
        layer, free = self._layers[candidate.site], self._free.get(candidate.site)
        numbers = Numbers(self._method, tuple(self._layers.values()), ctx)
        try:
            order = None if free is None else numbers.order(layer)
            made = numbers.thinned(layer if order is None else layer.reordered(order))
        except UnfitError as reason:
            ctx.remark("missed", candidate.site, reason.code, str(reason))
            return None
        if candidate.site in self._makers:
            self._made[candidate.site] = made
        if few := numbers.few(layer):
            ctx.remark("note", candidate.site, "few-rows", few)
        if free is None:
            read, written = (tuple(dict.fromkeys(map(_name, ends))) for ends in _ends(layer))
            return Perturbation(read, written, made, {}, (made, None), layer.size[0])
        region, payload = free.region, (made, order)
        beside = [self._made.pop(maker.site.name, {}) for maker in free.makers]
        tensors = {name: array for found in (*beside, made) for name, array in found.items()}
        return Perturbation(region.inputs, region.outputs, tensors, {}, payload, region.contraction)

    def outline(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        """Ones and zeros in the pattern, in the order that channels have."""
        layer, pattern = self._layers[candidate.site], self._method.grouped
        made = np.ones_like(layer.matrices())
        if pattern is not None:
            made *= pattern_mask(made[0], pattern)
        return Perturbation(
            (), (), payload=({_name(layer.reader.weight): layer.stored(made)}, None)
        )

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
        tensors, order = perturbation.payload
        for name, array in tensors.items():
            rewriter.set_tensor(model.graph.initializers[name], array)
        if order is not None:
            reorder(rewriter, self._free[candidate.site].axis, order)

    # -- which -------------------------------------------------------------------------

    @property
    def _makers(self) -> set[str]:
        """Sites whose numbers an edit behind them is measured with."""
        return {maker.site.name for free in self._free.values() for maker in free.makers}

    @property
    def _method(self) -> Method:
        options = self.options
        return Method(options.pattern, options.score, options.refit, options.ratio, options.codes)

    def _judged(self, site: Site, excluded: set[str], ctx: Context) -> Layer | Reason:
        """The layer, or why it stays whole."""
        options = self.options
        if site.name in excluded:
            return "excluded", "left whole on request"
        if site.kind == "conv" and not options.convolutions:
            return "excluded", "convolutions were switched off"
        reason = no_kernel(options.pattern, ctx.target) or unfit(site)
        if reason is None and options.codes != "none":
            reason = no_codes(site, ctx)
        if reason is not None:
            return reason
        layer = layer_of(site)
        if not isinstance(layer, Layer):
            return layer
        reason = no_gain(layer, options.pattern, ctx.target, small=options.small)
        if reason is None and self._method.needs_data:
            reason = self._unseen(layer, ctx)
        return reason or layer

    def _unseen(self, layer: Layer, ctx: Context) -> Reason | None:
        if not ctx.analysis(CALIBRATED):
            return "no-calibration", NO_DATA
        try:
            layer.reader.check_rank()
        except UnfitError as reason:
            return reason.code, str(reason)
        return None

    def _free_axes(
        self, model: ir.Model, excluded: set[str], ctx: Context
    ) -> Iterator[tuple[str, Free]]:
        """By the name of the layer that reads it."""
        if not self.options.permute or self._method.grouped is None or not self._layers:
            return
        sites, place = ctx.analysis(SITES), {name: i for i, name in enumerate(self._layers)}
        for axis, reader in free_axes(ctx.analysis(AXES), self._layers, sites, excluded):
            try:
                region = cut_region(model, [axis], [reader.reader])
            except UnfitError:  # its order stays
                continue
            others = (self._layers.get(name) for name in axis.sites if name != reader.site.name)
            makers = tuple(layer for layer in others if layer is not None)
            # A reader that is used in front of a maker, too, is edited first, and knows too little.
            if all(place[maker.site.name] < place[reader.site.name] for maker in makers):
                yield reader.site.name, Free(axis, makers, region)

    def _candidate(self, name: str) -> Candidate:
        pattern, free = self._method.grouped, self._free.get(name)
        share = self.options.ratio if pattern is None else pattern.share
        details: dict[str, Any] = {"zeros": share, "score": self.options.score}
        details |= {"codes": self.options.codes} if self.options.codes != "none" else {}
        details |= {"reordered": free.axis.name} if free is not None else {}
        much = f"-{self.options.ratio:g}" if pattern is None else ""
        return Candidate(name, f"{self.options.pattern}{much}", 0, details)

    def _say(self, ctx: Context) -> None:
        """What comes of it, where anything is done."""
        if self._layers and self.options.pattern in STORAGE:
            ctx.remark("note", "model", "storage-only", STORED)
        gain, source = ctx.target.sparse.end_to_end, ctx.target.sources.get("sparse.end_to_end")
        if self._layers and self.options.pattern not in STORAGE and gain is not None:
            said = f"whole models became up to {gain:g} times as fast elsewhere, most of them less"
            ctx.remark("note", "model", "sparse-gain", f"{said} ({source})")


def _ends(layer: Layer) -> tuple[list[ir.Value], list[ir.Value]]:
    """What its uses read, and what they make."""
    uses = layer.site.uses
    return [use.input for use in uses], [use.output for use in uses]


def _name(value: ir.Value) -> str:
    return str(value.name)
