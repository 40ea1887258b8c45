"""A plan replays to identical bytes, whatever is measured the second time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import planish
from benchmarks.artifacts import MODEL, compile_to, sha256
from benchmarks.data import Feeds, calibration_draw, sentence_feeds
from benchmarks.settings import Settings

Build = Callable[[str], planish.Artifact]


def replay(first: planish.Artifact, model: Path, feeds: list[Feeds], settings: Settings) -> str:
    """SHA-256 of the model that the first one's manifest replays to."""
    folder = first.path.with_name(f"{first.path.name}-replayed")
    plan = first.path / "manifest.json"
    again = compile_to(folder, model, settings.target, feeds, settings.threads, plan=plan)
    return sha256(again.path / MODEL)


def test_a_network_replays_twice(
    resnet: Build, task: Callable[[str], Any], settings: Settings
) -> None:
    first, made = resnet("resnet20"), task("resnet20")
    digests = {replay(first, made.model, list(made.calibration(512)), settings) for _ in range(2)}
    assert digests == {sha256(first.path / MODEL)}


@pytest.mark.torch
def test_minilm_replays(minilm: Build, task: Callable[[str], Any], settings: Settings) -> None:
    feeds = sentence_feeds(calibration_draw(0, 128), 16)
    first = minilm("static")
    assert replay(first, task("minilm").model, feeds, settings) == sha256(first.path / MODEL)
