"""Paired timing: A, B, A, B, … in one process, medians, and an interval of the ratio."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..targets.runtime import Session
from .statistics import Ratio, median_ratio

Feeds = Mapping[str, np.ndarray]

MIN_ROUNDS = 11
MAX_ROUNDS = 60
WARM_UP = 2


@dataclass(frozen=True)
class Paired:
    """Seconds inside ``run`` for one pass over the feeds, one row a session, [n, rounds]."""

    seconds: np.ndarray

    @property
    def medians(self) -> np.ndarray:
        """Median seconds of each session, [n]."""
        return np.median(self.seconds, axis=1)

    def ratio(self, before: int, after: int, seed: int = 0) -> Ratio:
        """before / after: ratio of medians and its 95 % interval (above 1: after is faster)."""
        return median_ratio(self.seconds[before], self.seconds[after], seed=seed)


def time_alternating(
    sessions: Sequence[Session], feeds: Sequence[Feeds], *, budget: float = 6.0
) -> Paired:
    """Time sessions in alternation over the same feeds.

    Rounds go on until ``budget`` seconds are spent, at least 11 and at most 60; the order
    within a round is reversed every other round, so that no session always runs on a warm
    or a throttled core.
    """
    for session in sessions:
        for _ in range(WARM_UP):
            _one_pass(session, feeds)
    rows: list[list[float]] = []
    start = time.perf_counter()
    while len(rows) < MIN_ROUNDS or (
        time.perf_counter() - start < budget and len(rows) < MAX_ROUNDS
    ):
        order = range(len(sessions)) if len(rows) % 2 == 0 else range(len(sessions) - 1, -1, -1)
        row = [0.0] * len(sessions)
        for index in order:
            row[index] = _one_pass(sessions[index], feeds)
        rows.append(row)
    return Paired(np.array(rows).T)


def _one_pass(session: Session, feeds: Sequence[Feeds]) -> float:
    spent = 0.0
    for feed in feeds:
        start = time.perf_counter()
        session.run(feed)
        spent += time.perf_counter() - start
    return spent
