"""Choose among judged builds by what was measured, and try runtime spellings on the chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ..ir.errors import PassError, TargetError, VerifyError
from ..ir.rewriter import Rewriter
from .backends.spellings import APPROXIMATE, SPELLINGS, may_apply
from .policy import Goal
from .quality.drift import DriftMeter, OutputDrift
from .quality.judge import Judge
from .quality.statistics import Ratio
from .result import Speed, SpeedVerdict, Trial
from .timing import Paired, time_alternating
from .workshop import Build, Judged, Workshop

TIE = 0.03
"""Two candidates within 3 % are equally fast: the smaller wins."""
SAME_SIZE = 0.005
"""Two candidates within 0.5 % are equally large: the one nearer to the original wins."""
SLOWER = 1.02
"""Slower, or faster, only where the 95 % interval of the ratio clears 2 %."""
SPELLING_SQNR = 30.0
"""dB; a spelling moves roundings only, so its outputs stay this near to those before."""
SPELLING_TOP1 = 99.0
"""Percent of class numbers that stay."""

LEAST_GAIN = 0.01
WIDE = 0.04
"""A spelling that gains less than 1 % goes, where the interval is narrow enough to tell."""

ACCEPTABLE = ("within-budget", "unverified")
Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Choice:
    """The chosen build and what is said of all of them."""

    judged: Judged
    trials: tuple[Trial, ...]


def choose(
    candidates: Sequence[Judged],
    goal: Goal,
    feeds: Sequence[Feeds] | None,
    workshop: Workshop,
    predicted: Callable[[ir.Model], float | None] | None = None,
) -> Choice:
    """The best acceptable candidate; the first is the lossless one and always acceptable.

    feeds: what to time on, None where the target cannot be run here; then milliseconds decide as
    ``predicted`` says, or the order of proposal where it does not know all of them. Each is timed
    in all runtime spellings that apply to it: the slower of two graphs may be the faster one once
    it is well written. Undecided candidates count only where no other lossy one is acceptable.
    """
    eligible = _eligible(candidates)
    times = _times(eligible, feeds, workshop)
    expected: dict[int, float | None] = {}
    if times is None:
        if feeds is None and predicted is not None:
            expected = {id(c): predicted(c.build.model) for c in eligible}
        best = _likeliest(eligible, goal, [expected.get(id(c)) for c in eligible])
    else:
        best = _best(eligible, times.medians[1:], goal)
    speeds = (
        {}
        if times is None
        else {
            id(c): float(times.medians[0] / t)
            for c, t in zip(eligible, times.medians[1:], strict=True)
        }
    )
    trials = tuple(_trial(c, c is best, speeds.get(id(c)), expected.get(id(c))) for c in candidates)
    return Choice(best, trials)


def beside_lossless(
    asked: Judged,
    feeds: Sequence[Feeds] | None,
    workshop: Workshop,
    make: Callable[[], Judged | None],
) -> Choice:
    """The build that was asked for, with what the lossless one (of ``make``) gains by itself.

    Nothing is timed where ``asked`` loses nothing, or nothing can be timed.
    """
    lossless = None if feeds is None or _is_lossless(asked.build) else make()
    if lossless is None:
        return Choice(asked, ())
    times = _times([lossless, asked], feeds, workshop)
    assert times is not None, "two models and feeds"
    gains = (float(times.medians[0] / t) for t in times.medians[1:])
    pairs = zip((lossless, asked), gains, strict=True)
    return Choice(asked, tuple(_trial(c, c is asked, gain) for c, gain in pairs))


def _likeliest(eligible: Sequence[Judged], goal: Goal, times: Sequence[float | None]) -> Judged:
    """The best one as far as it can be told without measuring; the first is the lossless one.

    times: milliseconds as predicted, None where nothing tells.
    """
    lossy = eligible[1:] or eligible
    if goal == "size":
        return min(lossy, key=lambda c: c.build.bytes)
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        return lossy[0]
    return _best(eligible, np.array(known), goal)


def write_as(judged: Judged, names: Sequence[str], workshop: Workshop) -> Judged | None:
    """The build in those spellings, one upon the other.

    None where none of them applies, where it is not well formed, where the runtime does not
    take it, or where it does not compute the same. The quality is not judged again here.
    """
    names = [name for name in names if may_apply(name, judged.build.model.graph)]
    if _is_lossless(judged.build):
        names = [name for name in names if name not in APPROXIMATE]
    if not names:
        return None
    rewriter = Rewriter(judged.build.model.clone())
    count = 0
    try:
        for name in names:
            with rewriter.edit(f"spelling/{name}"):
                count += SPELLINGS[name](rewriter)
        if count == 0:
            return None
        written = workshop.rewritten(judged, rewriter.model)
        return written if _agrees(judged, written) else None
    except (PassError, TargetError, VerifyError) as error:
        workshop.context.progress.note(f"spelling {', '.join(names)}: {error.what}")
        return None


def choose_spellings(
    judged: Judged, feeds: Sequence[Feeds], workshop: Workshop
) -> tuple[Judged, tuple[str, ...]]:
    """Time the build plain, in all spellings, and in all but each one; keep what pays.

    All are compared in one run, so that noise hits all alike. A spelling goes where the build
    without it is as fast, or faster; where noise hides the answer it stays.
    """
    written: dict[tuple[str, ...], Judged | None] = {}

    def build(*names: str) -> Judged | None:
        if names not in written:
            written[names] = write_as(judged, names, workshop) if names else None
        return written[names]

    apply = tuple(name for name in SPELLINGS if build(name) is not None)
    wanted = {apply, *(_without(apply, name) for name in apply)}
    for names in written.keys() - wanted:  # each holds a session
        del written[names]
    whole = build(*apply)
    if whole is None:
        return judged, ()
    less = {name: build(*_without(apply, name)) or judged for name in apply}
    workshop.context.progress.phase("timing the spellings")
    sessions = [whole.session, judged.session, *(w.session for w in less.values())]
    paired = time_alternating(sessions, feeds, budget=8.0)
    useless = [name for i, name in enumerate(apply) if not _pays(paired.ratio(2 + i, 0))]
    kept = tuple(name for name in apply if name not in useless)
    timed = {apply: 0} | {_without(apply, name): 2 + i for i, name in enumerate(apply)}
    if not kept or paired.ratio(1, timed.get(kept, 0)).value <= 1.0:
        return judged, ()
    chosen = build(*kept)
    return rejudged(judged, chosen or judged, kept if chosen else (), workshop)


def _without(names: Sequence[str], name: str) -> tuple[str, ...]:
    return tuple(n for n in names if n != name)


def _pays(gain: Ratio) -> bool:
    """Whether a spelling is kept: gain is the time without it over the time with it."""
    if gain.high < 1.0:
        return False
    return gain.value > 1.0 + LEAST_GAIN or gain.high - gain.low > WIDE


def rejudged(
    plain: Judged, written: Judged, names: tuple[str, ...], workshop: Workshop
) -> tuple[Judged, tuple[str, ...]]:
    """The written build with its own verdict.

    The plain one where that verdict is worse, or where a spelling left shapes that cannot be.
    """
    if not names or not workshop.shapes_hold(written):
        return plain, ()
    quality = workshop.judge.judge(written.session, written.kept)
    worse = plain.quality.verdict in ACCEPTABLE and quality.verdict not in ACCEPTABLE
    return (plain, ()) if worse else (replace(written, quality=quality), names)


def measure_speed(judged: Judged, feeds: Sequence[Feeds], judge: Judge, threads: int) -> Speed:
    """Paired timing of the handed-over model against the user's original."""
    paired = time_alternating([judge.original, judged.session], feeds)
    ratio = paired.ratio(0, 1)
    before, after = (1e3 * float(m) for m in paired.medians)
    return Speed(
        verdict_on(ratio),
        before,
        after,
        ratio.value,
        ratio.low,
        ratio.high,
        paired.seconds.shape[1],
        len(feeds),
        threads,
    )


def verdict_on(ratio: Ratio) -> SpeedVerdict:
    """Of a model's speed, from the original's time over its own."""
    if 1.0 / ratio.high > SLOWER:
        return "slower"
    return "faster" if ratio.low > SLOWER else "no-gain"


def _eligible(candidates: Sequence[Judged]) -> list[Judged]:
    lossless, lossy = candidates[0], candidates[1:]
    good = [c for c in lossy if c.quality.verdict in ACCEPTABLE and _did_something(c)]
    if not good:
        good = [c for c in lossy if c.quality.verdict == "undecided" and _did_something(c)]
    return [lossless, *good]


def _did_something(candidate: Judged) -> bool:
    return any(e.loss is not None for e in candidate.build.edits)


def _times(
    candidates: Sequence[Judged], feeds: Sequence[Feeds] | None, workshop: Workshop
) -> Paired | None:
    if feeds is None or len(candidates) < 2:
        return None
    written = [write_as(c, tuple(SPELLINGS), workshop) or c for c in candidates]
    sessions = [workshop.judge.original, *(c.session for c in written)]
    return time_alternating(sessions, feeds, budget=8.0)


def _best(candidates: Sequence[Judged], seconds: np.ndarray, goal: Goal) -> Judged:
    rows = list(zip(candidates, seconds, strict=True))
    if goal == "size":
        least = min(c.build.bytes for c in candidates)
        rows = [(c, s) for c, s in rows if c.build.bytes <= 1.01 * least]
        return min(rows, key=lambda r: (r[1], r[0].build.pipeline))[0]
    if goal == "balanced":
        return min(rows, key=lambda r: (r[1] * r[0].build.bytes, r[0].build.pipeline))[0]
    fastest = min(seconds)
    return _smallest([c for c, s in rows if s <= (1 + TIE) * fastest])


def _smallest(candidates: Sequence[Judged]) -> Judged:
    """The smallest; among equally large ones the nearest to the original, then by name."""
    least = min(c.build.bytes for c in candidates)
    near = [c for c in candidates if c.build.bytes <= (1 + SAME_SIZE) * least]
    return min(near, key=lambda c: (-_worst_sqnr(c), c.build.pipeline))


def _worst_sqnr(candidate: Judged) -> float:
    """dB of the output that moved most; infinite where none did."""
    found = [m["sqnr_db"] for m in candidate.quality.drift.values() if "sqnr_db" in m]
    return min(found, default=float("inf"))


def _trial(
    candidate: Judged, chosen: bool, speed: float | None, predicted: float | None = None
) -> Trial:
    return Trial(
        candidate.build.pipeline,
        candidate.build.bytes,
        speed,
        candidate.quality.verdict,
        chosen,
        candidate.quality.sentence,
        _is_lossless(candidate.build),
        predicted,
    )


def _is_lossless(build: Build) -> bool:
    """Whether no edit lost anything."""
    return all(edit.loss is None for edit in build.edits)


def _agrees(before: Judged, after: Judged) -> bool:
    meter = DriftMeter(before.session.output_names)
    for first, second in zip(before.answers, after.answers, strict=True):
        meter.add(first, second)
    return all(map(_same, meter.result().outputs))


def _same(output: OutputDrift) -> bool:
    if output.non_finite or output.reshaped:
        return False
    if output.sqnr_db is not None:
        return output.sqnr_db >= SPELLING_SQNR
    return output.top1 is None or output.top1 >= SPELLING_TOP1
