"""Two models side by side: the difference of their graphs, with who made it and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..ir.diff.changes import GraphDiff, Hunk, TensorChange, Totals
from ..ir.diff.hunks import diff_models
from ..ir.diff.lineage import Lineage, lineage_of, nodes_of_sites
from ..ir.diff.pool import Pool
from ..ir.sites import find_sites
from .garbage import rarely_collecting
from .sides import Side, side_of

SCHEMA = 1
"""Version of the JSON document; it grows with every change that a reader could notice."""


@dataclass(frozen=True)
class ModelDiff:
    """A difference with its sides. edits: by id, what the manifest says of those in hunks."""

    before: Side
    after: Side
    graph: GraphDiff
    edits: Mapping[str, Mapping[str, Any]]

    def passes(self, hunk: Hunk) -> tuple[str, ...]:
        """The passes that made a hunk, those of the compiler's own spellings last."""
        found = dict.fromkeys(pass_of(edit, self.edits) for edit in hunk.edits)
        return tuple(sorted(found, key=lambda name: name.startswith("spelling")))

    def losses(self, hunk: Hunk) -> dict[str, float]:
        """The measured loss of each edit in a hunk that has one."""
        known = ((edit, self.edits.get(edit, {}).get("loss")) for edit in hunk.edits)
        return {edit: float(loss) for edit, loss in known if loss is not None}

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
            "before": {"path": self.before.label, **_totals(one)},
            "after": {"path": self.after.label, **_totals(other)},
            "same": not self.graph,
            "unchanged_nodes": self.graph.unchanged,
            "signature": list(self.graph.face),
            "opsets": list(self.graph.opsets),
            "weights": list(self.graph.stores),
            "hunks": [self._hunk(i, hunk) for i, hunk in enumerate(self.graph.hunks)],
            "values": [vars(value) for value in self.graph.values],
        }

    def _hunk(self, index: int, hunk: Hunk) -> dict[str, Any]:
        before, after = self.graph.before.nodes, self.graph.after.nodes
        return {
            "id": f"h{index:04d}",
            "kind": hunk.kind,
            "module": hunk.module,
            "before": [_node(before[n]) for n in hunk.before],
            "after": [_node(after[n]) for n in hunk.after],
            "changed": [[str(before[a].name), str(after[b].name)] for a, b in hunk.changed],
            "details": list(hunk.details),
            "bytes": hunk.bytes,
            "tensors": [_tensor(change) for change in hunk.tensors],
            "edits": [
                {"id": edit, "pass": pass_of(edit, self.edits), **_about(self.edits.get(edit))}
                for edit in hunk.edits
            ],
        }


def compare(before: str | Path, after: str | Path) -> ModelDiff:
    """What is different between two models: files, folders of artifacts, ``FOLDER@STAGE``.

    Where ``after`` was compiled from ``before`` its stamps tell which node came from which, and
    its manifest by which pass; otherwise nodes are matched by what surrounds them.
    Raises InputError for a path that holds no model.
    """
    with rarely_collecting():
        return compare_sides(side_of(before), side_of(after))


def compare_sides(before: Side, after: Side) -> ModelDiff:
    """``compare`` for two sides that are read already."""
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
    """What hunks have in common that did the same: kind, operators of both sides, passes."""
    before, after = diff.graph.before.nodes, diff.graph.after.nodes
    return (
        hunk.kind,
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
    if not stamps or edits is None:
        return None
    sites = find_sites(sides[0].model, nested=True)
    edited = {
        edit: [*known.get("origins", ()), *nodes_of_sites(sites, _sites(known))]
        for edit, known in edits.items()
    }
    return lineage_of(before, after, stamps, edited, sides[0].stamps())


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


def _node(node: ir.Node) -> dict[str, Any]:
    return {"name": str(node.name), "op": node.op_type, "domain": node.domain}


def _tensor(change: TensorChange) -> dict[str, Any]:
    def plain(facts: Any) -> dict[str, Any] | None:
        return None if facts is None else {**vars(facts), "shape": list(facts.shape)}

    return {
        "node": change.node, "input": change.slot, "before": plain(change.before),
        "after": plain(change.after), "relative_error": change.error,
    }  # fmt: skip


def _about(edit: Mapping[str, Any] | None) -> dict[str, Any]:
    kept = ("site", "setting", "loss", "saving_bytes")
    return {name: edit[name] for name in kept if name in edit} if edit else {}
