"""Sessions side by side: seconds inside ``run``, in alternation, in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.data import Feeds
from planish.compiler.timing import turn, warmed

Floats = npt.NDArray[np.float64]
AnyRun = Callable[[Feeds], object]


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians with its 95 % interval over rounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Timings:
    """Seconds of one pass over all feeds: name -> [rounds]; the same round lies at one index."""

    seconds: Mapping[str, Floats]

    def median(self, name: str) -> float:
        """Median seconds of a pass."""
        return float(np.median(self.seconds[name]))

    def speedup(self, before: str, after: str, resamples: int = 2000) -> Ratio:
        """How many times faster ``after`` is: median(before) / median(after).

        Rounds are resampled whole: what slowed the machine in one of them counts for both.
        """
        first, second = self.seconds[before], self.seconds[after]
        index = np.random.default_rng(0).integers(0, len(first), (resamples, len(first)))
        drawn = np.median(first[index], axis=1) / np.median(second[index], axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Ratio(self.median(before) / self.median(after), float(low), float(high))


def alternate(
    runs: Mapping[str, AnyRun], feeds: Sequence[Feeds], *, rounds: int, warm_up: int = 1
) -> Timings:
    """Time every run over all feeds, once a round.

    The order is turned around from round to round, so that nothing always runs after the same
    neighbour. Only the time inside the calls counts, and of a short model not the first
    milliseconds of its turn.
    """
    lead = warmed(list(runs.values()), feeds, warm_up)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        order = list(runs) if number % 2 == 0 else list(runs)[::-1]
        for name in order:
            seconds[name].append(turn(runs[name], feeds, lead))
    return Timings({name: np.array(taken) for name, taken in seconds.items()})
