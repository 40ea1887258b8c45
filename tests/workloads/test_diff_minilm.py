"""The difference of MiniLM and its int8 artifact: who did what and why, replay, and no names.

A fixed sample of ``benchmarks/run.py diff-minilm``, which prunes and factorizes as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import planish
from benchmarks.artifacts import MODEL
from benchmarks.diff_minilm import explained, played_back, stripped
from planish.compiler.diffing import ModelDiff, compare

pytestmark = pytest.mark.torch  # exports the model


@pytest.fixture(scope="module")
def told(task: Callable[[str], Any], minilm: Callable[[str], planish.Artifact]) -> ModelDiff:
    return compare(task("minilm").model, minilm("static").path)


def test_every_hunk_says_by_whom_and_why(told: ModelDiff) -> None:
    document = told.to_json()
    assert document["hunks"]
    assert [hunk["id"] for hunk in document["hunks"] if not explained(hunk)] == []
    weights = [w for hunk in document["hunks"] for w in hunk["weights"] if w["before"]]
    errors = [w["relative_error"] for w in weights if w["relative_error"] is not None]
    assert len(errors) >= 36
    assert 0 < max(errors) < 0.1


def test_it_can_be_played(told: ModelDiff) -> None:
    (figure,) = played_back(told)
    assert figure.met


def test_pairs_without_names_and_lineage(
    told: ModelDiff, task: Callable[[str], Any], minilm: Callable[[str], planish.Artifact]
) -> None:
    figures = stripped(told, task("minilm").model, minilm("static").path / MODEL)
    assert [figure.name for figure in figures if not figure.met] == []
