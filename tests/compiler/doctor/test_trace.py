"""The runtime's profile, read: medians over rounds, means over feeds, bodies counted once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.doctor.executed import executed
from planish.compiler.doctor.process import record_alone
from planish.compiler.doctor.trace import read_trace
from planish.ir.errors import TargetError
from planish.ir.load import load_as_written


def node(name: str, op: str, index: int, start: float, us: float) -> dict[str, Any]:
    about = {"op_name": op, "node_index": str(index)}
    return {
        "cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": us, "args": about,
    }  # fmt: skip


def run(us: float) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": 0, "dur": us, "args": {}}


def written(path: Path, events: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(events), "utf8")
    return path


def test_medians_over_rounds_and_means_over_feeds(tmp_path: Path) -> None:
    """Two feeds, a warming round and three rounds; the second feed takes ten times as long."""
    drawn = np.random.default_rng(0).integers(100, 900, (4, 2)) * [1, 10]
    events = []
    for us in drawn.reshape(-1).tolist():
        events += [node("fc", "MatMul", 0, 0, us), node("act", "Relu", 1, us, 7), run(us + 50)]
    found = read_trace(written(tmp_path / "t.json", events), skip=2, feeds=2)
    typical = np.median(drawn[1:], axis=0).mean() / 1e3
    assert [(n.name, n.op, n.index) for n in found.nodes] == [
        ("fc", "MatMul", 0),
        ("act", "Relu", 1),
    ]
    assert found.nodes[0].ms == pytest.approx(typical)
    assert found.nodes[1].ms == pytest.approx(0.007)
    assert found.ms == pytest.approx(typical + 0.05)
    assert found.nodes_ms == pytest.approx(typical + 0.007)
    assert found.rounds == 3


def test_what_a_loop_holds_is_counted_once(tmp_path: Path) -> None:
    inner = [node("body", "MatMul", 0, 10 + 20 * i, 15) for i in range(3)]
    events = [*inner, node("loop", "Loop", 1, 5, 100), node("last", "Relu", 2, 110, 4), run(130)]
    found = read_trace(written(tmp_path / "t.json", events), skip=0, feeds=1)
    assert {n.name: pytest.approx(n.ms) for n in found.nodes} == {
        "body": 0.045, "loop": 0.055, "last": 0.004,
    }  # fmt: skip


def test_a_profile_without_runs_is_empty(tmp_path: Path) -> None:
    found = read_trace(written(tmp_path / "t.json", []), skip=2, feeds=1)
    assert (found.nodes, found.ms, found.rounds) == ((), 0.0, 0)


BODY = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[B, 16] x, bool c) => (float[B, 16] y) {
    h = MatMul(x, w)
    y = If (c) <
        then_branch = yes () => (float[B, 16] a) { t = Exp(h)
            a = Tanh(t) },
        else_branch = no () => (float[B, 16] b) { b = Neg(h) }
    >
}
"""


def test_a_real_profile_of_nodes_without_names_and_of_bodies(tmp_path: Path) -> None:
    path = tmp_path / "if.onnx"
    weight = ir.tensor(np.eye(16, dtype=np.float32), name="w")
    ir.save(ir.from_onnx_text(BODY, initializers=[weight]), path)
    x = np.ones((2, 16), np.float32)
    feeds = [{"x": x, "c": np.array(True)}]
    got = record_alone(path, feeds, tmp_path, threads=1, seconds=0.01, entries={})
    trace = read_trace(got.trace, skip=got.skip, feeds=1)
    graph = onnx.load(got.graph, load_external_data=False)
    ran = executed(graph, trace, load_as_written(path))
    times = {(row.op, row.ms is not None) for row in ran.rows}
    assert {("If", True), ("Tanh", True), ("Neg", False)} <= times
    sources = {row.op: {node.op_type for node in row.sources} for row in ran.rows}
    assert {op: {op} for op in ("MatMul", "If", "Exp", "Tanh", "Neg")} == sources


HALF = """
<ir_version: 10, opset_import: ["" : 20]>
g (float16[B, T, 16] x) => (float16[B, T, 16] y) {
    h = MatMul(x, w)
    r = Add(h, x)
    n = LayerNormalization <axis = -1> (r, scale)
    y = MatMul(n, v)
}
"""


def test_casts_belong_to_the_nodes_that_they_are_for(tmp_path: Path) -> None:
    path, half = tmp_path / "half.onnx", np.float16
    tensors = {"w": np.eye(16, dtype=half), "v": np.eye(16, dtype=half), "scale": np.ones(16, half)}
    given = [ir.tensor(value, name=name) for name, value in tensors.items()]
    model = ir.from_onnx_text(HALF, initializers=given)
    for node in model.graph:
        node.name = f"make_{node.outputs[0].name}"
    ir.save(model, path)
    feeds = [{"x": np.ones((2, 3, 16), half)}]
    got = record_alone(path, feeds, tmp_path, threads=1, seconds=0.01, entries={})
    trace = read_trace(got.trace, skip=got.skip, feeds=1)
    graph = onnx.load(got.graph, load_external_data=False)
    ran = executed(graph, trace, load_as_written(path))
    products = {row.name: {n.name for n in row.sources} for row in ran.rows if row.op == "MatMul"}
    assert products == {"make_h": {"make_h"}, "make_y": {"make_y"}}
    casts = [row for row in ran.rows if row.op == "Cast"]
    assert casts
    assert all(row.sources for row in casts)
    assert sum(row.ms or 0.0 for row in ran.rows) == pytest.approx(trace.nodes_ms)


def test_a_runtime_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos.abort()\n", "utf8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TargetError, match="ended by SIGABRT"):
        record_alone(tmp_path / "m.onnx", [], tmp_path, threads=1, seconds=0.1, entries={})
