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
from ...ir.errors import InputError
from ...ir.facts import FLOAT, QUANTIZED
from ...ir.graph import attribute, constant_array, constant_tensor, rank
from ...ir.graph import operator as operator_of
from ...ir.sites import Site, Sites
from ..api import Gram, GramTable, Looked
from ..math.refit import Doubles, centred, damped
from ..sharing import turns
from .forms import Form, conv_form, looked_at

FITTED = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


class UnfitError(Exception):
    """Why an axis is left as it is: a stable code and a sentence for the user."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, eq=False)
class Consumer:
    """A layer that contracts the axis.

    form: how its weight is read as matrices. index: int64 [units, k], the positions along the
    contracted axis of the weight that belong to each unit, filled up with ``NONE``. bias: the
    constant that can take up a change of the mean, None without one. observed: what it reads, at
    each of its uses; one whose rank is unknown is missing.
    """

    site: Site
    form: Form
    index: np.ndarray
    bias: ir.Value | None
    observed: tuple[Looked, ...]

    @property
    def weight(self) -> ir.Value:
        """The stored weight."""
        assert self.site.weight is not None
        return self.site.weight

    def matrices(self) -> Doubles:
        """The weight as float64 [groups, rows, outputs of a row]."""
        array = constant_array(self.weight)
        assert array is not None
        return self.form.matrices(array).astype(np.float64)

    def stored(self, matrices: Doubles) -> np.ndarray:
        """Matrices as the weight is stored, in its dtype."""
        tensor = constant_tensor(self.weight)
        assert tensor is not None
        return self.form.stored(matrices.astype(tensor.dtype.numpy()))

    def kept_rows(self, gone: np.ndarray) -> list[np.ndarray]:
        """For each group, which rows stay when units go."""
        size = self.form.width // self.form.groups
        found = []
        for rows in self.form.rows(self.index):
            dropped = rows[gone].reshape(-1)
            kept = np.ones(size, bool)
            kept[dropped[dropped != NONE]] = False
            found.append(kept)
        return found

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

    def moments(self, gram: Gram) -> list[Doubles]:
        """For each group, what an error of the weight is weighed by, a row of data: [rows, rows].

        About the mean where the bias takes the mean of the error up, else about zero.
        """
        found = []
        for part in map(self.form.block, range(self.form.groups)):
            matrix, total = gram.matrix[part, part], gram.total[part]
            about_zero = np.asarray(matrix / gram.count)
            found.append(about_zero if self.bias is None else centred(matrix, total, gram.count))
        return found

    def usable(self, gram: Gram) -> list[Doubles]:
        """The same with a ridge, to fit to.

        Raises UnfitError where they are not finite, or nothing but rounding: behind inputs that
        never change, and about a mean that is thousands of times what they change by.
        """
        try:
            return [damped(each, gram.count) for each in self.moments(gram)]
        except InputError as error:
            raise UnfitError("not-usable", error.what) from error


def consumers_of(group: AxisGroup, sites: Sites) -> tuple[Consumer, ...]:
    """The layers that contract the axis, in graph order. Raises UnfitError for any other reader."""
    by_weight = {str(s.weight.name): s for s in sites if s.weight is not None and s.uses}
    found = []
    for member in group.of_role("consumes"):
        site = by_weight.get(member.value)
        if site is None or site.kind not in ("linear", "conv"):
            raise UnfitError("unsupported-op", f"{member.value} reads it, and is no linear layer")
        found.append(_consumer(site, member))
    if not found:
        raise UnfitError("unsupported-op", "no linear layer reads it")
    return tuple(found)


def _consumer(site: Site, member: Member) -> Consumer:
    form = form_of(site)
    if member.axis != form.axis:
        raise UnfitError("not-canonical", f"the rows of {site.name} do not fall into units")
    seen = (looked_at(form, use) for use in site.uses)
    observed = tuple(dict.fromkeys(each for each in seen if each is not None))
    return Consumer(site, form, member.index, own_bias(site), observed)


def form_of(site: Site) -> Form:
    """How all uses of a weight read it. Raises UnfitError where they differ."""
    tensor = constant_tensor(site.weight)
    assert tensor is not None
    shape = tuple(tensor.shape.numpy())
    if site.kind == "conv":
        forms = {conv_form(use.nodes[0], shape) for use in site.uses}
        form = forms.pop()
        if forms or form is None or any(use.weight_path for use in site.uses):
            raise UnfitError("not-canonical", f"{site.name} is no plain convolution")
        return form
    ways = {turns(use) for use in site.uses}
    if len(ways) > 1:
        raise UnfitError("not-canonical", f"{site.name} is applied both ways round")
    return Form("turned" if ways.pop() else "linear", shape)


def own_bias(site: Site) -> ir.Value | None:
    """The bias, if it is one vector, the same at each use, added as it is, and nobody else's."""
    bias = site.bias
    tensor = constant_tensor(bias)
    if bias is None or tensor is None or site.weight is None or bias.is_graph_output():
        return None
    known = {node for use in site.uses for node in use.nodes}
    shared = any(use.bias is not bias for use in site.uses)
    foreign = any(use.node not in known for use in bias.uses())
    scaled = any(_scales(use.nodes[0]) for use in site.uses)
    wrong = tensor.size != form_of(site).outputs or tensor.dtype not in FITTED
    unfit = wrong or not bias.is_initializer()
    return None if shared or foreign or scaled or unfit else bias


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
