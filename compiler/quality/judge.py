"""Judge a compiled model against the original: the user's metric, else the drift gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...targets.runtime import Session
from ..data.feedset import FeedSet
from ..data.usercode import call
from ..result import Quality, QualityRow, QualityVerdict
from .comparison import Comparison
from .drift import Drift, DriftGate, DriftMeter, DriftVerdict, Kind
from .evaluation import compare
from .outputs import judge_drift
from .scores import Budget, Point, Scores, normalise

Feeds = Mapping[str, np.ndarray]
Evaluate = Callable[[Callable[[Feeds], list[np.ndarray]]], Any]


KEPT_BYTES = 64 << 20
"""Answers of one session up to this size are kept; larger ones are asked for again."""


class Answers:
    """What a session answers on each feed, in order; kept after the first time where small."""

    def __init__(self, session: Session, feeds: FeedSet) -> None:
        self._session, self._feeds = session, feeds
        self._kept: list[list[np.ndarray]] | None = None

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[list[np.ndarray]] = []
        size = 0
        for feed in self._feeds:
            outputs = self._session.run(feed)
            size += sum(o.nbytes for o in outputs)
            if size <= KEPT_BYTES:
                kept.append(outputs)
            yield outputs
        self._kept = kept if size <= KEPT_BYTES else None


@dataclass
class Judge:
    """Holds what the original answers; judges one candidate after another.

    holdout: held-out feeds, or generated ones (then nothing is verified). kinds: of the outputs,
    by name, which decide how their drift is measured. mask: the token
    mask input, whose zeros leave rows out of the drift. budget: allowed drop of the metric.
    """

    original: Session
    holdout: FeedSet
    kinds: Mapping[str, Kind]
    mask: str | None = None
    evaluate: Evaluate | None = None
    budget: Budget | None = None
    gate: DriftGate | None = None
    seed: int = 0
    _scores: Scores | Point | None = field(default=None, init=False)
    _original: Answers = field(init=False)

    def __post_init__(self) -> None:
        self._original = Answers(self.original, self.holdout)

    def judge(self, session: Session, answers: Answers | None = None) -> Quality:
        """Compare a loaded candidate (and its answers, where kept) with the original.

        Raises InputError where the user's evaluation function fails.
        """
        drift = self._drift(session, answers or Answers(session, self.holdout))
        verdict = judge_drift(drift, self.kinds, self.gate)
        comparison = self._comparison(session)
        return Quality(
            verdict=self._decide(verdict, drift, comparison),
            gate=self._gate_text(verdict, comparison),
            sentence=self._sentence(verdict, comparison),
            rows=_rows(comparison),
            drift=drift.measures(),
            samples=self.holdout.samples,
            samples_needed=None if comparison is None else comparison.samples_needed,
            warning=_few_rows(verdict, drift) if comparison is None else comparison.warning,
            apart=() if comparison is None else comparison.apart,
        )

    def _decide(
        self, verdict: DriftVerdict, drift: Drift, comparison: Comparison | None
    ) -> QualityVerdict:
        if self.gate is not None and not verdict.holds:
            return "over-budget"
        if self.budget is not None and comparison is not None:
            return comparison.verdict
        if self.holdout.synthetic:
            return "over-budget" if _broken(drift) else "unverified"
        return "within-budget" if verdict.holds else "over-budget"

    def _gate_text(self, verdict: DriftVerdict, comparison: Comparison | None) -> str:
        if self.budget is None or comparison is None:
            return verdict.gate.sentence
        drop = f"drop <= {self.budget}"
        return drop if self.gate is None else f"{drop} and {verdict.gate.sentence}"

    def _sentence(self, verdict: DriftVerdict, comparison: Comparison | None) -> str:
        drift = verdict.sentence
        if self.budget is not None and comparison is not None:
            return comparison.sentence if self.gate is None else f"{drift}; {comparison.sentence}"
        if self.holdout.synthetic:
            drift = f"no data was given; on generated feeds the {drift}"
        return drift if comparison is None else f"{drift}; the metric went {comparison.sentence}"

    def _drift(self, session: Session, answers: Answers) -> Drift:
        meter = DriftMeter(session.output_names)
        for feed, before, after in zip(self.holdout, self._original, answers, strict=True):
            mask = feed.get(self.mask) if self.mask else None
            meter.add(before, after, None if mask is None else mask.astype(bool))
        return meter.result()

    def _comparison(self, session: Session) -> Comparison | None:
        if self.evaluate is None:
            return None
        if self._scores is None:
            self._scores = self._score(self.original, "the original")
        after = self._score(session, "the compiled model")
        return compare(self._scores, after, self.budget, seed=self.seed)

    def _score(self, session: Session, which: str) -> Scores | Point:
        assert self.evaluate is not None
        result = call(self.evaluate, f"the evaluation of {which}", session.run)
        return normalise(result, where=f"the evaluation of {which}")


def _few_rows(verdict: DriftVerdict, drift: Drift) -> str:
    """Where one row more or less decides an agreement in percent; "" elsewhere."""
    rows = next((output.rows for output in drift.outputs if output.name == verdict.output), 0)
    allowed = 100.0 - verdict.gate.least
    if verdict.gate.metric != "top1" or verdict.equal or not rows or rows * allowed >= 100.0:
        return ""
    return (
        f"{rows} rows are few for {verdict.gate.sentence}: one that changes is "
        f"{100.0 / rows:.3g} %; hold out more samples, or give a metric (--evaluate)"
    )


def _broken(drift: Drift) -> bool:
    """Whether outputs became NaN, infinite or another shape: wrong whatever the data."""
    return any(output.non_finite or output.reshaped for output in drift.outputs)


def _rows(comparison: Comparison | None) -> tuple[QualityRow, ...]:
    if comparison is None:
        return ()
    interval = comparison.interval
    first = QualityRow(
        "metric",
        comparison.before,
        comparison.after,
        comparison.drop,
        None if interval is None else interval.low,
        None if interval is None else interval.high,
        comparison.n,
    )
    slices = [
        QualityRow(
            row.name,
            row.before,
            row.after,
            row.drop if row.drop is not None else np.nan,
            None if row.interval is None else row.interval.low,
            None if row.interval is None else row.interval.high,
            row.n,
        )
        for row in comparison.slices
        if row.before is not None and row.after is not None
    ]
    return (first, *slices)
