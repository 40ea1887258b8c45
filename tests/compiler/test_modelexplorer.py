"""The files for Model Explorer are what its interfaces say.

``GraphCollection``, ``Graph``, ``GraphNode`` (input_graph.ts), ``KeyValue``, ``IncomingEdge``,
``MetadataItem``, ``NodeDataProviderGraphData`` (types.ts) and ``SyncNavigationData``
(sync_navigation.ts) of google-ai-edge/model-explorer.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from planish.compiler.diffing import ModelDiff, compare
from planish.compiler.modelexplorer import export
from planish.ir.errors import PlanishError, UsageError

NODE = {"id", "label", "namespace", "subgraphIds", "attrs", "incomingEdges", "inputsMetadata",
        "outputsMetadata", "style", "config"}  # fmt: skip
EDGE = {"sourceNodeId", "sourceNodeOutputId", "targetNodeInputId", "metadata"}
DATA = {"name", "results", "thresholds", "gradient", "hideInAggregatedStatsTable",
        "hideInChildrenStatsTable", "hideAggregatedStats"}  # fmt: skip


@pytest.fixture(scope="module")
def diff(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> ModelDiff:
    """Of a model and what a compile made of it."""
    place = tmp_path_factory.mktemp("explorer")
    onnx.save(kit.chain(2), place / "model.onnx")
    kit.compiled(kit.chain(2), place / "out", pipeline="canonicalize,quantize{scheme=dynamic}",
                 max_drift="cosine=0.5")  # fmt: skip
    return compare(place / "model.onnx", place / "out", target="nvidia-a100", workload="batch=4")


@pytest.fixture(scope="module")
def files(diff: ModelDiff, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was written, by name."""
    written = export(diff, tmp_path_factory.mktemp("written") / "out")
    return {path.name: json.loads(path.read_text("utf8")) for path in written}


def pairs_of_text(items: list[dict[str, Any]]) -> bool:
    return all(set(i) == {"key", "value"} and all(isinstance(v, str) for v in i.values())
               for i in items)  # fmt: skip


@pytest.mark.parametrize("side", ["before", "after"])
def test_graphs(files: dict[str, Any], side: str) -> None:
    collection = files[f"{side}.json"]
    assert set(collection) == {"label", "graphs"}
    (graph,) = collection["graphs"]
    assert set(graph) == {"id", "nodes", "groupNodeAttributes"}
    ids = [node["id"] for node in graph["nodes"]]
    assert len(ids) == len(set(ids))
    for node in graph["nodes"]:
        assert {"id", "label", "namespace"} <= set(node) <= NODE
        assert all(isinstance(node[key], str) for key in ("id", "label", "namespace"))
        assert pairs_of_text(node.get("attrs", []))
        assert all(pairs_of_text(item["attrs"]) for item in node.get("outputsMetadata", []))
        for edge in node.get("incomingEdges", []):
            assert set(edge) <= EDGE
            assert edge["sourceNodeId"] in ids
            assert all(isinstance(text, str) for text in edge.values())
    about = graph["groupNodeAttributes"]
    assert all(isinstance(text, str) for group in about.values() for text in group.values())


def test_every_wire_is_an_edge(diff: ModelDiff, files: dict[str, Any]) -> None:
    for name, pool in (("before", diff.graph.before), ("after", diff.graph.after)):
        (graph,) = files[f"{name}.json"]["graphs"]
        edges = sum(len(node.get("incomingEdges", [])) for node in graph["nodes"])
        wires = sum(s.kind in ("node", "input") for sources in pool.sources for s in sources)
        assert edges == wires + len(pool.model.graph.outputs)


def test_the_mapping_names_each_node_once(diff: ModelDiff, files: dict[str, Any]) -> None:
    mapping = files["mapping.json"]
    assert mapping["type"] == "sync_navigation"
    assert mapping["disableMappingFallback"] is True
    ids = [{n["id"] for n in files[f"{s}.json"]["graphs"][0]["nodes"]} for s in ("before", "after")]
    for key, known in zip(("leftNodeIds", "rightNodeIds"), ids, strict=True):
        named = Counter(n for entry in mapping["mappingEntries"] for n in entry[key])
        assert set(named.values()) == {1}
        assert set(named) <= known
        assert set(named) == known  # of this pair all nodes have a counterpart
    assert set(mapping["mapping"]) <= ids[0]
    assert set(mapping["mapping"].values()) <= ids[1]
    assert len(diff.graph.matching.pairs) + 2 == len(mapping["mapping"])


def test_node_data(files: dict[str, Any]) -> None:
    ids = {s: {n["id"] for n in files[f"{s}.json"]["graphs"][0]["nodes"]} for s in (
        "before", "after")}  # fmt: skip
    names = [name for name in files if name not in ("before.json", "after.json", "mapping.json")]
    assert sorted(names) == [
        "bytes.json", "change.json", "error.json", "predicted.json", "what.json",
    ]  # fmt: skip
    for name in names:
        assert set(files[name]) == {"before", "after"}
        for side, data in files[name].items():
            assert {"name", "results"} <= set(data) <= DATA
            assert set(data["results"]) <= ids[side]
            assert all("value" in result for result in data["results"].values())
            assert [item["stop"] for item in data.get("gradient", [])] in ([], [0, 1])
    states = Counter(r["value"] for r in files["change.json"]["after"]["results"].values())
    assert states["new"] > 0
    assert {r["value"] for r in files["change.json"]["before"]["results"].values()} >= {"gone"}


def test_a_folder_with_other_files_is_refused(diff: ModelDiff, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"mine\.txt"):
        export(diff, tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        export(diff, tmp_path / "mine.txt")
    with pytest.raises(PlanishError, match="cannot be written"):
        export(diff, tmp_path / "mine.txt" / "below")
    again = tmp_path / "new"
    export(diff, again)
    export(diff, again)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.txt", "new"]
