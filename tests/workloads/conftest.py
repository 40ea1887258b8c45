"""Real models compiled once a session, and the benchmarks' own way of judging them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import planish

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for the package ``benchmarks``

from benchmarks.artifacts import compile_to
from benchmarks.data import calibration_draw, sentence_feeds
from benchmarks.settings import Settings

SENTENCES = 128


@pytest.fixture(scope="session")
def settings(workdir: Path) -> Settings:
    """The benchmarks' settings, with models and artifacts in the session's folder."""
    return Settings(workdir=workdir)


@pytest.fixture(scope="session")
def minilm(task: Callable[[str], Any], settings: Settings) -> Callable[[str], planish.Artifact]:
    """``minilm("static")``: MiniLM in int8 of that scheme, calibrated with 128 sentences."""

    @functools.cache
    def build(scheme: str) -> planish.Artifact:
        return compile_to(
            settings.workdir / f"minilm-{scheme}",
            task("minilm").model,
            settings.target,
            sentence_feeds(calibration_draw(0, SENTENCES), 16),
            settings.threads,
            pipeline=f"canonicalize,quantize{{scheme={scheme}}}",
        )

    return build


@pytest.fixture(scope="session")
def resnet(task: Callable[[str], Any], settings: Settings) -> Callable[[str], planish.Artifact]:
    """``resnet("resnet20")``: that network in static int8, calibrated with 512 images."""

    @functools.cache
    def build(name: str) -> planish.Artifact:
        return compile_to(
            settings.workdir / f"{name}-static",
            task(name).model,
            settings.target,
            task(name).calibration(512),
            settings.threads,
            pipeline="canonicalize,quantize{scheme=static}",
        )

    return build
