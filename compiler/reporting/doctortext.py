"""A diagnosis as text: the verdict, the causes in order, where the time goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...ir.shown import inline
from ..doctor.diagnosis import Cause, Diagnosis, Place, Run
from ..doctor.mend import RIGHT, Mended
from .headline import factor, interval

SHOWN = 4
"""Places of a cause that are named, and more of the rest."""
OPERATORS = 8


@dataclass(frozen=True)
class Line:
    """A line of text. style: "title", "error", "slow", "note", "good", "quiet" or ""."""

    text: str
    style: str = ""


def lines(found: Diagnosis, *, every: bool = False) -> Iterator[Line]:
    """Everything, without a line break in any line."""
    yield Line(headline(found), "good" if found.healthy else "title")
    yield from (Line(text) for text in _about(found))
    for number, cause in enumerate(found.causes, 1):
        yield Line("")
        yield from _cause(number, cause, every)
    if found.run is not None and found.run.spent:
        yield Line("")
        yield from _spent(found.run, every)
    if found.mended is not None:
        yield Line("")
        yield from _mended(found.mended)
    for note in found.notes:
        yield Line(f"note: {note}")


def headline(found: Diagnosis) -> str:
    """``model.onnx on host: 12.3 ms a run; 1 error, 2 slow``."""
    name = f"{inline(found.model)} on {found.target.name}"
    run = found.run
    took = "not run; " if run is None else f"{milliseconds(run.ms)} a run, {run.basis}; "
    return f"{name}: {took}{_verdict(found)}"


def _verdict(found: Diagnosis) -> str:
    errors, slow, notes = (found.counts[word] for word in ("error", "slow", "note"))
    if not errors and not slow:
        rest = f", {_counted(notes, 'note')}" if notes else ""
        if not found.healthy:
            return (
                f"breaks no rule{rest}" if not notes else f"nothing but {_counted(notes, 'note')}"
            )
        return ("healthy" if found.quantized else "nothing is quantized, nothing is wrong") + rest
    parts = [_counted(errors, "error")] if errors else []
    parts += [f"{_counted(slow, 'cause')} of slowness"] if slow else []
    parts += [_counted(notes, "note")] if notes else []
    return ", ".join(parts)


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _about(found: Diagnosis) -> Iterator[str]:
    run = found.run
    if run is not None and run.basis == "measured":
        threads = _counted(run.threads, "thread") if run.threads else "one thread a core"
        yield (
            f"profiled on {_counted(run.feeds, 'feed')} ({inline(run.source)}), "
            f"{_counted(run.rounds, 'round')}, {threads}"
        )
    if found.not_run:
        yield f"not run here: {found.not_run}"
    if run is not None and run.basis == "predicted":
        sizes = f" at {run.source}" if run.source else ""
        yield f"times are predicted{sizes}: {run.note}"
    if found.layers is not None and found.layers[1]:
        integer, layers = found.layers
        yield f"{integer} of {_counted(layers, 'layer')} with stored weights run in integer kernels"
    if found.run is None:
        yield "no times are known: causes are in the order of the rules"


def _cause(number: int, cause: Cause, every: bool) -> Iterator[Line]:
    where = _counted(len(cause.places), "node") if _placed(cause) else "the model"
    name = cause.rule or "unexplained"
    yield Line(f"{number}. {cause.severity}  {name}: {where}{_cost(cause)}", cause.severity)
    yield Line(f"   why: {cause.reason}")
    yield Line(f"   fix: {cause.fix}")
    if cause.command:
        yield Line(f"   run: {cause.command}")
    most = len(cause.places) if every else SHOWN
    shown = [place for place in cause.places if place.op or place.value][:most]
    for place in shown:
        yield Line(f"     {_place(place)}", "quiet")
    rest = len(cause.places) - most
    if rest > 0:
        yield Line(f"     … and {rest} more (--all names them)", "quiet")


def _placed(cause: Cause) -> bool:
    return any(place.op for place in cause.places)


def _cost(cause: Cause) -> str:
    if cause.ms is None or not _placed(cause):
        return ""
    share = "" if cause.share is None else f", {cause.share:.0%} of the run".replace("%", " %")
    return f", {milliseconds(cause.ms)}{share}"


def _place(place: Place) -> str:
    text = f"{place.op} {inline(place.node)}".strip()
    text = ": ".join(filter(None, (text, inline(place.value))))
    parts = [] if place.ms is None else [milliseconds(place.ms)]
    if place.runs_as and place.runs_as != (place.op,):
        parts.append(f"runs as {', '.join(place.runs_as)}")
    return f"{text} ({', '.join(parts)})" if parts else text


def _spent(run: Run, every: bool) -> Iterator[Line]:
    yield Line("where the time goes:")
    total = run.nodes_ms or 1.0
    shown = run.spent if every else run.spent[:OPERATORS]
    width = max(len(row.op) for row in shown)
    for row in shown:
        share = f"{100 * row.ms / total:.0f} %"
        yield Line(
            f"  {row.op:<{width}}  {row.count:>5} x  {milliseconds(row.ms):>10}  {share:>5}",
            "quiet",
        )
    left = run.spent[len(shown) :]
    if left:
        ms = sum(row.ms for row in left)
        yield Line(f"  {len(left)} more operators: {milliseconds(ms)}", "quiet")


def _mended(mended: Mended) -> Iterator[Line]:
    if not mended.path:
        yield Line(f"not mended: {mended.why}", "title")
    else:
        speed = mended.speed
        took = "not timed here" if speed is None else f"{factor(speed.value)}x as fast"
        took += "" if speed is None else f" ({interval(speed.low, speed.high)})"
        yield Line(f"mended: {inline(mended.path)}, {took}", "good")
        if mended.drift:
            ruined = any(rule in RIGHT for rule, _ in mended.done)
            why = "results change, as those of the file were ruined" if ruined else "results"
            yield Line(f"  {why}: {mended.drift}")
    reasons = dict(mended.reasons)
    for rule, count in mended.done:
        yield Line(f"  done: {rule}, {_counted(count, 'node')}", "quiet")
    for rule, count in mended.left:
        why = f": {inline(reasons[rule])}" if rule in reasons else ""
        yield Line(f"  left: {rule}, {_counted(count, 'node')}{why}", "quiet")


def milliseconds(ms: float | None) -> str:
    """``12.3 ms``; unknown is a word."""
    return "unknown time" if ms is None else f"{ms:.3g} ms"
