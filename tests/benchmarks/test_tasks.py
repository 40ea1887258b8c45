"""The table of all tasks: a broken one is a defect of its own line, and none is overlooked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tasks
from benchmarks.settings import Settings
from benchmarks.taskworker import (
    DEFAULT,
    FOUND,
    LOSSLESS,
    Difference,
    TaskRun,
    compared,
    relative_difference,
)

MANIFEST: dict[str, Any] = {
    "speed": {"verdict": "faster", "ratio": 2.0, "low": 1.9, "high": 2.1, "before": 4, "after": 2},
    "quality": {
        "verdict": "within-budget",
        "gate": "top1 >= 99 %",
        "drift": {"y": {"sqnr_db": 31.25}, "z": {"sqnr_db": "inf"}, "label": {"top1": 100.0}},
    },
    "kernels": {
        "sites": [
            {"integer": False, "reason": "used\ntwice"},
            {"integer": False, "reason": "too small"},
            {"integer": False, "reason": "too small"},
            {"integer": True, "reason": ""},
        ]
    },
    "notes": ["a note", "97% of the parameters are in nodes that no pass treats: 3 LSTM"],
}


def found(pipeline: str = DEFAULT, relative: float = 0.0, **other: Any) -> TaskRun:
    difference = {"relative": relative, "equal_bits": not relative, "feeds": 3}
    fields: dict[str, Any] = {
        "task": "t", "pipeline": pipeline, "model": "t.onnx", "exit_code": 0, "seconds": 1.0,
        "peak_bytes": 10**9, "cpu_seconds": 0.5, "manifest": MANIFEST, "metric": "top1",
        "before": {"top1": 92.56}, "after": {"top1": 92.15}, "sizes": (4.0, 1.0),
        "difference": difference,
    }  # fmt: skip
    return TaskRun(**(fields | other))


def test_a_difference_is_relative_to_the_largest_magnitude() -> None:
    before = np.array([1.0, -8.0, np.inf, np.nan], np.float32)
    assert relative_difference(before, before.copy()) == 0
    after = before + np.array([0.0, 0.5, 0.0, 0.0], np.float32)
    assert relative_difference(before, after) == 0.5 / 8


@pytest.mark.parametrize(
    "after",
    [
        np.array([1.0, np.nan], np.float32),
        np.array([[1.0, 2.0]], np.float32),
        np.array([1.0, 2.0], np.float64),
        np.array([1.0, np.inf], np.float32),
    ],
)
def test_new_nans_shapes_and_types_are_infinitely_far(after: np.ndarray) -> None:
    assert relative_difference(np.array([1.0, 2.0], np.float32), after) == np.inf


def test_outputs_are_compared_on_the_feeds_of_the_original() -> None:
    run, difference = compared(lambda feed: [feed["x"]], lambda feed: [feed["x"] * 1.25])
    assert run({"x": np.array([4.0, 2.0])})[0][0] == 4.0
    run({"x": np.zeros(2)})
    assert difference == [Difference(0.25, equal_bits=False, feeds=2)]


def test_what_may_not_be_handed_over_is_a_defect() -> None:
    assert tasks.defects(found()) == []
    assert tasks.defects(found(exit_code=8)) == []
    assert "exit code 6" in tasks.defects(found(exit_code=6))[0]
    assert "exit code 5" in tasks.defects(found(exit_code=5))[0]
    assert tasks.defects(found(LOSSLESS, exit_code=6)) == []
    assert "differ by 1.0e-03" in tasks.defects(found(LOSSLESS, relative=1e-3))[0]
    assert "differ" in tasks.defects(found(LOSSLESS, relative=np.nan))[0]
    assert tasks.defects(found(DEFAULT, relative=0.1)) == []
    assert "peak memory 5.0 GB" in tasks.defects(found(peak_bytes=5 * 10**9))[0]
    assert tasks.defects(found(error="crashed")) == ["crashed"]


def test_a_row_has_a_cell_for_each_column_and_says_why_sites_were_left() -> None:
    row = tasks.row(found())
    assert len(row) == len(tasks.COLUMNS) == len(tasks.row(found(error="a\nb")))
    assert row[2] == "faster 2.00x (1.90-2.10), 4 -> 2"
    assert row[3] == "within-budget (top1 >= 99 %), top1 92.56 -> 92.15"
    assert row[6] == "1.0, 0.5"
    lstm = "97% of the parameters are in nodes that no pass treats: 3 LSTM"
    assert row[-1] == f"2 x too small; 1 x used twice; {lstm}"


def test_outputs_are_equal_or_so_far_away() -> None:
    assert tasks.difference_cell(found(LOSSLESS)) == "equal bits"
    assert tasks.difference_cell(found(LOSSLESS, relative=2e-6)) == "2.0e-06"
    assert tasks.difference_cell(found(DEFAULT, relative=2.5)) == "SQNR 31.2 dB"


def test_a_crash_and_a_timeout_end_that_task_alone(tmp_path: Path) -> None:
    crash = [sys.executable, "-c", "raise RuntimeError('no model')"]
    assert tasks.finish(crash, 30.0) == "crashed: RuntimeError: no model"
    assert tasks.finish([sys.executable, "-c", "print('fine')"], 30.0) == ""
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(3); open({str(mark)!r}, 'w')"
    forever = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert tasks.finish([sys.executable, "-c", forever], 0.5) == "not done after 0.5 s"
    assert not mark.exists()  # its child holds the pipe, too: alive, it would be awaited


def test_every_task_gets_a_line_whatever_becomes_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(words: list[str], timeout: float) -> str:
        if "bad" in words:
            return "not done after 9 s"
        (Path(words[4]) / FOUND).write_text(json.dumps(vars(found(task=words[2]))), "utf8")
        return ""

    monkeypatch.setattr(tasks, "chosen", lambda names: ["bad", "good"])
    monkeypatch.setattr(tasks, "finish", finish)
    outcome = tasks.everything(Settings(workdir=tmp_path, lossless_only=True, timeout=9))
    assert [figure.word for figure in outcome.figures] == ["miss", "pass"]
    assert outcome.figures[0].value == "not done after 9 s"
    page = (tmp_path / tasks.TABLE).read_text("utf8")
    assert page.count("\n") == 6
    assert "| not done after 9 s |" in page
