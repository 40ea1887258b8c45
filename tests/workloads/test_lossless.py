"""Every task through the lossless pipeline answers as the original does.

Compared are the first feeds that the task's own evaluation asks for; ``benchmarks/run.py tasks``
compares all of them. All spellings of the runtime that apply are tried: here they always pay.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import planish
from benchmarks.artifacts import MODEL, compile_to, session_run
from benchmarks.data import Array, Feeds, Run
from benchmarks.settings import Settings
from benchmarks.tasks import EQUAL
from benchmarks.taskworker import relative_difference
from planish.compiler import choose
from planish.compiler.timing import Paired

EXPORTED = ("minilm", "minilm_sst2", "stories260k", "resnet56", "tsp20", "tsp50")
READ = (
    "resnet20", "squeezenet", "yolox_nano", "magika", "silero_vad", "silero_vad_branches",
    "gtcrn", "rlfn", "mobilesr", "msdn", "nnsplit", "mnist", "mnist_cnn",
)  # fmt: skip
NAMES = [*READ, *(pytest.param(name, marks=pytest.mark.torch) for name in EXPORTED)]
STREAMS = ("silero_vad", "silero_vad_branches", "gtcrn")
SAMPLES, FRAMES = 20, 60


class EnoughError(Exception):
    """The evaluation has asked for as many feeds as are compared."""


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clock: of the sessions that are compared the first is the fastest."""

    def made_up(sessions: Sequence[Any], feeds: Any, *, budget: float = 0.0) -> Paired:
        seconds = np.ones((len(sessions), 11))
        seconds[1:] = 1.5
        return Paired(seconds)

    monkeypatch.setattr(choose, "time_alternating", made_up)


def held_out(task: Any, run: Run, count: int) -> list[Feeds]:
    """The first feeds of the task's evaluation; states are those of the original."""
    seen: list[Feeds] = []

    def recorded(feeds: Feeds) -> Sequence[Array]:
        seen.append(feeds)
        if len(seen) == count:
            raise EnoughError
        return run(feeds)

    with pytest.raises(EnoughError):
        task.evaluate(recorded)
    return seen


def first_feeds(task: Any, samples: int) -> Iterator[Feeds]:
    feeds: Iterator[Feeds] = task.calibration(samples)
    return feeds


def compiled(task: Any, settings: Settings, pipeline: str | None) -> planish.Artifact:
    feeds = list(itertools.islice(first_feeds(task, SAMPLES), 10))
    folder = settings.workdir / f"{task.name}-lossless"
    return compile_to(folder, task.model, settings.target, feeds, 1, pipeline=pipeline)


def test_no_task_is_left_out(tasks: Any) -> None:
    assert sorted((*EXPORTED, *READ)) == sorted(tasks.TASKS)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_the_original(
    name: str, task: Callable[[str], Any], settings: Settings
) -> None:
    made = task(name)
    artifact = compiled(made, settings, "canonicalize")
    assert all(edit["loss"] is None for edit in artifact.manifest["edits"])
    assert artifact.manifest["quality"]["verdict"] == "within-budget"
    before, after = session_run(made.model, 1), session_run(artifact.path / MODEL, 1)
    feeds = held_out(made, before, FRAMES if name in STREAMS else 3)
    for feed in feeds:
        pairs = zip(before(feed), after(feed), strict=True)
        assert max(relative_difference(one, two) for one, two in pairs) <= EQUAL
