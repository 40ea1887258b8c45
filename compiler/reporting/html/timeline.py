"""What happened pass by pass: edits, bytes, predicted and measured time, loss, seconds spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ....ir.errors import UsageError
from ...pipeline import parse

Row = dict[str, Any]
Manifest = Mapping[str, Any]


def timeline(manifest: Manifest) -> list[Row]:
    """A row for the original and one a step, in order, from what a manifest holds.

    bytes: of all constants after the step, by the stages of the compile; where it kept none, by
    the savings of the edits (``exact`` is false then). loss: the largest of an edit of the step,
    where: its site; sum: over all of them. refused: sites that the step left alone.
    """
    stages = manifest.get("stages") or []
    rows = list(_by_stage(manifest, stages) if stages else _by_step(manifest))
    return [row | _measured(manifest, place, len(rows)) for place, row in enumerate(rows)]


def _by_stage(manifest: Manifest, stages: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    edits = {str(edit["id"]): edit for edit in manifest.get("edits", ())}
    for stage in stages:
        own = [edits[name] for name in stage.get("edits", ()) if name in edits]
        yield _row(manifest, str(stage["name"]), str(stage.get("step", "")), own) | {
            "stage": stage["id"],
            "bytes": stage.get("bytes"),
            "nodes": stage.get("nodes"),
            "parameters": stage.get("parameters"),
            "predicted_ms": stage.get("predicted_ms"),
            "changed": bool(stage.get("changed", True)),
            "exact": True,
        }


def _by_step(manifest: Manifest) -> Iterator[Row]:
    """From the pipeline and its edits, where an older compile kept no stages."""
    left = int(manifest.get("bytes_before") or 0)
    yield _row(manifest, "imported", "", []) | _estimated(left)
    for name, step in _steps(manifest):
        own = [edit for edit in manifest.get("edits", ()) if edit["pass"] == name]
        left -= sum(int(edit.get("saving_bytes") or 0) for edit in own)
        yield _row(manifest, name, step, own) | _estimated(left)


def _steps(manifest: Manifest) -> list[tuple[str, str]]:
    """Names and texts of the steps; of a pipeline that this version does not read, what its edits
    tell."""
    text = str(manifest.get("plan", {}).get("pipeline") or "")
    try:
        return [(step.name, str(step)) for step in parse(text)] if text else []
    except UsageError:
        names = dict.fromkeys(str(edit["pass"]) for edit in manifest.get("edits", ()))
        return [(name, "") for name in names]


def _estimated(left: int) -> Row:
    return {"stage": None, "bytes": left, "nodes": None, "parameters": None,
            "predicted_ms": None, "changed": True, "exact": False}  # fmt: skip


def _row(manifest: Manifest, name: str, step: str, edits: Sequence[Mapping[str, Any]]) -> Row:
    lossy = [edit for edit in edits if edit.get("loss") is not None]
    worst = max(lossy, key=lambda edit: float(edit["loss"]), default=None)
    left = [r for r in manifest.get("remarks", ()) if r["pass"] == name]
    return {
        "name": name,
        "step": step,
        "edits": len(edits),
        "sites": len({edit["site"] for edit in edits}),
        "saved": sum(int(edit.get("saving_bytes") or 0) for edit in edits),
        "loss": None if worst is None else worst["loss"],
        "where": "" if worst is None else worst["site"],
        "refused": sum(r["kind"] == "refused" for r in left),
        "missed": sum(r["kind"] == "missed" for r in left),
        "seconds": manifest.get("seconds", {}).get(name),
    }


def _measured(manifest: Manifest, place: int, count: int) -> Row:
    """The original and what is handed over were timed; what lies between was not."""
    speed = manifest.get("speed", {})
    known = {0: speed.get("before"), count - 1: speed.get("after")}
    return {"measured_ms": known.get(place)}
