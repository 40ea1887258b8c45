"""How the axes around one node depend on each other: what the tables of operators are made of.

A ``Key`` names an axis: of a value, of one node's own copy of a shared vector (``Use``), or an
axis that only exists inside a node (``Inner``: the groups of a convolution).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .groups import Role

Positions: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Use:
    """The constant that a node reads at one input, as if it were its own copy."""

    node: ir.Node
    index: int

    @property
    def value(self) -> ir.Value:
        """The constant."""
        found = self.node.inputs[self.index]
        assert found is not None
        return found


@dataclass(frozen=True)
class Inner:
    """An axis inside a node, or the elements of several axes one after the other."""

    node: ir.Node
    name: str


Holder: TypeAlias = ir.Value | Use | Inner
Key: TypeAlias = tuple[Holder, int]
Reason: TypeAlias = tuple[str, str]
"""A code and a sentence."""


@dataclass(frozen=True, eq=False)
class Same:
    """``b[p]`` goes with ``a[index[p]]``, and with nothing where that is -1; None: ``a[p]``."""

    a: Key
    b: Key
    index: Positions | None = None
    size: int = 0
    """Of ``a``, where ``index`` is given."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """The axes that are related."""
        return (self.a, self.b)


@dataclass(frozen=True, eq=False)
class Contract:
    """The node sums products over axis ``a`` of one operand and axis ``b`` of another."""

    a: Key
    b: Key

    @property
    def keys(self) -> tuple[Key, ...]:
        """The axes that are related."""
        return (self.a, self.b)


@dataclass(frozen=True, eq=False)
class Fold:
    """The positions of ``flat`` are those of ``parts`` (outer to inner), counted through."""

    flat: Key
    parts: tuple[tuple[Key, int], ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        """The axes that are related."""
        return (self.flat, *(key for key, _ in self.parts))

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the parts."""
        return tuple(size for _, size in self.parts)


Relation: TypeAlias = Same | Contract | Fold
UNKNOWN = "unknown-op"
REDUCTION = "reduction"
DATA = "data-dependent"


@dataclass(eq=False)
class Relations:
    """All that is known of one node. An axis in no relation must not be cut.

    stops: reasons by axis; they come first. otherwise: the reason for all axes left. roles: of the
    stored tensors. marks: what it tells of a group that it passes here.
    """

    node: ir.Node
    otherwise: Reason
    relations: list[Relation] = field(default_factory=list)
    stops: dict[Key, Reason] = field(default_factory=dict)
    roles: dict[Key, Role] = field(default_factory=dict)
    marks: dict[Key, str] = field(default_factory=dict)
    by_key: dict[Key, list[Relation]] = field(default_factory=dict)

    def add(self, *relations: Relation) -> None:
        """Relate axes."""
        for relation in relations:
            self.relations.append(relation)
            for key in relation.keys:
                self.by_key.setdefault(key, []).append(relation)

    def same(self, a: Key, b: Key) -> None:
        """Two axes hold the same positions."""
        self.add(Same(a, b))

    def stop(self, reason: Reason, *keys: Key) -> None:
        """These axes must not be cut."""
        self.stops.update(dict.fromkeys(keys, reason))

    def fold(self, flat: Key, parts: Sequence[tuple[Key, int]]) -> None:
        """Parts of size 1 hold nothing to cut; a single part is the axis itself."""
        wide = tuple(part for part in parts if part[1] > 1)
        if len(wide) == 1:
            self.same(flat, wide[0][0])
        elif wide:
            self.add(Fold(flat, wide))


def reason(code: str, node: ir.Node, what: str) -> Reason:
    """A code and a sentence that names the node."""
    domain = f"{node.domain}." if node.domain else ""
    return code, f"{domain}{node.op_type} {node.name!r} {what}"


def is_vector(value: ir.Value) -> bool:
    """A constant with at most one axis that is longer than 1."""
    tensor = value.const_value
    return tensor is not None and tensor.size == max(tensor.shape.numpy(), default=1)


def operand(node: ir.Node, index: int) -> Holder:
    """What a node reads; of a shared vector a copy of its own, which costs next to nothing."""
    value = node.inputs[index]
    assert value is not None
    shared = value.is_initializer() and len(value.uses()) > 1
    return Use(node, index) if shared and is_vector(value) else value


def value_of(holder: Holder) -> ir.Value | None:
    """The value behind a holder, None of an inner axis."""
    if isinstance(holder, ir.Value):
        return holder
    return holder.value if isinstance(holder, Use) else None
