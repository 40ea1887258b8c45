"""Two graphs and their difference as plain rows that a page can draw.

A node that several graphs hold is one row, and so is a value and a text. A stage names its nodes
by place; hunks and pairs name nodes by their positions in the two stages that they compare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from ....ir.diff.changes import Hunk, TensorChange, Totals
from ....ir.diff.patterns import pattern_of
from ....ir.diff.pool import Pool
from ....ir.graph import constant_tensor
from ....ir.shown import clipped
from ....ir.signature import shape_of, shape_text, type_name
from ...diffing import ModelDiff
from ..manifest import encode
from .places import places_after, places_before
from .tables import Table
from .weights import Tensors

LONGEST_ATTRIBUTES = 400
"""Characters of the attributes of one node."""
NO_WEIGHT = -1


@dataclass
class Graphs:
    """Rows that all stages share. texts: what all others name by place.

    nodes: (name, operator, module, attributes, inputs, outputs, body); values: (name, type, kind
    (one of ``KINDS``), tensor).
    """

    texts: Table = field(default_factory=Table)
    nodes: Table = field(default_factory=Table)
    values: Table = field(default_factory=Table)
    tensors: Tensors = field(default_factory=Tensors)
    _known: dict[ir.Value, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All rows, as plain JSON values."""
        return {
            "texts": self.texts.rows,
            "nodes": [[list(x) if isinstance(x, tuple) else x for x in r] for r in self.nodes.rows],
            "values": [list(row) for row in self.values.rows],
            "tensors": encode(self.tensors.to_json()),
            "kinds": list(KINDS),
        }

    def stage(self, pool: Pool, places: Sequence[str]) -> list[int]:
        """The places of a graph's nodes, in order."""
        return [
            self.nodes.add(self._node(node, place, pool.owners[number]))
            for number, (node, place) in enumerate(zip(pool.nodes, places, strict=True))
        ]

    def _node(self, node: ir.Node, place: str, owner: int) -> tuple[Any, ...]:
        title = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        return (
            self.texts.add(str(node.name or "")),
            self.texts.add(title),
            self.texts.add(place),
            self.texts.add(clipped(", ".join(_attributes(node)), LONGEST_ATTRIBUTES)),
            tuple(self._value(value) for value in node.inputs),
            tuple(self._value(value) for value in node.outputs),
            owner >= 0,
        )

    def _value(self, value: ir.Value | None) -> int:
        if value is None:
            return -1
        if value not in self._known:
            self._known[value] = self._new(value)
        return self._known[value]

    def _new(self, value: ir.Value) -> int:
        tensor = constant_tensor(value)
        weight = NO_WEIGHT if tensor is None else self.tensors.add(value, tensor)
        return self.values.add((
            self.texts.add(str(value.name)), self.texts.add(_type(value)), _kind(value), weight
        ))  # fmt: skip

    def hunk(self, hunk: Hunk, diff: ModelDiff, edits: Mapping[str, int]) -> dict[str, Any]:
        """A hunk. edits: the place of each edit in the manifest, by id."""
        return {
            "kind": hunk.kind,
            "title": pattern_of(diff.graph, hunk).title,
            "module": hunk.module,
            "before": list(hunk.before),
            "after": list(hunk.after),
            "changed": [list(pair) for pair in hunk.changed],
            "passes": list(diff.passes(hunk)),
            "edits": [edits[edit] for edit in hunk.edits if edit in edits],
            "details": list(hunk.details),
            "bytes": hunk.bytes,
            "tensors": [self._change(change) for change in hunk.tensors],
        }

    def _change(self, change: TensorChange) -> dict[str, Any]:
        sides = (change.before, change.after)
        places = [NO_WEIGHT if f is None else self.tensors.place(f.digest) for f in sides]
        return {"node": change.node, "slot": change.slot, "error": change.error,
                "before": places[0], "after": places[1]}  # fmt: skip


KINDS = ("computed", "input", "output", "constant")


def _kind(value: ir.Value) -> int:
    if constant_tensor(value) is not None:
        return KINDS.index("constant")
    if value.producer() is None:
        return KINDS.index("input")
    return KINDS.index("output" if value.is_graph_output() else "computed")


def _type(value: ir.Value) -> str:
    if value.type is None and value.shape is None:
        return ""
    return f"{type_name(value.type)}{shape_text(shape_of(value))}"


def _attributes(node: ir.Node) -> Iterator[str]:
    for name, held in node.attributes.items():
        if held.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            yield f"{name}: a body"
        elif held.type in (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS):
            yield f"{name}: a tensor"
        else:
            value = held.value
            shown = list(value) if isinstance(value, (tuple, list)) else value
            yield f"{name}: {clipped(str(shown), 120)}"


def graph_rows(diffs: Sequence[tuple[str, ModelDiff]], edits: Mapping[str, int]) -> dict[str, Any]:
    """The first graph, and each other one as a stage compared with it.

    diffs: of the same graph before, each with the name of what led to the graph after.
    """
    graphs, before = Graphs(), diffs[0][1].graph.before
    places = places_before(before)
    first = {"name": "original", "nodes": graphs.stage(before, places), **_sums(diffs[0][1], 0)}
    stages = [first, *(_stage(graphs, name, diff, places, edits) for name, diff in diffs)]
    return {**graphs.to_json(), "stages": stages}


def _stage(
    graphs: Graphs, name: str, diff: ModelDiff, places: Sequence[str], edits: Mapping[str, int]
) -> dict[str, Any]:
    found = diff.graph
    inverse = found.matching.inverse
    origins = {b: hunk.before for hunk in found.hunks for b in hunk.after if b not in inverse}
    nodes = graphs.stage(found.after, places_after(found.after, places, inverse, origins))
    for pool in (found.before, found.after):
        graphs.tensors.look(pool)
    return {
        "name": name,
        "nodes": nodes,
        "pairs": [[a, b] for a, b in sorted(found.matching.pairs.items())],
        "hunks": [encode(graphs.hunk(hunk, diff, edits)) for hunk in found.hunks],
        "face": [*found.face, *found.opsets, *found.stores],
        **_sums(diff, 1),
    }


def _sums(diff: ModelDiff, side: int) -> dict[str, Any]:
    totals: Totals = diff.graph.totals[side]
    return {
        "bytes": totals.bytes,
        "parameters": totals.parameters,
        "operators": dict(totals.operators),
        "dtypes": dict(totals.dtypes),
    }
