"""Channels that say least are removed from convolutions, and those that read them are fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .api import register
from .pruning import Prune, PruneOptions


@dataclass(frozen=True)
class PruneChannelsOptions(PruneOptions):
    """ratio: share of the channels to remove. keep: how many of each layer to keep instead.

    score: what a channel is judged by: obs, the second-order cost of its removal after the others
    are fitted, one channel after another; variance (FLAP), its variance times its weights; wanda,
    its energy times its weights; magnitude, weights alone. refit: fit what reads the channels by
    least squares. scope: global takes the ratio of all layers together, where the model's outputs
    change least (measured with each group cut alone, on a few samples); layer of each by itself.
    multiples: round counts to what the target's kernels like. exclude: selectors of sites to leave
    whole; they do not count in a global request, while layers that a selector of the pass leaves
    out do.
    """

    score: Literal["obs", "variance", "wanda", "magnitude"] = "obs"


@register
class PruneChannels(Prune):
    """Remove channels of convolutions and fit the layers that read them.

    What it does: filters and biases of the convolutions that make a channel are cut, and the taps
    of those that read it, depthwise convolutions, concatenations and splits between them included;
    shapes become smaller and nothing else. What stays of the readers is fitted by least squares to
    make up for what goes, all channels and taps together, and the bias takes up the mean.
    When it applies: float convolutions, batch norms folded (``canonicalize`` first), whose channels
    nothing but layers reads, with calibration data. Without data only on request, by magnitude and
    without a fit. Before factorization and quantization: the fit would destroy their codes.
    What it costs: measured per edit as relative squared error of its output. With fewer places of
    data than inputs (remark ``few-rows``) a ridge holds the fit to the weights as they were.
    Guarantee: the lowered graph computes what the full-size one with taps of zeros did, whose
    loss was measured. Groups that meet in one layer are one edit.
    Example: ``prune-channels{ratio=0.3 multiples=false}``
    """

    name = "prune-channels"
    kind = "channels"
    multiple = "channels"
    noun = "channels"
    Options = PruneChannelsOptions
    options: PruneChannelsOptions
