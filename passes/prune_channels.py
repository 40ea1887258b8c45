"""Channels that say least are removed from convolutions, and those that read them are fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx_ir as ir

from ..ir.axes.groups import AxisGroup
from ..ir.graph import subgraphs
from ..ir.sites import Sites
from .api import CALIBRATED, CHOSEN, SITES, Candidate, Context, Perturbation, register
from .cutting.consumers import UnfitError
from .cutting.plan import Cuttable
from .cutting.ranking import cut_readers
from .cutting.stepping import Stepping, matchable, steppable
from .pruning import Prune, PruneOptions


@dataclass(frozen=True)
class PruneChannelsOptions(PruneOptions):
    """ratio: share of the channels to remove. keep: how many of each layer to keep instead. of:
    what the ratio is a share of: units, the channels; flops or parameters, those of all layers,
    also of those that are not cut.

    score: what a channel is judged by: obs, the second-order cost of its removal after the others
    are fitted, one channel after another; variance (FLAP), its variance times its weights; wanda,
    its energy times its weights; magnitude, weights alone. refit: fit what reads the channels by
    least squares. sequential: fit each layer to what it reads once all cuts in front of it are
    made, not to what it read. reestimate: give each convolution that is touched, channel by
    channel, the mean and variance that it had. scope: global takes the ratio of all layers
    together, where the model's outputs change least (measured with each group cut alone, on a few
    samples); layer of each alike. residual: also cut channels that several layers make together, as
    a stream does that blocks add to. multiples: round counts to what the target's kernels like.
    exclude: selectors of sites to leave whole; they do not count in a global request for units,
    while layers that a selector of the pass leaves out do.
    """

    score: Literal["obs", "variance", "wanda", "magnitude"] = "obs"
    sequential: bool = True
    reestimate: bool = True
    residual: bool = False


@register
class PruneChannels(Prune):
    """Remove channels of convolutions and fit the layers that read them.

    What it does: filters and biases of the convolutions that make a channel are cut, and the taps
    of those that read it, with depthwise convolutions, concatenations and splits between them;
    shapes become smaller and nothing else. What stays of the readers is fitted by least squares to
    make up for what goes, all channels and taps together, and the bias takes up the mean: layer
    after layer, each to what it reads with all cuts in front of it made. Each convolution that is
    touched gets the mean and variance of each channel back, as the re-estimation of batch norms
    would (where it has no bias of its own, remark ``no-bias``, it does not). Beyond 4,608 inputs
    times taps only channels are fitted, alike at all taps (remark ``coarse``).
    When it applies: float convolutions, batch norms folded (``canonicalize`` first), whose channels
    nothing but layers reads, with calibration data. Without data only on request, by magnitude and
    without a fit. Before factorization and quantization: the fit would destroy their codes.
    What it costs: measured per edit as relative squared error of its output. With fewer places of
    data than inputs (remark ``few-rows``) a ridge holds the fit to the weights as they were.
    Guarantee: the lowered graph computes what the full-size one with taps of zeros did, whose
    loss was measured. Groups that meet in one layer are one edit.
    Example: ``prune-channels{ratio=0.3 of=flops multiples=false}``
    """

    name = "prune-channels"
    kind = "channels"
    multiple = "channels"
    noun = "channels"
    joint = True
    Options = PruneChannelsOptions
    options: PruneChannelsOptions

    def __init__(self, options: PruneChannelsOptions) -> None:
        super().__init__(options)
        self._together: dict[str, np.ndarray] | None = None

    def _cuttable(
        self, group: AxisGroup, sites: Sites, excluded: set[str], ctx: Context
    ) -> Cuttable:
        found = super()._cuttable(group, sites, excluded, ctx)
        makers = _makers(group, sites)
        if len(makers) > 1 and not self.options.residual:
            why = f"{len(makers)} layers make it together; residual=true cuts such channels, too"
            raise UnfitError("residual", why)
        return found

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        """With what the cuts in front of each layer do to it taken into account."""
        alone = super().perturb(model, candidate, ctx)
        options = self.options
        steps = options.reestimate or (options.refit and options.sequential)
        if not steps or not ctx.analysis(CALIBRATED):
            return alone
        if self._together is None:
            self._together = self._stepped(model, ctx)
        own = {m.value for cut in alone.payload for m in cut.of.group.members if m.stored}
        own |= set(alone.tensors)
        tensors = {name: array for name, array in self._together.items() if name in own}
        return replace(alone, tensors=tensors)

    def _stepped(self, model: ir.Model, ctx: Context) -> dict[str, np.ndarray]:
        """All tensors of all edits that are going to be made."""
        assert self._ranking is not None
        options, cuts = self.options, [c for s in ctx.analysis(CHOSEN) for c in self._cuts[s][0]]
        tensors = self._ranking.tensors(cuts)
        if any(True for node in model.graph for _ in subgraphs(node)):
            why = "the model has branches or loops, so layers are put right each by itself alone"
            ctx.remark("note", "model", "not-stepped", why)
            return tensors
        names = {name for cut in cuts for name in cut.of.group.sites}
        anew = steppable(cut_readers(cuts)) if options.refit and options.sequential else []
        matched = matchable(ctx.analysis(SITES), names, ctx) if options.reestimate else []
        return Stepping(tensors, anew, matched).run(model, ctx)


def _makers(group: AxisGroup, sites: Sites) -> list[str]:
    """The layers whose outputs are the channels: several where they are added up."""
    weights = {str(site.weight.name): site.name for site in sites if site.weight is not None}
    made = [weights[m.value] for m in group.of_role("produces") if m.value in weights]
    return list(dict.fromkeys(made))
