"""The benchmarks on TensorRT: a transformer in three forms, and how Polygraphy is understood."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.polygraphy import inspected, lint
from benchmarks.settings import Settings
from benchmarks.tensorrt import FORMS, Checked, built, metric_of, sound


@pytest.mark.parametrize("form", [f for f in FORMS if f.name in ("int8", "fp8", "2:4 int8")],
                         ids=lambda form: form.name)  # fmt: skip
def test_nothing_objects_to_a_transformer_in_few_bits(form: object, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    line, figure = built("bart-encoder", form, Settings(workdir=tmp_path, threads=1))  # type: ignore[arg-type]
    assert figure.met, line
    assert line[4] == "8"


def test_an_artifact_with_a_finding_misses() -> None:
    clean = Checked((1.0, 0.5), (), "", True, (3, 0))
    assert sound("a", clean).met
    for broken in (
        Checked((1.0, 0.5), ("trt-scale",), "", True, (3, 0)),
        Checked((1.0, 0.5), (), "not valid", True, (3, 0)),
        Checked((1.0, 0.5), (), "", False, (3, 0)),
    ):
        assert sound("a", broken).met is False


@pytest.mark.parametrize(("better", "expected"), [(True, 2.0), (False, -2.0)])
def test_more_of_the_metric_is_better(better: bool, expected: float) -> None:
    task = SimpleNamespace(
        metric="m", higher_is_better=better,
        evaluate=lambda run: SimpleNamespace(metrics={"m": float(run({})[0])}),
    )  # fmt: skip
    assert metric_of(task)(lambda feeds: [np.float32(2)]) == expected


def program(folder: Path, script: str) -> Path:
    path = folder / "polygraphy"
    path.write_text(f"#!/bin/sh\n{script}\n", "utf8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_verdicts_are_read_by_tensor(tmp_path: Path) -> None:
    said = (
        'echo "[I] Found sparse tensor: w.0"\n'
        'echo "[W] Found non-sparse tensor: w.1_cast" >&2\necho "[I] Finished checking 2 tensors."'
    )
    assert inspected(program(tmp_path, said), tmp_path) == {"w.0": True, "w.1_cast": False}


def test_a_lint_that_fails_says_what(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    summary = '{"passing": ["a", "b"], "failing": ["c"]}'
    entry = f'{{"summary": {summary}, "lint_entries": [{{"message": "bad op"}}]}}'
    writes = program(tmp_path, f"echo '{entry}' > \"$5\"")
    assert lint(writes, tmp_path / "m.onnx", report) == "2 nodes passing, 1 failing: bad op"
    silent = program(tmp_path, "echo first >&2; echo 'no such file' >&2; exit 1")
    assert lint(silent, tmp_path / "m.onnx", report) == "no such file"
