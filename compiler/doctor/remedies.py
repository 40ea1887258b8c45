"""What planish itself can do about a cause, as a command to copy."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from ...targets.rules import codes, integer, packed, results, static, weightonly
from ...targets.rules.table import rule_named
from ...targets.schema import Target
from ...targets.techniques import runs_on_cpu
from .diagnosis import Cause
from .repairs import REPAIRS

QUANTIZING = frozenset(
    rule.id
    for module in (codes, integer, packed, results, static, weightonly)
    for rule in module.RULES
    if rule.id != "weight-only-int8-activations"
)
"""Rules on what a quantizer wrote: planish writes it otherwise, from the float model."""


def with_command(cause: Cause, model: str, target: Target) -> Cause:
    """The cause with the command that mends it, where there is one; not where the runtime denies
    the rule."""
    known = cause.rule in REPAIRS or cause.rule in QUANTIZING
    if not known or not runs_on_cpu(target) or rule_named(cause.rule).severity != cause.severity:
        return cause
    stem, name = Path(model).stem or "model", shlex.quote(target.name)
    if cause.rule in REPAIRS:
        output = shlex.quote(f"{stem}-fixed.onnx")
        command = f"planish doctor {shlex.quote(model)} --target {name} --fix {output}"
    else:
        output = shlex.quote(f"{stem}-compiled")
        command = f"planish compile FLOAT.onnx --target {name} --calibration DATA -o {output}"
    return replace(cause, command=command)


def advice(model: str, target: Target) -> str:
    """What to do with a model of which nothing is quantized."""
    stem, name = shlex.quote(f"{Path(model).stem or 'model'}-compiled"), shlex.quote(target.name)
    command = f"planish compile {shlex.quote(model)} --target {name} --calibration DATA -o {stem}"
    return f"nothing is quantized: {command}"
