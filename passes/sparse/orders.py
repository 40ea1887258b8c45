"""Channels put into another order, in every tensor that has them: only what one layer reads.

The axis groups of ``ir.axes`` say what hangs together. Where one layer alone reads an axis, and no
other place knows the channels by their numbers, their order is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from ...ir.axes.groups import NONE, AxisGroup, AxisGroups, Kind, Member
from ...ir.facts import FLOAT
from ...ir.graph import constant_array
from ...ir.rewriter import Rewriter
from ...ir.sites import Sites
from ..math.sparse_order import Order
from .layers import Layer

_KINDS: tuple[Kind, ...] = ("neurons", "channels")


def free_axes(
    groups: AxisGroups, layers: Mapping[str, Layer], sites: Sites, excluded: set[str]
) -> Iterator[tuple[AxisGroup, Layer]]:
    """Axes whose order is free, each with the layer that reads it; no layer is touched twice."""
    by_weight = {str(layer.reader.weight.name): layer for layer in layers.values()}
    taken = set[str]()
    for group in groups.cuttable(*_KINDS):
        layer = _reader(group, by_weight)
        touched = {*group.sites}
        if layer is None or touched & (taken | excluded) or not _is_free(group, sites):
            continue
        taken |= touched
        yield group, layer


def reorder(rewriter: Rewriter, group: AxisGroup, order: Order) -> None:
    """Take the channels of each place from where ``order`` says, in all stored tensors."""
    for member in group.members:
        if not member.stored:
            continue
        value = rewriter.graph.initializers[member.value]
        array = constant_array(value)
        assert array is not None
        rewriter.set_tensor(value, np.take(array, _positions(member, order), member.axis))


def _reader(group: AxisGroup, by_weight: Mapping[str, Layer]) -> Layer | None:
    """The one layer that reads the axis, if it reads all of it, channel by channel."""
    read = group.of_role("consumes")
    layer = by_weight.get(read[0].value) if len(read) == 1 else None
    if layer is None or layer.reader.form.groups != 1:
        return None
    whole = np.array_equal(read[0].index, np.arange(layer.channels)[:, None])
    return layer if whole and read[0].axis == layer.reader.form.axis else None


def _is_free(group: AxisGroup, sites: Sites) -> bool:
    stored = [member for member in group.members if member.stored]
    layers = (sites.by_name[name] for name in group.sites if name in sites.by_name)
    floats = all(FLOAT in site.facts for site in layers)
    return floats and _plain(group.members) and all(not member.uses for member in stored)


def _plain(members: Iterable[Member]) -> bool:
    """Whether each unit has a place on each axis, and none is on an axis twice."""
    return all(
        not np.any(member.index == NONE) and member.index.size == len(np.unique(member.index))
        for member in members
    )


def _positions(member: Member, order: Order) -> Order:
    places = np.arange(member.size)
    places[member.index] = member.index[order]
    return places
