"""A group of units that can be cut, and the units of it that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ...ir.axes.groups import AxisGroup
from ...ir.graph import constant_tensor
from ...ir.sites import Sites
from ..api import Looked
from ..math.pruning import Indices
from .consumers import Consumer

SHOWN_UNITS = 64
"""Up to so many units the removed ones are named in the manifest."""


@dataclass(frozen=True, eq=False)
class Cuttable:
    """A group that can be cut, with the layers that read its axis."""

    group: AxisGroup
    consumers: tuple[Consumer, ...]

    @property
    def units(self) -> int:
        """How many there are."""
        return self.group.units

    @property
    def observed(self) -> tuple[Looked, ...]:
        """What its consumers read."""
        return tuple(dict.fromkeys(o for each in self.consumers for o in each.observed))


@dataclass(frozen=True, eq=False)
class Cut:
    """What is cut, and the units of it that stay, int64, sorted."""

    of: Cuttable
    keep: Indices

    @property
    def gone(self) -> Indices:
        """The other units."""
        return np.setdiff1d(np.arange(self.of.units), self.keep)

    def about(self) -> dict[str, Any]:
        """What the manifest says of it."""
        group = self.of.group
        about: dict[str, Any] = {
            "kept": len(self.keep),
            "of": group.units,
            "sites": list(group.sites),
        }
        return about | ({"removed": self.gone.tolist()} if group.units <= SHOWN_UNITS else {})

    def saving(self, model: ir.Model) -> int:
        """Bytes of stored tensors that go."""
        saved = 0
        for member in self.of.group.members:
            tensor = constant_tensor(model.graph.initializers.get(member.value))
            if member.stored and tensor is not None:
                gone = member.size - len(member.kept(self.keep))
                saved += tensor.nbytes * gone // member.size
        return saved


def joined(cuts: Sequence[Cut]) -> list[tuple[Cut, ...]]:
    """Parts that share no stored tensor; within and among them in order."""
    parts: list[tuple[set[str], list[int]]] = []
    for number, cut in enumerate(cuts):
        names, members = {m.value for m in cut.of.group.members if m.stored}, [number]
        for part in [p for p in parts if p[0] & names]:
            parts.remove(part)
            names, members = names | part[0], part[1] + members
        parts.append((names, members))
    ordered = sorted(sorted(members) for _, members in parts)
    return [tuple(cuts[i] for i in members) for members in ordered]


def title(group: AxisGroup, sites: Sites) -> str:
    """The site that stands for a group: the first that it touches."""
    return group.sites[0] if group.sites and group.sites[0] in sites.by_name else group.name
