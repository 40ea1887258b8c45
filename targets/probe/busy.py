"""Whether other programs ran while something was timed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .clock import Timing

STAT = Path("/proc/stat")
OTHERS = 0.15
"""Cores that others may keep busy before a measurement is doubted."""
STOLEN = 0.02
DISAGREEMENT = 0.1


@dataclass(frozen=True)
class Usage:
    """Counters since some start, seconds. busy: of all cores, by every program. stolen: by the
    hypervisor. own: by this process and those that it waited for."""

    clock: float
    busy: float
    stolen: float
    own: float


@dataclass(frozen=True)
class Load:
    """Cores kept busy by others, and stolen, on average over a stretch of time."""

    others: float
    stolen: float


def read_usage(stat: Path = STAT, clock: Callable[[], float] = time.monotonic) -> Usage | None:
    """The counters now; None where the system does not tell."""
    try:
        words = stat.read_text("ascii").splitlines()[0].split()[1:]
    except (OSError, IndexError, UnicodeDecodeError):
        return None
    ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in words]
    user, nice, system, _, _, interrupts, soft, stolen = ticks[:8]
    times = os.times()
    busy = user + nice + system + interrupts + soft
    own = times.user + times.system + times.children_user + times.children_system
    return Usage(clock(), busy, stolen, own)


def load_between(before: Usage | None, after: Usage | None) -> Load:
    """What others did in between; nothing where the system does not tell."""
    if before is None or after is None or after.clock <= before.clock:
        return Load(0.0, 0.0)
    span = after.clock - before.clock
    others = (after.busy - before.busy) - (after.own - before.own)
    return Load(max(0.0, others / span), max(0.0, (after.stolen - before.stolen) / span))


def disagreement(timings: Sequence[Timing]) -> float:
    """Median over the points of how far their visits lie apart."""
    return statistics.median(t.disagreement for t in timings) if timings else 0.0


def complaint(load: Load, apart: float) -> str:
    """Why figures taken so are not to be trusted; "" where they are."""
    parts = []
    if load.others > OTHERS:
        parts.append(f"other programs kept {load.others:.2g} cores busy")
    if load.stolen > STOLEN:
        parts.append(f"{load.stolen:.2g} cores were taken by other virtual machines")
    if apart > DISAGREEMENT:
        parts.append(f"repeats lie {apart:.0%} apart")
    return "; ".join(parts)
