"""A metric before and after, and whether what was lost is within the budget.

The gate is a test of non-inferiority by a paired bootstrap: "within-budget" when the 95 %
upper bound of the drop is within the budget, "over-budget" when the drop itself is outside,
"undecided" between the two. Without a budget nothing was asked for: "unverified".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import InputError
from .comparison import Comparison, SliceRow, Verdict
from .scores import Budget, Point, Scores, normalise
from .statistics import (
    mean,
    paired_bootstrap,
    percentile_interval,
    samples_needed,
    upper_bound,
)

__all__ = ["Budget", "Comparison", "Point", "Scores", "SliceRow", "compare", "normalise"]

_FEW = 20  # samples below which a bootstrap says little
_ERROR = 0.05  # of all intervals of slices together


def compare(
    before: Scores | Point,
    after: Scores | Point,
    budget: Budget | None,
    *,
    higher_is_better: bool | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """The drop from ``before`` to ``after`` and its verdict under ``budget``.

    Both must come from the same samples in the same order. higher_is_better: None takes
    what they say themselves. Raises InputError when the two do not belong together.
    """
    sign = _direction(before, after, higher_is_better)
    if isinstance(before, Point) and isinstance(after, Point):
        return _points(before.value, after.value, budget, sign)
    if isinstance(before, Point) or isinstance(after, Point):
        raise InputError(
            "the evaluation function returned one number for one model and samples for the other",
            hint="return the same kind of result whatever the model",
        )
    _check_pair(before, after)
    if len(before.samples) == 1:
        return _points(before.value(), after.value(), budget, sign)
    return _sampled(_Pairing(before, after, sign, resamples, seed), budget)


def _direction(before: Scores | Point, after: Scores | Point, asked: bool | None) -> float:
    if asked is None and before.higher_is_better != after.higher_is_better:
        raise InputError(
            "the evaluation function says that higher is better for one model and worse for "
            "the other",
            hint="set higher_is_better to the same value whatever the model",
        )
    return 1.0 if (before.higher_is_better if asked is None else asked) else -1.0


def _check_pair(before: Scores, after: Scores) -> None:
    if before.samples.shape != after.samples.shape:
        raise InputError(
            f"the evaluation function returned samples of shape {before.samples.shape} for the "
            f"original and {after.samples.shape} for the compiled model",
            hint="return the same samples in the same order whatever the model",
        )
    same = before.slices.keys() == after.slices.keys() and all(
        np.array_equal(before.slices[name], after.slices[name]) for name in before.slices
    )
    if not same:
        raise InputError(
            "the slices of the two models are not the same samples",
            hint="make slices from the data, not from what the model answers",
        )


@dataclass(frozen=True, eq=False)
class _Pairing:
    """Both models' samples and how to resample them; sign is -1 where lower is better."""

    before: Scores
    after: Scores
    sign: float
    resamples: int
    seed: int

    def values(self, index: NDArray[np.int64] | None = None) -> tuple[float, float, float]:
        """The metric before, after, and the drop, of all samples or those at ``index``."""
        first, second = self.before.value(index), self.after.value(index)
        return first, second, self.sign * (first - second)

    def drops(self, index: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Bootstrap draws of the drop, float64 [resamples]."""
        every = slice(None) if index is None else index
        draws = paired_bootstrap(
            self.before.samples[every],
            self.after.samples[every],
            self.before.aggregate,
            self.after.aggregate,
            resamples=self.resamples,
            seed=self.seed,
        )
        return self.sign * (draws[:, 0] - draws[:, 1])

    @cached_property
    def hidden_loss(self) -> float:
        """What right-or-wrong samples that never got worse can still hide: 3 / n of the range.

        A bootstrap of no losses says zero, whatever n. Source: the rule of three (Hanley and
        Lippman-Hand, JAMA 1983). Zero where it does not apply.
        """
        if self.before.aggregate is not mean or self.before.samples.ndim != 1:
            return 0.0
        first = self.before.samples.astype(np.float64)
        second = self.after.samples.astype(np.float64)
        values = np.unique(np.concatenate([first, second]))
        if values.size != 2 or np.any(self.sign * (first - second) > 0):
            return 0.0
        return float(3.0 / first.size * (values[1] - values[0]))


def _points(before: float, after: float, budget: Budget | None, sign: float) -> Comparison:
    drop = sign * (before - after)
    limit = None if budget is None else budget.limit(before)
    return Comparison(
        verdict=_verdict(drop, drop, limit, before),
        before=before,
        after=after,
        drop=drop,
        higher_is_better=sign > 0,
        n=1,
        limit=limit,
        warning="the evaluation function returned one number: two values were compared, "
        "without an interval; return one number per sample to get one",
    )


def _sampled(pairing: _Pairing, budget: Budget | None) -> Comparison:
    n = len(pairing.before.samples)
    before, after, drop = pairing.values()
    drops = pairing.drops()
    bound = upper_bound(drops)
    limit = None if budget is None else budget.limit(before)
    verdict = _verdict(drop, bound, limit, before)
    return Comparison(
        verdict=verdict,
        before=before,
        after=after,
        drop=drop,
        higher_is_better=pairing.sign > 0,
        n=n,
        interval=percentile_interval(drops),
        bound=bound,
        limit=limit,
        samples_needed=_needed(drops, n, limit, drop) if verdict == "undecided" else None,
        slices=tuple(_slice_row(pairing, *item) for item in pairing.before.slices.items()),
        warning=_warning(pairing, n, bound, limit),
    )


def _verdict(drop: float, bound: float | None, limit: float | None, before: float) -> Verdict:
    if limit is None:
        return "unverified"
    # 82.03 - 81.73 must not exceed 0.3 by the rounding of a subtraction.
    allowed = limit + 1e-12 * max(1.0, abs(before))
    if drop > allowed:
        return "over-budget"
    return "within-budget" if bound is not None and bound <= allowed else "undecided"


def _needed(drops: NDArray[np.float64], n: int, limit: float | None, drop: float) -> int | None:
    usable = drops[np.isfinite(drops)]
    if limit is None or not usable.size:
        return None
    # A gain that was seen is not counted on, unless nothing less than a gain is allowed.
    truth = max(drop, 0.0) if limit > 0 else drop
    return samples_needed(float(usable.std()) * n**0.5, limit, truth)


def _slice_row(pairing: _Pairing, name: str, index: NDArray[np.int64]) -> SliceRow:
    n = len(index)
    if n == 0:
        return SliceRow(name, n)
    try:
        before, after, drop = pairing.values(index)
    except InputError:
        return SliceRow(name, n)
    if n == 1:
        return SliceRow(name, n, before, after, drop)
    drops = pairing.drops(index)
    together = 1 - _ERROR / len(pairing.before.slices)  # Bonferroni
    least = percentile_interval(drops, together)
    return SliceRow(
        name, n, before, after, drop, percentile_interval(drops),
        None if least is None else least.low,
    )  # fmt: skip


def _warning(pairing: _Pairing, n: int, bound: float | None, limit: float | None) -> str:
    if bound is None:
        return (
            "the aggregate has no value on more than a tenth of the resampled sets: "
            "there is no interval"
        )
    if n < _FEW:
        return f"{n} samples are few: the interval is rough"
    if limit is not None and pairing.hidden_loss > limit:
        return (
            f"no sample got worse, but {n} samples show that only for a drop down to "
            f"{pairing.hidden_loss:.3g} (95 % confidence)"
        )
    return ""
