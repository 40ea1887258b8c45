"""MiniLM before and after a full compile: what hunks say, replay, and matching without names."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from benchmarks.artifacts import MODEL, compiled
from benchmarks.data import calibration_feeds, minilm_task
from benchmarks.figures import Figure, Outcome, at_least, at_most, holds
from benchmarks.settings import Settings

PIPELINE = (
    "prune-neurons{ratio=0.25},prune-heads{ratio=0.25 scope=layer},"
    "low-rank{total=0.85 gain=size},quantize{scheme=static}"
)
NO_GATE = "cosine=0.1"
"""All edits stay: it is about what is said of them."""
DRAWS = 8
LEAST_PAIRS = 0.99
"""Of the pairs that lineage tells, which are found without it and without names."""


def diff_minilm(settings: Settings) -> Outcome:
    """Pruned, factorized and quantized; every hunk by whom and why, and played back."""
    from planish.compiler.diffing import compare

    before = minilm_task(settings.workdir).model
    folder = settings.workdir / "minilm-diff"
    compiled(folder, before, calibration_feeds(0)[:DRAWS], settings, pipeline=PIPELINE,
             max_drift=NO_GATE, keep_stages=True)  # fmt: skip
    told = compare(before, folder)
    document = told.to_json()
    nameless = [h["id"] for h in document["hunks"] if not explained(h)]
    figures = [at_most("hunks without a pass and a reason", len(nameless), 0), *played_back(told)]
    figures += _stages(folder)
    figures += stripped(told, before, folder / MODEL)
    rows = [_row(hunk) for hunk in document["hunks"]]
    return Outcome(
        "MiniLM before and after pruning, factors and int8",
        ("what", "where", "nodes before", "after", "by"), tuple(rows), tuple(figures),
    )  # fmt: skip


def _row(hunk: Mapping[str, Any]) -> tuple[str, ...]:
    passes = dict.fromkeys(edit["pass"] for edit in hunk["edits"])
    sizes = (str(len(hunk[side])) for side in ("before", "after"))
    return (hunk["title"], hunk["module"], *sizes, ", ".join(passes))


def explained(hunk: Mapping[str, Any]) -> bool:
    """Whether a hunk says what was done, by which passes, and why."""
    told = [edit["pass"] and edit["reason"] for edit in hunk["edits"]]
    return bool(told) and all(told) and bool(hunk["title"])


def played_back(told: Any) -> list[Figure]:
    """Whether a difference makes the model after out of the one before."""
    from planish.ir.diff.replay import patch_of, replay, store_of
    from planish.ir.digest import contents_digest

    after = told.after.model
    made = replay(told.before.model, patch_of(told.graph), store_of(after))
    same = contents_digest(made) == contents_digest(after)
    return [holds("replay gives the digest of what was handed over", same, str(same), "True")]


def _stages(folder: Path) -> list[Figure]:
    """Each stage from the one before: only its own pass is named, and it can be played."""
    from planish.compiler.diffing import compare
    from planish.compiler.sides import side_of, stages_of

    wrong = []
    stages = [s for s in stages_of(side_of(folder).manifest) if s["changed"]]
    for one, other in itertools.pairwise(stages):
        found = compare(f"{folder}@{one['id']}", f"{folder}@{other['id']}")
        named = {name for hunk in found.graph.hunks for name in found.passes(hunk)}
        played = played_back(found)[0].met
        silent = any(not found.passes(hunk) for hunk in found.graph.hunks)
        if not played or (other["edits"] and (silent or named != {other["name"]})):
            wrong.append(str(other["id"]))
    return [at_most("stages that name another pass, or cannot be played", len(wrong), 0)]


def stripped(told: Any, before: Path, after: Path) -> list[Figure]:
    """Pairs that are found where all names and stamps are gone, against those of lineage."""
    from planish.compiler.diffing import compare

    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder, name) for name in ("before.onnx", "after.onnx")]
        for source, copy, prefix in zip((before, after), copies, "pq", strict=True):
            strip(source, copy, prefix)
        found = compare(*copies).graph.matching.pairs
    known = told.graph.matching.pairs
    right = sum(found.get(a) == b for a, b in known.items())
    wrong = sum(a in known and known[a] != b for a, b in found.items())
    return [
        at_least("pairs found without names and lineage", right / len(known), LEAST_PAIRS),
        at_most("wrong pairs on unchanged nodes", wrong, 0),
    ]


def strip(source: Path, output: Path, prefix: str) -> None:
    """A copy of a model in which all names and all metadata are destroyed."""
    model = onnx.load(source)
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    names: dict[str, str] = {}

    def new(name: str) -> str:
        return name if not name or name in kept else names.setdefault(name, f"{prefix}{len(names)}")

    for number, node in enumerate(graph.node):
        node.name = f"{prefix}n{number}"
        del node.metadata_props[:]
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
    del graph.value_info[:]
    onnx.save(model, output)
