"""Ranks of many layers for one request: small where the model's outputs change least.

What a layer loses of its own outputs says little of what the model does: errors of layers do not
compare (a square layer in front of a sum, say, is dear). So the change of the model's outputs is
measured with each layer alone at a few ranks, and between those it goes as the layer's own loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from ..math.allocation import Way, share_out
from ..math.lowrank import Doubles, down_to
from .groups import Group

POINTS = (1.0, 0.6, 0.3)
"""Where the change is measured, as shares of the largest rank."""
MOST = 1e6
"""Change of outputs, as relative squared error, beyond which all are alike."""


def ladder(most: int, multiple: int) -> list[int]:
    """Ranks that a layer may have, the largest first: multiples up to ``most``."""
    return list(range(most // multiple * multiple, 0, -multiple))


def costs(
    ranks: Sequence[int], multiple: int, losses: Doubles, change: Callable[[int], float]
) -> list[float]:
    """What each rank costs: relative squared error of the model's outputs, rising.

    ranks: descending. losses: what the layer loses of its own outputs at ranks 0, 1, 2 …, falling;
    in any unit. change: what the model's outputs do at a rank; a run of the model.
    """
    points = sorted(
        {max(min(down_to(multiple, p * ranks[0]), ranks[0]), ranks[-1]) for p in POINTS}
    )
    changes = [min(found, MOST) if np.isfinite(found := change(rank)) else MOST for rank in points]
    owns = np.maximum([losses[rank] for rank in points], np.finfo(np.float64).tiny)
    weights = np.interp(ranks, points, np.divide(changes, owns))
    found = weights * np.array([losses[rank] for rank in ranks])
    return [float(cost) for cost in np.maximum.accumulate(found)]


def ranks_within(
    groups: Sequence[Group],
    ladders: Sequence[Sequence[int]],
    prices: Sequence[Sequence[float]],
    request: float,
) -> list[int | None]:
    """A rank for each group so that ``request`` parameters fewer are stored, at the least price.

    None: it stays whole. prices: of each rank of a ladder. Never fewer than asked for, where all
    ladders together have as many.
    """
    ways = [_way(*each) for each in zip(groups, ladders, prices, strict=True)]
    steps = share_out(ways, request, least=True)
    taken = zip(ladders, steps, strict=True)
    return [ranks[count - 1] if count else None for ranks, count in taken]


def _way(group: Group, ranks: Sequence[int], prices: Sequence[float]) -> Way:
    stored = [group.parameters, *(rank * sum(group.shape) for rank in ranks)]
    return Way([a - b for a, b in pairwise(stored)], [b - a for a, b in pairwise([0.0, *prices])])
