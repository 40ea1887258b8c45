"""Layers that read an axis which is to be cut: their weights, and what the data says of them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir

from ...ir.axes.groups import NONE, AxisGroup, Member
from ...ir.facts import FLOAT, QUANTIZED
from ...ir.graph import attribute, constant_array, constant_tensor, rank
from ...ir.graph import operator as operator_of
from ...ir.sites import Site, Sites
from ..api import Gram, GramTable, Observed
from ..math.refit import Doubles, centred
from ..sharing import turns

FITTED = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


class UnfitError(Exception):
    """Why an axis is left as it is: a stable code and a sentence for the user."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, eq=False)
class Consumer:
    """A linear layer that contracts the axis.

    index: int64 [units, k], the rows of its matrix that belong to each unit. turned: whether the
    matrix is stored as [outputs, inputs]. bias: the constant that can take up a change of the
    mean, None without one. observed: what it reads, at each of its uses.
    """

    site: Site
    index: np.ndarray
    turned: bool
    bias: ir.Value | None
    observed: tuple[Observed, ...]

    @property
    def weight(self) -> ir.Value:
        """The stored weight."""
        assert self.site.weight is not None
        return self.site.weight

    def matrix(self) -> np.ndarray:
        """The weight in its own dtype, [inputs, outputs], not copied."""
        array = constant_array(self.weight)
        assert array is not None
        return array.T if self.turned else array

    def stored(self, matrix: Doubles) -> np.ndarray:
        """A matrix [inputs, outputs] as the weight is stored, in its dtype."""
        tensor = constant_tensor(self.weight)
        assert tensor is not None
        return np.asarray(matrix.T if self.turned else matrix, dtype=tensor.dtype.numpy())

    def gram(self, grams: GramTable) -> Gram:
        """Of all that is multiplied by the weight. Raises UnfitError where it was not observed."""
        self.check_rank()
        found = [gram for seen in self.observed if (gram := grams.get(seen)) is not None]
        if len(found) < len(self.observed) or not found or min(g.count for g in found) <= 0:
            raise UnfitError("not-observed", f"no calibration feed reached {self.site.name}")
        return reduce(operator.add, found)

    def check_rank(self) -> None:
        """Raise UnfitError where what it reads cannot be looked at."""
        if any(rank(use.input) is None for use in self.site.uses):
            why = f"the rank of what {self.site.name} reads is unknown"
            raise UnfitError("unknown-rank", why)

    def moments(self, gram: Gram) -> Doubles:
        """What an error of the weight is weighed by, a row of data: [inputs, inputs].

        About the mean where the bias takes the mean of the error up, else about zero.
        """
        if self.bias is None:
            return np.asarray(gram.matrix / gram.count)
        return centred(gram.matrix, gram.total, gram.count)


def consumers_of(group: AxisGroup, sites: Sites) -> tuple[Consumer, ...]:
    """The layers that contract the axis, in graph order. Raises UnfitError for any other reader."""
    by_weight = {str(s.weight.name): s for s in sites if s.weight is not None and s.uses}
    found = []
    for member in group.of_role("consumes"):
        site = by_weight.get(member.value)
        if site is None or site.kind != "linear":
            raise UnfitError("unsupported-op", f"{member.value} reads it, and is no linear layer")
        found.append(_consumer(site, member))
    if not found:
        raise UnfitError("unsupported-op", "no linear layer reads it")
    return tuple(found)


def _consumer(site: Site, member: Member) -> Consumer:
    ways = {turns(use) for use in site.uses}
    if len(ways) > 1:
        raise UnfitError("not-canonical", f"{site.name} is applied both ways round")
    turned = ways.pop()
    if member.axis != (1 if turned else 0) or np.any(member.index == NONE):
        raise UnfitError("not-canonical", f"the rows of {site.name} do not fall into units")
    observed = tuple(
        (str(use.input.name), known - 1) for use in site.uses if (known := rank(use.input))
    )
    return Consumer(site, member.index, turned, _own_bias(site), tuple(dict.fromkeys(observed)))


def _own_bias(site: Site) -> ir.Value | None:
    """The bias, if it is one vector, the same at each use, added as it is, and nobody else's."""
    bias = site.bias
    tensor, weight = constant_tensor(bias), constant_tensor(site.weight)
    if bias is None or tensor is None or weight is None or bias.is_graph_output():
        return None
    known = {node for use in site.uses for node in use.nodes}
    shared = any(use.bias is not bias for use in site.uses)
    foreign = any(use.node not in known for use in bias.uses())
    scaled = any(_scales(use.nodes[0]) for use in site.uses)
    outputs = weight.shape.numpy()[0 if turns(site.uses[0]) else 1]
    wrong = tensor.size != outputs or tensor.dtype not in FITTED or not bias.is_initializer()
    return None if shared or foreign or scaled or wrong else bias


def _scales(node: ir.Node) -> bool:
    factors = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    return operator_of(node) == ("", "Gemm") and factors != (1.0, 1.0)


def check_layers(group: AxisGroup, sites: Sites) -> None:
    """Raise UnfitError where a layer of the group is not a float one that can be fitted."""
    for name in group.sites:
        site = sites.by_name[name]
        if not site.uses:
            continue
        if QUANTIZED in site.facts:
            raise UnfitError("already-quantized", f"the weight of {name} has 8 bits or fewer")
        if FLOAT not in site.facts:
            raise UnfitError("not-float", f"{name} is not in float any more")
        if site.nested:
            raise UnfitError("subgraph", f"{name} stands inside a branch or a loop")
        tensor = constant_tensor(site.weight)
        if tensor is None or tensor.dtype not in FITTED:
            kind = "not constant" if tensor is None else tensor.dtype.name.lower()
            raise UnfitError("dtype", f"the weight of {name} is {kind}")


def unit_weights(
    members: Sequence[Member], model: ir.Model
) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Matrices with the axis in front, and the positions of each unit; biases are left out."""
    found = []
    for member in members:
        array = constant_array(model.graph.initializers.get(member.value))
        if array is not None and array.ndim > 1:
            found.append((np.moveaxis(array, member.axis, 0), member.index))
    return found
