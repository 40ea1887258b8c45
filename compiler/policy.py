"""Policy: target, goal and workload -> pipelines to try. Where targets and passes meet.

A pipeline here is a proposal. Where the target can be run, each is built, judged and timed, and
the measured best is kept; where it cannot, the first one whose quality holds is. What is not
proposed is set aside with a code and a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnx_ir as ir

from ..ir.errors import TargetError
from ..ir.facts import FLOAT
from ..ir.graph import constant_tensor, opset
from ..ir.sites import Site, find_sites
from ..passes.api import registered
from ..passes.quantize_recurrent import is_recurrent
from ..passes.quantize_residuals import joins
from ..passes.quantizing.layers import is_narrow
from ..targets.schema import Target
from ..targets.techniques import TECHNIQUES, narrows_floats, one
from .moves import (
    BY_HAND,
    FEW_ROWS,
    MANY_ROWS,
    MOVES,
    RECURRENT,
    Convolutions,
    Move,
    block_of,
    options_text,
)
from .rows import few_rows
from .workload import Workload

Goal = Literal["latency", "size", "balanced"]
GOALS: tuple[Goal, ...] = ("latency", "size", "balanced")
LOSSLESS = "canonicalize"
QDQ_OPSET = 13
"""Scales per channel need QuantizeLinear of opset 13."""
MOST_TRIED = 4
"""Lossy pipelines that are built, judged and timed; each takes a build and some runs."""
TABLES = "tables in 4 bits are half as large as in 8 and take no longer to look up"
TABLE_SHARE = 0.1
"""Of all weights, from which on tables are worth a pipeline of their own."""
ONE_ROW = 1
"""Up to here few-bit weights are tried where the target does not say what they break even at:
with one row of activations nearly all the time goes into reading weights."""

By = Literal["target", "planish", "model", "data", "workload", "request", "limit"]


@dataclass(frozen=True)
class Proposal:
    """A pipeline, why it is proposed, and the technique it stands for ("" for a user's own)."""

    pipeline: str
    reason: str
    technique: str = ""


@dataclass(frozen=True)
class Aside:
    """A technique, or a pipeline of it, that is not tried; ``by``: what speaks against it."""

    technique: str
    by: By
    code: str
    sentence: str
    pipeline: str = ""


@dataclass(frozen=True)
class Proposed:
    """What to try, the likeliest first, and what is set aside and why."""

    proposals: tuple[Proposal, ...]
    aside: tuple[Aside, ...] = ()


@dataclass(frozen=True)
class _Case:
    """What policy decides by. few: share of the linear weights that meet few rows, by weight of
    the workloads; None where unknown."""

    target: Target
    goal: Goal
    calibrated: bool
    opset: int
    elements: dict[str, int]
    convolutions: Convolutions
    few: float | None = None


def propose(
    model: ir.Model,
    target: Target,
    *,
    calibrated: bool,
    goal: Goal = "latency",
    workloads: Sequence[Workload] = (),
    most: int = MOST_TRIED,
) -> Proposed:
    """Pipelines worth trying on this model for this target and goal, the likeliest first.

    workloads: what it is run with. Weights of few bits are widened on every run: they win where
    few rows of activations share that work, and lose where many do. most: pipelines beyond so many
    are set aside.
    """
    sites = [site for site in find_sites(model) if FLOAT in site.facts]
    convolutions = _convolutions(model, sites, target)
    elements = _elements(model, sites)
    case = _Case(target, goal, calibrated, opset(model), elements, convolutions)
    if goal != "size" and not _refusal("weight-only-int4", case):
        limit = target.weight_only.most_rows or ONE_ROW
        case = replace(case, few=few_rows(model, sites, workloads, limit))
    aside = [found for name in TECHNIQUES if (found := _refusal(name, case))]
    refused = {item.technique for item in aside}
    taken = [name for name in MOVES if name not in refused]
    ranked = [p for name in sorted(taken, key=lambda n: _rank(n, case)) for p in _made(name, case)]
    late = [_beyond(proposal, most) for proposal in ranked[most:]]
    return Proposed(tuple(ranked[:most]), (*aside, *late))


def check_served(target: Target, goal: Goal) -> None:
    """Raise TargetError where the target refuses every technique that could serve the goal."""
    every = {"linear": 1, "conv": 1, "embedding": 1}
    case = _Case(target, goal, True, QDQ_OPSET, every, Convolutions())
    refused = [found for name in MOVES if (found := _refusal(name, case)) and _final(found)]
    if len(refused) < len(MOVES):
        return
    reasons = {f"{a.code} ({a.sentence})": "" for a in refused}
    for aside in refused:
        reason = f"{aside.code} ({aside.sentence})"
        reasons[reason] += ", " * bool(reasons[reason]) + aside.technique
    listed = "; ".join(f"{names}: {reason}" for reason, names in reasons.items())
    raise TargetError(
        f"no technique can serve the goal {goal!r} on {target.name}: {listed}",
        where=f"target {target.name}",
        hint=f"`planish targets show {target.name}` has what it takes; "
        f"--passes {LOSSLESS} asks for the lossless clean-up alone",
    )


def has_figures(target: Target) -> bool:
    """Whether the target has rates, a bandwidth or measurements to predict a time from."""
    known = (target.measured, target.memory.bandwidth_gbs, *vars(target.rates).values())
    return any(figure is not None for figure in known)


def untried(proposed: Proposed) -> tuple[str, ...]:
    """One sentence on what suits model and target and was left out by choice; none where nothing.

    ``not tried: weight-only-int4, weight-only-int8 (many-rows: …)``.
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for aside in proposed.aside:
        if aside.by in ("workload", "limit"):
            named = reasons.setdefault((aside.code, aside.sentence), [])
            named.append(aside.pipeline or aside.technique)
    texts = [f"{', '.join(names)} ({code}: {why})" for (code, why), names in reasons.items()]
    return (f"not tried: {'; '.join(texts)}",) if texts else ()


# -- what is set aside -------------------------------------------------------------------


def _refusal(name: str, case: _Case) -> Aside | None:
    """The first of the reasons that speak against a technique, the target's before all others."""
    found = one(case.target, name)
    if not found.supported:
        return Aside(name, "target", found.code, found.sentence)
    move = MOVES.get(name)
    if move is None and BY_HAND.get(name, name) in registered():
        pass_name = BY_HAND.get(name, name)
        sentence = f"how much may go is yours to say: --passes with {pass_name} in it asks for it"
        return Aside(name, "request", "on-request", sentence)
    if name in ("fp16", "bf16") and narrows_floats(case.target):
        sentence = "the backend stores what stays float in half precision, where ranges allow it"
        return Aside(name, "planish", "by-backend", sentence)
    if move is None or move.pass_name not in registered():
        return Aside(name, "planish", "no-pass", "planish has no pass for it yet")
    return next(_against(name, move, case), None)


def _against(name: str, move: Move, case: _Case) -> Iterator[Aside]:
    if not _kinds(move, case.target) & case.elements.keys():
        kinds = " or ".join(sorted(_kinds(move, case.target)))
        yield Aside(name, "model", "no-site", f"the model has no float {kinds} layer")
    if move.pass_name == "quantize" and case.opset < QDQ_OPSET:
        sentence = f"scales per channel need opset {QDQ_OPSET}, the model stays at {case.opset}"
        yield Aside(name, "model", "opset", sentence)
    if move.needs_data and not case.calibrated:
        yield Aside(name, "data", "no-calibration", "static ranges need data: give --calibration")
    if name == "weight-only-int2":
        sentence = "2 bits lose too much to be proposed; --passes 'weight-only{bits=2}' asks for it"
        yield Aside(name, "request", "on-request", sentence)
    if name.startswith("weight-only") and case.goal == "latency" and _too_many_rows(case):
        yield Aside(name, "workload", "many-rows", _many_rows(case.target))
    ratio = case.target.int8.speed_ratio
    if move.pass_name == "quantize" and case.goal == "latency" and (ratio or 2.0) <= 1.0:
        sentence = f"8-bit products run at {ratio:g}x the speed of float ones here"
        yield Aside(name, "target", "no-faster", sentence)


def _kinds(move: Move, target: Target) -> frozenset[str]:
    """Of sites that a technique takes on a target: packed tables only where they are looked up."""
    tables = move.pass_name != "weight-only" or target.weight_only.tables is not False
    return move.kinds if tables else move.kinds - {"embedding"}


def _too_many_rows(case: _Case) -> bool:
    """Whether no linear layer meets few rows; nobody can know where rates may tell otherwise."""
    known = case.target.weight_only.most_rows is not None or not has_figures(case.target)
    return case.few == 0.0 and known


def _many_rows(target: Target) -> str:
    most = target.weight_only.most_rows
    even = "one row, as the break-even is unknown" if most is None else f"{most} rows"
    return (
        "every linear layer meets more rows of activations than weights of few bits pay for "
        f"(up to {even}); --goal size takes them all the same"
    )


def _beyond(proposal: Proposal, most: int) -> Aside:
    sentence = f"{most} likelier pipelines are; --passes asks for it"
    return Aside(proposal.technique, "limit", "not-tried", sentence, proposal.pipeline)


def _final(aside: Aside) -> bool:
    """Whether no other model, data or workload would make it possible."""
    return aside.by in ("target", "planish")


# -- in which order ----------------------------------------------------------------------


def _rank(name: str, case: _Case) -> tuple[float, ...]:
    """What sorts techniques: predicted bytes first for size, else what the workload favours."""
    linear, conv = (case.elements.get(kind, 0) for kind in ("linear", "conv"))
    few_first = case.few is not None and case.few * linear > 0.5 * (linear + conv)
    by_speed = (FEW_ROWS if few_first else MANY_ROWS).index(name)
    if case.goal != "size":
        return (by_speed,)
    return (_bytes(MOVES[name], case), by_speed)


def _bytes(move: Move, case: _Case) -> int:
    """Bytes of the weights afterwards, to the megabyte hundredth: nearer ones are alike."""
    bits, kinds = float(move.bits), _kinds(move, case.target)
    if move.pass_name == "weight-only":
        bits += (32 + move.bits) / block_of(case.target)
    after = (n * (bits if kind in kinds else 32) / 8 for kind, n in case.elements.items())
    return round(sum(after) / 1e4)


def _made(name: str, case: _Case) -> Iterator[Proposal]:
    if name == "int8-dynamic" and _small_tables_pay(case):
        pipeline = f"weight-only{options_text(4, case.target, 'layers=false')},quantize"
        yield Proposal(f"{LOSSLESS},{pipeline}", f"{TABLES}{_because(name, case)}", name)
    for pipeline, reason in MOVES[name].pipelines(case.target, case.convolutions):
        whole = f"{LOSSLESS},{_with_recurrent(pipeline, MOVES[name], case)}"
        yield Proposal(whole, f"{reason}{_because(name, case)}", name)


def _with_recurrent(pipeline: str, move: Move, case: _Case) -> str:
    """With the pass for recurrent layers behind, or in place of, one that finds nothing else."""
    if RECURRENT not in case.elements:
        return pipeline
    alone = not move.kinds & (case.elements.keys() - {RECURRENT})
    return "quantize-recurrent" if alone else f"{pipeline},quantize-recurrent"


def _small_tables_pay(case: _Case) -> bool:
    """Whether tables in 4 bits beside layers in 8 make the file clearly smaller."""
    kinds = case.elements
    if case.goal == "latency" or "linear" not in kinds or _refusal("weight-only-int4", case):
        return False
    return kinds.get("embedding", 0) >= TABLE_SHARE * sum(kinds.values())


def _because(name: str, case: _Case) -> str:
    """What of the workload and the target speaks for it."""
    if name.startswith("weight-only") and case.few and case.goal != "size":
        most = case.target.weight_only.most_rows
        known = f"up to {most}" if most is not None else "one; the break-even is unknown"
        return f"; {100 * case.few:.0f} % of the linear weights meet few rows ({known})"
    ratio = case.target.int8.speed_ratio
    if name.startswith("int8") and ratio is not None:
        return f"; large 8-bit products run {ratio:g}x as fast as float ones"
    return ""


# -- the model --------------------------------------------------------------------------


def _elements(model: ir.Model, sites: Sequence[Site]) -> dict[str, int]:
    """Weights by the kind of what applies them; kinds without any are missing."""
    found: dict[str, int] = {}
    for node in filter(is_recurrent, model.graph):
        tensors = [constant_tensor(value) for value in node.inputs[1:3]]
        count = sum(int(tensor.size) for tensor in tensors if tensor is not None)
        found[RECURRENT] = found.get(RECURRENT, 0) + count
    for site in sites:
        tensor = constant_tensor(site.weight)
        if tensor is not None:
            found[site.kind] = found.get(site.kind, 0) + int(tensor.size)
    return found


def _convolutions(model: ir.Model, sites: Sequence[Site], target: Target) -> Convolutions:
    if not any(site.kind == "conv" for site in sites):
        return Convolutions()
    narrow = any(is_narrow(site, target) for site in sites)
    return Convolutions(joined=any(map(joins, model.graph)), narrow=narrow)
