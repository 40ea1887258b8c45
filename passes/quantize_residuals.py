"""Residual additions in integers: they read the codes that the next layer reads.

A value that is rounded for an integer layer is often read in float as well, by the addition at the
end of its block. With both operands and the sum in codes that addition is one integer kernel
(ONNX Runtime: QLinearAdd, QLinearConcat), and no float copy of the value is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ..ir.facts import QUANTIZED
from ..ir.graph import consumers, given, is_constant, operator, producer, scalar, single_consumer
from ..ir.qdq import activated, is_dequantized, rounding_of, static_view
from ..ir.rewriter import Rewriter
from ..ir.sites import Site, Sites
from .api import (
    SITES,
    Candidate,
    Context,
    FakeQuant,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    register,
)

JOINS = frozenset({("", "Add"), ("", "Concat")})
"""Where branches meet, and kernels on codes exist."""
ACTIVATIONS = frozenset({("", "Relu"), ("", "Clip")})
MOVES = frozenset(
    ("", op) for op in ("Flatten", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
)
"""What may stand in front of a join: it moves elements, and what it adds is on the grid."""


@dataclass(frozen=True)
class ResidualOptions:
    """exclude: selectors of layers whose rounded inputs others go on reading in float."""

    exclude: tuple[str, ...] = ()


def joins(node: ir.Node) -> bool:
    """Whether two or more activations meet in the node, and kernels on codes exist for it."""
    return operator(node) in JOINS and sum(not is_constant(v) for v in node.inputs) > 1


@dataclass(frozen=True)
class Branch:
    """How a value gets to a join: through ``steps``, which only move its elements."""

    steps: tuple[ir.Node, ...]
    join: ir.Node

    def operand(self, value: ir.Value) -> ir.Value:
        """What the join reads of it."""
        return self.steps[-1].outputs[0] if self.steps else value


@dataclass(frozen=True)
class Rounded:
    """A value, the pair that rounds it for a layer, and the branches that read it in float."""

    value: ir.Value
    quant: FakeQuant
    branches: tuple[Branch, ...]


@register
class QuantizeResiduals(Pass):
    """Let residual additions read the codes that the next layer reads.

    What it does: a value that is rounded for a static int8 layer and is read in float by an
    addition or a concatenation, too, is read rounded there as well. What only moves elements on
    the way (Slice, Pad, Reshape, Transpose) then moves codes.
    When it applies: behind ``quantize{scheme=static}``, where the other operands are rounded and
    the sum is, too, or the value itself is such a sum.
    What it costs: one more rounding of the branch, with the range that it has for the layer;
    measured per value as relative squared error of the sums.
    Guarantee: no new range is chosen, and nothing changes but what joins read.
    Example: ``quantize{scheme=static},quantize-residuals``
    """

    name = "quantize-residuals"
    semantics = Semantics.LOSSY
    requires = frozenset({QUANTIZED})
    Options = ResidualOptions
    options: ResidualOptions

    def candidates(self, model: ir.Model, ctx: Context) -> Iterator[Candidate | Refusal]:
        sites = ctx.analysis(SITES)
        excluded = {s.name for selector in self.options.exclude for s in sites.select(selector)}
        for site, rounded in _rounded(sites):
            if not rounded.branches:
                continue
            if site.name in excluded:
                yield Refusal(site.name, "excluded", "left float on request")
            elif site.nested:
                yield Refusal(site.name, "subgraph", "it stands inside a branch or a loop")
            else:
                yield _judge(site, rounded)

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation:
        rounded = _of_site(candidate.site, ctx)
        value, branches = rounded.value, _worthwhile(rounded)
        read = dict.fromkeys([value, *(v for b in branches for v in _others(b, value))])
        sums = dict.fromkeys(b.join.outputs[0] for b in branches)
        return Perturbation(
            tuple(str(v.name) for v in read),
            tuple(str(v.name) for v in sums),
            fake_quants={str(value.name): rounded.quant},
        )

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        assert perturbation is not None
        rounded = _of_site(candidate.site, ctx)
        for branch in rounded.branches:
            if branch.join.outputs[0].name in perturbation.outputs:
                _lower_branch(branch, rounded, rewriter)


def _lower_branch(branch: Branch, rounded: Rounded, rewriter: Rewriter) -> None:
    """A pair behind every step: the runtime moves codes where it finds one on both sides."""
    quant, old = rounded.quant, branch.operand(rounded.value)
    assert quant.scale is not None and quant.zero_point is not None
    view = static_view(rewriter, rounded.value, quant.scale, quant.zero_point, quant.dtype)
    for step in branch.steps:
        rewriter.set_input(step, 0, view)
        view = static_view(rewriter, step.outputs[0], quant.scale, quant.zero_point, quant.dtype)
    rewriter.replace_uses(old, view, only=[branch.join])


# -- what could be done ----------------------------------------------------------------


def _rounded(sites: Sites) -> Iterator[tuple[Site, Rounded]]:
    """What static integer layers read, each value once, by the first layer that reads it."""
    seen = set[ir.Value]()
    for site in sites.of_kind("linear", "conv"):
        if QUANTIZED not in site.facts or site.input is None or site.input in seen:
            continue
        found = rounding_of(site.nodes[0].inputs[0])
        if found is None:
            continue
        seen.add(site.input)
        scale, zero_point, dtype = found
        branches = tuple(_branches(site.input))
        yield site, Rounded(site.input, FakeQuant(dtype, scale, zero_point), branches)


def _of_site(name: str, ctx: Context) -> Rounded:
    return next(r for site, r in _rounded(ctx.analysis(SITES)) if site.name == name)


def _branches(value: ir.Value) -> Iterator[Branch]:
    """One for each join that reads the value in float."""
    for node in consumers(value):
        if node.graph is not value.graph:
            continue  # inside a body, where the pair is not seen
        steps = list[ir.Node]()
        reader: ir.Node | None = node
        while reader is not None and _moves(reader, steps[-1].outputs[0] if steps else value):
            steps.append(reader)
            reader = single_consumer(reader.outputs[0])
        if reader is not None and joins(reader) and reader.graph is value.graph:
            yield Branch(tuple(steps), reader)


def _moves(node: ir.Node, value: ir.Value) -> bool:
    """Whether every element of the node's result is one of the value's, or zero."""
    if operator(node) not in MOVES or node.inputs[0] is not value:
        return False
    filling = given(node, 2) if node.op_type == "Pad" else None
    return not node.outputs[0].is_graph_output() and (filling is None or scalar(filling) == 0)


def _judge(site: Site, rounded: Rounded) -> Candidate | Refusal:
    if _worthwhile(rounded):
        return Candidate(site.name, "codes")
    if not any(_in_codes(branch, rounded.value) for branch in rounded.branches):
        sentence = "an addition reads its input together with a float value; it stays float"
        return Refusal(site.name, "float-operand", sentence)
    sentence = "an addition reads its input, but the sum is not rounded; it stays float"
    return Refusal(site.name, "float-sum", sentence)


def _worthwhile(rounded: Rounded) -> list[Branch]:
    """The branches whose join computes in integers then, or lets the join before do so."""
    sum_itself = _join_before(rounded.value)
    return [
        branch
        for branch in rounded.branches
        if _in_codes(branch, rounded.value)
        and (sum_itself or _is_rounded(activated(branch.join.outputs[0])))
    ]


def _in_codes(branch: Branch, value: ir.Value) -> bool:
    return all(map(is_dequantized, _others(branch, value)))


def _others(branch: Branch, value: ir.Value) -> list[ir.Value]:
    """The other operands of the join that are not constant."""
    own = branch.operand(value)
    return [v for v in branch.join.inputs if v is not None and v is not own and not is_constant(v)]


def _is_rounded(value: ir.Value) -> bool:
    return any(operator(node) == ("", "QuantizeLinear") for node in consumers(value))


def _join_before(value: ir.Value) -> bool:
    """Whether the value is a sum of rounded values, behind its activation function if any."""
    made = producer(value)
    if made is not None and operator(made) in ACTIVATIONS:
        made = producer(made.inputs[0])
    return made is not None and joins(made) and any(map(is_dequantized, made.inputs))
