"""A command line as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Planish = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def planish(tmp_path: Path) -> Planish:
    """``planish("compile", path, …)`` in the folder tmp_path, as a process of its own."""

    def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "COLUMNS")}
        return subprocess.run(
            [sys.executable, "-m", "planish", *map(str, words)],
            cwd=tmp_path, capture_output=True, text=True, env=environment | variables,
        )  # fmt: skip

    return run
