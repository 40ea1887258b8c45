"""The groups of a model: start at every layer's outputs and see what is cut with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph import operator
from ..sites import Site, Sites
from .groups import NONE, AxisGroup, AxisGroups, Kind, Member
from .labels import CannotCutError, Labels
from .members import members_of
from .relations import Key, Relations, Use, value_of
from .repairs import Cut, repairs_of
from .sizes import SizeTable
from .spread import Spreader
from .tables import SHAPE_ONLY
from .taint import check_shapes


@dataclass(frozen=True)
class Start:
    """The outputs of a layer: where a group may begin."""

    site: Site
    key: Key
    size: int


def find_axis_groups(model: ir.Model, sites: Sites) -> AxisGroups:
    """All groups of the main graph, in graph order; those that cannot be cut say why."""
    finder = _Finder(model, sites)
    for start in _starts(sites, finder.table):
        if start.key not in finder.settled:
            finder.begin(start)
    return AxisGroups(tuple(finder.found.values()))


def _starts(sites: Sites, table: SizeTable) -> Iterator[Start]:
    for site in sites:
        if site.nested or site.kind not in ("linear", "conv", "embedding"):
            continue
        value = site.nodes[0].outputs[0]
        sizes = table.of(value)
        axis = 1 if site.kind == "conv" else len(sizes or ()) - 1
        size = table.length(value, axis) if sizes and len(sizes) > axis >= 0 else None
        if size is not None and size > 1:
            yield Start(site, (value, axis), size)


class _Finder:
    """The groups found so far, and the axes of which all is known."""

    def __init__(self, model: ir.Model, sites: Sites) -> None:
        self.sites = sites
        self.table = SizeTable(model)
        self.spreader = Spreader(model, self.table)
        self.biases = {site.bias for site in sites if site.bias is not None}
        self.settled: set[Key] = set()
        self.found: dict[str, AxisGroup] = {}
        self.seen: set[tuple[object, ...]] = set()

    def begin(self, start: Start) -> None:
        """Add the groups that contain a layer's outputs, or the reason why there is none."""
        errors: list[CannotCutError] = []
        found: list[AxisGroup] = []
        for outcome in self.spreader.outcomes(start.key, start.size):
            try:
                found.append(self._group(outcome, start))
            except CannotCutError as error:
                errors.append(error)
        for group in found or [_refused(start, error) for error in errors[:1]]:
            self._add(group)

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
        return self._described(outcome, members, start)

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
            if (classes != NONE).all() and np.unique(classes).size == classes.size:
                self.settled.add(key)

    def _rehearse(self, labels: Labels, around: Sequence[Relations]) -> None:
        """CannotCutError where a node could not be put right; tried without the last unit."""
        kept, sizes = {}, {}
        last = max(int(labels.find(vector).max()) for vector in labels.by_key.values())
        for (holder, axis), vector in labels.by_key.items():
            value = value_of(holder)
            if value is None or isinstance(holder, Use):
                continue
            stays = np.flatnonzero(labels.find(vector) != last)
            if len(stays) < len(vector):
                kept[value, axis], sizes[value, axis] = stays, len(vector)
        cut = Cut(kept, sizes, self.table)
        for relations in around:
            repairs_of(relations.node, cut)

    def _described(self, labels: Labels, members: tuple[Member, ...], start: Start) -> AxisGroup:
        weights = [m for m in members if m.stored and m.role != "carries"]
        roles = {m.role for m in weights}
        if roles != {"produces", "consumes"}:
            raise CannotCutError("no-consumer", "no stored weight consumes what is cut")
        sites = _touched(self.sites, members)
        first = next((n for n, role in sites.items() if role == "produces"), start.site.name)
        kind = _kind(labels, start, members)
        width = min(int((m.index != NONE).sum(axis=1).max()) for m in weights)
        return AxisGroup(f"{first}.{kind}", kind, labels.units(), width, members, tuple(sites))

    def _add(self, group: AxisGroup) -> None:
        stored = [m for m in group.members if m.stored]
        stamp = (group.kind, *sorted((m.value, m.axis, m.index.tobytes()) for m in stored))
        if stored and stamp in self.seen:
            return
        self.seen.add(stamp)
        name, count = group.name, 2
        while name in self.found:
            name, count = f"{group.name}{count}", count + 1
        self.found[name] = dataclasses.replace(group, name=name)


def _refused(start: Start, error: CannotCutError) -> AxisGroup:
    name = start.site.name
    kind: Kind = "channels" if start.site.kind == "conv" else "features"
    return AxisGroup(f"{name}.{kind}", kind, start.size, 1, (), (name,), error.code, error.sentence)


def _touched(sites: Sites, members: Sequence[Member]) -> dict[str, str]:
    """Layers whose weights are cut, in graph order, each with what it does."""
    roles: dict[str, str] = {}
    for member in members:
        if member.stored and roles.get(member.value) != "produces":
            roles[member.value] = member.role
    layers = [s for s in sites if s.weight is not None and s.uses]
    return {s.name: r for s in layers if (r := roles.get(str(s.weight.name))) is not None}  # type: ignore[union-attr]


def _kind(labels: Labels, start: Start, members: Sequence[Member]) -> Kind:
    if "heads" in labels.marks:
        return "heads"
    if start.site.kind == "conv":
        return "channels"
    wide = any(m.role == "consumes" and m.index.shape[1] > 1 for m in members if m.stored)
    return "features" if "features" in labels.marks or wide else "neurons"
