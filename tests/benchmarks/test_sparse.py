"""The check of a saved file for 2:4, which reads it without what made it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from benchmarks.sparse import CASES, LAYERS, pruned_layers


def saved(path: Path, *weights: np.ndarray) -> Path:
    """A chain of products."""
    names = ["x", *(f"h{i}" for i in range(1, len(weights))), "y"]
    nodes = [
        helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]])
        for i, _ in enumerate(weights)
    ]
    ports = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")
    ]
    stored = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], stored)
    onnx.save(helper.make_model(graph), path)
    return path


@pytest.mark.parametrize("breaks", [False, True])
def test_the_pattern_is_seen_in_the_file(tmp_path: Path, breaks: bool) -> None:
    sparse = np.ones((16, 8), np.float32)
    sparse[np.arange(16) % 4 > 1] = 0
    dense = sparse.T.copy()  # zeros along the wrong axis
    if breaks:
        sparse[15, 7] = 1e-30
    path = saved(tmp_path / "m.onnx", sparse, dense, np.ones((16, 4), np.float32))
    assert pruned_layers(path) == (0 if breaks else 1, 3)


def test_the_cases_name_what_they_expect() -> None:
    assert [case.layers for case in CASES] == [LAYERS, LAYERS // 3, LAYERS]
