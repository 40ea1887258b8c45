"""Which of several outlooks is the likeliest: by what is predicted, else as policy ordered them."""

from __future__ import annotations

from collections.abc import Sequence

from ..choose import TIE
from ..policy import Goal
from .outlook import Outlook


def ordered(outlooks: Sequence[Outlook], goal: Goal) -> tuple[Outlook, ...]:
    """The outlooks, the best for the goal first; equal ones stay in the order they came in.

    Times count only where all of them are known: a known one says nothing against an unknown.
    """
    if goal == "size":
        return tuple(sorted(outlooks, key=lambda o: o.size.after))
    times = [outlook.time.after for outlook in outlooks]
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        return tuple(outlooks)
    if goal == "balanced":
        return tuple(sorted(outlooks, key=lambda o: (o.time.after or 0.0) * o.size.after))
    fastest = min(known, default=0.0)
    return tuple(sorted(outlooks, key=lambda o: _speed_key(o, fastest)))


def _speed_key(outlook: Outlook, fastest: float) -> tuple[float, int]:
    """By time; among those within 3 % of the fastest, as when measuring, by size."""
    time = outlook.time.after or 0.0
    near = time <= (1 + TIE) * fastest
    return (fastest, outlook.size.after) if near else (time, outlook.size.after)
