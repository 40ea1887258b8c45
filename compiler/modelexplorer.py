"""Two models and their difference as Model Explorer reads them: graphs, node data, what is what.

Formats: ``GraphCollection``, ``NodeDataProviderData`` and ``SyncNavigationData`` of
google-ai-edge/model-explorer (``input_graph.ts``, ``types.ts``, ``sync_navigation.ts``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import onnx_ir as ir

from ..ir.diff.constants import facts
from ..ir.diff.hunks import module_of
from ..ir.diff.patterns import pattern_of
from ..ir.diff.pool import Pool, Source
from ..ir.errors import PlanishError, UsageError
from ..ir.shown import clipped
from ..ir.signature import shape_of, shape_text, type_name
from ..ir.storage.atomic import write_together
from .diffing import ModelDiff

SIDES = ("before", "after")
COLOURS = {"same": "#f1f3f4", "changed": "#fdd663", "gone": "#f28b82", "new": "#81c995"}
LONGEST = 200
"""Characters of the value of an attribute."""


def export(diff: ModelDiff, folder: Path) -> list[Path]:
    """Write the files of a difference into a folder, which is made where it is not there.

    ``before.json`` and ``after.json`` are graphs, ``mapping.json`` is for its "sync navigation",
    the others are node data for both panes. All files are written, or none. Returns them. Raises
    UsageError where the folder is a file or holds other files, PlanishError where it cannot be
    written.
    """
    content = documents(diff)
    check_folder(folder, content)
    texts = {
        folder / name: json.dumps(document, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        for name, document in content.items()
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_together({path: _writer(text) for path, text in texts.items()})
    except OSError as error:
        what = f"the files cannot be written: {error.strerror or error}"
        raise PlanishError(what, where=str(folder)) from error
    return list(texts)


def check_folder(folder: Path, ours: Iterable[str] = ()) -> None:
    """Raise UsageError for a folder that is a file, or holds other files than ``ours``."""
    taken = folder.is_dir() and {path.name for path in folder.iterdir()} - set(ours)
    if taken or (folder.exists() and not folder.is_dir()):
        what = f"holds {min(taken)}" if taken else "is a file"
        raise UsageError(
            f"{str(folder)!r} {what}", hint="name a folder that is empty, or not there yet"
        )


def _writer(text: bytes) -> Callable[[IO[bytes]], None]:
    def write(file: IO[bytes]) -> None:
        file.write(text)

    return write


def documents(diff: ModelDiff) -> dict[str, Any]:
    """The files by name."""
    return {
        "before.json": graph_document(diff, 0),
        "after.json": graph_document(diff, 1),
        "mapping.json": mapping_document(diff),
        "change.json": _node_data("change", _states(diff)),
        "what.json": _node_data("what was done", _titles(diff)),
        "bytes.json": _node_data("bytes of constants", _bytes(diff), gradient=True),
        "error.json": _node_data("relative error of weights", _errors(diff), gradient=True),
        **_predicted(diff),
    }


# -- graphs ----------------------------------------------------------------------------------


def graph_document(diff: ModelDiff, side: int) -> dict[str, Any]:
    """One of the two graphs, as a collection of one."""
    pool = (diff.graph.before, diff.graph.after)[side]
    label = (diff.before, diff.after)[side].label
    totals = diff.graph.totals[side]
    nodes = [*_inputs(pool), *(_node(pool, n) for n in range(len(pool))), *_outputs(pool)]
    about = {
        "nodes": str(totals.nodes),
        "parameters": str(totals.parameters),
        "bytes": str(totals.bytes),
    }
    graph = {"id": SIDES[side], "nodes": nodes, "groupNodeAttributes": {"": about}}
    return {"label": f"{SIDES[side]}: {label}", "graphs": [graph]}


def node_id(number: int) -> str:
    """Of a node in its graph."""
    return f"n{number}"


def _node(pool: Pool, number: int) -> dict[str, Any]:
    node = pool.nodes[number]
    sources = pool.sources[number]
    return {
        "id": node_id(number),
        "label": node.op_type,
        "namespace": _namespace(pool, number),
        "attrs": [_pair("name", str(node.name)), *_attributes(node), *_weights(node)],
        "incomingEdges": list(_edges(pool, sources)),
        "outputsMetadata": [_output(i, value) for i, value in enumerate(node.outputs)],
    }


def _namespace(pool: Pool, number: int) -> str:
    """``encoder/layer/0/attention``; inside a body, the body as well."""
    module = module_of(pool.nodes[number]).replace(".", "/")
    return "/".join(filter(None, (module, pool.places[number].strip("/"))))


def _edges(pool: Pool, sources: Sequence[Source]) -> Iterator[dict[str, str]]:
    for slot, source in enumerate(sources):
        if source.kind == "node":
            origin, output = node_id(int(source.of)), source.output
        elif source.kind == "input":
            origin, output = f"input {source.of}", 0
        elif source.kind == "body":
            origin, output = node_id(int(source.of)), source.output
        else:
            continue
        yield {
            "sourceNodeId": origin, "sourceNodeOutputId": str(output),
            "targetNodeInputId": str(slot),
        }  # fmt: skip


def _attributes(node: ir.Node) -> Iterator[dict[str, str]]:
    for name, held in node.attributes.items():
        if held.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            yield _pair(name, "a body")
        elif held.type in (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS):
            yield _pair(name, "a tensor")
        else:
            value = held.value
            yield _pair(name, str(list(value) if isinstance(value, (tuple, list)) else value))


def _weights(node: ir.Node) -> Iterator[dict[str, str]]:
    for slot, value in enumerate(node.inputs):
        held = facts(value)
        if held is not None:
            text = f"{held.name}: {held.dtype}{list(held.shape)}, {held.bytes:,} bytes"
            yield _pair(f"input {slot}", text)


def _output(index: int, value: ir.Value) -> dict[str, Any]:
    attrs = [_pair("tensor_name", str(value.name or "")), _pair("tensor_shape", _type(value))]
    return {"id": str(index), "attrs": attrs}


def _inputs(pool: Pool) -> Iterator[dict[str, Any]]:
    for value in pool.model.graph.inputs:
        if value.name not in pool.model.graph.initializers:
            yield {
                "id": f"input {value.name}", "label": str(value.name), "namespace": "",
                "outputsMetadata": [_output(0, value)],
            }  # fmt: skip


def _outputs(pool: Pool) -> Iterator[dict[str, Any]]:
    for value in pool.model.graph.outputs:
        maker = value.producer()
        edges = [] if maker is None else [{
            "sourceNodeId": node_id(pool.number[maker]),
            "sourceNodeOutputId": str(value.index() or 0), "targetNodeInputId": "0",
        }]  # fmt: skip
        yield {"id": f"output {value.name}", "label": str(value.name), "namespace": "",
               "incomingEdges": edges}  # fmt: skip


def _type(value: ir.Value) -> str:
    return f"{type_name(value.type)}{shape_text(shape_of(value))}"


def _pair(key: str, value: str) -> dict[str, str]:
    return {"key": key, "value": clipped(value, LONGEST)}


# -- what is what ----------------------------------------------------------------------------


def mapping_document(diff: ModelDiff) -> dict[str, Any]:
    """Which nodes are shown together: those that are one, and all that changed together.

    A node is in one entry at most, as the format asks.
    """
    grouped = [(hunk.before, hunk.after) for hunk in diff.graph.hunks]
    taken = {n for before, _ in grouped for n in before}, {n for _, after in grouped for n in after}
    pairs = diff.graph.matching.pairs.items()
    alone = [((a,), (b,)) for a, b in pairs if a not in taken[0] and b not in taken[1]]
    faces = [_face(diff, "input"), _face(diff, "output")]
    entries = [
        {"leftNodeIds": [node_id(a) for a in left], "rightNodeIds": [node_id(b) for b in right]}
        for left, right in (*grouped, *alone)
        if left and right
    ]
    return {
        "type": "sync_navigation",
        "mapping": {
            **{node_id(a): node_id(b) for a, b in pairs},
            **{name: name for names in faces for name in names},
        },
        "mappingEntries": [
            *entries,
            *({"leftNodeIds": [n], "rightNodeIds": [n]} for names in faces for n in names),
        ],
        "disableMappingFallback": True,
    }


def _face(diff: ModelDiff, word: str) -> list[str]:
    """Ids of inputs or outputs that both models have."""
    held = []
    for pool in (diff.graph.before, diff.graph.after):
        graph = pool.model.graph
        values = graph.inputs if word == "input" else graph.outputs
        held.append([f"{word} {v.name}" for v in values if v.name not in graph.initializers])
    return [name for name in held[0] if name in held[1]]


# -- node data -------------------------------------------------------------------------------


def _node_data(
    name: str, results: Sequence[dict[str, dict[str, Any]]], *, gradient: bool = False
) -> dict[str, Any]:
    """By graph. gradient: numbers, from green over white to red."""
    scale = [{"stop": 0, "bgColor": "#81c995"}, {"stop": 1, "bgColor": "#f28b82"}]
    more: dict[str, Any] = {"gradient": scale} if gradient else {}
    return {
        side: {"name": name, "results": dict(found), **more}
        for side, found in zip(SIDES, results, strict=True)
    }


def _states(diff: ModelDiff) -> list[dict[str, dict[str, Any]]]:
    """Of each node: same, changed, gone or new."""
    graph = diff.graph
    changed = {pair for hunk in graph.hunks for pair in hunk.changed}
    firsts, seconds = {a for a, _ in changed}, {b for _, b in changed}

    def state(number: int, known: Any, marked: set[int], alone: str) -> dict[str, str]:
        word = alone if number not in known else "changed" if number in marked else "same"
        return {"value": word, "bgColor": COLOURS[word]}

    matching = graph.matching
    return [
        {node_id(n): state(n, matching.pairs, firsts, "gone") for n in range(len(graph.before))},
        {node_id(n): state(n, matching.inverse, seconds, "new") for n in range(len(graph.after))},
    ]


def _titles(diff: ModelDiff) -> list[dict[str, dict[str, Any]]]:
    """Of each node in a hunk: what was done, and by which passes."""
    found: list[dict[str, dict[str, Any]]] = [{}, {}]
    for hunk in diff.graph.hunks:
        passes = ", ".join(diff.passes(hunk))
        what = pattern_of(diff.graph, hunk).title
        told = {"value": f"{what} by {passes}" if passes else what}
        for side, numbers in zip(found, (hunk.before, hunk.after), strict=True):
            side.update({node_id(n): told for n in numbers})
    return found


def _bytes(diff: ModelDiff) -> list[dict[str, dict[str, Any]]]:
    """Of each node that reads constants: how large these are."""
    found = []
    for pool in (diff.graph.before, diff.graph.after):
        sizes = {
            number: sum(held.bytes for v in node.inputs if (held := facts(v)) is not None)
            for number, node in enumerate(pool.nodes)
        }
        found.append({node_id(n): {"value": size} for n, size in sizes.items() if size})
    return found


def _errors(diff: ModelDiff) -> list[dict[str, dict[str, Any]]]:
    """Of each node after whose weights changed: by how much."""
    found: dict[str, dict[str, Any]] = {}
    for hunk in diff.graph.hunks:
        for change in diff.weights(hunk):
            if change.error is None or change.after is None:
                continue
            names = {part.name for part in change.after.parts}
            for number in hunk.after:
                read = {str(v.name) for v in diff.graph.after.nodes[number].inputs if v is not None}
                if names & read:
                    found[node_id(number)] = {"value": change.error}
    return [{}, found]


def _predicted(diff: ModelDiff) -> dict[str, Any]:
    """Milliseconds of each node, where they were asked for."""
    times = (diff.figures.before.node_ms, diff.figures.after.node_ms)
    if not any(times):
        return {}
    results = [{node_id(n): {"value": ms} for n, ms in side.items()} for side in times]
    return {"predicted.json": _node_data("predicted ms", results, gradient=True)}
