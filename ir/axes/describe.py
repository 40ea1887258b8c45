"""What a group is called, of which kind it is, and which of several say the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

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


def told_apart(group: AxisGroup, others: Sequence[AxisGroup]) -> AxisGroup:
    """Of several ways to cut one axis by heads only the first is called so.

    With grouped keys and values these are whole groups; a query head of every group comes next.
    """
    if group.kind != "heads" or all(other.kind != "heads" for other in others):
        return group
    name = group.name.removesuffix("heads") + "features"
    return dataclasses.replace(group, name=name, kind="features")


def distinct(groups: Sequence[AxisGroup]) -> list[AxisGroup]:
    """The groups without those of which all units are units of another one, too.

    A shortcut that is padded with channels makes such: the channels of the narrow part are some
    of those of the wide part.
    """
    kept: list[AxisGroup] = []
    for group in sorted(groups, key=lambda group: -group.units):
        if not any(_within(group, other) for other in kept):
            kept.append(group)
    left = {id(group) for group in kept}
    return [group for group in groups if id(group) in left]


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
