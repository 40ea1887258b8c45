"""The evaluation data, as the benchmarks use it.

The folder is the one named by ``$PLANISH_TEST_DATA``, else the one beside the repository; its
``tasks.py`` makes models, feeds and scores of it.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Run = Callable[[Feeds], Sequence[Array]]

ROOT = Path(__file__).resolve().parent.parent
DATA_VARIABLE = "PLANISH_TEST_DATA"
CALIBRATION_SENTENCES = 512
CALIBRATION_BATCH = 16  # that of the task's own calibration feeds
HELD_OUT_SENTENCES = 128


class NoDataError(Exception):
    """The evaluation data is not on this machine."""


def data_folder() -> Path:
    """The folder that holds ``tasks.py``. Raises NoDataError."""
    folder = Path(os.environ.get(DATA_VARIABLE) or ROOT.parent / "shared" / "data")
    if not (folder / "tasks.py").is_file():
        raise NoDataError(f"no evaluation data; set {DATA_VARIABLE} to the folder of its tasks.py")
    return folder


@functools.cache
def tasks() -> ModuleType:
    """The module ``tasks`` of the evaluation data."""
    spec = importlib.util.spec_from_file_location("tasks", data_folder() / "tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tasks"] = module  # its dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def minilm_task(workdir: Path) -> Any:
    """MiniLM on English STS-B, its model exported once into ``workdir``."""
    return tasks().minilm(workdir, languages=("en",))


def calibration_pool() -> list[str]:
    """The sentences that MiniLM may be calibrated with: none of STS-B dev or test."""
    module = tasks()
    scored = {
        text
        for split in ("dev", "test")
        for column in module.stsb("en", split)[:2]
        for text in column
    }
    return [text for text in module.domain_text("general") if text not in scored]


def calibration_draw(seed: int, count: int = CALIBRATION_SENTENCES, start: int = 0) -> list[str]:
    """``count`` different sentences, drawn at random from the pool, ``start`` left out."""
    pool = calibration_pool()
    chosen = np.random.default_rng(seed).permutation(len(pool))[start : start + count]
    return [pool[index] for index in chosen]


def sentence_feeds(sentences: Sequence[str], batch: int) -> list[Feeds]:
    """Feeds of ``batch`` sentences each, in order, padded to the longest of the feed."""
    tokenize = tasks().SentenceFeeds()
    return [tokenize(sentences[i : i + batch]) for i in range(0, len(sentences), batch)]


def calibration_feeds(seed: int) -> list[Feeds]:
    """One calibration draw as feeds of 16 sentences."""
    return sentence_feeds(calibration_draw(seed), CALIBRATION_BATCH)


def held_out_feeds(seed: int) -> list[Feeds]:
    """Sentences of the pool that the calibration draw of that seed leaves, in feeds of 16."""
    left = calibration_draw(seed, HELD_OUT_SENTENCES, CALIBRATION_SENTENCES)
    return sentence_feeds(left, CALIBRATION_BATCH)


def save_feeds(feeds: Iterable[Feeds], folder: Path) -> Path:
    """Write each feed to an ``.npz`` of its own, as the command line takes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.npz"):
        stale.unlink()
    for index, feed in enumerate(feeds):
        np.savez(folder / f"{index:04}.npz", **feed)  # type: ignore[arg-type]
    return folder
