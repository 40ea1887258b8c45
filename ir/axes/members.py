"""From labels to members: which positions of which tensor belong to each unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from ..finding.stored import stored
from .groups import NONE, Index, Member, Role
from .labels import Labels
from .products import whole_groups
from .relations import Inner, Key, Relations, Use, value_of

_RANK: Mapping[Role, int] = {"consumes": 2, "produces": 1, "carries": 0}


def members_of(
    labels: Labels, start: Key, nodes: Iterable[Relations], biases: set[ir.Value]
) -> tuple[Member, ...]:
    """The members of a complete group. nodes: the relations of all nodes around it."""
    number = _numbers(labels, start)
    roles = _roles(labels, list(nodes))
    found: dict[tuple[ir.Value, int, bytes], Member] = {}
    for key, vector in labels.by_key.items():
        value = value_of(key[0])
        if value is None:
            continue
        index = _index(labels.find(vector), number)
        usual: Role = "produces" if value in biases else "carries"
        role = roles.get(key, usual) if value.is_initializer() else "carries"
        uses = _uses(key)
        stamp = (value, key[1], index.tobytes())
        if stamp in found:
            uses = (*found[stamp].uses, *uses)
        found[stamp] = _member(value, key[1], index, role, len(vector), uses)
    return tuple(found.values())


def _member(
    value: ir.Value,
    axis: int,
    index: Index,
    role: Role,
    size: int,
    uses: tuple[tuple[str, int], ...],
) -> Member:
    own = () if len(uses) == len(value.uses()) else uses
    return Member(str(value.name), axis, index, role, size, value.is_initializer(), own)


def _uses(key: Key) -> tuple[tuple[str, int], ...]:
    holder = key[0]
    return ((str(holder.node.name), holder.index),) if isinstance(holder, Use) else ()


def _numbers(labels: Labels, start: Key) -> Index:
    """The number of the unit by class, in the order of the first layer's outputs."""
    vectors = [labels.by_key[start], *labels.by_key.values()]
    classes = labels.find(np.concatenate(vectors))
    held, first = np.unique(classes[classes != NONE], return_index=True)
    found = np.full(len(labels.parent), NONE, np.int64)
    found[held[np.argsort(first)]] = np.arange(len(held))
    return found


def _index(classes: Index, number: Index) -> Index:
    """int64 [units, k], filled up with ``NONE``."""
    count = int(number.max()) + 1
    places = np.flatnonzero(classes != NONE)
    units = number[classes[places]]
    order = np.argsort(units, kind="stable")
    places, units = places[order], units[order]
    widths = np.bincount(units, minlength=count)
    found = np.full((count, int(widths.max())), NONE, np.int64)
    starts = np.concatenate([[0], np.cumsum(widths)[:-1]])
    found[units, np.arange(len(units)) - starts[units]] = places
    return found


def _roles(labels: Labels, nodes: list[Relations]) -> dict[Key, Role]:
    """What each stored tensor does; of one that does several things, the last that matters."""
    found: dict[Key, Role] = {}
    for node in nodes:
        whole = whole_groups(node.node) in labels.by_key
        for key, role in node.roles.items():
            if key in labels.by_key and not whole:
                _note(found, key, role)
    pending = [key for key in found if _behind_a_path(key)]
    by_node = {node.node: node for node in nodes}
    while pending:
        key = pending.pop()
        maker = value_of(key[0]).producer()  # type: ignore[union-attr]
        related = by_node[maker].by_key.get(key, []) if maker in by_node else []
        for relation in related:
            for other in relation.keys:
                if other != key and other in labels.by_key and not isinstance(other[0], Inner):
                    _note(found, other, found[key])
                    pending += [other] if _behind_a_path(other) else []
    return found


def _behind_a_path(key: Key) -> bool:
    value = value_of(key[0])
    return value is not None and value.producer() is not None and stored(value) is not None


def _note(found: dict[Key, Role], key: Key, role: Role) -> None:
    if key not in found or _RANK[role] > _RANK[found[key]]:
        found[key] = role
