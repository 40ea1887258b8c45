"""What a run of the benchmarks is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.data import ROOT


@dataclass(frozen=True)
class Settings:
    """split: the STS-B split that scores MiniLM; settings are chosen on dev, never on test.

    workdir: where exported models and artifacts go. rounds: of alternating timing. tasks: those
    of ``run.py tasks``, all for none. timeout: seconds that one of them may take. resume: take
    artifacts that an earlier run left in the workdir, where a benchmark makes many.
    """

    split: str = "test"
    workdir: Path = ROOT / "build" / "benchmarks"
    threads: int = 2
    rounds: int = 9
    target: str = "x86-avx512-vnni"
    tasks: tuple[str, ...] = ()
    lossless_only: bool = False
    timeout: float = 1200.0
    resume: bool = False
