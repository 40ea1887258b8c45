"""What planish itself can do about a cause, as a command to copy."""

from __future__ import annotations

import shlex
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from ...targets.rules import codes, integer, packed, results, static, weightonly
from ...targets.rules.table import rule_named
from ...targets.schema import Target
from ...targets.techniques import runs_on_cpu
from .causes import Broken
from .diagnosis import Cause
from .mend import Mended
from .repairs import REPAIRS, hindrance

QUANTIZING = frozenset(
    rule.id
    for module in (codes, integer, packed, results, static, weightonly)
    for rule in module.RULES
    if rule.id != "weight-only-int8-activations"
)
"""Rules on what a quantizer wrote: planish writes it otherwise, from the float model."""


def mendable(model: ir.Model, broken: Sequence[Broken]) -> frozenset[str]:
    """Rules with a repair that can be made in the file, as far as that is known before."""
    found = ((b.rule.id, [f.node for f in b.findings if f.node is not None]) for b in broken)
    return frozenset(
        rule for rule, nodes in found if rule in REPAIRS and not hindrance(rule, model, nodes)
    )


def with_command(
    cause: Cause, model: str, target: Target, mendable: Container[str], mended: Mended | None
) -> Cause:
    """The cause with the command that mends it, where there is one; not where the runtime denies
    the rule. mendable: rules to offer a repair of the file for. mended: what was done already."""
    known = cause.rule in REPAIRS or cause.rule in QUANTIZING
    if not known or not runs_on_cpu(target) or rule_named(cause.rule).severity != cause.severity:
        return cause
    if mended is not None and cause.rule in mended.gone:
        return cause
    stem, name = Path(model).stem or "model", shlex.quote(target.name)
    if mended is None and cause.rule in mendable:
        output = shlex.quote(f"{stem}-fixed.onnx")
        command = f"planish doctor {shlex.quote(model)} --target {name} --fix {output}"
    elif cause.rule in QUANTIZING:
        output = shlex.quote(f"{stem}-compiled")
        command = f"planish compile FLOAT.onnx --target {name} --calibration DATA -o {output}"
    else:
        return cause
    return replace(cause, command=command)


def advice(model: str, target: Target) -> str:
    """What to do with a model of which nothing is quantized."""
    stem, name = shlex.quote(f"{Path(model).stem or 'model'}-compiled"), shlex.quote(target.name)
    command = f"planish compile {shlex.quote(model)} --target {name} --calibration DATA -o {stem}"
    return f"nothing is quantized: {command}"
