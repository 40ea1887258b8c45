"""Several models side by side: size, speed, memory, and how far each answers from the first.

Each model is run once in a process of its own, which measures its memory and keeps a crash of the
runtime away; then all of those that run are timed in alternation in this process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..ir.errors import InputError, TargetError, UsageError
from ..ir.finding.index_limits import index_limits
from ..ir.load import load_model
from ..ir.signature import Signature
from ..ir.storage.filesize import model_bytes
from ..ir.types.bound import symbols
from ..targets.runtime import Session, open_session
from ..targets.schema import Target
from .benching_process import Solo, run_alone
from .data.feeds import FeedSet, load_feeds, synthetic, token_mask
from .data.usercode import call, is_function_reference, load_function
from .elsewhere import not_the_target
from .harness.feedfile import write_feeds
from .progress import Progress
from .quality.comparison import Comparison
from .quality.drift import Drift, DriftMeter, DriftVerdict, Kind
from .quality.evaluation import compare
from .quality.judge import Answers, Evaluate
from .quality.outputs import judge_drift, output_kinds
from .quality.scores import Point, Scores, normalise
from .quality.statistics import Ratio
from .reporting.artifact import Artifact
from .reporting.selftest import MODEL
from .timing import time_alternating
from .workload import Workload, parse_workloads

GENERATED = 4
TIMED = 8
"""Feeds that are timed at most: more would only repeat the same shapes."""
SECONDS = 3.0
"""Budget of the timing for each model and workload."""


@dataclass(frozen=True)
class Entry:
    """One of the models: what the user called it, and the file."""

    label: str
    path: Path


@dataclass(frozen=True)
class Timed:
    """One model on one workload.

    ms: median over rounds of one pass over the feeds, by the number of feeds. ratio: how many
    times faster than the first model, with its 95 % interval; None for the first itself.
    """

    workload: str
    ms: float
    ratio: Ratio | None
    rounds: int


@dataclass(frozen=True)
class Row:
    """What was found of one model.

    bytes: on disk, with external data. peak: bytes of the process of its own that ran it.
    drift, verdict: of its outputs against the first model's. error: why it does not run, or
    cannot be compared; "" where it does.
    """

    entry: Entry
    bytes: int
    error: str = ""
    peak: int = 0
    times: tuple[Timed, ...] = ()
    drift: Drift | None = None
    verdict: DriftVerdict | None = None
    metric: Comparison | None = None


@dataclass(frozen=True)
class Bench:
    """Rows in the order that was asked for, and what they were measured with.

    score: the metric of the first model; None without an evaluation function. base: bytes of such
    a process before it loads its model. mask: the input whose zeros leave rows out of the drift.
    """

    rows: tuple[Row, ...]
    target: str
    threads: int
    source: str
    samples: int
    generated: bool
    base: int
    score: float | None = None
    mask: str | None = None


@dataclass(frozen=True)
class _Ground:
    """What all models are measured on. timed: feeds by the label of their workload."""

    kinds: Mapping[str, Kind]
    feeds: FeedSet
    timed: Mapping[str, list[dict[str, np.ndarray]]]
    mask: str | None


@dataclass(frozen=True)
class _Judged:
    """Measures the others against the first model's answers."""

    ground: _Ground
    first: Session
    answers: Answers
    evaluate: Evaluate | None
    score: Scores | Point | None

    def add(self, row: Row, session: Session) -> Row:
        """The row with drift and metric of a session."""
        drift = self._drift(session)
        verdict = judge_drift(drift, self.ground.kinds, None)
        if self.evaluate is None or self.score is None:
            return replace(row, drift=drift, verdict=verdict)
        after = _score(self.evaluate, session, row.entry.label)
        metric = compare(self.score, after, None)
        return replace(row, drift=drift, verdict=verdict, metric=metric)

    def _drift(self, session: Session) -> Drift:
        names = self.first.output_names
        meter = DriftMeter(names)
        for feed, before in zip(self.ground.feeds, self.answers, strict=True):
            mask = feed[self.ground.mask].astype(bool) if self.ground.mask else None
            meter.add(before, session.run_outputs(names, feed), mask)
        return meter.result()


def bench(
    models: Sequence[str | Path],
    target: Target,
    *,
    feeds: Any = None,
    workloads: Sequence[str] = (),
    evaluate: str | Evaluate | None = None,
    threads: int = 0,
    progress: Progress,
    seconds: float = SECONDS,
) -> Bench:
    """Measure models or artifacts against the first of them.

    feeds: as ``load_feeds`` takes them; without any, feeds are generated from the signature.
    workloads: sizes of symbolic axes to time at, instead of the feeds' own. evaluate: the user's
    metric, a function of ``run``. seconds: to time each model and workload for.

    A model that does not run, or has another signature, is a row with an ``error``. Raises
    InputError where the first one is such a model or feeds do not fit it, TargetError where this
    machine is not the target, UsageError for arguments.
    """
    entries = named(models)
    _check_target(target)
    metric = load_function(evaluate) if isinstance(evaluate, str) else evaluate
    progress.phase("reading the first model")
    ground = _ground(entries[0].path, feeds, workloads)
    entries_of = dict(option.split("=", 1) for option in target.int8.session_options)
    alone = _alone(entries, ground, threads, entries_of, progress)
    found = [row for row, _ in alone]
    opened = _opened(found, threads, entries_of)
    first = opened[0]
    assert first is not None
    score = None if metric is None else _score(metric, first, entries[0].label)
    judged = _Judged(ground, first, Answers(first, ground.feeds), metric, score)
    progress.phase("comparing outputs", len(entries) - 1)
    for index, session in enumerate(opened[1:], 1):
        if session is not None:
            found[index] = judged.add(found[index], session)
        progress.advance()
    times = _times(opened, ground, progress, seconds)
    made = tuple(replace(row, times=times.get(i, ())) for i, row in enumerate(found))
    value = None if score is None else score.value() if isinstance(score, Scores) else score.value
    return Bench(
        made, target.name, threads, ground.feeds.source, ground.feeds.samples,
        ground.feeds.synthetic, alone[0][1].base, value, ground.mask,
    )  # fmt: skip


def named(models: Sequence[str | Path]) -> list[Entry]:
    """The file of each model or artifact, under the shortest name that tells them apart.

    Raises UsageError for fewer than two and for code, InputError for what is not there.
    """
    if len(models) < 2:
        raise UsageError("there is one model and nothing to compare it with", hint="name two")
    paths = [_file(str(model)) for model in models]
    given = [path.parent if path.name == MODEL and _is_artifact(path) else path for path in paths]
    return [Entry(label, path) for label, path in zip(_labels(given), paths, strict=True)]


def _file(model: str) -> Path:
    if is_function_reference(model) or model.endswith(".py"):
        raise UsageError(
            "models of Python code cannot be compared", where=model,
            hint="compile it first (planish compile), and give the artifact's folder",
        )  # fmt: skip
    path = Path(model)
    if path.is_dir():
        return Artifact.open(path).runnable
    if not path.is_file():
        raise InputError("there is no such model", where=model, hint="give ONNX files or artifacts")
    return path


def _is_artifact(path: Path) -> bool:
    return (path.parent / "manifest.json").is_file()


def _labels(paths: Sequence[Path]) -> list[str]:
    """As many of the last parts of each path as tell all of them apart; numbered where none do."""
    whole = [path.absolute().parts for path in paths]
    for count in range(1, max(map(len, whole)) + 1):
        labels = ["/".join(parts[-count:]) for parts in whole]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{index}: {path}" for index, path in enumerate(paths, 1)]


def _check_target(target: Target) -> None:
    why = not_the_target(target)
    if why:
        raise TargetError(
            f"nothing can be measured for {target.name}: {why}",
            hint="run this on such a machine, or leave --target out for this one",
        )


def _ground(path: Path, feeds: Any, workloads: Sequence[str]) -> _Ground:
    model = load_model(path).model
    signature = Signature.of(model)
    asked = parse_workloads(workloads, symbols(model))
    given = load_feeds(feeds, signature) if feeds is not None else None
    used = given if given is not None else _generated(model, signature, asked)
    found = token_mask(model, signature, used) if given is not None else None
    timed = {
        _label(work): list(_generated(model, signature, (work,), like=given)) for work in asked
    } or {"": [used[i] for i in range(min(len(used), TIMED))]}
    mask = None if found is None else found.name
    return _Ground(output_kinds(model.graph.outputs), used, timed, mask)


def _label(work: Workload) -> str:
    return ",".join(f"{name}={size}" for name, size in work.bindings.items())


def _generated(
    model: ir.Model, signature: Signature, works: Sequence[Workload], like: FeedSet | None = None
) -> FeedSet:
    """Generated feeds, of the workloads' sizes by turns.

    Raises InputError with what to give instead where inputs cannot be generated.
    """
    turns = [dict(works[i % len(works)].bindings) for i in range(GENERATED)] if works else None
    limits = index_limits(model) | _largest(like)
    try:
        return synthetic(signature, GENERATED, 0, turns, limits=limits)
    except InputError as error:
        hint = "give --feeds: an .npz with arrays named as the inputs"
        raise InputError(error.what, where=error.where, hint=hint) from error


def _largest(feeds: FeedSet | None) -> dict[str, int]:
    """One more than the largest value of each integer input in the user's own feeds: flags of two
    values stay flags."""
    found: dict[str, int] = {}
    for feed in feeds or ():
        for name, array in feed.items():
            if array.dtype.kind in "iu" and array.size:
                found[name] = max(found.get(name, 1), int(array.max()) + 1)
    return found


def _alone(
    entries: Sequence[Entry], ground: _Ground, threads: int, session_entries: Mapping[str, str],
    progress: Progress,
) -> list[tuple[Row, Solo]]:  # fmt: skip
    """Each model in a process of its own. Raises InputError where the first does not run."""
    progress.phase("running each by itself", len(entries))
    feeds = next(iter(ground.timed.values()))
    found: list[tuple[Row, Solo]] = []
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        data = Path(folder, "feeds.npz")
        write_feeds(data, feeds)
        for entry in entries:
            solo = run_alone(entry.path, data, threads, session_entries)
            if solo.error and not found:
                _refuse_first(entry, solo, ground)
            error = _unlike(found[0][1] if found else solo, solo)
            row = Row(entry, _bytes(entry.path), error, solo.peak)
            found.append((row, solo))
            progress.advance()
    return found


def _refuse_first(entry: Entry, solo: Solo, ground: _Ground) -> None:
    hint = "the others are compared with the first: name one that runs first"
    if ground.feeds.synthetic:
        hint = "no data was given: give --feeds with data that the model was made for"
    raise InputError(solo.error, where=entry.label, hint=hint)


def _bytes(path: Path) -> int:
    try:
        return model_bytes(path)
    except Exception:  # no ONNX at all: the row says what the runtime makes of it
        return path.stat().st_size


def _opened(rows: Sequence[Row], threads: int, entries: Mapping[str, str]) -> list[Session | None]:
    """A session on each model that runs, in this process."""
    return [
        None if row.error else open_session(row.entry.path, threads=threads, entries=entries)
        for row in rows
    ]


def _unlike(first: Solo, solo: Solo) -> str:
    """Why a model cannot be compared with the first; another signature explains what it raised."""
    return (difference(first.ports, solo.ports) if solo.ports else "") or solo.error


def difference(first: Mapping[str, str], other: Mapping[str, str]) -> str:
    """What another model's inputs and outputs have unlike the first one's; "" for nothing.

    Dtypes by name each. Order may differ, and a free axis may be fixed: the feeds show whether
    that fits.
    """
    parts = [
        *(f"it has no {name}" for name in first if name not in other),
        *(f"it has {name}" for name in other if name not in first),
        *(f"{name} is {other[name]}, not {dtype}" for name, dtype in first.items()
          if other.get(name, dtype) != dtype),
    ]  # fmt: skip
    return f"another signature than the first: {'; '.join(parts)}" if parts else ""


def _score(evaluate: Evaluate, session: Session, label: str) -> Scores | Point:
    what = f"the evaluation of {label}"
    return normalise(call(evaluate, what, session.run), where=what)


def _times(
    opened: Sequence[Session | None], ground: _Ground, progress: Progress, seconds: float
) -> dict[int, tuple[Timed, ...]]:
    """By the index of the model, one entry for each workload."""
    running = [index for index, session in enumerate(opened) if session is not None]
    sessions = [session for session in opened if session is not None]
    progress.phase("timing", len(ground.timed))
    found: dict[int, tuple[Timed, ...]] = {}
    for workload, feeds in ground.timed.items():
        paired = time_alternating(sessions, feeds, budget=seconds * len(sessions))
        for place, index in enumerate(running):
            ms = 1e3 * float(paired.medians[place]) / len(feeds)
            ratio = paired.ratio(0, place) if place else None
            timed = Timed(workload, ms, ratio, paired.seconds.shape[1])
            found[index] = (*found.get(index, ()), timed)
        progress.advance()
    return found
