"""What a request is a share of, and how much of it is left when units go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from ...ir.axes.groups import NONE
from ...ir.errors import UsageError
from ...ir.graph import constant_tensor
from ...ir.sites import Site, Sites
from ..api import FLOPS, Context
from ..math.pruning import Indices
from ..math.refit import Doubles
from .plan import Cuttable

Axis = tuple[str, int]
_ROUNDS = 40


@dataclass(frozen=True, eq=False)
class Budget:
    """Layers, each with an amount that falls with every axis of its weight that gets shorter.

    amounts: by name of the weight. chosen: the groups that can be cut. orders: of each, its units
    in the order in which they go.
    """

    amounts: Mapping[str, float]
    chosen: Sequence[Cuttable]
    orders: Sequence[Indices]

    @property
    def total(self) -> float:
        """Of all layers, those that cannot be cut included."""
        return sum(self.amounts.values())

    def left(self, counts: Sequence[int]) -> float:
        """When so many units of each group stay."""
        kept: dict[Axis, float] = {}
        for found, gone, count in zip(self.chosen, self._gone, counts, strict=True):
            for axis, shares in gone.items():
                kept[axis] = kept.get(axis, 1.0) - float(shares[found.units - count])
        axes: dict[str, float] = {}
        for (name, _), share in kept.items():
            axes[name] = axes.get(name, 1.0) * share
        return sum(amount * axes.get(name, 1.0) for name, amount in self.amounts.items())

    def savings(self, number: int) -> Doubles:
        """Of the units of a group, one after another, when all else stays: float64 [units]."""
        kept: dict[str, Doubles] = {}
        for (name, _), shares in self._gone[number].items():
            kept[name] = kept.get(name, np.ones(len(shares))) * (1 - shares)
        left = np.sum([self.amounts[name] * share for name, share in kept.items()], axis=0)
        return np.asarray(-np.diff(left)) if kept else np.zeros(self.chosen[number].units)

    def nearest(self, wanted: float, counts_at: Callable[[float], Sequence[int]]) -> list[int]:
        """Counts of which ``wanted`` is left, as nearly as can be.

        counts_at: for how far to go, from 0 to 1, fewer the farther.
        """
        low, high = 0.0, 1.0
        best = list(counts_at(high))
        for _ in range(_ROUNDS if self.left(best) < wanted else 0):
            middle = (low + high) / 2
            counts = list(counts_at(middle))
            best = min(best, counts, key=lambda each: abs(self.left(each) - wanted))
            low, high = (middle, high) if self.left(counts) > wanted else (low, middle)
        return best

    @cached_property
    def _gone(self) -> list[dict[Axis, Doubles]]:
        """For each group, the share of axes of weights that its first units take, from none on."""
        each = zip(self.chosen, self.orders, strict=True)
        return [_gone(found, order, self.amounts) for found, order in each]


def _gone(found: Cuttable, order: Indices, names: Mapping[str, float]) -> dict[Axis, Doubles]:
    shares: dict[Axis, Doubles] = {}
    rest = np.setdiff1d(np.arange(found.units), order)
    for member in found.group.members:
        if member.stored and member.value in names:
            held = (member.index != NONE).sum(axis=1)[[*order, *rest]] / member.size
            axis, known = (member.value, member.axis), np.concatenate([[0.0], np.cumsum(held)])
            shares[axis] = shares.get(axis, 0.0) + known
    return shares


def amounts(of: str, sites: Sites, ctx: Context) -> dict[str, float]:
    """By name of the weight, ``flops`` or ``parameters`` of all layers. Raises UsageError for what
    is not known."""
    layers = [site for site in sites if site.uses and site.kind != "embedding"]
    flops = ctx.analysis(FLOPS) if of == "flops" else {}
    found: dict[str, float] = {}
    for site in layers:
        assert site.weight is not None
        amount = flops.get(site.name) if of == "flops" else _elements(site)
        if amount is None:
            raise UsageError(
                f"how many operations {site.name} takes is not known",
                where="a share of all operations",
                hint="ask for a share of=parameters or of=units",
            )
        found[str(site.weight.name)] = found.get(str(site.weight.name), 0) + amount
    return found


def _elements(site: Site) -> int:
    tensor = constant_tensor(site.weight)
    return 0 if tensor is None else prod(tensor.shape.numpy())
