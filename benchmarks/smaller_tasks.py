"""Smaller shapes on other models than MiniLM: routing by attention, and a small language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

import planish
from benchmarks.artifacts import MODEL, compiled, megabytes, session_run
from benchmarks.bootstrap import drop_interval
from benchmarks.data import Array, Feeds, tasks
from benchmarks.figures import Figure, Outcome, at_most, interval
from benchmarks.settings import Settings
from benchmarks.shapes import as_planned

SEEDS = (0, 1, 2)
NO_GATE = "cosine=0.1"
"""Edits are judged here, not given back."""
WORSE = 1.0
"""Percent by which the mean tour may become longer."""

TOURS = {
    "heads and neurons -25 %": "prune-neurons{ratio=0.25},prune-heads{ratio=0.25}",
    "low rank, 75 % of the linear parameters": "low-rank{total=0.75 gain=size}",
}
INSTANCES, INSTANCES_A_FEED, FIRST_SEED = 1024, 64, 4321
"""Of calibration, as the task's own are; the first draw is that one."""

MAGNITUDE = "score=magnitude refit=false"
TEXT = {
    "neurons -10 %": "prune-neurons{{ratio=0.1 multiples=false {}}}",
    "one of 4 key/value groups of each layer": "prune-heads{{keep=3 multiples=false {}}}",
    "one key/value group of all 20": "prune-heads{{ratio=0.05 multiples=false {}}}",
}
SEQUENCES = 64
"""Of the 78 that calibrate, drawn at random."""


@dataclass(frozen=True)
class Scored:
    """A loss of each sample, [samples], what they amount to over chosen samples, and how much
    that is, in percent, more than before."""

    before: Array
    after: Array
    total: Callable[[Array], float]

    @property
    def value(self) -> float:
        """Over all samples."""
        return self.total(self.after)

    @cached_property
    def worse(self) -> tuple[float, float, float]:
        """Percent, with its 95 % interval."""
        every = np.arange(len(self.before))
        return (self._worse(every), *drop_interval(self._worse, len(every)))

    def _worse(self, index: Array) -> float:
        return 100 * (self.total(self.after[index]) / self.total(self.before[index]) - 1)


def tsp(settings: Settings) -> Outcome:
    """Tours of attention models whose encoders have fewer heads and neurons, or low rank."""
    rows, figures = list[tuple[str, ...]](), list[Figure]()
    for nodes in (20, 50):
        task = tasks().TASKS[f"tsp{nodes}"](settings.workdir)
        before = task.evaluate(session_run(task.model, settings.threads)).per_sample
        rows.append((task.name, "float32", f"{before.mean():.4f}", "", "", ""))
        for name, pipeline in TOURS.items():
            made = [built(task, pipeline, seed, points(seed, nodes), settings) for seed in SEEDS]
            found = [
                Scored(before, evaluated(task, each, settings).per_sample, np.mean) for each in made
            ]
            rows.append((task.name, name, *texts(found), size(made[0])))
            low, high = found[0].worse[1:]
            figures += [
                at_most(f"{task.name}, {name}: longer tours", median(found), WORSE, "%",
                        interval(low, high)),
                as_planned(f"{task.name}, {name}", task.model, made[0],
                           {"batch": INSTANCES_A_FEED, "nodes": nodes}),
            ]  # fmt: skip
    return Outcome(
        f"Greedy tours of 1000 instances, no training, median of {len(SEEDS)} draws of "
        f"{INSTANCES} calibration instances",
        ("model", "what goes", "mean length", "longer by, %", "95 % of the first", "MB"),
        tuple(rows),
        tuple(figures),
    )


def stories(settings: Settings) -> Outcome:
    """stories260K without a tenth of its neurons, or a key/value group: against magnitude."""
    task = tasks().stories260k(settings.workdir)
    lengths = [len(ids) - 1 for name, ids in task.sequences() if name == "stories"]
    before = by_story(task.evaluate(session_run(task.model, settings.threads)), lengths)
    rows: list[tuple[str, ...]] = [("float32", "", f"{perplexity(before):.4f}", "", "", "")]
    figures, sizes = list[Figure](), {"batch": 1, "sequence": 256}
    for name, form in TEXT.items():
        scores: dict[str, list[Scored]] = {}
        for way, asked in {"as planish does": "", "magnitude, no refit": MAGNITUDE}.items():
            made = [
                built(task, form.format(asked), seed, sequences(task, seed), settings)
                for seed in (SEEDS if not asked else SEEDS[:1])  # which looks at no data
            ]
            scores[way] = [
                Scored(before, by_story(evaluated(task, each, settings), lengths), perplexity)
                for each in made
            ]
            rows.append((name, way, *texts(scores[way]), size(made[0])))
            figures.append(as_planned(f"stories260K, {name}, {way}", task.model, made[0], sizes))
        ours, theirs = scores.values()
        figures.append(less_worse(name, ours, theirs))
    return Outcome(
        f"stories260K, perplexity of 120 stories, no training, median of {len(SEEDS)} draws of "
        f"{SEQUENCES} calibration stories",
        ("what goes", "how", "perplexity", "worse by, %", "95 % of the first", "MB"),
        tuple(rows),
        tuple(figures),
        ("intervals resample stories, not tokens",),
    )


def less_worse(name: str, ours: Sequence[Scored], theirs: Sequence[Scored]) -> Figure:
    """The perplexity against that of magnitude without refit."""
    _, low, high = theirs[0].worse
    found = float(np.median([score.value for score in ours]))
    note = f"worse by {median(ours):+.2f} % against {median(theirs):+.2f} % ({interval(low, high)})"
    return at_most(f"stories260K, {name}: perplexity, against magnitude without refit", found,
                   theirs[0].value, note=note)  # fmt: skip


def built(
    task: Any, pipeline: str, seed: int, feeds: Sequence[Feeds], settings: Settings
) -> planish.Artifact:
    """A task's model through a pipeline, with nothing given back."""
    name = "".join(c if c.isalnum() else "-" for c in pipeline)
    return compiled(
        settings.workdir / f"{task.name}-{name}-draw{seed}", task.model, feeds, settings,
        pipeline=f"canonicalize,{pipeline}", max_drift=NO_GATE, goal="size",
    )  # fmt: skip


def evaluated(task: Any, made: planish.Artifact, settings: Settings) -> Any:
    """The task's evaluation of an artifact."""
    return task.evaluate(session_run(made.path / MODEL, settings.threads))


def points(seed: int, nodes: int) -> list[Feeds]:
    """One draw of instances, uniform in the unit square; none is scored."""
    xy = tasks().uniform_like_torch(FIRST_SEED + seed, (INSTANCES, nodes, 2))
    return [{"xy": piece} for piece in np.split(xy, INSTANCES // INSTANCES_A_FEED)]


def sequences(task: Any, seed: int) -> list[Feeds]:
    """One draw of the stories that calibrate."""
    feeds = list(task.calibration())
    chosen = np.random.default_rng(seed).permutation(len(feeds))[:SEQUENCES]
    return [feeds[index] for index in chosen]


def by_story(found: Any, lengths: Sequence[int]) -> Array:
    """Summed loss in nats and tokens of each story, float64 [stories, 2]."""
    losses = np.split(found.per_sample[found.slices["stories"]], np.cumsum(lengths)[:-1])
    return np.array([(loss.sum(), len(loss)) for loss in losses])


def perplexity(stories: Array) -> float:
    """Per token, of rows [stories, 2] of summed loss and tokens."""
    loss, tokens = stories.sum(axis=0)
    return float(np.exp(loss / tokens))


def texts(scores: Sequence[Scored]) -> tuple[str, ...]:
    """Cells of a table: medians, and the interval of the first draw."""
    _, low, high = scores[0].worse
    value = np.median([score.value for score in scores])
    return f"{value:.4f}", f"{median(scores):+.2f}", f"{low:+.2f} … {high:+.2f}"


def median(scores: Sequence[Scored]) -> float:
    """Of the percent by which draws are worse."""
    return float(np.median([score.worse[0] for score in scores]))


def size(made: planish.Artifact) -> str:
    """10^6 bytes."""
    return f"{megabytes(made.path / MODEL):.3f}"
