"""The document of one model: its modules and sites, its graph, what each target would do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from ....ir.counting.count import SiteRow, Totals
from ....ir.diff.changes import Totals as Sums
from ....ir.diff.pool import Pool
from ....ir.signature import Signature
from ....targets.loader import load_target, target_names
from ....targets.schema import Target
from ....targets.techniques import has_backend, runtime_label
from ...policy import propose
from ...workload import Workload
from ..manifest import encode
from ..modules import ModuleRow
from ..report import base
from .compiled import SCHEMA
from .graphs import Graphs
from .places import places_before


def inspected(
    label: str,
    model: ir.Model,
    signature: Signature,
    rows: Sequence[SiteRow],
    modules: Sequence[ModuleRow],
    totals: Totals,
    workloads: Sequence[Workload],
    target: Target | None = None,
) -> dict[str, Any]:
    """The document of a model. target: the one that its times were predicted for."""
    found = {
        "schema": SCHEMA,
        "kind": "inspect",
        "title": base(label) or "model",
        "model": label,
        "inputs": [str(spec) for spec in signature.inputs],
        "outputs": [str(spec) for spec in signature.outputs],
        "workload": ", ".join(map(str, workloads)),
        "target": "" if target is None else target.name,
        "totals": totals,
        "sites": list(rows),
        "modules": list(modules),
        "targets": opinions(model, workloads),
    }
    return {**encode(found), "graph": _graph(model)}


def opinions(model: ir.Model, workloads: Sequence[Workload]) -> list[dict[str, Any]]:
    """What policy would try for each target of the catalogue, with data to calibrate, and what it
    sets aside and why; one row for targets of which the same is said."""
    said: dict[str, dict[str, Any]] = {}
    for name in target_names():
        row = _opinion(model, load_target(name), workloads)
        known = said.setdefault(repr(row), row | {"targets": []})
        known["targets"].append(name)
    return list(said.values())


def _opinion(model: ir.Model, target: Target, workloads: Sequence[Workload]) -> dict[str, Any]:
    proposed = propose(model, target, calibrated=True, workloads=workloads)
    return {
        "runtime": runtime_label(target),
        "compiles": has_backend(target),
        "proposals": [[p.pipeline, p.reason] for p in proposed.proposals],
        "aside": [[a.technique, a.by, a.code, a.sentence] for a in proposed.aside],
    }


def _graph(model: ir.Model) -> dict[str, Any]:
    graphs, pool = Graphs(), Pool.of(model)
    nodes = graphs.stage(pool, places_before(pool))
    graphs.tensors.look(pool)
    sums = Sums.of(pool)
    stage = {"name": "model", "nodes": nodes, "bytes": sums.bytes, "parameters": sums.parameters,
             "operators": dict(sums.operators), "dtypes": dict(sums.dtypes)}  # fmt: skip
    return {**graphs.to_json(), "stages": [stage]}
