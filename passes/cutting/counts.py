"""How many units of each group stay: of each by itself, or of all together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def shared(
    chosen: Sequence[Cuttable],
    ladders: Sequence[Sequence[int]],
    request: float,
    costs: Callable[[Cuttable], Doubles],
) -> list[int]:
    """``request`` units fewer in all, where they cost least.

    costs: of each unit in the order in which they go, in a unit that all groups share. A group
    for which it raises UnfitError keeps what it has.
    """
    ways = [_way(found, rungs, costs) for found, rungs in zip(chosen, ladders, strict=True)]
    steps = share_out(ways, request)
    return [rungs[taken] for rungs, taken in zip(ladders, steps, strict=True)]


def _way(found: Cuttable, rungs: Sequence[int], costs: Callable[[Cuttable], Doubles]) -> Way:
    try:
        known = costs(found)
    except UnfitError:
        return Way((), ())
    steps = list(pairwise(found.units - count for count in rungs))
    return Way([b - a for a, b in steps], [float(known[a:b].sum()) for a, b in steps])
