"""Attention heads that say least are removed, and the output projection is fitted to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .api import register
from .pruning import Prune, PruneOptions


@dataclass(frozen=True)
class PruneHeadsOptions(PruneOptions):
    """ratio: share of the heads to remove. keep: how many of each layer to keep instead. of: what
    the ratio is a share of: units, the heads; flops or parameters, those of all layers, also of
    those that have no heads.

    score: what a head is judged by: schur, the second-order cost of its removal after the others
    are fitted (what of it no other head tells), one head after another; variance (FLAP), its
    variance times its weights; wanda, its energy times its weights; magnitude, weights alone.
    refit: fit the output projection by least squares. scope: global takes the ratio of all layers
    together, where the model's outputs change least (measured with each layer cut alone, on a few
    samples); layer of each by itself, as a runtime needs that reads one number of heads from a
    configuration. multiples: round counts to what the target's kernels like. exclude: selectors
    of sites to leave whole; they do not count in a global request, while blocks that a selector
    of the pass leaves out do.
    """

    score: Literal["schur", "variance", "wanda", "magnitude"] = "schur"


@register
class PruneHeads(Prune):
    """Remove attention heads and fit the output projections.

    What it does: the columns of query, key and value that make a head (packed ones, too), and the
    rows of the output projection that read it, are cut, with the shapes and attributes between.
    Where several query heads share a key and value, they go together. The rows that stay are
    fitted by least squares to make up for those that go, and the bias takes up the mean; where
    there is no bias, moments about zero decide.
    When it applies: float attention blocks whose heads nothing else reads, as caches of keys and
    values would that enter or leave the model, with calibration data. Without data only on
    request, by magnitude and without a fit. Before factorization and quantization: the fit would
    destroy their codes.
    What it costs: measured per block as relative squared error of its output. With fewer rows of
    data than inputs (remark ``few-rows``) a ridge holds the fit to the weights as they were.
    Guarantee: the lowered graph computes what the full-size one with rows of zeros did, whose
    loss was measured. At least one head stays.
    Example: ``prune-heads{ratio=0.5 scope=layer}``
    """

    name = "prune-heads"
    kind = "heads"
    multiple = "heads"
    noun = "heads"
    Options = PruneHeadsOptions
    options: PruneHeadsOptions
