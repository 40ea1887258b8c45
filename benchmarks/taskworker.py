"""One task in a process of its own: compile it, and judge what comes out with the task's own data.

    python benchmarks/taskworker.py NAME PIPELINE FOLDER TARGET THREADS

FOLDER gets ``found.json`` (see ``TaskRun``), the artifact, and what the compile printed. The
compile itself is another fresh process again, so that its memory is its own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# The root holds a folder ``planish`` that is not the package: it goes last, as in run.py.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.artifacts import MODEL, megabytes, session_run
from benchmarks.data import ROOT, Array, Feeds, Run, minilm_task, save_feeds, tasks

LOSSLESS, DEFAULT = "lossless", "default"
OPTIONS: Mapping[str, tuple[str, ...]] = {
    LOSSLESS: ("--passes", "canonicalize"),
    DEFAULT: (),
}
"""What each pipeline adds to ``planish compile MODEL --calibration FEEDS``."""

CALIBRATION_SAMPLES = 256
STREAMED_FRAMES = 4096  # audio: this many frames, of which CALIBRATION_SAMPLES are taken evenly
FOUND = "found.json"


@dataclass(frozen=True)
class Difference:
    """How far a model's outputs are from the original's on the same feeds.

    relative: the largest difference of any element over the largest magnitude of its output in
    that feed. equal_bits: whether no element differs at all. feeds: how many were compared.
    """

    relative: float = 0.0
    equal_bits: bool = True
    feeds: int = 0

    def with_feed(self, before: Sequence[Array], after: Sequence[Array]) -> Difference:
        """With one more feed's outputs, in the order of the model's."""
        apart = [relative_difference(a, b) for a, b in zip(before, after, strict=True)]
        return Difference(
            max(self.relative, *apart), self.equal_bits and not any(apart), self.feeds + 1
        )


@dataclass(frozen=True)
class TaskRun:
    """What one task came to. quality: the task's own metrics before and after.

    difference: on the feeds of the task's evaluation, as the original meets them (states of
    recurrent models are the original's). error: why there is no artifact; "" where there is one.
    """

    task: str
    pipeline: str
    model: str
    exit_code: int
    seconds: float
    peak_bytes: int
    cpu_seconds: float = 0.0
    error: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    screen: str = ""
    metric: str = ""
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    sizes: tuple[float, float] = (0.0, 0.0)
    difference: Mapping[str, Any] = field(default_factory=dict)


def relative_difference(before: Array, after: Array) -> float:
    """Largest difference over the largest magnitude; infinite for another shape or type.

    Equal infinities and NaNs do not differ. Booleans and integers count as numbers.
    """
    if (before.shape, before.dtype) != (after.shape, after.dtype):
        return float("inf")
    if before.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(before, after) else float("inf")
    first, second = before.astype(np.float64), after.astype(np.float64)
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(first - second))
    scale = np.abs(first[np.isfinite(first)]).max(initial=0.0)
    worst = float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))
    return worst / max(float(scale), 1e-30) if worst else 0.0


def build_task(name: str, workdir: Path) -> Any:
    """The task of that name; MiniLM is scored on English alone."""
    return minilm_task(workdir) if name == "minilm" else tasks().TASKS[name](workdir)


def calibration(task: Any) -> list[Feeds]:
    """Feeds of about 256 samples; of streams, frames from all over them."""
    if task.domain != "audio":
        return list(task.calibration(CALIBRATION_SAMPLES))
    frames = list(task.calibration(STREAMED_FRAMES))
    chosen = np.linspace(0, len(frames) - 1, CALIBRATION_SAMPLES).astype(int)
    return [frames[i] for i in chosen]


def compared(original: Run, compiled: Run) -> tuple[Run, list[Difference]]:
    """A run that answers as the original does, and what it found of the other so far."""
    found = [Difference()]

    def run(feeds: Feeds) -> Sequence[Array]:
        before = original(feeds)
        found[0] = found[0].with_feed(before, compiled(feeds))
        return before

    return run, found


def compile_words(
    model: Path | str, data: Path, out: Path, target: str, threads: int, options: Sequence[str]
) -> list[str]:
    """``planish compile`` of a model as a list of words."""
    return [
        sys.executable, "-m", "planish", "compile", str(model), "--target", target,
        "--calibration", str(data), "--threads", str(threads), "-o", str(out), "--force",
        *options,
    ]  # fmt: skip


def compile_measured(words: Sequence[str], folder: Path) -> tuple[dict[str, Any], str, str]:
    """Run the compile; its seconds, peak memory and status, and what it printed and complained."""
    result = folder / "measured.json"
    script = ROOT / "benchmarks" / "measure.py"
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(result), *words],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(result.read_text("utf8"))
    return found, done.stdout, done.stderr


def run_task(name: str, pipeline: str, folder: Path, target: str, threads: int) -> TaskRun:
    """Compile one task with one pipeline and judge the artifact."""
    task = build_task(name, folder.parent)
    data = save_feeds(calibration(task), folder / "calibration")
    out = folder / "artifact"
    shutil.rmtree(out, ignore_errors=True)  # what an earlier run left would be judged for this one
    words = compile_words(task.model, data, out, target, threads, OPTIONS[pipeline])
    cost, screen, complaint = compile_measured(words, folder)
    (folder / "screen.txt").write_text(screen + complaint, "utf8")
    plain = TaskRun(
        name, pipeline, task.model.name, cost["exit_code"], cost["seconds"], cost["peak_bytes"],
        cpu_seconds=cost["cpu_seconds"], screen=screen, metric=task.metric,
    )  # fmt: skip
    if not (out / MODEL).is_file():
        return TaskRun(**{**vars(plain), "error": (complaint or screen).strip()[-800:]})
    return TaskRun(**{**vars(plain), **judged(task, out, threads)})


def judged(task: Any, out: Path, threads: int) -> dict[str, Any]:
    """The task's own metrics and outputs, before and after, as fields of ``TaskRun``."""
    compiled = session_run(out / MODEL, threads)
    run, found = compared(session_run(task.model, threads), compiled)
    before = task.evaluate(run)
    return {
        "before": before.metrics,
        "after": task.evaluate(compiled).metrics,
        "difference": asdict(found[0]),
        "sizes": (megabytes(task.model), megabytes(out / MODEL)),
        "manifest": json.loads((out / "manifest.json").read_text("utf8")),
    }


def main(name: str, pipeline: str, folder: Path, target: str, threads: int) -> None:
    """Run one task and write what was found."""
    folder.mkdir(parents=True, exist_ok=True)
    found = run_task(name, pipeline, folder, target, threads)
    (folder / FOUND).write_text(json.dumps(asdict(found), ensure_ascii=False), "utf8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
