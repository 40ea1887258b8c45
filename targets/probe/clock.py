"""Timing many small graphs fairly: visits to each in turn, so that a disturbance shows.

A visit warms a session up, then times runs one by one and takes their median. The time of a point
is the least of its visits; how far they lie apart says how quiet the machine was.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Clock = Callable[[], float]

VISITS = 3
FEWEST = 2  # runs of a visit
WARM_SECONDS = 0.001
"""Until caches are warm; all that one thread needs."""
SPREAD_SECONDS = 0.005
"""Until worker threads that slept have got a core of their own; see ``compiler/timing.py``."""
VISIT_SECONDS = 0.008


class Runnable(Protocol):
    """What a visit times."""

    def __call__(self) -> object:
        """One run."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one run in each visit, medians."""

    visits: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The least disturbed visit."""
        return min(self.visits)

    @property
    def disagreement(self) -> float:
        """How far the visits lie apart: (median - least) / least."""
        return statistics.median(self.visits) / self.seconds - 1

    def merged(self, other: Timing) -> Timing:
        """With the visits of another turn."""
        return Timing((*self.visits, *other.visits))


def clock_for(threads: int) -> Clock:
    """Of one thread its own CPU time counts, which other programs do not add to."""
    return time.thread_time if threads == 1 else time.perf_counter


def time_together(
    runs: Sequence[Runnable], *, visits: int = VISITS, clock: Clock = time.perf_counter
) -> list[Timing]:
    """Visit each in turn, the order reversed every other time."""
    found: list[list[float]] = [[] for _ in runs]
    order = range(len(runs))
    for turn in range(visits):
        for index in reversed(order) if turn % 2 else order:
            found[index].append(visit(runs[index], clock))
    return [Timing(tuple(seconds)) for seconds in found]


def visit(run: Runnable, clock: Clock = time.perf_counter) -> float:
    """Median seconds of a run, after warming up."""
    warm = WARM_SECONDS if clock is time.thread_time else SPREAD_SECONDS
    start = clock()
    run()
    while clock() - start < warm:
        run()
    seconds: list[float] = []
    begin = clock()
    while len(seconds) < FEWEST or clock() - begin < VISIT_SECONDS:
        before = clock()
        run()
        seconds.append(clock() - before)
    return statistics.median(seconds)
