"""A plan replays to the same bytes: ``--plan out/manifest.json``, twice."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.artifacts import MODEL, sha256
from benchmarks.cost import WENT_THROUGH, compile_command
from benchmarks.figures import Outcome, holds
from benchmarks.settings import Settings


def replay(settings: Settings) -> Outcome:
    """MiniLM compiled by the policy, then replayed twice from the manifest."""
    first = settings.workdir / "minilm-planned"
    finish(compile_command(settings, first))
    digests = [sha256(first / MODEL)]
    for number in (1, 2):
        output = settings.workdir / f"minilm-replay{number}"
        finish(compile_command(settings, output, "--plan", str(first / "manifest.json")))
        digests.append(sha256(output / MODEL))
    return Outcome(
        "MiniLM, a plan replayed twice",
        ("run", "SHA-256 of model.onnx"),
        tuple(zip(("compiled", "first replay", "second replay"), digests, strict=True)),
        (
            holds("both replays give the same bytes", digests[1] == digests[2],
                  same(digests[1:]), "identical"),
            holds("they are the bytes of the compile that made the plan", len(set(digests)) == 1,
                  same(digests), "identical"),
        ),
    )  # fmt: skip


def finish(command: Sequence[str | Path]) -> None:
    """Run a compile to its end. Raises RuntimeError with its message where it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in WENT_THROUGH:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-800:]}")


def same(digests: Sequence[str]) -> str:
    """Whether all digests are one."""
    return "identical" if len(set(digests)) == 1 else "different"
