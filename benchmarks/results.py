"""The contest of all tasks as one table, and as the page RESULTS.md.

What the page says first, where a peer beats planish, is computed from the figures below it.
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.bootstrap import Indices, drop_interval
from benchmarks.data import ROOT, Array
from benchmarks.figures import Figure, Outcome, holds
from benchmarks.peers import DISTRIBUTIONS, PEERS, environment
from benchmarks.settings import Settings
from benchmarks.tasks import cells, chosen, one_line
from benchmarks.tasks_contest import (
    CONTENDERS,
    FLOAT_NAME,
    PLANISH,
    PLANISH_SIZE,
    Contest,
    Made,
    contest,
    score_of,
    stored,
)
from benchmarks.timing import Ratio, Timings

PAGE = ROOT / "benchmarks" / "RESULTS.md"
COLUMNS = (
    "task", "model", "quality", "drop (95 %)", "SQNR dB", "MB", "ms a run", "speed (95 %)",
    "compile s", "peak GB",
)  # fmt: skip
CLEARLY = 1.02
"""A speed counts as better where the lower end of its interval is above this; a size where it is
smaller by as much."""
LONGEST_ERROR = 160
BUSY = 0.15
"""Cores that other programs kept busy during a race, above which its times are called doubtful."""


@dataclass(frozen=True)
class Drop:
    """How much one model's metric is worse than another's, with the 95 % interval; positive is
    worse. NaN where one of them has no metric."""

    value: float
    low: float
    high: float

    @property
    def worse(self) -> bool:
        """Whether it is surely worse; what has no value is."""
        return not self.low <= 0

    @property
    def better(self) -> bool:
        """Whether it is surely better."""
        return self.high < 0


@dataclass(frozen=True)
class Beat:
    """One respect in which a peer is better than planish on one task."""

    task: str
    peer: str
    respect: str
    text: str


@dataclass(frozen=True)
class Score:
    """A model's metric with the samples behind it. sqnr: of its outputs against float's, dB."""

    value: float
    samples: Array
    sqnr: float


def peers(settings: Settings) -> Outcome:
    """All tasks: planish beside float and every peer; benchmarks/RESULTS.md.

    The page is written to the folder of the benchmarks, and over the one in the repository only
    where every task is there.
    """
    names = chosen(settings.tasks)
    done = {name: contest(name, settings) for name in names}
    found = [done.get(name) or stored(name, settings) for name in chosen(())]
    beats = [beat for one in found for beat in beaten(one)]
    outcome = Outcome(
        f"{len(names)} tasks, planish for {settings.target} beside its peers, "
        f"{settings.threads} threads",
        COLUMNS,
        tuple(row for one in found if one.made for row in rows(one)),
        tuple(figure(one, beats) for one in found if one.task in done),
        tuple(summary(found, beats)),
    )
    text = page(outcome, found, settings)
    (settings.workdir / PAGE.name).write_text(text, "utf8")
    if not any(one.error for one in found):
        PAGE.write_text(text, "utf8")
    return outcome


def rows(found: Contest) -> list[tuple[str, ...]]:
    """One line a contender, in the order in which they run."""
    made = [found.made[c.name] for c in CONTENDERS if c.name in found.made]
    return [(found.task, one.contender, *row(found, one)) for one in made]


def row(found: Contest, made: Made) -> tuple[str, ...]:
    """The cells behind the names."""
    cost = ("", "") if made.contender == FLOAT_NAME else (
        f"{made.seconds:.1f}", f"{made.peak_bytes / 1e9:.2f}")  # fmt: skip
    score = score_in(found, made.contender)
    if not made.model or score is None:
        return (f"none: {plain(made.error)}", "", "", "", "", "", *cost)
    metric = str(found.about["metric"])
    quality = f"{metric} {score.value:.4g}"
    if made.contender == FLOAT_NAME:
        return (quality, "", "", f"{made.megabytes:.3g}", *speed(found, made), *cost)
    lost = drop(found, FLOAT_NAME, made.contender)
    sqnr = "equal" if score.sqnr == np.inf else f"{score.sqnr:.1f}"
    return (quality, drop_cell(lost, found), sqnr, f"{made.megabytes:.3g}", *speed(found, made),
            *cost)  # fmt: skip


def plain(error: str) -> str:
    """An error in one line of a table: without folders, and not too long."""
    text = re.sub(r"(?:/[\w.@+-]+)+/(?=[\w.])", "", one_line(error))
    return text if len(text) <= LONGEST_ERROR else text[:LONGEST_ERROR] + " …"


def drop_cell(lost: Drop | None, found: Contest) -> str:
    """``+0.12 (-0.05 … +0.3)``, in units of the metric, or "a sample" of the mean over samples."""
    if lost is None or np.isnan(lost.value):
        return "no value"
    unit = " a sample" if found.about["aggregate"] == "sample" else ""
    return f"{lost.value:+.3g} ({lost.low:+.2g} … {lost.high:+.2g}){unit}"


def speed(found: Contest, made: Made) -> tuple[str, str]:
    """Milliseconds of a run, and how many times faster than float."""
    taken = timings(found)
    if made.contender not in taken.seconds:
        return "", ""
    ms = 1e3 * taken.median(made.contender) / found.race["feeds"]
    ratio = taken.speedup(FLOAT_NAME, made.contender)
    cell = "1x" if made.contender == FLOAT_NAME else ratio_cell(ratio)
    return f"{ms:.3g}", cell


def ratio_cell(ratio: Ratio) -> str:
    """``2.71x (2.66-2.75)``."""
    return f"{ratio.value:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"


def timings(found: Contest) -> Timings:
    """The race of a task; empty where there was none."""
    seconds: Mapping[str, Sequence[float]] = found.race.get("seconds", {})
    return Timings({name: np.array(values) for name, values in seconds.items()})


@functools.cache
def read_score(path: Path, changed: int) -> Score:
    """What ``tasks_worker`` wrote; read once for each state of the file."""
    with np.load(path) as file:
        return Score(float(file["value"]), file["per_sample"], float(file["sqnr"]))


def score_in(found: Contest, contender: str) -> Score | None:
    """A contender's score; None where it has no model that runs."""
    path = score_of(found.folder, contender)
    made = found.made.get(contender)
    if made is None or not made.model or not path.is_file():
        return None
    return read_score(path, path.stat().st_mtime_ns)


def drop(found: Contest, before: str, after: str) -> Drop | None:
    """How much worse ``after`` is than ``before``, on the same samples drawn for both."""
    first, second = score_in(found, before), score_in(found, after)
    if first is None or second is None:
        return None
    with np.load(found.folder / "mask.npz") as file:
        mask = file["mask"]
    return paired(first.samples[mask], second.samples[mask], str(found.about["aggregate"]),
                  bool(found.about["higher_is_better"]))  # fmt: skip


def paired(before: Array, after: Array, how: str, higher_is_better: bool) -> Drop:
    """The drop of a mean over samples, or of its exponential; "sample" is a mean of its own."""
    sign = 1.0 if higher_is_better else -1.0

    def metric(samples: Array) -> float:
        return float(np.exp(samples.mean()) if how == "exp" else samples.mean())

    def lost(index: Indices) -> float:
        return sign * (metric(before[index]) - metric(after[index]))

    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return Drop(np.nan, np.nan, np.nan)
    value = lost(np.arange(len(before)))
    if np.array_equal(before, after):
        return Drop(0.0, 0.0, 0.0)
    return Drop(value, *drop_interval(lost, len(before)))


def beaten(found: Contest) -> list[Beat]:
    """Where a peer's model is faster or smaller than planish's without being surely worse, or
    surely better in quality."""
    if not found.race or PLANISH not in timings(found).seconds:
        return []
    names = [peer.name for peer in PEERS if score_in(found, peer.name) is not None]
    return [beat for name in names for beat in compared(found, name)]


def compared(found: Contest, peer: str) -> list[Beat]:
    """In what one peer is better on one task."""
    beats = []
    ours = PLANISH_SIZE if PLANISH_SIZE in timings(found).seconds else PLANISH
    lost, lost_small = drop(found, PLANISH, peer), drop(found, ours, peer)
    if lost is not None and lost.better:
        beats.append(Beat(found.task, peer, "quality", f"{-lost.value:.3g} better"))
    taken = timings(found)
    if lost is not None and not lost.worse and peer in taken.seconds:
        ratio = taken.speedup(PLANISH, peer)
        if ratio.low > CLEARLY:
            beats.append(Beat(found.task, peer, "speed", ratio_cell(ratio)))
    if lost_small is not None and not lost_small.worse:
        smaller = found.made[ours].megabytes / found.made[peer].megabytes
        if smaller > CLEARLY:
            beats.append(Beat(found.task, peer, "size", f"{smaller:.2f}x smaller"))
    return beats


def figure(found: Contest, beats: Iterable[Beat]) -> Figure:
    """Whether planish holds its own on one task; misses name the peers."""
    own = [beat for beat in beats if beat.task == found.task]
    wrong = [f"{beat.peer}: {beat.respect}, {beat.text}" for beat in own]
    made = found.made.get(PLANISH)
    error = found.error or ("" if made is None else made.error)
    command = f".venv/bin/python benchmarks/run.py peers --task {found.task}"
    value = plain(error) or "; ".join(wrong) or "by none"
    one = holds(f"{found.task}, beaten by a peer", not error and not wrong, value, "by none")
    return Figure(**{**vars(one), "command": command})


def summary(found: Sequence[Contest], beats: Sequence[Beat]) -> list[str]:
    """Sentences: what peers do better, by respect, then what they cost less."""
    complete = [one for one in found if PLANISH in timings(one).seconds]
    lines = [
        f"{respect}: {sentence([b for b in beats if b.respect == respect], len(complete))}"
        for respect in ("speed", "quality", "size")
    ]
    slower = [one.task for one in complete if lags(one)]
    lines.append(f"planish slower than float: {', '.join(slower) or 'nowhere'}")
    failed = [f"{one.task} ({plain(ours.error)})" for one in found
              if (ours := one.made.get(PLANISH)) is not None and not ours.model]  # fmt: skip
    lines += [f"planish makes no model of {', '.join(failed)}"] if failed else []
    missing = [one.task for one in found if one.error]
    unfinished = f"not run to the end yet: {', '.join(missing)}"
    return [*lines, cheaper(complete), *([unfinished] if missing else [])]


def sentence(beats: Sequence[Beat], tasks: int) -> str:
    """``on 2 of 19 tasks: mnist (NNCF 1.10x …), …``."""
    names = list(dict.fromkeys(beat.task for beat in beats))
    if not names:
        return f"no peer beats planish on any of {tasks} tasks"
    parts = [
        f"{name} (" + ", ".join(f"{b.peer} {b.text}" for b in beats if b.task == name) + ")"
        for name in names
    ]
    return f"a peer beats planish on {len(names)} of {tasks} tasks: {'; '.join(parts)}"


def lags(found: Contest) -> bool:
    """Whether planish's model is surely slower than float."""
    return timings(found).speedup(FLOAT_NAME, PLANISH).high < 1 / CLEARLY


def cheaper(found: Sequence[Contest]) -> str:
    """How the cost of making a model compares: planish measures what it makes, most do not."""
    parts = []
    for peer in PEERS:
        pairs = [(one.made[PLANISH], one.made[peer.name]) for one in found
                 if peer.name in one.made and one.made[peer.name].model]  # fmt: skip
        if pairs:
            seconds = np.median([ours.seconds / theirs.seconds for ours, theirs in pairs])
            memory = np.median([ours.peak_bytes / theirs.peak_bytes for ours, theirs in pairs])
            parts.append(f"{seconds:.1f}x the time and {memory:.1f}x the memory of {peer.name}")
    return f"to compile takes planish, by the median over tasks, {'; '.join(parts) or 'unknown'}"


def page(outcome: Outcome, found: Sequence[Contest], settings: Settings) -> str:
    """RESULTS.md: what peers do better, the table, and what it was measured with."""
    lines = ["# planish beside its peers", ""]
    lines += [f"- {note[0].upper()}{note[1:]}." for note in outcome.notes]
    lines += ["", f"{outcome.title}. What each peer was asked for, and what the columns mean: "
              "[docs/benchmarks.md](../docs/benchmarks.md).", ""]  # fmt: skip
    lines += [cells(COLUMNS), cells(["---"] * len(COLUMNS))]
    lines += [cells(grouped(one, previous)) for one, previous in
              zip(outcome.rows, ((), *outcome.rows[:-1]), strict=True)]  # fmt: skip
    lines += ["", "## How it was measured", "", *(f"- {line}" for line in about(found, settings))]
    return "\n".join(lines) + "\n"


def grouped(row: Sequence[str], previous: Sequence[str]) -> list[str]:
    """The row; the task's name only where it changes."""
    same = bool(previous) and previous[0] == row[0]
    return ["" if same else f"**{row[0]}**", *row[1:]]


def about(found: Sequence[Contest], settings: Settings) -> list[str]:
    """Machine, versions, command, and whether the machine was busy."""
    from benchmarks.run import command
    from benchmarks.run import environment as machine

    known = machine()
    busy = [one.task for one in found if one.race.get("others", 0.0) > BUSY]
    counts = [
        f"{one.task} {one.about['samples']} samples, {one.race['feeds']} feeds timed"
        for one in found
        if one.race
    ]
    lines = [
        f"{date.today().isoformat()}, {known['cpu']}, {known['cores']} cores, "
        f"{settings.threads} threads, {settings.rounds} alternating rounds",
        f"planish {revision()} for `{settings.target}` under Python {known['python']}, "
        f"onnxruntime {known['onnxruntime']}, numpy {known['numpy']}",
        *(versions(package, settings) for package in DISTRIBUTIONS),
        f"command: `{command('peers', settings)}`, or `make bench`",
        f"data: {'; '.join(counts)}",
    ]
    if busy:
        lines.append(f"the machine was busy while these were timed: {', '.join(busy)}")
    return lines


def revision() -> str:
    """The commit that is checked out, and whether files differ from it; the version elsewhere."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version("planish")


def versions(package: str, settings: Settings) -> str:
    """What is installed for a package, or why it is not."""
    home = environment(package, settings.workdir)
    if home.python is None:
        return f"{package}: {home.reason}"
    wanted = dict.fromkeys((DISTRIBUTIONS[package], "onnx", "onnxruntime", "torch"))
    known = {name: home.versions[name].partition("+")[0] for name in home.versions}
    named = [f"{name} {known[name]}" for name in wanted if name in known]
    return f"environment of {package}: {', '.join(named)}"
