"""Store the weights of linear layers as one of a few values each, and a code that says which."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from planish.ir.facts import FLOAT
from planish.ir.graph import constant_array
from planish.passes.api import (
    SITES,
    Candidate,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    register,
)
from planish.passes.plain import not_plain


@dataclass(frozen=True)
class ClusterOptions:
    """What a pipeline can set.

    values: how many different weights a layer may have, 2 to 256
    """

    values: int = 16

    def __post_init__(self):
        if not 2 <= self.values <= 256:
            raise ValueError(f"{self.values} values do not fit a code of 8 bits")


@register
class Cluster(Pass):
    """Store weights as one of a few values each.

    What it does: finds the values that are nearest to a layer's weights, and stores for each
    weight, in 8 bits, which of them it is.
    When it applies: to linear layers in float32 whose weight would become smaller.
    What it costs: accuracy, as measured. The runtime looks the weights up once, when it loads.
    Guarantee: a loss that is measured at each layer.
    Example: ``canonicalize,cluster{values=16}``
    """

    name = "cluster"
    semantics = Semantics.LOSSY
    requires = frozenset({FLOAT})
    Options = ClusterOptions

    def candidates(self, model, ctx):
        values = self.options.values
        for site in ctx.analysis(SITES).of_kind("linear"):
            if reason := not_plain(site):
                yield Refusal(site.name, *reason)
                continue
            size = site.weight.const_value.size
            saving = 3 * size - 4 * values
            if saving <= 0:
                yield Refusal(site.name, "too-small", f"{size} weights would not become smaller")
            else:
                yield Candidate(
                    site.name, f"values-{values}", saving=saving, details={"values": values}
                )

    def perturb(self, model, candidate, ctx):
        site = ctx.analysis(SITES).by_name[candidate.site]
        weight = constant_array(site.weight)
        book, codes = nearest_values(weight, self.options.values)
        return Perturbation(
            inputs=(site.input.name,),
            outputs=(site.output.name,),
            tensors={site.weight.name: book[codes]},
            payload=(book, codes),
            contraction=len(weight),
        )

    def lower(self, model, candidate, perturbation, rewriter, ctx):
        site = ctx.analysis(SITES).by_name[candidate.site]
        product, weight = site.nodes[0], site.weight
        book, codes = perturbation.payload
        name, slot = weight.name, list(product.inputs).index(weight)
        stored = rewriter.initializer(f"{name}.codes", codes)
        wide = rewriter.insert(
            "Cast", [stored], before=product, attributes={"to": ir.DataType.INT32},
            origins=[product],
        )  # fmt: skip
        table = rewriter.initializer(f"{name}.values", book)
        looked_up = rewriter.insert(
            "Gather", [table, wide.outputs[0]], before=product, attributes={"axis": 0},
            origins=[product],
        )  # fmt: skip
        rewriter.set_input(product, slot, looked_up.outputs[0])
        rewriter.sweep([weight])


def nearest_values(weight, count, rounds=30):
    """Lloyd's algorithm in one dimension, from the quantiles of the weights.

    weight: float32 [any]. Returns float32 [count], rising, and uint8 [any]: which one is nearest.
    """
    flat = np.sort(weight, axis=None).astype(np.float64)
    book = np.quantile(flat, (np.arange(count) + 0.5) / count)
    sums = np.concatenate([[0.0], np.cumsum(flat)])
    for _ in range(rounds):
        ends = np.searchsorted(flat, (book[1:] + book[:-1]) / 2)
        starts, stops = np.concatenate([[0], ends]), np.concatenate([ends, [len(flat)]])
        members = stops - starts
        means = (sums[stops] - sums[starts]) / np.maximum(members, 1)
        book = np.sort(np.where(members > 0, means, book))
    book = book.astype(np.float32)
    codes = np.searchsorted((book[1:] + book[:-1]) / 2, weight)
    return book, codes.astype(np.uint8)
