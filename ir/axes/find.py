"""The groups of a model: start at every layer's outputs and see what is cut with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph import operator
from ..sites import Site, Sites
from .describe import described, distinct, named, refused, told_apart
from .groups import NONE, AxisGroup, AxisGroups, Index
from .labels import CannotCutError, Labels, present
from .members import members_of
from .relations import DATA, Key, Relations, Use, value_of
from .repair import Cut
from .repairs import repairs_of
from .size_table import SizeTable
from .spread import Spreader
from .tables import SHAPE_ONLY
from .taint import check_shapes


@dataclass(frozen=True)
class Start:
    """The outputs of a layer: where a group may begin. size: 0 where it is not known."""

    site: Site
    key: Key
    size: int


def find_axis_groups(
    model: ir.Model, sites: Sites, weights: Collection[str] | None = None
) -> AxisGroups:
    """All groups of the main graph, in graph order; those that cannot be cut say why.

    weights: only begin at layers with these; names are then unique among the groups found only.
    """
    finder = _Finder(model, sites)
    for start in _starts(sites, finder.table):
        weight = start.site.weight
        if weights is not None and (weight is None or weight.name not in weights):
            continue
        if start.key not in finder.settled:
            finder.begin(start)
    return AxisGroups(named(distinct(finder.found)))


def _starts(sites: Sites, table: SizeTable) -> Iterator[Start]:
    for site in sites:
        if site.nested or site.kind == "ffn":
            continue
        if site.kind == "attention":
            yield from _packed(site, table)
            continue
        value = site.nodes[0].outputs[0]
        sizes = table.of(value)
        axis = 1 if site.kind == "conv" else len(sizes or ()) - 1
        size = table.length(value, axis) if sizes and len(sizes) > axis >= 0 else None
        if size is None or size > 1:
            yield Start(site, (value, axis), size or 0)


def _packed(site: Site, table: SizeTable) -> Iterator[Start]:
    """Attention that holds its weight itself."""
    size = None if site.weight is None else table.length(site.weight, 1)
    if site.weight is not None and size is not None:
        yield Start(site, (site.weight, 1), size)


class _Finder:
    """The groups found so far, and the axes of which all is known."""

    def __init__(self, model: ir.Model, sites: Sites) -> None:
        self.sites = sites
        self.table = SizeTable(model)
        self.spreader = Spreader(model, self.table)
        self.biases = {site.bias for site in sites if site.bias is not None}
        self.settled: set[Key] = set()
        self.found: list[AxisGroup] = []

    def begin(self, start: Start) -> None:
        """Add the groups that contain a layer's outputs, or the reason why there is none."""
        errors: list[CannotCutError] = []
        found: list[AxisGroup] = []
        if not start.size:
            errors.append(CannotCutError(DATA, "the shape of the layer's output is not known"))
        for outcome in self.spreader.outcomes(start.key, start.size):
            try:
                found.append(self._group(outcome, start))
            except CannotCutError as error:
                errors.append(error)
        self.found += told_apart(found) or [
            refused(start.site, start.size, error) for error in errors and [_telling(errors)]
        ]

    def _group(self, outcome: Labels | CannotCutError, start: Start) -> AxisGroup:
        labels = outcome if isinstance(outcome, Labels) else outcome.labels
        if labels is not None:
            self._settle(labels)
        if isinstance(outcome, CannotCutError):
            raise outcome
        if outcome.units() < 2:
            raise CannotCutError("single", "all positions of the axis can only be cut together")
        around = self._around(outcome)
        members = members_of(outcome, start.key, around, self.biases)
        check_shapes({(v, k[1]) for k in outcome.by_key if (v := value_of(k[0])) is not None})
        self._rehearse(outcome, around)
        return described(outcome, members, start.site, self.sites)

    def _around(self, labels: Labels) -> list[Relations]:
        """The relations of all nodes that the group touches."""
        nodes: dict[ir.Node, None] = {}
        for holder, _ in labels.by_key:
            nodes.update(dict.fromkeys(self.spreader.nodes(holder)))
        return [self.spreader.relations(n) for n in nodes if operator(n) not in SHAPE_ONLY]

    def _settle(self, labels: Labels) -> None:
        """Axes on which every position is a unit of its own give the same group again."""
        if labels.forked:
            return
        for key, vector in labels.by_key.items():
            classes = labels.find(vector)
            if (classes != NONE).all() and np.bincount(classes).max() == 1:
                self.settled.add(key)

    def _rehearse(self, labels: Labels, around: Sequence[Relations]) -> None:
        """CannotCutError where a node could not be put right; tried without the last unit."""
        found = {
            (value, axis): labels.find(vector)
            for (holder, axis), vector in labels.by_key.items()
            if (value := value_of(holder)) is not None and not isinstance(holder, Use)
        }
        last = _last_free(list(found.values()), len(labels.parent))
        stays = {axis: np.flatnonzero(vector != last) for axis, vector in found.items()}
        kept = {axis: left for axis, left in stays.items() if len(left) < len(found[axis])}
        cut = Cut(kept, {axis: len(found[axis]) for axis in kept}, self.table)
        for relations in around:
            repairs_of(relations.node, cut)


def _telling(errors: Sequence[CannotCutError]) -> CannotCutError:
    """Of several ways that fail the reason of the first that is not along a choice of parts.

    Where queries, keys and values are packed into one axis, these three are the first way.
    """
    of_choice = ("single", "unsupported")
    return next((error for error in errors if error.code not in of_choice), errors[0])


def _last_free(vectors: Sequence[Index], count: int) -> int:
    """The last unit without which no axis is empty."""
    needed = np.zeros(count, np.bool_)
    needed[[v[0] for v in vectors if v[0] != NONE and (v == v[0]).all()]] = True
    free = np.flatnonzero(present(vectors, count) & ~needed)
    if not free.size:
        raise CannotCutError("single", "without any of the units some axis would be empty")
    return int(free[-1])
