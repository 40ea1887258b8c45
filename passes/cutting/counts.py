"""How many units of each group stay: of each by itself, or of all together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..math.allocation import Way, share_out
from ..math.refit import Doubles
from .consumers import UnfitError
from .plan import Cuttable


def ladder(units: int, multiple: int) -> list[int]:
    """The counts that may stay: all units first, then multiples down to one of them."""
    return [units, *range((units - 1) // multiple * multiple, 0, -multiple)]


def nearest(rungs: Sequence[int], wanted: float) -> int:
    """The count that is nearest to the one that is asked for, of two the larger one."""
    return min(rungs, key=lambda count: (abs(count - wanted), -count))


@dataclass(frozen=True)
class Shared:
    """One request over all groups, which goes where it costs least."""

    ladders: Sequence[Sequence[int]]
    ways: Sequence[Way]

    def counts(self, request: float) -> list[int]:
        """The counts that stay when ``request`` goes, in the unit of the ways."""
        steps = share_out(self.ways, request)
        return [rungs[taken] for rungs, taken in zip(self.ladders, steps, strict=True)]

    def part(self, share: float) -> list[int]:
        """The same for a share of all that could go."""
        return self.counts(share * sum(sum(way.sizes) for way in self.ways))


def shared(
    chosen: Sequence[Cuttable],
    ladders: Sequence[Sequence[int]],
    sizes: Sequence[Doubles],
    costs: Callable[[Cuttable], Doubles],
) -> Shared:
    """sizes: of each unit in the order in which they go. costs: of each likewise, in a unit that
    all groups share. A group for which it raises UnfitError keeps what it has.
    """
    each = zip(chosen, ladders, sizes, strict=True)
    return Shared(ladders, [_way(found, rungs, own, costs) for found, rungs, own in each])


def _way(
    found: Cuttable, rungs: Sequence[int], sizes: Doubles, costs: Callable[[Cuttable], Doubles]
) -> Way:
    try:
        known = costs(found)
    except UnfitError:
        return Way((), ())
    steps = list(pairwise(found.units - count for count in rungs))
    taken = [float(sizes[a:b].sum()) for a, b in steps]
    if not all(size > 0 for size in taken):
        return Way((), ())
    return Way(taken, [float(known[a:b].sum()) for a, b in steps])
