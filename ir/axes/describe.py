"""What a group is called, of which kind it is, and which of several say the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..sites import Site, Sites
from .groups import NONE, AxisGroup, Kind, Member
from .labels import CannotCutError, Labels


def described(labels: Labels, members: tuple[Member, ...], start: Site, sites: Sites) -> AxisGroup:
    """The group with these members, called by the first layer that produces what is cut.

    Raises CannotCutError where no stored weight consumes it.
    """
    weights = [m for m in members if m.stored and m.role != "carries"]
    if {m.role for m in weights} != {"produces", "consumes"}:
        raise CannotCutError("no-consumer", "no stored weight consumes what is cut")
    touched = _touched(sites, members)
    tables = {site.name for site in sites if site.kind == "embedding"}
    makers = [name for name, role in touched.items() if role == "produces"]
    first = min(makers, key=tables.__contains__, default=start.name)  # a layer, if there is one
    kind = _kind(labels, start, members)
    layers = {str(s.weight.name) for s in sites if s.weight is not None and s.kind != "embedding"}
    narrow = [m for m in weights if m.value in layers] or weights
    width = min(int((m.index != NONE).sum(axis=1).max()) for m in narrow)
    return AxisGroup(f"{first}.{kind}", kind, labels.units(), width, members, tuple(touched))


def refused(start: Site, size: int, error: CannotCutError) -> AxisGroup:
    """The outputs of a layer, and why they cannot be cut."""
    kind: Kind = "channels" if start.kind == "conv" else "features"
    name = f"{start.name}.{kind}"
    return AxisGroup(name, kind, size, 1, (), (start.name,), error.code, error.sentence)


def told_apart(groups: Sequence[AxisGroup]) -> list[AxisGroup]:
    """Of several ways to cut one axis only the first is called heads or channels.

    With grouped keys and values the first one takes whole groups; a query head of every group is
    another way. Of channels the one with the most units comes first; whole groups of a grouped
    convolution are another way. Other ways are kept where all units are of one size.
    """
    first = max(groups, key=lambda group: (group.kind == "heads", _fineness(group)), default=None)
    found: list[AxisGroup] = []
    for group in groups:
        if group is first or group.kind not in ("heads", "channels"):
            found.append(group)
        elif all((m.index != NONE).all() for m in group.members if m.stored):
            name = f"{group.name.removesuffix(group.kind)}features"
            found.append(dataclasses.replace(group, name=name, kind="features"))
    return found


def _fineness(group: AxisGroup) -> int:
    """Heads come in the order in which they are found, outer before inner."""
    return group.units if group.kind == "channels" else 0


def distinct(groups: Sequence[AxisGroup]) -> list[AxisGroup]:
    """The groups without those that say again what another one of their kind says.

    A shortcut that is padded with channels makes such: the channels of the narrow part are some
    of those of the wide part. No position is left in two groups of heads, neurons or channels.
    """
    kept: list[AxisGroup] = []
    taken: dict[tuple[str, int], npt.NDArray[np.bool_]] = {}
    for group in sorted(groups, key=lambda group: -group.units):
        if group.kind == "features":
            again = any(_within(group, other) for other in kept)
        else:
            again = not _claim(group, taken)
        if not again:
            kept.append(group)
    left = {id(group) for group in kept}
    return [group for group in groups if id(group) in left]


def _claim(group: AxisGroup, taken: dict[tuple[str, int], npt.NDArray[np.bool_]]) -> bool:
    """Mark the positions of a group as taken; False where one was."""
    members = [member for member in group.members if member.stored and not member.uses]
    for member in members:
        held = taken.setdefault((member.value, member.axis), np.zeros(member.size, np.bool_))
        if held[member.index[member.index != NONE]].any():
            return False
    for member in members:
        taken[member.value, member.axis][member.index[member.index != NONE]] = True
    return True


def _within(group: AxisGroup, other: AxisGroup) -> bool:
    """Whether every unit of a group is a unit of the other."""
    if not group.members or group.kind != other.kind or not group.axes <= other.axes:
        return False
    return _units(group) <= _units(other)


def _units(group: AxisGroup) -> set[frozenset[object]]:
    """Each unit by the positions it takes of each stored tensor."""
    found: list[list[object]] = [[] for _ in range(group.units)]
    for member in (m for m in group.members if m.stored):
        for unit, row in enumerate(member.index):
            positions = row[row != NONE]
            if positions.size:
                found[unit].append((member.value, member.axis, positions.tobytes()))
    return {frozenset(unit) for unit in found}


def named(groups: Sequence[AxisGroup]) -> tuple[AxisGroup, ...]:
    """The groups under names that are unique: ``conv1.channels``, ``conv1.channels2``."""
    taken: set[str] = set()
    found: list[AxisGroup] = []
    for group in groups:
        name, count = group.name, 2
        while name in taken:
            name, count = f"{group.name}{count}", count + 1
        taken.add(name)
        found.append(dataclasses.replace(group, name=name))
    return tuple(found)


def _touched(sites: Sites, members: Sequence[Member]) -> dict[str, str]:
    """Layers whose weights are cut, in graph order, each with what it does."""
    roles: dict[str, str] = {}
    for member in members:
        if member.stored and roles.get(member.value) != "produces":
            roles[member.value] = member.role
    layers = [(site.name, site.weight) for site in sites if site.weight is not None]
    return {name: roles[str(w.name)] for name, w in layers if str(w.name) in roles}


def _kind(labels: Labels, start: Site, members: Sequence[Member]) -> Kind:
    if "heads" in labels.marks:
        return "heads"
    if start.kind == "conv":
        return "channels"
    wide = any(m.role == "consumes" and m.index.shape[1] > 1 for m in members if m.stored)
    plain = start.kind == "linear" and not wide and "features" not in labels.marks
    return "neurons" if plain else "features"
