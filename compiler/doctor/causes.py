"""From rules that a model breaks to causes: grouped, with what the runtime made of each node."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ...ir.graph import operator, producer
from ...targets.rules.fusion import TRANSPARENT, merged_add, quantizer_behind
from ...targets.rules.layers import IN_FLOAT
from ...targets.rules.rule import Finding, Rule, View
from ...targets.rules.table import RULES, label
from ...targets.rules.weightonly import WIDENED
from .diagnosis import Cause, Place
from .executed import Executed

PAIRS_ONLY = frozenset({"float-between-pairs", "one-operand-quantized"})
"""Rules of which the pairs around a node are the cost, and not the node."""
UNEXPLAINED = (
    "the file quantizes this layer, the runtime computes it in float, and no rule says why"
)
_DEEP = 8

Cost = Callable[[Iterable[ir.Node]], float | None]
"""Milliseconds a run of some of the file's nodes, each executed node counted once."""


@dataclass(frozen=True)
class Broken:
    """A rule and everything in the file that breaks it."""

    rule: Rule
    findings: tuple[Finding, ...]


def broken_rules(view: View, only: Container[str] | None = None) -> list[Broken]:
    """The rules of the view's target that its model breaks, in table order. only: of these ids."""
    asked = [rule for rule in RULES if only is None or rule.id in only]
    found = (
        Broken(rule, tuple(rule.check(view))) for rule in asked if not rule.excused(view.target)
    )
    return [each for each in found if each.findings]


def causes_of(
    broken: Sequence[Broken], cost: Cost, total: float | None, ran: Executed | None
) -> list[Cause]:
    """One cause a rule. ran: what was executed here, None where nothing was."""
    found: list[Cause] = []
    for each in broken:
        seen, denied = _told_apart(each, ran)
        if seen:
            found.append(_cause(each.rule, seen, cost, total, ran))
        if denied:
            found.append(_denied(each.rule, denied, cost, total, ran))
    return found


def _told_apart(broken: Broken, ran: Executed | None) -> tuple[list[Finding], list[Finding]]:
    """Findings that the runtime bears out, and those that it denies: layers that it computes in
    integers although the rule says that it would not, a refusal of what it has loaded and run."""
    denied = [f for f in broken.findings if ran is not None and _denies(broken.rule, f, ran)]
    gone = {id(finding) for finding in denied}
    return [f for f in broken.findings if id(f) not in gone], denied


def _denies(rule: Rule, finding: Finding, ran: Executed) -> bool:
    if rule.severity == "error":
        return "refuses the model" in rule.reason or "refuses files" in rule.reason
    if rule.severity != "slow" or not (IN_FLOAT in rule.reason or WIDENED in rule.reason):
        return False
    rows = () if finding.node is None else ran.by_node.get(finding.node, ())
    return any(row.integer for row in rows) and not any(row.integer is False for row in rows)


def _cause(
    rule: Rule, findings: Sequence[Finding], cost: Cost, total: float | None, ran: Executed | None
) -> Cause:
    around = {id(f): [*_around(f.node, rule.id), *_pools(f.node, rule, ran)] for f in findings}
    places = [_place(f, cost(around[id(f)]), ran) for f in findings]
    places.sort(key=lambda place: -(place.ms or 0.0))
    ms = cost(dict.fromkeys(node for nodes in around.values() for node in nodes))
    share = None if ms is None or not total else min(1.0, ms / total)
    return Cause(rule.id, rule.severity, rule.reason, rule.fix, tuple(places), ms, share)


def _denied(
    rule: Rule, findings: Sequence[Finding], cost: Cost, total: float | None, ran: Executed | None
) -> Cause:
    made = _cause(rule, findings, cost, total, ran)
    reason = f"this version of the runtime does otherwise here; by the rule, {rule.reason}"
    return replace(made, severity="note", reason=reason)


def unexplained(view: View, broken: Sequence[Broken], ran: Executed) -> list[Finding]:
    """Quantized layers that the runtime computes in float, and of which no rule said anything."""
    told = {f.node for each in broken for f in each.findings if each.rule.severity != "note"}
    found: list[Finding] = []
    for layer in view.static:
        rows = ran.by_node.get(layer.node, ())
        unsaid = layer.node not in told and layer.weight is not None
        if unsaid and any(row.integer is False for row in rows):
            found.append(Finding(layer.node))
    return found


def unexplained_cause(
    findings: Sequence[Finding], cost: Cost, total: float | None, ran: Executed
) -> Cause:
    """The cause that has no rule."""
    rule = Rule(
        "", "", lambda view: iter(()), UNEXPLAINED,
        "run `planish doctor --json` on it and report the layer as a missing rule", "slow",
    )  # fmt: skip
    return _cause(rule, findings, cost, total, ran)


def _place(finding: Finding, ms: float | None, ran: Executed | None) -> Place:
    node = finding.node
    if node is None:
        return Place("", "", finding.value)
    domain, kind = operator(node)
    rows = () if ran is None else ran.by_node.get(node, ())
    runs_as = tuple(dict.fromkeys(row.op for row in rows))
    return Place(label(node), f"{domain}:{kind}" if domain else kind, finding.value, ms, runs_as)


def _around(node: ir.Node | None, rule: str) -> list[ir.Node]:
    """The nodes whose time a finding is about: it, its pairs, the bias that is merged."""
    if node is None:
        return []
    pairs = [each for value in node.inputs for each in _dequantizers(value)]
    last = merged_add(node) or node
    behind = quantizer_behind(last.outputs[0]) if last.outputs else None
    if rule in PAIRS_ONLY:
        return [*pairs, *([behind] if behind is not None else [])]
    return list(dict.fromkeys([node, *pairs, last]))


def _pools(node: ir.Node | None, rule: Rule, ran: Executed | None) -> list[ir.Node]:
    """Maxima of codes that a layer in float reads: their fast kernel is that between integer
    convolutions, and without it they take many times as long."""
    if node is None or ran is None or IN_FLOAT not in rule.reason:
        return []
    pools = (_rounded(_rounded(value)) for value in node.inputs)
    found = [pool for value in pools if (pool := producer(value, "MaxPool")) is not None]
    return [pool for pool in found if any(row.op == "MaxPool" for row in ran.of([pool]))]


def _rounded(value: ir.Value | None) -> ir.Value | None:
    """What the QuantizeLinear or DequantizeLinear that makes a value reads; None for others."""
    node = producer(value)
    coding = node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear")
    return node.inputs[0] if node is not None and coding and node.inputs else None


def _dequantizers(value: ir.Value | None) -> Iterator[ir.Node]:
    """The DequantizeLinear that makes a value, with what moves its numbers in between."""
    moved: list[ir.Node] = []
    node = producer(value)
    while node is not None and node.op_type in TRANSPARENT and len(moved) < _DEEP and node.inputs:
        moved.append(node)
        node = producer(node.inputs[0])
    if node is not None and node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        yield from (node, *moved)


def measured_cost(ran: Executed) -> Cost:
    """Milliseconds as they were measured."""

    def cost(nodes: Iterable[ir.Node]) -> float | None:
        return sum(row.ms or 0.0 for row in ran.of(nodes))

    return cost


def predicted_cost(ms: dict[ir.Node, float | None]) -> Cost:
    """Milliseconds as they are predicted, None where a node's are unknown."""

    def cost(nodes: Iterable[ir.Node]) -> float | None:
        found = [ms.get(node, 0.0) for node in dict.fromkeys(nodes)]
        known = [each for each in found if each is not None]
        return None if len(known) < len(found) else sum(known)

    return cost


def unknown_cost(nodes: Iterable[ir.Node]) -> float | None:
    """No time is known of anything."""
    return None
