"""A pipeline rehearsed: the graph it would make, from outlines, and what was said of each site.

No number is computed that means anything, nothing is measured, and nothing is run but what the
passes' own ``candidates`` ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from ...ir.graph import constant_tensor
from ...ir.provenance import Edit, Remark
from ...ir.rewriter import Rewriter
from ...ir.sites import Sites
from ...passes.api import SITES, Candidate, Pass, Perturbation, Semantics, promise_of
from ..backends.onnxruntime_cpu import OnnxRuntimeCpu
from ..backends.table import backend_or_none, blamed
from ..context import CompileContext
from ..manager import PassManager
from ..pipeline import parse
from ..workshop import instantiate

LAYERS = ("linear", "conv", "embedding")
GRAPH = "graph"
"""The site of candidates that concern the whole graph."""


@dataclass(frozen=True)
class Layer:
    """A site as the lossy passes find it: its kind, and the shape of its stored weight."""

    kind: str
    weight: tuple[int, ...]


@dataclass(frozen=True)
class Rehearsal:
    """What a pipeline would do.

    model: lowered and legalised, until the rewriter is rolled back; None where passes were only
    asked. edits: lossy ones, and those of whole graphs. skipped: by pass, the lossless moves
    at single sites, or all where passes were only asked. remarks: of the passes.
    """

    model: ir.Model | None
    layers: Mapping[str, Layer]
    edits: tuple[Edit, ...]
    skipped: Mapping[str, tuple[Candidate, ...]]
    remarks: tuple[Remark, ...]


@dataclass
class _Rehearsing(PassManager):
    """Builds from outlines and measures nothing.

    Lossless moves at single sites are skipped: they change neither sizes nor kernels, and their
    numbers take statistics of a graph that is not there. lower: build the graph at all.
    """

    lower: bool = True
    layers: dict[str, Layer] = field(default_factory=dict)
    skipped: dict[str, tuple[Candidate, ...]] = field(default_factory=dict)

    def _choose(
        self, pass_: Pass, exclude: frozenset[str], selector: tuple[str, ...]
    ) -> list[Candidate]:
        if pass_.semantics is Semantics.LOSSY and not self.layers:
            self.layers = _layers(self.context.analysis(SITES))
        chosen = super()._choose(pass_, exclude, selector)
        kept = [c for c in chosen if self._builds(pass_, c)]
        self.skipped[pass_.name] = tuple(c for c in chosen if c not in kept)
        return kept

    def _builds(self, pass_: Pass, candidate: Candidate) -> bool:
        if candidate.site == GRAPH:
            return True
        return self.lower and promise_of(pass_, candidate) is Semantics.LOSSY

    def _perturbed(self, pass_: Pass, candidate: Candidate) -> Perturbation | None:
        self._site = candidate.site
        return self._guard.outline(candidate, self.context)

    def _is_new(self, candidate: Candidate) -> bool:
        return False


def rehearse(text: str, rewriter: Rewriter, context: CompileContext, *, lower: bool) -> Rehearsal:
    """Apply a pipeline to the rewriter's model; roll it back afterwards.

    lower: build the graph; else the passes are only asked, each on the graph as the lossless ones
    leave it. Raises PassError, UsageError for unknown passes and options, and TargetError where the
    target's runtime cannot take the graph.
    """
    context.remarks.clear()
    context.pipeline = text
    manager = _Rehearsing(rewriter, context, (), lower=lower)
    edits: list[Edit] = []
    for step, pass_ in instantiate(parse(text)):
        edits += manager.run(pass_, selector=step.selector).edits
    if lower:
        backend = backend_or_none(context.target) or OnnxRuntimeCpu()
        with rewriter.edit("legalise"), blamed(backend, "legalise"):
            backend.legalise(rewriter, context.target)
    layers = manager.layers or _layers(context.analysis(SITES))
    model = rewriter.model if lower else None
    return Rehearsal(model, layers, tuple(edits), manager.skipped, tuple(context.remarks))


def _layers(sites: Sites) -> dict[str, Layer]:
    found = {}
    for site in sites.of_kind("linear", "conv", "embedding"):
        tensor = constant_tensor(site.weight)
        shape = () if tensor is None else tuple(tensor.shape.numpy())
        found[site.name] = Layer(site.kind, shape)
    return found
