"""The document of a compile: its manifest, its passes, its graphs before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ....ir.digest import file_digest
from ....ir.errors import PlanishError
from ...diffing import compare_sides
from ...sides import AT, side_of
from ...stages import EMITTED
from ..manifest import encode
from ..report import base
from .graphs import graph_rows
from .timeline import timeline

SCHEMA = "planish-report/1"
"""Of the document in a page; it changes with every change that a reader could notice."""

MOST_NODES = 100_000
"""Nodes of all stages from which on only the first and the last are compared: it takes about half a
minute."""

_LEFT_OUT = frozenset({"files", "samples", "tolerance", "stages"})
_NOT_OF_EDITS = frozenset({"before", "after", "origins"})


def compiled(
    folder: Path, manifest: Mapping[str, Any], original: Path | None = None
) -> dict[str, Any]:
    """The document of the artifact in a folder.

    original: the model that was compiled, where it is still there. Without it the graph before is
    what the compile kept of it, without weights. Where no graph can be shown the document says
    why, and holds all else.
    """
    source = base(str(manifest.get("source", ""))) or "model"
    document = {
        "schema": SCHEMA,
        "kind": "compile",
        "title": f"{source} for {manifest.get('target', '')}",
        "compile": _told(manifest),
        "passes": timeline(manifest),
    }
    try:
        graph, why = _graphs(folder, manifest, original), ""
    except PlanishError as error:
        graph, why = None, str(error)
    return {**encode(document), "graph": graph, "no_graph": why}


def original_of(manifest: Mapping[str, Any], given: Path | None) -> Path | None:
    """The model that was compiled, if it still is what it was; None otherwise."""
    path = given or Path(str(manifest.get("source", "")))
    known = manifest.get("digests", {}).get("source")
    try:
        found = path.is_file() and (not known or file_digest(path) == known)
    except (OSError, PlanishError):
        return None
    return path if found else None


def _told(manifest: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in manifest.items() if key not in _LEFT_OUT}
    edits = manifest.get("edits", ())
    kept["edits"] = [{k: v for k, v in e.items() if k not in _NOT_OF_EDITS} for e in edits]
    return kept


def _graphs(
    folder: Path, manifest: Mapping[str, Any], original: Path | None
) -> dict[str, Any] | None:
    stages = [stage for stage in manifest.get("stages") or () if stage.get("changed", True)]
    if sum(int(stage.get("nodes") or 0) for stage in stages) > MOST_NODES:
        stages = [stages[0], stages[-1]]
    bounded = bool(manifest.get("memory", {}).get("bounded"))
    first = f"{folder}{AT}{stages[0]['id']}" if stages else None
    before = first if bounded or original is None else str(original)
    if before is None:
        return None
    after = _after(folder, stages, bounded)
    edits = {str(edit["id"]): place for place, edit in enumerate(manifest.get("edits", ()))}
    side = side_of(before)
    return graph_rows([(n, compare_sides(side, side_of(at))) for n, at in after.items()], edits)


def _after(folder: Path, stages: Sequence[Mapping[str, Any]], bounded: bool) -> dict[str, str]:
    """What the graph before is compared with, by stage. The last one is the model itself, which
    has weights; where memory is too small for those, all are graphs that were kept without."""
    found = {str(stage["id"]): f"{folder}{AT}{stage['id']}" for stage in stages[1:]}
    if bounded:
        found.pop(EMITTED, None)
        return found or {str(stages[0]["id"]): f"{folder}{AT}{stages[0]['id']}"}
    found[next(reversed(found), EMITTED)] = str(folder)
    return found
