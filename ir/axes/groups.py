"""What the coupling analysis finds: groups of indices that can only be cut together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Index: TypeAlias = npt.NDArray[np.int64]
Kind: TypeAlias = Literal["neurons", "heads", "channels", "features"]
Role: TypeAlias = Literal["produces", "consumes", "carries"]
NONE = -1
"""No position: a row of ``Member.index`` is filled up with it where units differ in width."""


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one tensor that a cut makes shorter.

    value: name of an initializer or activation. axis: counted from the front. index: int64
    [units, k], the positions along the axis that belong to each unit, filled up with ``NONE``
    where a unit has fewer (a shortcut that is padded with channels). role: ``produces`` (a weight
    or bias whose output axis is cut), ``consumes`` (a weight whose contracted axis is cut),
    ``carries`` (activations, and constants in between). size: of the axis; of an axis of dynamic
    size that holds the units again and again, one period. stored: an initializer. uses: the
    (node name, input number) whose own copy is cut, where a shared vector is not cut for all.
    """

    value: str
    axis: int
    index: Index
    role: Role
    size: int
    stored: bool = False
    uses: tuple[tuple[str, int], ...] = ()

    def positions(self, units: Sequence[int] | Index) -> Index:
        """The sorted positions along the axis of these units."""
        found = self.index[np.asarray(units, np.int64)].reshape(-1)
        return np.sort(found[found != NONE])

    def kept(self, keep: Sequence[int] | Index) -> Index:
        """The positions that stay when only the units ``keep`` do, those of no unit included."""
        dropped = np.setdiff1d(np.arange(len(self.index)), np.asarray(keep, np.int64))
        return np.setdiff1d(np.arange(self.size), self.positions(dropped))


@dataclass(frozen=True, eq=False, repr=False)
class AxisGroup:
    """Indices that are cut together, or the reason why they cannot be.

    name: of the first producing site and the kind, ``encoder.0.intermediate.neurons``. units: how
    many there are. width: positions of one unit on a weight's axis (head_dim for heads, 1 for
    neurons). sites: names of the layers touched, in graph order. code, sentence: why the group
    cannot be cut, empty where it can; then there are no members.
    """

    name: str
    kind: Kind
    units: int
    width: int
    members: tuple[Member, ...] = ()
    sites: tuple[str, ...] = ()
    code: str = ""
    sentence: str = ""

    def __repr__(self) -> str:
        return (
            f"AxisGroup({self.name!r}, {self.units} x {self.width}{self.code and ', '}{self.code})"
        )

    @cached_property
    def axes(self) -> frozenset[tuple[str, int]]:
        """The axes of stored tensors that a cut makes shorter, by name.

        Of two groups that share one, such as the heads and the features of a value projection,
        the second has to be found anew once the first was cut.
        """
        return frozenset((member.value, member.axis) for member in self.members if member.stored)

    @property
    def cuttable(self) -> bool:
        """Whether ``cut_group`` takes it."""
        return not self.code

    def emptied(self, keep: Sequence[int] | Index) -> list[str]:
        """Tensors of which a cut would leave nothing, so that ``cut_group`` refuses it.

        Where units differ in width (a shortcut padded with channels) some are needed.
        """
        return [member.value for member in self.members if not len(member.kept(keep))]

    def of_role(self, *roles: Role) -> list[Member]:
        """The members with these roles, in the order of the analysis."""
        return [member for member in self.members if member.role in roles]


@dataclass(frozen=True, eq=False, repr=False)
class AxisGroups(Mapping[str, AxisGroup]):
    """The groups of one graph by name, in graph order."""

    items_: tuple[AxisGroup, ...]

    def __repr__(self) -> str:
        return f"AxisGroups({list(self)})"

    @cached_property
    def _by_name(self) -> dict[str, AxisGroup]:
        return {group.name: group for group in self.items_}

    def __getitem__(self, name: str) -> AxisGroup:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def cuttable(self, *kinds: Kind) -> list[AxisGroup]:
        """The groups that can be cut, of these kinds (of all when none is named)."""
        return [g for g in self.items_ if g.cuttable and (not kinds or g.kind in kinds)]


def as_json(group: AxisGroup) -> dict[str, Any]:
    """Plain data for a JSON document; positions only of stored tensors."""
    return {
        "name": group.name,
        "kind": group.kind,
        "units": group.units,
        "width": group.width,
        "sites": list(group.sites),
        "members": [
            {"value": m.value, "axis": m.axis, "role": m.role, "size": m.size}
            for m in group.members
        ],
        "code": group.code,
        "sentence": group.sentence,
    }
