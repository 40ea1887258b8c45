"""One request shared out over many places: how far each goes, so that all together lose least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Way:
    """What can be taken at one place, step by step.

    sizes: how much each step takes, in the unit of the request, above 0. costs: what it loses.
    """

    sizes: Sequence[float]
    costs: Sequence[float]


def share_out(ways: Sequence[Way], request: float, *, least: bool = False) -> list[int]:
    """How many steps to go on each way so that sizes sum up to about ``request``, for least cost.

    Steps are taken by cost per size, the cheapest first, until another one would end farther from
    the request; with ``least`` until it is reached, and what was then too much is given back, the
    dearest first. A dear step in front of cheap ones counts with those that it opens (the lower
    convex hull of what a way costs). Ties go to the first way.
    """
    slopes = [_rising(way) for way in ways]
    steps = sorted((s, i, j) for i, found in enumerate(slopes) for j, s in enumerate(found))
    taken, total = [0] * len(ways), 0.0
    for _, i, j in steps:
        size = ways[i].sizes[j]
        if total >= request if least else abs(total + size - request) >= abs(total - request):
            break
        taken[i], total = taken[i] + 1, total + size
    for _, i, j in reversed(steps) if least else ():
        if taken[i] == j + 1 and total - ways[i].sizes[j] >= request:
            taken[i], total = j, total - ways[i].sizes[j]
    return taken


def _rising(way: Way) -> list[float]:
    """Cost per size of each step; runs of steps that fall are pooled until none does."""
    pools: list[list[float]] = []  # cost, size, steps
    for size, cost in zip(way.sizes, way.costs, strict=True):
        pools.append([cost, size, 1])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] > pools[-1][0] * pools[-2][1]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    found = [np.full(int(steps), cost / size) for cost, size, steps in pools]
    return [float(s) for part in found for s in part]
