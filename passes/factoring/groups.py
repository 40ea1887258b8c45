"""Layers that can become two factors, and why the others cannot.

One layer, or query, key and value of an attention block that share the first factor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from ...ir.facts import FACTORIZED, FLOAT, QUANTIZED
from ...ir.graph import attribute, constant_array, constant_tensor, given
from ...ir.sites import Site, Sites, Use
from ..api import Looked
from ..biases import bias_node

DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
OPERATORS = {"linear": "MatMul", "conv": "Conv"}
ROLES = ("q", "k", "v")

Reason = tuple[str, str]
"""A code and a sentence."""


@dataclass(frozen=True, eq=False)
class Group:
    """Layers of one input that share their first factor; mostly one."""

    sites: tuple[Site, ...]

    @property
    def name(self) -> str:
        """That of the first, which speaks for all."""
        return self.sites[0].name

    @property
    def convolves(self) -> bool:
        """Whether it is a convolution: the first factor then is one of as many taps."""
        return self.sites[0].kind == "conv"

    @property
    def uses(self) -> tuple[Use, ...]:
        """Every application of the weights."""
        return tuple(use for site in self.sites for use in site.uses)

    @property
    def widths(self) -> tuple[int, ...]:
        """Outputs of each layer."""
        return tuple(_dims(site)[0 if self.convolves else 1] for site in self.sites)

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs (of a convolution times its taps) and outputs, those of all layers."""
        dims = _dims(self.sites[0])
        return (prod(dims[1:]) if self.convolves else dims[0]), sum(self.widths)

    @property
    def parameters(self) -> int:
        """Elements of the weights."""
        return prod(self.shape)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of the weights."""
        tensor = constant_tensor(self.sites[0].weight)
        assert tensor is not None
        return np.dtype(tensor.dtype.numpy())

    @property
    def corrected(self) -> bool:
        """Whether each layer has a bias that can take up what a smaller rank does to the mean."""
        biases = {site.bias for site in self.sites}
        return len(biases) == len(self.sites) and all(map(_own_bias, self.sites))

    @property
    def observes_outputs(self) -> bool:
        """Whether its outputs are looked at: what convolutions read overlaps."""
        return self.convolves

    @property
    def observed(self) -> tuple[Looked, ...]:
        """What is looked at: the inputs of linear layers, of convolutions the outputs."""
        values = [u.output if self.convolves else u.input for u in self.sites[0].uses]
        axes = [1 if self.convolves else len(v.shape or ()) - 1 for v in values]
        pairs = zip(values, axes, strict=True)
        return tuple(dict.fromkeys((str(v.name), axis) for v, axis in pairs))

    @property
    def table(self) -> str:
        """The kernel that computes it, as measurements call it."""
        if not self.convolves:
            return "products.float32"
        taps = _dims(self.sites[0])[2:]
        if prod(taps) == 1:
            return POINTWISE
        return "convolutions.line" if len(taps) == 1 else "convolutions.spatial"

    @property
    def whole(self) -> tuple[tuple[str, int, int], ...]:
        """Products of the layers as they are: table, K, N."""
        return tuple((self.table, self.shape[0], width) for width in self.widths)

    def factored(self, rank: int) -> tuple[tuple[str, int, int], ...]:
        """Products of their factors."""
        table = POINTWISE if self.convolves else self.table
        first = (self.table, self.shape[0], rank)
        return (first, *((table, rank, width) for width in self.widths))

    def matrix(self) -> np.ndarray:
        """The weights side by side, [inputs, outputs]."""
        found = [constant_array(site.weight) for site in self.sites]
        flat = [w.reshape(len(w), -1).T if self.convolves else w for w in found if w is not None]
        return np.concatenate(flat, axis=1) if len(flat) > 1 else flat[0]

    def summed(self, change: np.ndarray) -> list[np.ndarray]:
        """A change of the mean along the columns of the matrix as one of each bias."""
        return np.split(change, np.cumsum(self.widths)[:-1])

    def stored(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """A matrix [inputs, outputs] as the contents of the weights."""
        parts = np.split(matrix, np.cumsum(self.widths)[:-1], axis=1)
        return {
            str(site.weight.name): part.T.reshape(_dims(site)) if self.convolves else part
            for site, part in zip(self.sites, parts, strict=True)
            if site.weight is not None
        }


POINTWISE = "convolutions.pointwise"


def grouped(sites: Sites, chosen: Sequence[Site], *, share: bool) -> list[Group]:
    """The chosen layers, each alone, or query, key and value together where all are chosen."""
    together: dict[str, Group] = {}
    free = {site.name: site for site in chosen if len(site.uses) == 1}
    for block in sites.of_kind("attention") if share else ():
        names = list(dict.fromkeys(block.roles.get(role, "") for role in ROLES))
        members = [free[name] for name in names if name in free]
        if len(members) < len(ROLES) or len({site.input for site in members}) > 1:
            continue
        members.sort(key=lambda site: chosen.index(site))
        together.update(dict.fromkeys(names, Group(tuple(members))))
    return list(dict.fromkeys(together.get(site.name) or Group((site,)) for site in chosen))


def reason(site: Site) -> Reason | None:
    """The first reason not to factorize a layer, None where there is none."""
    return next(_reasons(site), None)


def _reasons(site: Site) -> Iterator[Reason]:
    if QUANTIZED in site.facts:
        yield "already-quantized", "its weight has 8 bits or fewer; factors are made before that"
    if FLOAT not in site.facts:
        yield "not-float", "the layer is not in float any more"
    if FACTORIZED in site.facts:
        yield "already-factorized", "it is one of two factors already"
    if site.nested or len({use.nodes[0].graph for use in site.uses}) > 1:
        yield "subgraph", "it stands inside a branch or a loop, where nothing is observed"
    expected = OPERATORS[site.kind]
    others = {use.nodes[0].op_type for use in site.uses} - {expected}
    if others:
        yield "unsupported-op", f"{min(others)} is not factorized, only {expected} is"
    yield from _of_weight(site)
    yield from _of_surroundings(site)


def _of_weight(site: Site) -> Iterator[Reason]:
    tensor = constant_tensor(site.weight)
    if tensor is None or tensor.dtype not in DTYPES:
        found = "not constant" if tensor is None else tensor.dtype.name.lower()
        yield "dtype", f"its weight is {found}; float16, float32 and float64 are factorized"
    if any(use.weight_path for use in site.uses):
        yield "not-canonical", "its weight stands behind a reshape"
    if site.ties:
        yield "tied", f"its weight is also that of {site.ties[0]} and would be kept twice"
    if site.weight is not None and len(site.weight.uses()) > len(site.uses):
        yield "shared", "other nodes read its weight, too, and it would be kept twice"


def _of_surroundings(site: Site) -> Iterator[Reason]:
    nodes = [use.nodes[0] for use in site.uses]
    if site.kind == "conv" and any(attribute(node, "group", 1) != 1 for node in nodes):
        yield "grouped", "a grouped convolution has few parameters for each output already"
    added = any(given(node, 2) is not None for node in nodes)
    if site.kind == "conv" and added and not _own_bias(site):
        yield "not-canonical", "its bias is computed, or not that of all its uses"
    values = [use.output if site.kind == "conv" else use.input for use in site.uses]
    if any(value.shape is None for value in values):
        yield "unknown-rank", "shape inference does not get through it"


def _own_bias(site: Site) -> bool:
    """Whether all uses add the same constant, in a node that reads it as it is stored."""
    return site.bias is not None and all(
        use.bias is site.bias and site.bias in bias_node(site, use).inputs for use in site.uses
    )


def kernel_shape(site: Site) -> tuple[int, ...]:
    """Inputs of a convolution, and its taps along each axis."""
    return _dims(site)[1:]


def _dims(site: Site) -> tuple[int, ...]:
    tensor = constant_tensor(site.weight)
    assert tensor is not None
    return tuple(tensor.shape.numpy())
