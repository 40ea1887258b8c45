"""Feed-forward neurons that say least are removed, and what reads the others is fitted to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .api import register
from .pruning import Prune, PruneOptions


@dataclass(frozen=True)
class PruneNeuronsOptions(PruneOptions):
    """ratio: share of the neurons to remove. keep: how many of each layer to keep instead. of: what
    the ratio is a share of: units, the neurons; flops or parameters, those of all layers, also of
    those that have no neurons.

    score: what a neuron is judged by: obs, the second-order cost of its removal after the others
    are fitted, one neuron after another; variance (FLAP), its variance times its weights; wanda,
    its energy times its weights; magnitude, weights alone. refit: fit what reads the axis by
    least squares. scope: layer takes the ratio of each by itself, which then stay alike; global of
    all layers together, where the model's outputs change least (measured with each layer cut
    alone, on a few samples). multiples: round counts to what the target's kernels like. exclude:
    selectors of sites to leave whole; they do not count in a global request, while blocks that a
    selector of the pass leaves out do.
    """

    score: Literal["obs", "variance", "wanda", "magnitude"] = "obs"
    scope: Literal["layer", "global"] = "layer"


@register
class PruneNeurons(Prune):
    """Remove feed-forward neurons and fit the layers that read them.

    What it does: columns of the layers that make an axis (both of a gated block), and rows of
    those that read it, are cut; shapes become smaller and nothing else. The rows that stay are
    fitted by least squares to make up for those that go, and the bias takes up the mean; where
    there is no bias, moments about zero decide. The fit gives more than the choice of neurons.
    Where a norm alone reads the outputs, they count as much as its scale lets through.
    When it applies: axes between float linear layers that nothing else reads, with calibration
    data. Without data only on request, by magnitude and without a fit. Before factorization and
    quantization: the fit would destroy their codes.
    What it costs: measured per block as relative squared error of its output. With fewer rows of
    data than neurons (remark ``few-rows``) a ridge holds the fit to the weights as they were.
    Guarantee: the lowered graph computes what the full-size one with rows of zeros did, whose
    loss was measured. Hidden layers in a row are one edit.
    Example: ``prune-neurons{ratio=0.5 exclude=encoder.layer.11}``
    """

    name = "prune-neurons"
    kind = "neurons"
    multiple = "channels"
    noun = "neurons"
    normed = True
    Options = PruneNeuronsOptions
    options: PruneNeuronsOptions
