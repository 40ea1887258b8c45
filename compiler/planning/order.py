"""Which of several outlooks is the likeliest: by what is predicted, else as policy ordered them."""

from __future__ import annotations

from collections.abc import Sequence

from ..choose import TIE
from ..policy import Goal
from .outlook import Outlook


def ordered(outlooks: Sequence[Outlook], goal: Goal) -> tuple[Outlook, ...]:
    """The outlooks, the best for the goal first; equal ones stay in the order they came in.

    Times count only where all of them are fit to rank: a known one says nothing against an
    unknown, and policy's order knows the target's break-evens, which rates alone do not tell.
    """
    if goal == "size":
        return tuple(sorted(outlooks, key=lambda o: o.size.after))
    known = [o.time.after for o in outlooks if o.time.after is not None and o.time.ranks]
    if len(known) < len(outlooks):
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
