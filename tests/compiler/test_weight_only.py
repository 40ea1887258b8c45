"""Compiles for size: packed weights are proposed, chosen, handed over, and then left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.compiler.result import Built
from planish.passes import weight_only
from planish.passes.math.blockcodes import BlockCodes
from planish.passes.math.blockwise import round_blocks

TARGET = "x86-avx512-vnni"


def compiled(kit: ModuleType, model: Any, folder: Path, **options: Any) -> Built:
    given = {"goal": "size", "max_drift": "sqnr=10", "target": TARGET} | options
    return kit.compiled(model, folder, **given)  # type: ignore[no-any-return]


def test_the_smallest_is_chosen_replays_and_proves_itself(kit: ModuleType, tmp_path: Path) -> None:
    first = compiled(kit, kit.chain(3), tmp_path / "a")
    assert first.result.plan.pipeline == "canonicalize,weight-only"
    assert first.result.bytes_after < 0.25 * first.result.bytes_before
    assert all((edit.runtime_loss or 0.0) > 0 for edit in first.result.edits)
    command = [sys.executable, "-I", str(first.folder / "verify.py")]
    assert subprocess.run(command, capture_output=True).returncode == 0
    again = compiled(kit, kit.chain(3), tmp_path / "b", plan=first.folder)
    one, two = ((b.folder / "model.onnx").read_bytes() for b in (first, again))
    assert one == two


def test_what_was_packed_is_not_packed_again(kit: ModuleType, tmp_path: Path) -> None:
    first = compiled(kit, kit.chain(2), tmp_path / "a", pipeline="canonicalize,weight-only")
    again = compiled(kit, first.folder / "model.onnx", tmp_path / "b")
    assert again.result.edits == ()
    assert again.result.bytes_after == again.result.bytes_before == first.result.bytes_after
    assert "already-quantized" in {remark.code for remark in again.result.remarks}


def test_too_much_loss_gives_sites_back_and_computes_no_codes_twice(
    kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(weight: np.ndarray, **form: Any) -> BlockCodes:
        calls.append(weight.shape)
        return round_blocks(weight, **form)

    monkeypatch.setattr(weight_only, "round_blocks", counted)
    pipeline = "canonicalize,weight-only{bits=2 method=round}"
    bounded = compiled(kit, kit.chain(3), tmp_path / "a", pipeline=pipeline, max_drift="sqnr=6")
    assert bounded.result.quality.verdict == "within-budget"
    assert bounded.result.plan.given_back["weight-only"]
    assert 0 < len(bounded.result.edits) < 3
    assert calls == [(64, 64)] * 3
