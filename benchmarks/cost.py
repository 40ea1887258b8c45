"""What a compile itself costs: wall time and peak memory of a fresh command line process."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.data import ROOT, calibration_feeds, minilm_task, save_feeds
from benchmarks.figures import Outcome, at_most, holds
from benchmarks.settings import Settings

STATIC = "canonicalize,equalize,quantize{scheme=static}"
MAX_SECONDS, MAX_GIGABYTES = 60.0, 1.5
# Statuses of a compile that went through, whatever its verdict: ok, slower, undecided, no gain.
WENT_THROUGH = (0, 6, 7, 8)


def compile_command(settings: Settings, output: Path, *options: str) -> list[str]:
    """``planish compile`` of MiniLM with the first calibration draw, as a list of words."""
    model = minilm_task(settings.workdir).model
    data = save_feeds(calibration_feeds(0), settings.workdir / "minilm-calibration")
    return [
        sys.executable, "-m", "planish", "compile", str(model), "--target", settings.target,
        "--calibration", str(data), "--threads", str(settings.threads), "-o", str(output),
        "--force", *options,
    ]  # fmt: skip


def measured(command: list[str], workdir: Path) -> dict[str, Any]:
    """Seconds, CPU seconds, peak resident bytes and exit code of a command in a fresh process."""
    result = workdir / "measured.json"
    script = ROOT / "benchmarks" / "measure.py"
    words = [sys.executable, "-I", str(script), str(result), *command]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(result.read_text("utf8"))
    return found


def cost(settings: Settings) -> Outcome:
    """MiniLM, static int8, no evaluation: seconds and peak memory of the whole process."""
    command = compile_command(settings, settings.workdir / "minilm-cost", "--passes", STATIC)
    found = measured(command, settings.workdir)
    seconds, gigabytes = found["seconds"], found["peak_bytes"] / 1e9
    done = found["exit_code"]
    return Outcome(
        "The compile itself: MiniLM, static int8, 512 calibration sentences, fresh process",
        ("seconds", "CPU seconds", "peak GB", "exit code"),
        ((f"{seconds:.1f}", f"{found['cpu_seconds']:.1f}", f"{gigabytes:.2f}", str(done)),),
        (
            at_most("compile wall time", seconds, MAX_SECONDS, "s"),
            at_most("compile peak memory", gigabytes, MAX_GIGABYTES, "GB"),
            holds("compile went through", done in WENT_THROUGH, f"exit code {done}", "a model"),
        ),
        (f"command: {shlex.join(command)}",),
    )
