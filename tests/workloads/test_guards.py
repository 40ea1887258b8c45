"""Never silently worse, and never a gain that is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import planish
from benchmarks import guards, peers
from benchmarks.artifacts import MODEL, compile_to
from benchmarks.data import save_feeds
from benchmarks.settings import Settings

FRESH = guards.ruined_feeds(4, seed=99)


@pytest.fixture(scope="module")
def ruined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return guards.ruined_model(tmp_path_factory.mktemp("ruined") / "ruined.onnx")


def compile_ruined(ruined: Path, settings: Settings, **options: str) -> planish.Artifact:
    folder = ruined.parent / "out"
    feeds = guards.ruined_feeds(10, seed=1)
    return compile_to(folder, ruined, settings.target, feeds, settings.threads, **options)


def test_int8_everywhere_ruins_the_model(ruined: Path, tmp_path: Path, settings: Settings) -> None:
    dynamic = peers.onnxruntime_dynamic(ruined, tmp_path / "dynamic.onnx")
    assert guards.sqnr(dynamic, ruined, FRESH, settings.threads) < guards.BLIND_SQNR
    feeds = guards.ruined_feeds(10, seed=1)
    static = peers.onnxruntime_static(ruined, feeds, tmp_path / "static.onnx")
    assert guards.sqnr(static, ruined, FRESH, settings.threads) < guards.BLIND_SQNR


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_sites_are_given_back_until_the_gate_holds(
    scheme: str, ruined: Path, settings: Settings
) -> None:
    pipeline = f"canonicalize,quantize{{scheme={scheme}}}"
    artifact = compile_ruined(ruined, settings, pipeline=pipeline)
    kept = guards.sqnr(artifact.path / MODEL, ruined, FRESH, settings.threads)
    assert guards.is_honest(artifact.manifest, kept)
    assert set(guards.given_back(artifact.manifest)) == {"up1", "up2", "head"}
    kept_sites = {e["site"] for e in artifact.manifest["edits"] if e["pass"] == "quantize"}
    assert kept_sites == {"down1", "down2"}  # what int8 does not hurt is still quantized


def test_the_policy_is_honest_too(ruined: Path, settings: Settings) -> None:
    artifact = compile_ruined(ruined, settings)
    kept = guards.sqnr(artifact.path / MODEL, ruined, FRESH, settings.threads)
    assert guards.is_honest(artifact.manifest, kept)


def test_a_gate_that_only_float_can_hold_leaves_nothing_quantized(
    ruined: Path, settings: Settings
) -> None:
    options = {"pipeline": guards.STATIC, "max_drift": "sqnr=150"}
    artifact = compile_ruined(ruined, settings, **options)
    quality = artifact.manifest["quality"]
    kept = guards.sqnr(artifact.path / MODEL, ruined, FRESH, settings.threads)
    assert quality["gate"].startswith("sqnr >= 150")
    assert (artifact.exit_code == 5) == (quality["verdict"] == "over-budget")
    assert quality["verdict"] == "over-budget" or kept >= 100


def test_a_model_too_small_to_gain_is_handed_over_lossless(
    tmp_path: Path, settings: Settings
) -> None:
    original = guards.tiny_model(tmp_path / "tiny.onnx")
    data = save_feeds(guards.tiny_feeds(20, seed=1), tmp_path / "feeds")
    words = [sys.executable, "-m", "planish", "compile", str(original), "--target",
             settings.target, "--calibration", str(data), "--threads", "1", "--json",
             "-o", str(tmp_path / "out")]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == guards.NO_GAIN, done.stderr
    document = json.loads(done.stdout)
    assert document["speed"]["verdict"] == "no-gain"
    assert document["quality"]["verdict"] == "within-budget"
    assert guards.is_lossless(tmp_path / "out" / MODEL, original)
