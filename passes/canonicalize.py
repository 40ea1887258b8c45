"""Bring a graph into the one form that every other pass is written against.

A linear layer becomes ``MatMul(x, W[in, out])`` and ``Add(bias)``, batch norms are folded,
constants stand on the right, what is constant is computed, and what does nothing is removed.
Spellings that an earlier compile chose for a runtime are written back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from ..ir.graph import all_nodes
from ..ir.rewriter import Rewriter
from .api import Candidate, Context, Pass, Perturbation, Refusal, Semantics, register
from .canonical.constants import fold_constants
from .canonical.edits import Rule
from .canonical.layers import fold_batch_norm, gemm_to_matmul
from .canonical.spelling import castlike_to_cast, constants_right, remove_nothing, sum_to_add


@dataclass(frozen=True)
class CanonicalizeOptions:
    """Which rules apply.

    rules: all, or exact: only those that keep every bit of the outputs
    """

    rules: Literal["all", "exact"] = "all"


EXACT_RULES: tuple[tuple[str, Rule], ...] = (
    ("sum-to-add", sum_to_add),
    ("castlike-to-cast", castlike_to_cast),
    ("remove-nothing", remove_nothing),
    ("fold-constants", fold_constants),
    ("constants-right", constants_right),
)
REASSOCIATING_RULES: tuple[tuple[str, Rule], ...] = (
    ("fold-batch-norm", fold_batch_norm),
    ("gemm-to-matmul", gemm_to_matmul),
)
RULES = dict(EXACT_RULES + REASSOCIATING_RULES)
SETTLE = "settle"
"""All rules over and over, until none applies: one rule may make room for another.

That ends: a rule takes away a node, a constant on the left, or a CastLike, Gemm, Sum or
BatchNormalization that no other rule makes.
"""


@register
class Canonicalize(Pass):
    """Bring the graph into the canonical form that every other pass expects.

    What it does: removes Identity and inactive Dropout, computes exact constants, writes
    Gemm as MatMul and Add and Sum as Add, folds batch norms into convolutions, puts constants
    on the right.
    When it applies: always, first.
    What it costs: nothing; weights are transposed once.
    Guarantee: equal in real arithmetic, and equal bits but for the batch norms and the Gemms;
    the whole graph is compared before and after. Done again it changes nothing.
    Example: ``canonicalize{rules=exact}``
    """

    name = "canonicalize"
    semantics = Semantics.REASSOCIATES
    Options = CanonicalizeOptions

    def candidates(self, model: ir.Model, ctx: Context) -> Iterable[Candidate | Refusal]:
        options: CanonicalizeOptions = self.options
        kinds = [(Semantics.EXACT, EXACT_RULES), (Semantics.REASSOCIATES, REASSOCIATING_RULES)]
        kinds = kinds[:1] if options.rules == "exact" else kinds
        for promise, rules in kinds:
            for setting in (name for name, _ in rules):
                yield Candidate(site="graph", setting=setting, semantics=promise)
        yield Candidate(site="graph", setting=SETTLE, semantics=kinds[-1][0])

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        if candidate.setting != SETTLE:
            _scan([RULES[candidate.setting]], rewriter)
            return
        exact = candidate.semantics is Semantics.EXACT
        rules = [rule for _, rule in EXACT_RULES] if exact else list(RULES.values())
        while _scan(rules, rewriter):
            pass


def _scan(rules: Iterable[Rule], rewriter: Rewriter) -> bool:
    """Offer every node, those in bodies too, to each rule once; whether anything changed."""
    changed = False
    for rule in rules:
        for node in list(all_nodes(rewriter.model)):
            changed |= node.graph is not None and rule(node, rewriter)
    return changed
