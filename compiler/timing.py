"""Paired timing: A, B, A, B, … in one process, medians, and an interval of the ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..targets.runtime import Session
from .quality.statistics import Ratio, median_ratio

Feeds = Mapping[str, np.ndarray]
Run = Callable[[Feeds], object]

MIN_ROUNDS = 11
ENOUGH_ROUNDS = 25
MAX_ROUNDS = 100
WARM_UP = 2
LEAD = 0.01
"""Seconds that a model runs at the beginning of a turn before it is timed.

A worker thread that slept while others had their turn wakes on the core of the thread that woke
it, and stays there until the scheduler balances the load some milliseconds later. Without a lead
it depends on chance which of two small models keeps a worker to itself: of two equal ones, one was
1.6 times as fast as the other in every round.
"""
BLOCK = 0.01
"""Seconds of a turn that are timed, or one pass over the feeds where that takes longer."""
LONG = 0.1
"""Where every pass takes so many seconds there is no lead: the first milliseconds hardly show."""
NARROW = 0.02
"""Rounds end early where every interval is within 2 % of its ratio, or clear of 1 by far."""
CLEAR = 1.2
PATIENCE = 3.0
"""A noisy machine gets this many times the budget before its wide intervals are accepted."""


@dataclass(frozen=True)
class Paired:
    """Seconds inside ``run`` for one pass over the feeds, one row a session, [n, rounds].

    Each is the median of the passes of one turn.
    """

    seconds: np.ndarray

    @property
    def medians(self) -> np.ndarray:
        """Median seconds of each session, [n]."""
        return np.asarray(np.median(self.seconds, axis=1))

    def ratio(self, before: int, after: int, seed: int = 0) -> Ratio:
        """before / after: ratio of medians and its 95 % interval (above 1: after is faster)."""
        return median_ratio(self.seconds[before], self.seconds[after], seed=seed)


def time_alternating(
    sessions: Sequence[Session], feeds: Sequence[Feeds], *, budget: float = 6.0
) -> Paired:
    """Time sessions in alternation over the same feeds; the first is what others compare to.

    At least 11 rounds, and until half of ``budget`` seconds or 25 rounds are spent; then on, up to
    three budgets or 100 rounds, while an interval is still wide. The order within a round is
    reversed every other round, so that no session always runs on a warm or a throttled core.
    """
    runs = [session.run for session in sessions]
    lead = warmed(runs, feeds)
    rows: list[list[float]] = []
    start = time.perf_counter()
    while True:
        rows.append(_round(runs, feeds, lead, reverse=len(rows) % 2 == 1))
        if len(rows) < MIN_ROUNDS:
            continue
        spent = time.perf_counter() - start
        if spent < budget / 2 and len(rows) < ENOUGH_ROUNDS:
            continue
        paired = Paired(np.array(rows).T)
        if spent > PATIENCE * budget or len(rows) >= MAX_ROUNDS or _settled(paired):
            return paired


def _settled(paired: Paired) -> bool:
    ratios = [paired.ratio(0, i) for i in range(1, len(paired.seconds))]
    return all(
        r.high - r.low <= 2 * NARROW * r.value or r.low > CLEAR or r.high < 1 / CLEAR
        for r in ratios
    )


def warmed(runs: Sequence[Run], feeds: Sequence[Feeds], times: int = WARM_UP) -> float:
    """The lead of a turn of any of the runs, seconds, once each has made ``times`` passes."""
    taken = [[one_pass(run, feeds) for _ in range(times)] for run in runs]
    return 0.0 if all(min(seconds, default=0.0) >= LONG for seconds in taken) else LEAD


def _round(runs: Sequence[Run], feeds: Sequence[Feeds], lead: float, reverse: bool) -> list[float]:
    row = [0.0] * len(runs)
    order = range(len(runs))
    for index in reversed(order) if reverse else order:
        row[index] = turn(runs[index], feeds, lead)
    return row


def turn(run: Run, feeds: Sequence[Feeds], lead: float) -> float:
    """Median seconds of a pass over the feeds, of the passes of one turn: a lead, then a block."""
    start = time.perf_counter()
    while time.perf_counter() - start < lead:
        one_pass(run, feeds)
    start = time.perf_counter()
    taken = [one_pass(run, feeds)]
    while time.perf_counter() - start < BLOCK:
        taken.append(one_pass(run, feeds))
    return float(np.median(taken))


def one_pass(run: Run, feeds: Sequence[Feeds]) -> float:
    """Seconds spent inside ``run`` over all feeds."""
    spent = 0.0
    for feed in feeds:
        start = time.perf_counter()
        run(feed)
        spent += time.perf_counter() - start
    return spent
