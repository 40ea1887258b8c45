"""Paired timing: A, B, A, B, … in one process, medians, and an interval of the ratio."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..targets.runtime import Session
from .quality.statistics import Ratio, median_ratio

Feeds = Mapping[str, np.ndarray]

MIN_ROUNDS = 11
MAX_ROUNDS = 400
WARM_UP = 2
NARROW = 0.02
"""Rounds end early where every interval is within 2 % of its ratio, or clear of 1 by far."""
CLEAR = 1.2
PATIENCE = 3.0
"""A noisy machine gets this many times the budget before its wide intervals are accepted."""


@dataclass(frozen=True)
class Paired:
    """Seconds inside ``run`` for one pass over the feeds, one row a session, [n, rounds]."""

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

    At least 11 rounds, and until ``budget`` seconds are spent; then on, up to three budgets,
    while an interval is still wide. The order within a round is reversed every other round,
    so that no session always runs on a warm or a throttled core.
    """
    for session in sessions:
        for _ in range(WARM_UP):
            _one_pass(session, feeds)
    rows: list[list[float]] = []
    start = time.perf_counter()
    while True:
        rows.append(_round(sessions, feeds, reverse=len(rows) % 2 == 1))
        if len(rows) < MIN_ROUNDS:
            continue
        spent = time.perf_counter() - start
        if spent < budget / 2 and len(rows) < MAX_ROUNDS:
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


def _round(sessions: Sequence[Session], feeds: Sequence[Feeds], reverse: bool) -> list[float]:
    row = [0.0] * len(sessions)
    order = range(len(sessions))
    for index in reversed(order) if reverse else order:
        row[index] = _one_pass(sessions[index], feeds)
    return row


def _one_pass(session: Session, feeds: Sequence[Feeds]) -> float:
    spent = 0.0
    for feed in feeds:
        start = time.perf_counter()
        session.run(feed)
        spent += time.perf_counter() - start
    return spent
