"""The table of all rules, and what of it a model breaks on a target."""

from __future__ import annotations

import onnx_ir as ir

from ...ir.errors import UsageError, near
from ...ir.graph import operator
from ..schema import Target
from . import codes, cuda, floats, integer, limits, optimised, packed, results, static, weightonly
from .rule import Finding, Rule, View, Violation
from .tensorrt import all as tensorrt

ONNXRUNTIME: tuple[Rule, ...] = (
    *limits.RULES,
    *floats.RULES,
    *codes.RULES,
    *static.RULES,
    *weightonly.RULES,
    *packed.RULES,
    *integer.RULES,
    *results.RULES,
    *optimised.RULES,
)
"""Rules of ONNX Runtime, and those that follow from the figures of any target."""
TENSORRT: tuple[Rule, ...] = tensorrt.RULES
CUDA: tuple[Rule, ...] = cuda.RULES
RULES: tuple[Rule, ...] = (*ONNXRUNTIME, *CUDA, *TENSORRT)
SEVERITIES = ("error", "slow", "note")


def check_model(
    model: ir.Model, target: Target, *, rules: tuple[Rule, ...] = RULES
) -> tuple[Violation, ...]:
    """Everything in a model that breaks a rule of the target: errors first, then in table order.

    The model is looked at as it stands in its file; types and shapes of its values should be
    inferred (``ir.load.load_as_written`` does). Weights are read only by the rules on sums, on
    numbers that are not finite and on zeros.
    """
    view = View(model, target)
    found = [
        _violation(rule, finding)
        for rule in rules
        if not rule.excused(target)
        for finding in rule.check(view)
    ]
    return tuple(sorted(found, key=lambda violation: SEVERITIES.index(violation.severity)))


def rule_named(name: str) -> Rule:
    """The rule of that id. Raises UsageError where there is none."""
    for rule in RULES:
        if rule.id == name:
            return rule
    raise UsageError(f"unknown rule {name!r}", hint=near(name, [rule.id for rule in RULES]))


def _violation(rule: Rule, finding: Finding) -> Violation:
    node, op = "", ""
    if finding.node is not None:
        domain, kind = operator(finding.node)
        op = f"{domain}:{kind}" if domain else kind
        node = label(finding.node)
    return Violation(rule.id, node, op, rule.reason, rule.fix, rule.severity, finding.value)


def label(node: ir.Node) -> str:
    """The name of a node, or of its first output where it has none."""
    outputs = (value.name for value in node.outputs if value.name)
    return node.name or next(outputs, "")
