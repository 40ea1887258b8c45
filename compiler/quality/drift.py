"""The drift gate: what every output must still have in common with the original's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from ...ir.errors import UsageError, near
from .driftmeter import Drift, DriftMeter, OutputDrift, measure

__all__ = [
    "Drift",
    "DriftGate",
    "DriftMeter",
    "DriftVerdict",
    "OutputDrift",
    "default_gate",
    "judge",
    "margin",
    "measure",
]

Metric = Literal["cosine", "sqnr", "top1"]
Kind = Literal["embedding", "classes", "tensor"]


@dataclass(frozen=True)
class _Measure:
    title: str
    unit: str
    low: float
    high: float
    example: str


_MEASURES: Mapping[str, _Measure] = {
    "cosine": _Measure("mean cosine", "", -1.0, 1.0, "cosine=0.98"),
    "sqnr": _Measure("signal to noise ratio", " dB", -200.0, 200.0, "sqnr=20"),
    "top1": _Measure("top-1 agreement", " %", 0.0, 100.0, "top1=99"),
}


@dataclass(frozen=True)
class DriftGate:
    """The least agreement asked of each output: cosine, sqnr (dB) or top1 (percent)."""

    metric: Metric
    least: float

    @classmethod
    def parse(cls, text: str) -> DriftGate:
        """``cosine=0.98``, ``sqnr=20`` or ``top1=99``. Raises UsageError for anything else."""
        name, _, number = (part.strip() for part in text.partition("="))
        if name not in _MEASURES:
            raise UsageError(f"no measure of drift is called {name!r}", hint=near(name, _MEASURES))
        measured = _MEASURES[name]
        try:
            least = float(number)
        except ValueError:
            least = math.nan
        if not measured.low <= least <= measured.high:
            raise UsageError(
                f"{text!r} is no bound of drift",
                hint=f"give a number from {measured.low:g} to {measured.high:g}, "
                f"such as {measured.example}",
            )
        return cls(cast(Metric, name), least)

    def __str__(self) -> str:
        return f"{self.metric}={self.least:g}"

    @property
    def sentence(self) -> str:
        """What is asked, for a reader: ``cosine >= 0.98``."""
        return f"{self.metric} >= {self.least:g}{_MEASURES[self.metric].unit}"


_DEFAULTS: Mapping[Kind, DriftGate] = {
    "embedding": DriftGate("cosine", 0.98),
    "classes": DriftGate("top1", 99.0),
    "tensor": DriftGate("sqnr", 20.0),
}


def default_gate(kind: Kind) -> DriftGate:
    """What is asked where the user asks nothing: of embeddings cosine 0.98, of classes 99 %
    top-1 agreement, of other tensors 20 dB."""
    return _DEFAULTS[kind]


@dataclass(frozen=True)
class DriftVerdict:
    """Whether the gate holds; ``output`` is the one it holds least for, with its ``value``.

    equal: it did not move at all.
    """

    holds: bool
    gate: DriftGate
    output: str
    value: float | None
    sentence: str
    equal: bool = False

    def to_json(self) -> dict[str, Any]:
        """The verdict as the manifest holds it; an infinite value is its text."""
        finite = self.value is None or math.isfinite(self.value)
        return {
            "holds": self.holds,
            "gate": str(self.gate),
            "output": self.output,
            "value": self.value if finite else str(self.value),
            "sentence": self.sentence,
        }


def judge(drift: Drift, gate: DriftGate) -> DriftVerdict:
    """Whether every output is as near to the original's as ``gate`` asks.

    An output for which the gate's measure has no meaning is held to the default of its
    kind: class numbers to top-1 agreement, single values to the signal to noise ratio.
    New NaN or infinite values fail, as do changed shapes, and outputs without a row.
    """
    if not drift.outputs:
        return DriftVerdict(False, gate, "", None, "there are no outputs to compare")
    verdicts = [_judge_one(output, gate) for output in drift.outputs]
    return min(verdicts, key=margin)


def _judge_one(output: OutputDrift, gate: DriftGate) -> DriftVerdict:
    used = _meaningful(output, gate)
    value = _value(output, used.metric)
    broken = _broken(output)
    if broken or value is None:
        reason = broken or "was not compared on any row"
        return DriftVerdict(False, used, output.name, None, f"output {output.name!r} {reason}")
    if output.equal:
        sentence = f"{output.name!r} equals the original's in all {output.rows} rows"
        return DriftVerdict(True, used, output.name, value, sentence, equal=True)
    measured = _MEASURES[used.metric]
    holds = value >= used.least
    found = f"{_digits(value, used.least)}{measured.unit} over {output.rows} rows"
    sentence = (
        f"{measured.title} of {output.name!r} is {found}, "
        f"{'at least' if holds else 'below the'} {used.least:g}{measured.unit}"
        + ("" if holds else " asked for")
    )
    return DriftVerdict(holds, used, output.name, value, sentence)


def _digits(value: float, least: float) -> str:
    """Four digits, or as many as tell on which side of the bound the value lies."""
    texts = (f"{value:.{digits}g}" for digits in (4, 6, 9))
    return next((t for t in texts if (float(t) >= least) == (value >= least)), repr(value))


def _broken(output: OutputDrift) -> str:
    if output.non_finite:
        return f"has {output.non_finite} values that became NaN or infinite"
    if output.reshaped:
        return f"has another shape on {output.reshaped} feeds"
    return ""


def _value(output: OutputDrift, metric: Metric) -> float | None:
    values = {"cosine": output.cosine, "sqnr": output.sqnr_db, "top1": output.top1}
    return values[metric]


def _meaningful(output: OutputDrift, gate: DriftGate) -> DriftGate:
    if _value(output, gate.metric) is not None:
        return gate
    return default_gate("classes" if output.sqnr_db is None and output.rows else "tensor")


def margin(verdict: DriftVerdict) -> tuple[bool, float]:
    """Failures first, then by how far above its bound each measure is, in its own range."""
    if verdict.value is None:
        return verdict.holds, -math.inf
    if verdict.equal:
        return verdict.holds, math.inf
    measured = _MEASURES[verdict.gate.metric]
    span = min(measured.high, 100.0) - verdict.gate.least
    return verdict.holds, (verdict.value - verdict.gate.least) / max(span, 1e-9)
