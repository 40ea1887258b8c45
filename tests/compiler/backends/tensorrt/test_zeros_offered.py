"""Compiles that ask for zeros in the pattern 2:4: where there are none, and what they gain."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from planish.compiler.driver import compile_model

ASKED = "canonicalize,sparsify{small=true score=magnitude refit=false permute=false}"
RNG = np.random.default_rng(11)


def layer() -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    header = '<ir_version: 8, opset_import: ["": 17]>'
    model = onnx.parser.parse_model(
        f"{header} g (float[n, 64] x) => (float[n, 64] y) {{ y = MatMul(x, w) }}"
    )
    weight = RNG.normal(size=(64, 64)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return model, [{"x": RNG.normal(size=(40, 64)).astype(np.float32)} for _ in range(6)]


def compiled(target: str, folder: Path) -> tuple[Any, str]:
    model, data = layer()
    built = compile_model(
        model, target, output=folder, calibration=data, threads=1, pipeline=ASKED,
        max_drift="sqnr=0",
    )  # fmt: skip
    return built.result, (folder / "report.md").read_text("utf8")


@pytest.mark.parametrize("target", ["x86-avx512-vnni", "arm-i8mm", "nvidia-t4"])
def test_without_kernels_nothing_is_done_and_the_report_says_why(
    tmp_path: Path, target: str
) -> None:
    result, report = compiled(target, tmp_path / "out")
    assert not any(edit.pass_name == "sparsify" for edit in result.edits)
    (refusal,) = (r for r in result.remarks if r.pass_name == "sparsify" and r.kind == "refused")
    assert refusal.code == "no-sparse-kernel"
    assert refusal.sentence in report
    assert "sparse-gain" not in report


@pytest.mark.parametrize(
    "target", ["nvidia-a100", "nvidia-h100", "nvidia-l4", "nvidia-jetson-orin"]
)
def test_with_kernels_the_report_says_what_gain_is_realistic_and_who_says_so(
    tmp_path: Path, target: str
) -> None:
    result, report = compiled(target, tmp_path / "out")
    (edit,) = (edit for edit in result.edits if edit.pass_name == "sparsify")
    assert edit.setting == "2:4"
    assert "up to 1.2 times as fast elsewhere, most of them less" in report
    assert "NVIDIA developer blog" in report


def test_the_command_line_ends_with_the_code_for_less_than_asked(tmp_path: Path) -> None:
    model, data = layer()
    onnx.save_model(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.concatenate([feed["x"] for feed in data]))
    words = [
        sys.executable, "-m", "planish", "compile", "m.onnx", "--target", "nvidia-t4", "-o", "out",
        "--calibration", "d.npz", "--passes", ASKED, "--threads", "1",
    ]  # fmt: skip
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "sparsify did nothing" in " ".join(said.split())
    assert "no-sparse-kernel" in (tmp_path / "out" / "report.md").read_text("utf8")
