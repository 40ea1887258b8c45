"""The document of a difference between two models that somebody asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ....ir.diff.patterns import pattern_of
from ....ir.diff.pool import Pool
from ...diffing import ModelDiff, repeated
from ..manifest import encode
from ..report import base
from .compiled import SCHEMA
from .graphs import graph_rows

SHOWN_OPERATORS = 6


def compared(diff: ModelDiff) -> dict[str, Any]:
    """The document: sums, what was done how often, both graphs."""
    edits = list(diff.edits.values())
    places = {str(edit["id"]): place for place, edit in enumerate(edits)}
    kept = ("id", "pass", "site", "setting", "loss", "saving_bytes")
    found = {
        "schema": SCHEMA,
        "kind": "diff",
        "title": f"{base(diff.before.label)} and {base(diff.after.label)}",
        "before": diff.before.label,
        "after": diff.after.label,
        "edits": [{key: edit[key] for key in kept if key in edit} for edit in edits],
        "families": _families(diff),
        "unchanged": diff.graph.unchanged,
    }
    return {**encode(found), "graph": graph_rows([("after", diff)], places)}


def _families(diff: ModelDiff) -> list[dict[str, Any]]:
    """Hunks that did the same to several places; ``hunks``: their places among all."""
    place = {id(hunk): number for number, hunk in enumerate(diff.graph.hunks)}
    return [
        {
            "kind": hunks[0].kind,
            "title": pattern_of(diff.graph, hunks[0]).title,
            "before": _operators(diff.graph.before, hunks[0].before),
            "after": _operators(diff.graph.after, hunks[0].after),
            "passes": list(diff.passes(hunks[0])),
            "bytes": sum(hunk.bytes for hunk in hunks),
            "hunks": [place[id(hunk)] for hunk in hunks],
            "modules": [hunk.module for hunk in hunks],
        }
        for _, hunks in repeated(diff)
    ]


def _operators(pool: Pool, numbers: Sequence[int]) -> str:
    """``2 Add, MatMul``; of many the commonest."""
    counts = Counter(pool.nodes[number].op_type for number in numbers).most_common()
    shown = [name if count == 1 else f"{count} {name}" for name, count in counts[:SHOWN_OPERATORS]]
    more = sum(count for _, count in counts[SHOWN_OPERATORS:])
    return ", ".join([*shown, *([f"{more} more"] if more else [])])
