"""Two models side by side: the difference of their graphs, with who made it and what it cost."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..ir.diff.changes import GraphDiff, Hunk, TensorChange, Totals
from ..ir.diff.hunks import diff_models
from ..ir.diff.lineage import Lineage, lineage_of, nodes_of_sites
from ..ir.diff.patterns import pattern_of
from ..ir.diff.pool import Pool
from ..ir.diff.weights import WeightChange, weight_changes
from ..ir.errors import InputError
from ..ir.sites import find_sites
from ..targets.loader import load_target
from ..targets.schema import Target
from .difffigures import Figures, figures
from .garbage import rarely_collecting
from .sides import Side, side_of
from .stages import LEGALISE

SCHEMA = 3
"""Version of the JSON document; it grows with every change that a reader could notice."""


@dataclass(frozen=True)
class ModelDiff:
    """A difference with its sides. edits: by id, what the manifest says of those in hunks.
    figures: operations and times, as far as they were asked for."""

    before: Side
    after: Side
    graph: GraphDiff
    edits: Mapping[str, Mapping[str, Any]]
    figures: Figures = field(default_factory=Figures)

    def passes(self, hunk: Hunk) -> tuple[str, ...]:
        """The passes that made a hunk, those of the compiler's own spellings last."""
        found = dict.fromkeys(pass_of(edit, self.edits) for edit in hunk.edits)
        return tuple(sorted(found, key=lambda name: name.startswith("spelling")))

    def losses(self, hunk: Hunk) -> dict[str, float]:
        """The measured loss of each edit in a hunk that has one."""
        known = ((edit, self.edits.get(edit, {}).get("loss")) for edit in hunk.edits)
        return {edit: float(loss) for edit, loss in known if loss is not None}

    def weights(self, hunk: Hunk) -> list[WeightChange]:
        """What became of the weights of a hunk. Reads them."""
        return weight_changes(self.graph, hunk)

    def remarks(self, hunk: Hunk) -> list[Mapping[str, Any]]:
        """What the manifest remarks on the sites of a hunk."""
        sites = {self.edits[e].get("site") for e in hunk.edits if e in self.edits} - {None, "graph"}
        return [r for r in self._remarks if r.get("site") in sites and r.get("kind") != "applied"]

    def reason(self, edit: str) -> str:
        """Why an edit was made, a sentence."""
        known, name = self.edits.get(edit, {}), pass_of(edit, self.edits)
        if name.startswith("spelling/"):
            return "the same, written so since that measured faster"
        if name == LEGALISE:
            told = [r for r in self._remarks if r.get("pass") == LEGALISE]
            return str(told[0].get("sentence", "")) if told else "the runtime needs it"
        mine = (name, known.get("site"), "applied")
        for remark in self._remarks:
            if (remark.get("pass"), remark.get("site"), remark.get("kind")) == mine:
                return str(remark.get("sentence", ""))
        return str(known.get("setting", ""))

    @property
    def _remarks(self) -> Sequence[Mapping[str, Any]]:
        found = self.after.manifest.get("remarks", ())
        return [r for r in found if isinstance(r, Mapping)] if isinstance(found, list) else ()

    def __str__(self) -> str:
        from .reporting.difftext import Shown, lines  # which reads this module

        return "\n".join(line.text for line in lines(self, Shown()))

    def __bool__(self) -> bool:
        return bool(self.graph)

    def to_json(self) -> dict[str, Any]:
        """The document of ``planish diff --json``; see docs/diff.md."""
        one, other = self.graph.totals
        return {
            "schema": SCHEMA,
            "before": {**_side(self.before), **_totals(one), **self.figures.before.to_json()},
            "after": {**_side(self.after), **_totals(other), **self.figures.after.to_json()},
            "target": self.figures.target,
            "workload": self.figures.workload,
            "same": not self.graph,
            "unknown_weights": [list(names) for names in self.graph.unknown],
            "unchanged_nodes": self.graph.unchanged,
            "signature": list(self.graph.face),
            "opsets": list(self.graph.opsets),
            "weights": list(self.graph.stores),
            "hunks": [self._hunk(i, hunk) for i, hunk in enumerate(self.graph.hunks)],
            "values": [vars(value) for value in self.graph.values],
        }

    def _hunk(self, index: int, hunk: Hunk) -> dict[str, Any]:
        before, after = self.graph.before.nodes, self.graph.after.nodes
        pattern = pattern_of(self.graph, hunk)
        return {
            "id": f"h{index:04d}",
            "kind": hunk.kind,
            "pattern": pattern.code,
            "title": pattern.title,
            "module": hunk.module,
            "before": [_node(before[n]) for n in hunk.before],
            "after": [_node(after[n]) for n in hunk.after],
            "changed": [[str(before[a].name), str(after[b].name)] for a, b in hunk.changed],
            "details": list(hunk.details),
            "bytes": hunk.bytes,
            **self.figures.of(hunk.before, hunk.after),
            "tensors": [_tensor(change) for change in hunk.tensors],
            "weights": [change.to_json() for change in self.weights(hunk)],
            "remarks": [dict(remark) for remark in self.remarks(hunk)],
            "edits": [
                {
                    "id": edit,
                    "pass": pass_of(edit, self.edits),
                    **_about(self.edits.get(edit)),
                    "reason": self.reason(edit),
                }
                for edit in hunk.edits
            ],
        }


def compare(
    before: str | Path,
    after: str | Path,
    *,
    target: str | Path | Target | None = None,
    workload: str = "",
    threads: int = 0,
) -> ModelDiff:
    """What is different between two models: files, folders of artifacts, ``FOLDER@STAGE``.

    Where ``after`` was compiled from ``before`` its stamps tell which node came from which, and
    its manifest by which pass; otherwise nodes are matched by what surrounds them.
    target, workload, threads: what times are predicted and operations counted for.
    Raises InputError for a path that holds no model, TargetError and UsageError for the others.
    """
    named = load_target(target) if isinstance(target, str | Path) else target
    with rarely_collecting():
        found = compare_sides(side_of(before), side_of(after))
        sides = (found.before, found.after)
        return replace(found, figures=figures(found.graph, sides, named, workload, threads))


def compare_sides(before: Side, after: Side) -> ModelDiff:
    """``compare`` for two sides that are read already, without operations and times."""
    sides = before, after
    with rarely_collecting():
        edits = after.edits_since(before)
        told = partial(_lineage, sides, edits)
        graph = diff_models(sides[0].model, sides[1].model, lineage=told)
    return ModelDiff(*sides, graph, edits or {})


def pass_of(edit: str, known: Mapping[str, Mapping[str, Any]]) -> str:
    """``quantize`` for the id ``0007-quantize/encoder.query``; the manifest's word first."""
    named = known.get(edit, {}).get("pass")
    if named:
        return str(named)
    name = edit.partition("-")[2] or edit
    return name if name.startswith("spelling/") else name.partition("/")[0]


def repeated(diff: ModelDiff) -> list[tuple[tuple[Any, ...], list[Hunk]]]:
    """Hunks that did the same to several places, in the order of the first of each."""
    families: dict[tuple[Any, ...], list[Hunk]] = {}
    for hunk in diff.graph.hunks:
        families.setdefault(family(diff, hunk), []).append(hunk)
    return list(families.items())


def family(diff: ModelDiff, hunk: Hunk) -> tuple[Any, ...]:
    """What hunks have in common that did the same: kind, what was done, operators of both sides,
    passes."""
    before, after = diff.graph.before.nodes, diff.graph.after.nodes
    return (
        hunk.kind,
        pattern_of(diff.graph, hunk).title,
        tuple(sorted(Counter(before[n].op_type for n in hunk.before).items())),
        tuple(sorted(Counter(after[n].op_type for n in hunk.after).items())),
        diff.passes(hunk),
    )


def _lineage(
    sides: tuple[Side, Side],
    edits: Mapping[str, Mapping[str, Any]] | None,
    before: Pool,
    after: Pool,
) -> Lineage | None:
    stamps = sides[1].stamps()
    if edits is None:
        return None
    edited = {edit: list(known.get("origins", ())) for edit, known in edits.items()}
    with contextlib.suppress(InputError):  # to find sites may take weights that are not here
        sites = find_sites(sides[0].model, nested=True)
        for edit, known in edits.items():
            edited[edit] += nodes_of_sites(sites, _sites(known))
    sure = sides[1].came_from(sides[0])
    return lineage_of(before, after, stamps, edited, sides[0].stamps(), sure=sure)


def _sites(edit: Mapping[str, Any]) -> list[str]:
    """The layers that an edit of the manifest is about."""
    groups = edit.get("details", {}).get("groups", {})
    more = [site for group in groups.values() for site in group.get("sites", ())]
    return [str(edit.get("site", "")), *more]


# -- plain data ----------------------------------------------------------------------------


def _totals(totals: Totals) -> dict[str, Any]:
    return {
        "nodes": totals.nodes,
        "parameters": totals.parameters,
        "bytes": totals.bytes,
        "operators": dict(totals.operators),
        "dtypes": dict(totals.dtypes),
    }


def _side(side: Side) -> dict[str, Any]:
    return {"path": side.label, "stage": side.stage}


def _node(node: ir.Node) -> dict[str, Any]:
    return {"name": str(node.name), "op": node.op_type, "domain": node.domain}


def _tensor(change: TensorChange) -> dict[str, Any]:
    sides = (change.before, change.after)
    before, after = (None if facts is None else facts.to_json() for facts in sides)
    return {
        "node": change.node, "input": change.slot, "before": before, "after": after,
        "relative_error": change.error,
    }  # fmt: skip


def _about(edit: Mapping[str, Any] | None) -> dict[str, Any]:
    kept = ("site", "setting", "loss", "saving_bytes")
    return {name: edit[name] for name in kept if name in edit} if edit else {}
