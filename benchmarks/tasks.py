"""Every task of the evaluation data compiled as its user would, each in a process of its own.

``lossless`` runs ``--passes canonicalize``: outputs must equal the original's. ``default`` is
what ``planish compile MODEL --calibration FEEDS`` does by itself: a verdict, never a model that
is slower or over its gate. A task that crashes or runs out of time is a defect of its own line.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import ROOT, NoDataError, tasks
from benchmarks.figures import Figure, Outcome, holds
from benchmarks.settings import Settings
from benchmarks.taskworker import DEFAULT, FOUND, LOSSLESS, TaskRun

COLUMNS = (
    "task, model", "pipeline", "speed, ms", "quality, metric", "MB", "outputs", "compile s, CPU s",
    "peak GB", "left in float, and why",
)  # fmt: skip
EQUAL = 1e-5
"""Largest difference over the largest magnitude with which lossless outputs count as equal."""
HANDED_OVER = (0, 7, 8)
"""Exit codes with which a model may be handed over by default: ok, undecided, no gain."""
WENT_THROUGH = (*HANDED_OVER, 6)
MAX_GIGABYTES = 4.0
SHOWN_REASONS = 3
TABLE = "tasks.md"
NOT_DONE = "not done after"


def everything(settings: Settings) -> Outcome:
    """All tasks, lossless and by default: verdicts, quality, cost, refusals."""
    names = chosen(settings.tasks)
    pipelines = (LOSSLESS,) if settings.lossless_only else (LOSSLESS, DEFAULT)
    pairs = [(name, pipeline) for name in names for pipeline in pipelines]
    found = [run(name, pipeline, settings) for name, pipeline in pairs]
    outcome = Outcome(
        f"{len(names)} tasks compiled for {settings.target}, {settings.threads} threads",
        COLUMNS,
        tuple(row(one) for one in found),
        tuple(figure(one, settings) for one in found),
    )
    (settings.workdir / TABLE).write_text(markdown(outcome), "utf8")
    return outcome


def chosen(words: Sequence[str]) -> list[str]:
    """The tasks of those names, all for none. Raises NoDataError for a name that no task has."""
    known = list(tasks().TASKS)
    if unknown := [word for word in words if word not in known]:
        raise NoDataError(f"no task is called {unknown[0]!r}; there are {', '.join(known)}")
    return [name for name in known if not words or name in words]


def run(name: str, pipeline: str, settings: Settings) -> TaskRun:
    """One task in a process group of its own, ended whole at its time limit."""
    folder = settings.workdir / "tasks" / f"{name}-{pipeline}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FOUND).unlink(missing_ok=True)
    words = [sys.executable, str(ROOT / "benchmarks" / "taskworker.py"), name, pipeline,
             str(folder), settings.target, str(settings.threads)]  # fmt: skip
    print(f"{name}, {pipeline} …", file=sys.stderr, flush=True)
    error = finish(words, settings.timeout)
    if not error and (folder / FOUND).is_file():
        return TaskRun(**json.loads((folder / FOUND).read_text("utf8")))
    return TaskRun(name, pipeline, "", 1, 0.0, 0, error=error or "nothing was found")


def finish(words: Sequence[str], timeout: float, output: Path | None = None) -> str:
    """Run to the end, or to the time limit; what went wrong, "" for nothing.

    output: a file for what the command prints; None: forgotten, but for what it complains.
    """
    with contextlib.ExitStack() as stack:
        file = None if output is None else stack.enter_context(output.open("w"))
        process = subprocess.Popen(
            words, stdout=file or subprocess.DEVNULL, stderr=file or subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            _, complaint = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"{NOT_DONE} {timeout:g} s"
    lines = (complaint or "").strip().splitlines()
    return f"crashed: {lines[-1] if lines else process.returncode}" if process.returncode else ""


def row(found: TaskRun) -> tuple[str, ...]:
    """One line of the table."""
    head = (f"{found.task}, {found.model}", found.pipeline)
    seconds = f"{found.seconds:.1f}, {found.cpu_seconds:.1f}"
    cost = (seconds, f"{found.peak_bytes / 1e9:.2f}")
    if found.error:
        return (*head, "none", "none", "", "", *cost, one_line(found.error))
    manifest = found.manifest
    return (
        *head, speed_cell(manifest["speed"]), quality_cell(manifest["quality"], found),
        "{:.2f} -> {:.2f}".format(*found.sizes), difference_cell(found), *cost, left(manifest),
    )  # fmt: skip


def speed_cell(speed: Mapping[str, Any]) -> str:
    """``faster 1.62x (1.60-1.64), 26.5 -> 16.4``: milliseconds of a pass over the timed feeds."""
    if speed.get("ratio") is None:
        return str(speed["verdict"])
    ratio = f"{speed['ratio']:.2f}x ({speed['low']:.2f}-{speed['high']:.2f})"
    return f"{speed['verdict']} {ratio}, {speed['before']:.3g} -> {speed['after']:.3g}"


def quality_cell(quality: Mapping[str, Any], found: TaskRun) -> str:
    """``within-budget (top1 >= 99 %), top1 92.56 -> 92.15``: the gate, then the task's metric."""
    before, after = found.before[found.metric], found.after[found.metric]
    metric = f"{found.metric} {before:.4g} -> {after:.4g}"
    return f"{quality['verdict']} ({quality['gate']}), {metric}"


def difference_cell(found: TaskRun) -> str:
    """``equal bits``; of lossless ones the largest difference, of others the least ratio in dB."""
    if found.difference["equal_bits"]:
        return "equal bits"
    ratios = [drift.get("sqnr_db") for drift in found.manifest["quality"]["drift"].values()]
    known = [float(ratio) for ratio in ratios if ratio is not None]
    if found.pipeline == LOSSLESS or not known:
        return f"{found.difference['relative']:.1e}"
    return f"SQNR {min(known):.1f} dB"


def left(manifest: Mapping[str, Any]) -> str:
    """``12 x too few channels; …``: reasons of the float layers, the most common first, and what
    no pass treats."""
    reasons = [row["reason"] for row in manifest["kernels"]["sites"] if not row["integer"]]
    counted = Counter(map(one_line, reasons)).most_common()
    parts = [f"{count} x {reason}" for reason, count in counted[:SHOWN_REASONS]]
    more = [f"{len(counted) - SHOWN_REASONS} more reasons"] if counted[SHOWN_REASONS:] else []
    beyond = [note for note in manifest["notes"] if "no pass treats" in note]
    return "; ".join([*parts, *more, *beyond])


def figure(found: TaskRun, settings: Settings) -> Figure:
    """The one figure of a task and pipeline against what must hold."""
    name = f"{found.task}, {found.pipeline}"
    bar = f"outputs equal to {EQUAL:g}" if found.pipeline == LOSSLESS else "never slower, in budget"
    wrong = defects(found)
    value = one_line("; ".join(wrong)) if wrong else verdicts(found)
    command = f".venv/bin/python benchmarks/run.py tasks --task {found.task} "
    made = holds(name, not wrong, value, bar)
    return Figure(**{**vars(made), "command": command + f"--target {settings.target}"})


def verdicts(found: TaskRun) -> str:
    """Both verdicts in a few words."""
    return f"{found.manifest['speed']['verdict']}, {found.manifest['quality']['verdict']}"


def defects(found: TaskRun) -> list[str]:
    """What must not be: no artifact, a broken promise, outputs that moved, too much memory."""
    if found.error:
        return [found.error]
    wrong = []
    lossless = found.pipeline == LOSSLESS
    if found.exit_code not in (WENT_THROUGH if lossless else HANDED_OVER):
        wrong.append(f"exit code {found.exit_code}, {verdicts(found)}")
    if lossless and not found.difference["relative"] <= EQUAL:
        wrong.append(f"outputs differ by {found.difference['relative']:.1e}")
    if found.peak_bytes > MAX_GIGABYTES * 1e9:
        wrong.append(f"peak memory {found.peak_bytes / 1e9:.1f} GB")
    return wrong


def markdown(outcome: Outcome) -> str:
    """The table as a page."""
    lines = [f"# {outcome.title}", "", cells(outcome.columns), cells(["---"] * len(COLUMNS))]
    return "\n".join([*lines, *(cells(one) for one in outcome.rows)]) + "\n"


def cells(values: Iterable[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def one_line(text: str) -> str:
    """Text without line breaks."""
    return " ".join(text.split())
