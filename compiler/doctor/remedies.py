"""What planish itself can do about a cause, as a command to copy."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from ...targets.schema import Target
from ...targets.techniques import has_backend
from .diagnosis import Cause

COMPILED = frozenset[str]()
RECOMPILED = frozenset[str]()


def with_command(cause: Cause, model: str, target: Target) -> Cause:
    """The cause with the command that mends it, where there is one."""
    if not has_backend(target):
        return cause
    stem, name = Path(model).stem or "model", shlex.quote(target.name)
    if cause.rule in COMPILED:
        command = f"planish compile {shlex.quote(model)} --target {name} -o {stem}-fixed"
        return replace(cause, command=command)
    if cause.rule in RECOMPILED:
        command = f"planish compile FLOAT.onnx --target {name} --calibration DATA -o {stem}-fixed"
        return replace(cause, command=command)
    return cause
