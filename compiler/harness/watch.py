"""Watch a pass at work: what it offers, and whether it touches the graph where it must not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from ...ir.digest import contents_digest
from ...ir.errors import EndlessError
from ...ir.graph import all_graphs, all_nodes
from ...ir.rewriter import Rewriter
from ...ir.signature import Signature
from ...passes.api import (
    Candidate,
    Context,
    Pass,
    Perturbation,
    Refusal,
    Semantics,
    promise_of,
)

OFFERS, OFFERS_PER_NODE = 1_000, 50
OPERATIONS, OPERATIONS_PER_NODE = 10_000, 200
"""Bounds on what one pass offers and one edit does; nothing sensible comes near them."""


@dataclass
class Notes:
    """What was seen of one run of a pass.

    promises: of the candidates offered. touched: the hooks that changed the graph, in words.
    faces: what edits changed of the signature, in words.
    """

    promises: set[Semantics] = field(default_factory=set)
    touched: list[str] = field(default_factory=list)
    faces: list[str] = field(default_factory=list)


def snapshot(model: ir.Model) -> tuple[Any, ...]:
    """Contents digest, and every name: what a rollback restores and an onlooker leaves alone."""
    nodes = [(n.name, tuple(o.name for o in n.outputs)) for n in all_nodes(model)]
    graphs = [
        (tuple(v.name for v in g.inputs), tuple(g.initializers), tuple(v.name for v in g.outputs))
        for g in all_graphs(model)
    ]
    return contents_digest(model), tuple(nodes), tuple(graphs)


def bounded_rewriter(model: ir.Model) -> Rewriter:
    """A rewriter that stops an edit far earlier than a compile would."""
    size = sum(1 for _ in all_nodes(model))
    return Rewriter(model, max_operations=OPERATIONS + OPERATIONS_PER_NODE * size)


def watched(pass_: Pass, notes: Notes) -> Pass:
    """The same pass to every onlooker, with notes taken at each of its hooks."""
    names = ("name", "semantics", "requires", "produces", "invalidates", "rounds", "Options")
    facts = {name: getattr(pass_, name) for name in names}
    made: _Watched = type(type(pass_).__name__, (_Watched,), facts)(pass_.options)
    made.inner, made.notes = pass_, notes
    return made


class _Watched(Pass):
    inner: Pass
    notes: Notes

    def candidates(self, model: ir.Model, ctx: Context) -> Iterable[Candidate | Refusal]:
        before, limit = snapshot(model), OFFERS + OFFERS_PER_NODE * len(model.graph)
        offers: list[Candidate | Refusal] = []
        for offer in self.inner.candidates(model, ctx):
            offers.append(offer)
            if len(offers) > limit:
                raise EndlessError(f"more than {limit} candidates", where=self.name)
        if snapshot(model) != before:
            self.notes.touched.append("candidates() changed the graph")
        self.notes.promises.update(promise_of(self, o) for o in offers if isinstance(o, Candidate))
        return offers

    def perturb(self, model: ir.Model, candidate: Candidate, ctx: Context) -> Perturbation | None:
        if type(self.inner).perturb is Pass.perturb:
            return None  # most lossless passes: nothing to watch, and a digest costs more
        before = snapshot(model)
        found = self.inner.perturb(model, candidate, ctx)
        if snapshot(model) != before:
            self.notes.touched.append(f"perturb() changed the graph at {candidate.site}")
        return found

    def lower(
        self,
        model: ir.Model,
        candidate: Candidate,
        perturbation: Perturbation | None,
        rewriter: Rewriter,
        ctx: Context,
    ) -> None:
        before = Signature.of(model)
        self.inner.lower(model, candidate, perturbation, rewriter, ctx)
        self.notes.faces += before.difference(Signature.of(model))
