"""A metric before and after, as figures, a verdict and a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .statistics import Interval

Verdict = Literal["within-budget", "over-budget", "undecided", "unverified"]

UNSEEN = 1e-4
"""Share of the metric up to which a slice's loss is not worth a sentence: rounding, mostly."""


@dataclass(frozen=True)
class SliceRow:
    """One slice; None where the metric has no value, or no interval, on so few samples.

    surely: what it drops by at least, with 95 % confidence in the bounds of all slices together.
    """

    name: str
    n: int
    before: float | None = None
    after: float | None = None
    drop: float | None = None
    interval: Interval | None = None
    surely: float | None = None

    @property
    def fall(self) -> str:
        """``slice de loses 2.6 (95 % from 0.9 to 4.3)``."""
        ends = self.interval
        between = "" if ends is None else f" (95 % from {ends.low:.2g} to {ends.high:.2g})"
        return f"slice {self.name} loses {self.drop:.2g}{between}"

    def to_json(self) -> dict[str, Any]:
        """The slice as the manifest holds it."""
        return {
            "name": self.name,
            "samples": self.n,
            "before": self.before,
            "after": self.after,
            "drop": self.drop,
            "interval": _pair(self.interval),
            "surely": self.surely,
        }


@dataclass(frozen=True)
class Comparison:
    """A metric before and after.

    drop: positive is worse, in units of the metric. interval: 95 %, two-sided. bound: the
    one-sided 95 % upper bound of the drop, which the gate is about. limit: the budget in
    units of the metric. n: samples, 1 for a bare number. samples_needed: how many would
    decide, where the verdict is ``undecided`` and any number would.
    """

    verdict: Verdict
    before: float
    after: float
    drop: float
    higher_is_better: bool
    n: int
    interval: Interval | None = None
    bound: float | None = None
    limit: float | None = None
    samples_needed: int | None = None
    slices: tuple[SliceRow, ...] = ()
    warning: str = ""

    @property
    def apart(self) -> tuple[str, ...]:
        """A sentence for each slice that surely falls, and by more than the whole."""
        least = max(self.drop, 0.0) + UNSEEN * abs(self.before)
        found = [row for row in self.slices if row.surely is not None and row.surely > least]
        return tuple(f"{row.fall} where the whole {self._whole}" for row in found)

    @property
    def _whole(self) -> str:
        if self.drop > 0:
            return f"loses {self.drop:.2g}"
        return f"gains {-self.drop:.2g}" if self.drop < 0 else "does not"

    @property
    def sentence(self) -> str:
        """The verdict and its reason, for a reader."""
        bound = "" if self.bound is None else f", at most {self.bound:.4g} with 95 % confidence"
        found = f"from {self.before:.6g} to {self.after:.6g}, a drop of {self.drop:.4g}{bound}"
        if self.limit is None:
            return f"{found}; no bound was asked for"
        allowed = f"{found}; allowed is {self.limit:.4g}"
        if self.verdict != "undecided":
            return allowed
        if self.samples_needed is None:
            return f"{allowed}: {self.n} samples do not decide"
        return f"{allowed}: {self.n} samples do not decide, about {self.samples_needed} would"

    def to_json(self) -> dict[str, Any]:
        """The comparison as the manifest holds it."""
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "before": self.before,
            "after": self.after,
            "drop": self.drop,
            "higher_is_better": self.higher_is_better,
            "samples": self.n,
            "interval": _pair(self.interval),
            "upper_bound": self.bound,
            "limit": self.limit,
            "samples_needed": self.samples_needed,
            "slices": [row.to_json() for row in self.slices],
            "warning": self.warning,
        }


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
