"""Half of all heads and neurons cut out by the passes, against zeros in the full-size graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from planish.compiler.context import CompileContext
from planish.compiler.data.feeds import load_feeds
from planish.compiler.execution import running
from planish.compiler.instruments import RegionCheck, VerifyEach
from planish.compiler.manager import PassManager
from planish.compiler.progress import Silent
from planish.ir.axes.groups import AxisGroup, AxisGroups
from planish.ir.load import load_model
from planish.ir.provenance import Edit
from planish.ir.rewriter import Rewriter
from planish.ir.signature import Signature
from planish.passes.api import AXES, SITES, pass_class
from planish.targets.loader import load_target

from .family import Array, Feeds

TARGET = "generic"
PASSES = {"heads": "prune-heads", "neurons": "prune-neurons"}
OPTIONS: dict[str, Any] = {
    "ratio": 0.5, "score": "magnitude", "refit": False, "multiples": False, "scope": "layer",
}  # fmt: skip


@dataclass(frozen=True)
class Reason:
    """Why a block was left whole."""

    site: str
    code: str
    sentence: str


@dataclass(frozen=True)
class Found:
    """Of one kind. units: for every block that was cut, of how many. groups: of units that can
    only be cut together; blocks that share weights or a table of positions share them, too.
    removed: how many units in all. strays: groups that touch a block of the other kind.
    """

    units: tuple[int, ...]
    groups: int
    removed: int
    reasons: tuple[Reason, ...]
    strays: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compared:
    """What one model gave.

    difference: between the cut graph and the full one with zeros, effect: between that and the
    graph as it was; both of the largest element of an output, the largest of all outputs; the worst
    of all feeds, which is the least effect. Without cuts both are 0. added: operators of which the
    cut graph has more than the full one.
    """

    heads: Found
    neurons: Found
    difference: float
    effect: float
    added: tuple[str, ...] = ()

    @property
    def cut(self) -> bool:
        """Whether anything was."""
        return bool(self.heads.groups or self.neurons.groups)


class Subject:
    """One graph and the passes that run on it, each edit checked as in a compile."""

    def __init__(self, model: ir.Model, feeds: Feeds) -> None:
        signature = Signature.of(model)
        self.model = model
        self.context = CompileContext(
            load_target(TARGET), model, load_feeds([dict(feeds)], signature), False, None, 1,
            Silent(),
        )  # fmt: skip
        checks = [VerifyEach(signature), RegionCheck()]
        self.manager = PassManager(Rewriter(model), self.context, checks)

    def groups(self) -> AxisGroups:
        """The groups as they are now."""
        return self.context.analysis(AXES)

    def blocks(self) -> dict[str, list[frozenset[str]]]:
        """For every block, by kind of its units, the layers that make them."""
        found: dict[str, list[frozenset[str]]] = {"heads": [], "neurons": []}
        for site in self.context.analysis(SITES):
            kind = {"attention": "heads", "ffn": "neurons"}.get(site.kind)
            if kind is not None:
                makers = {n for r, n in site.roles.items() if r not in ("o", "down")}
                found[kind].append(frozenset(makers or {site.name}))
        return found

    def run(self, name: str, **options: Any) -> tuple[list[Edit], list[Reason]]:
        """Run one pass; its edits, and what it refused."""
        kind, before = pass_class(name), len(self.context.remarks)
        edits = self.manager.run(kind(kind.Options(**options))).edits
        refused = [r for r in self.context.remarks[before:] if r.kind == "refused"]
        return list(edits), [Reason(r.site, r.code, r.sentence) for r in refused]


def compared(path: Path, feeds: Sequence[Feeds]) -> Compared:
    """Canonicalize the file, cut half of all heads, then of all neurons, and compare."""
    subject = Subject(load_model(path).model, feeds[0])
    subject.run("canonicalize")
    full, groups, blocks = subject.model.clone(), subject.groups(), subject.blocks()
    found, dropped = dict[str, Found](), dict[str, list[int]]()
    for kind, name in PASSES.items():
        edits, reasons = subject.run(name, **OPTIONS)
        about = {n: a for edit in edits for n, a in edit.details["groups"].items()}
        dropped |= {n: a["removed"] for n, a in about.items()}
        gone = sum(a["of"] - a["kept"] for a in about.values())
        units = of_blocks(blocks[kind], list(about.values()))
        others = [names for other in blocks if other != kind for names in blocks[other]]
        strays = tuple(n for n, a in about.items() if of_blocks(others, [a]))
        found[kind] = Found(units, len(about), gone, tuple(reasons), strays)
    zeroed = with_zeros(full, [(groups[name], gone) for name, gone in dropped.items()])
    differences, effects = [0.0], list[float]()
    for feed in feeds if dropped else ():
        as_it_was, wanted, cut = (outputs(m, feed) for m in (full, zeroed, subject.model))
        differences += [relative(a, b) for a, b in zip(wanted, cut, strict=True)]
        effects.append(max(relative(a, b) for a, b in zip(as_it_was, wanted, strict=True)))
    added = tuple(sorted(operators(subject.model) - operators(full)))
    effect = min(effects, default=0.0)
    return Compared(found["heads"], found["neurons"], max(differences), effect, added)


def operators(model: ir.Model) -> Counter[str]:
    """How many nodes of each operator there are."""
    return Counter(node.op_type for node in model.graph)


def of_blocks(
    blocks: Sequence[frozenset[str]], cut: Sequence[Mapping[str, Any]]
) -> tuple[int, ...]:
    """For every block whose layers a cut touched, how many units it had."""
    touched = ([a["of"] for a in cut if not makers.isdisjoint(a["sites"])] for makers in blocks)
    return tuple(found[0] for found in touched if found)


def with_zeros(model: ir.Model, cuts: Iterable[tuple[AxisGroup, Sequence[int]]]) -> ir.Model:
    """A copy in which all that reads the dropped units multiplies them by zero."""
    made = model.clone()
    for group, dropped in cuts:
        for member in group.of_role("consumes"):
            value = made.graph.initializers[member.value]
            assert value.const_value is not None
            data = value.const_value.numpy().copy()
            np.moveaxis(data, member.axis, 0)[member.positions(dropped)] = 0
            value.const_value = ir.tensor(data, name=member.value)
    return made


def outputs(model: ir.Model, feeds: Feeds) -> list[Array]:
    """What ONNX Runtime computes, its own optimizations off."""
    with running(model, optimize="none", threads=1) as session:
        return [np.asarray(array) for array in session.run(feeds)]


def relative(wanted: Array, found: Array) -> float:
    """The largest difference over the largest element; infinite where shapes or NaN differ."""
    if wanted.shape != found.shape or not (np.isfinite(wanted) & np.isfinite(found)).all():
        return float("inf")
    return float(np.abs(wanted - found).max() / np.abs(wanted).max())
