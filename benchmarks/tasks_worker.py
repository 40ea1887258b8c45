"""Steps of the contest on one task, each in a process of its own (see ``tasks_contest``).

    python benchmarks/tasks_worker.py prepare NAME FOLDER THREADS
    python benchmarks/tasks_worker.py judge NAME FOLDER THREADS MODEL SCORE
    python benchmarks/tasks_worker.py race FOLDER THREADS ROUNDS MODELS

``prepare`` writes the calibration feeds, the feeds to time and what the float model scores;
``judge`` what one model scores on the same data; ``race`` times models by turns.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

# The root holds a folder ``planish`` that is not the package: it goes last, as in run.py.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.artifacts import session_run
from benchmarks.data import Array, Feeds, Run, save_feeds
from benchmarks.peers_worker import Folder
from benchmarks.taskworker import build_task, calibration
from benchmarks.timing import alternate

TASK, RACE = "task.json", "race.json"
CALIBRATION, TIMED, FLOAT = "calibration", "timed", "float.npz"
PASS_SECONDS = 0.5
"""One pass of the float model over the timed feeds takes about this long, or as one feed does."""
MOST_TIMED = 200


class Recorder:
    """A run that remembers its feeds, and how long each took."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.feeds: list[Feeds] = []
        self.seconds: list[float] = []

    def __call__(self, feeds: Feeds) -> Sequence[Array]:
        start = time.perf_counter()
        outputs = self.run(feeds)
        self.seconds.append(time.perf_counter() - start)
        self.feeds.append({name: array.copy() for name, array in feeds.items()})
        return outputs

    def sample(self, seconds: float = PASS_SECONDS, most: int = MOST_TIMED) -> list[Feeds]:
        """Feeds from all over the run, together as long as ``seconds``; at least one."""
        mean = max(float(np.mean(self.seconds)), 1e-9)
        count = min(max(1, int(seconds / mean)), most, len(self.feeds))
        chosen = np.linspace(0, len(self.feeds) - 1, count).astype(int)
        return [self.feeds[i] for i in chosen]


def prepare(name: str, folder: Path, threads: int) -> None:
    """Build the task, save its feeds and score the float model."""
    task = build_task(name, folder.parent)
    data = save_feeds(calibration(task), folder / CALIBRATION)
    recorder = Recorder(session_run(task.model, threads))
    found = task.evaluate(recorder)
    save_feeds(recorder.sample(), folder / TIMED)
    how, mask = aggregation(found, task.metric)
    write_score(folder / FLOAT, found, task.metric, found.outputs)
    np.savez(folder / "mask.npz", mask=mask)
    document = {
        "task": name, "model": str(task.model), "metric": task.metric, "aggregate": how,
        "higher_is_better": task.higher_is_better,
        "kind": "transformer" if has_attention(task.model) else "any",
        "digest": digest(task.model, data), "samples": int(np.count_nonzero(mask)),
        "feeds": len(recorder.feeds),
    }  # fmt: skip
    (folder / TASK).write_text(json.dumps(document, indent=1), "utf8")


def aggregation(found: Any, metric: str) -> tuple[str, Array]:
    """How the metric comes of ``per_sample``: "mean" or "exp" (of the mean) over the samples in
    the mask; "sample" where neither gives it, and the mean of all stands beside it."""
    everything = np.ones(len(found.per_sample), bool)
    value = found.metrics[metric]
    masks = [everything, *found.slices.values()]
    for how, function in (("mean", np.asarray), ("exp", np.exp)):
        for mask in masks:
            mean = found.per_sample[mask].mean()
            if np.isclose(function(mean), value, rtol=1e-6, atol=1e-9):
                return how, mask
    return "sample", everything


def has_attention(model: Path) -> bool:
    """Whether a softmax goes into a matrix product, or an attention operator is there."""
    graph = onnx.load(model, load_external_data=False).graph
    nodes = list(graph.node)
    made = {name for node in nodes if node.op_type == "Softmax" for name in node.output}
    return any(
        "Attention" in node.op_type or (node.op_type == "MatMul" and made & set(node.input))
        for node in nodes
    )


def digest(model: Path, feeds: Path) -> str:
    """Of the model's bytes and the calibration feeds."""
    state = hashlib.sha256(model.read_bytes())
    for feed in Folder(feeds):
        for name, array in sorted(feed.items()):
            state.update(f"{name} {array.dtype} {array.shape}".encode())
            state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()[:16]


def judge(name: str, folder: Path, threads: int, model: Path, score: Path) -> None:
    """Score one model with the task's own data."""
    task = build_task(name, folder.parent)
    found = task.evaluate(session_run(model, threads))
    with np.load(folder / FLOAT) as before:
        ratio = sqnr(stored(before), flat(found.outputs))
    write_score(score, found, task.metric, None, ratio)


def stored(archive: Any) -> list[Array]:
    """The outputs that ``write_score`` kept, in order."""
    names = sorted((n for n in archive.files if n.startswith("output")), key=lambda n: int(n[6:]))
    return [archive[n] for n in names]


def flat(outputs: Any) -> list[Array]:
    """Outputs of an evaluation as a list of arrays."""
    return list(outputs) if isinstance(outputs, list) else [outputs]


def write_score(
    path: Path, found: Any, metric: str, outputs: Any, ratio: float = float("inf")
) -> None:
    """Per-sample scores, the metric, the signal to noise ratio; of the float model its outputs."""
    kept = {} if outputs is None else {f"output{i}": a for i, a in enumerate(flat(outputs))}
    arrays = {"per_sample": found.per_sample, "value": np.array(found.metrics[metric])}
    np.savez(path, sqnr=np.array(ratio), **arrays, **kept)  # type: ignore[arg-type]


def sqnr(before: Sequence[Array], after: Sequence[Array]) -> float:
    """Signal to noise ratio in dB over all outputs; NaN where there are new NaNs or shapes."""
    signal = noise = 0.0
    for first, second in zip(before, after, strict=True):
        if first.shape != second.shape or not np.isfinite(second[np.isfinite(first)]).all():
            return float("nan")
        known = np.isfinite(first)
        expected = first[known].astype(np.float64)
        signal += float((expected**2).sum())
        noise += float(((second[known] - expected) ** 2).sum())
    return float(10 * np.log10(signal / noise)) if noise and signal else float("inf")


def race(folder: Path, threads: int, rounds: int, models: dict[str, str]) -> None:
    """Time models by turns over the timed feeds; seconds [rounds] of a pass by contender."""
    load = os.getloadavg()[0]
    feeds = list(Folder(folder / TIMED))
    runs = {name: session_run(Path(path), threads) for name, path in models.items()}
    taken = alternate(runs, feeds, rounds=rounds)
    document = {
        "load": load, "feeds": len(feeds), "threads": threads,
        "seconds": {name: list(seconds) for name, seconds in taken.seconds.items()},
    }  # fmt: skip
    (folder / RACE).write_text(json.dumps(document), "utf8")


def main(words: Sequence[str]) -> None:
    """One step."""
    step, *rest = words
    if step == "race":
        race(Path(rest[0]), int(rest[1]), int(rest[2]), json.loads(Path(rest[3]).read_text("utf8")))
        return
    name, folder, threads = rest[0], Path(rest[1]), int(rest[2])
    folder.mkdir(parents=True, exist_ok=True)
    if step == "prepare":
        prepare(name, folder, threads)
    else:
        judge(name, folder, threads, Path(rest[3]), Path(rest[4]))


if __name__ == "__main__":
    main(sys.argv[1:])
