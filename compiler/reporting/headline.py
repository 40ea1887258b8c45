"""A result in one line, and the words and numbers that every rendering of it shares."""

from __future__ import annotations

from ..result import UNCHANGED, CompileResult, Quality, Speed

LOSSLESS = "the lossless model is handed over"
WORTH_TELLING = 1.02
"""What the lossless model gains by itself is told from here on."""


def headline(result: CompileResult) -> str:
    """Both verdicts and the figures behind them, the speed first; one line, plain words."""
    speed = _speed(result.speed, lossless_gain(result))
    parts = [speed, size_change(result), quality_phrase(result.quality)]
    if result.speed.verdict == "no-gain" and result.lossless and result.speed.reason != UNCHANGED:
        parts.insert(1, LOSSLESS)
    if result.shortfall:
        parts.append(f"less than was asked for: {result.shortfall}")
    if not result.run_on_target:
        parts.append(f"not run on the target {result.target}{_why_elsewhere(result)}")
    return ", ".join(parts)


def size_change(result: CompileResult) -> str:
    """``4.1x smaller``, ``1.2x larger``, ``same size``."""
    before, after = result.bytes_before, result.bytes_after
    if before <= 0 or after <= 0 or abs(after - before) < 0.005 * before:
        return "same size"
    if after < before:
        return f"{factor(before / after)}x smaller"
    return f"{factor(after / before)}x larger"


def quality_phrase(quality: Quality) -> str:
    """The verdict and the sentence that explains it."""
    reason = _one_line(quality.sentence) or _one_line(quality.gate)
    text = f"{quality.verdict}: {reason}" if reason else quality.verdict
    needed = quality.samples_needed
    if quality.verdict == "undecided" and needed and str(needed) not in reason:
        return f"{text} (about {needed} samples would decide)"
    return text


def interval(low: float | None, high: float | None, form: str = ".2f") -> str:
    """``2.66-2.75``, ``-0.05 to 0.2`` where a bound is negative, "" without an interval."""
    if low is None or high is None:
        return ""
    return f"{low:{form}}{' to ' if low < 0 else '-'}{high:{form}}"


def factor(ratio: float) -> str:
    """A ratio in few digits: ``1.04``, ``4.1``, ``12``."""
    if ratio < 2:
        return f"{ratio:.2f}"
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def size(count: float) -> str:
    """Bytes in decimal units, three digits: ``22.9 MB``; a negative count keeps its sign."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= 0.9995 * limit:
            return f"{three(count / limit)} {unit}"
    return f"{count:.0f} B"


def three(value: float) -> str:
    """Three significant digits, more before the point: ``0.0123``, ``4.00``, ``1240``."""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def prediction(speed: Speed) -> str:
    """``predicted 2.1x (estimated)``; "" without a figure."""
    found = speed.predicted
    if found is None or found.ratio is None:
        return ""
    return f"predicted {found.ratio:.2f}x ({found.basis})"


def lossless_gain(result: CompileResult) -> float | None:
    """How many times as fast the lossless model was, where another one is handed over."""
    found = [t.speedup for t in result.trials if t.lossless and not t.chosen and t.speedup]
    return max(found, default=None)


def _why_elsewhere(result: CompileResult) -> str:
    """Why not, and what ran instead."""
    ran = f"; answers from {result.reference_runtime}" if result.reference_runtime else ""
    return f" ({_one_line(result.not_on_target)}{ran})" if result.not_on_target else ""


def _speed(speed: Speed, lossless: float | None = None) -> str:
    if speed.predicted is not None:  # why nothing was measured comes last, with the target
        return ": ".join(filter(None, [speed.verdict, prediction(speed)]))
    if speed.ratio is None:
        reason = _one_line(speed.reason)
        return f"{speed.verdict} ({reason})" if reason else str(speed.verdict)
    bounds = interval(speed.low, speed.high)
    if lossless is not None and lossless > WORTH_TELLING and speed.verdict == "faster":
        bounds = f"{bounds}; {lossless:.2f}x without loss" if bounds else bounds
    text = f"{speed.verdict}: {speed.ratio:.2f}x"
    return f"{text} ({bounds})" if bounds else text


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
