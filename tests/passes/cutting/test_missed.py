"""Layers that cannot be cut are named, with the reason."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from planish.passes.cutting.missed import stacked_layers

EXPERTS = """<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 8] x, int64[n, 1] best) => (float[n, 8] y) {
  up = GatherND(ups, best) down = GatherND(downs, best)
  column = Unsqueeze(x, last)
  h0 = MatMul(up, column) h = Relu(h0)
  y0 = MatMul(down, h) y = Squeeze(y0, last)
}"""
WEIGHTS = {
    "ups": np.ones((3, 12, 8), np.float32), "downs": np.ones((3, 8, 12), np.float32),
    "last": np.array([-1]),
}  # fmt: skip


@pytest.mark.parametrize("name", ["prune-neurons", "prune-heads"])
def test_a_mixture_of_experts_is_refused_for_neurons(graphs: ModuleType, name: str) -> None:
    feeds = {"x": np.ones((2, 8), np.float32), "best": np.array([[0], [2]])}
    bench = graphs.Bench(graphs.parse(EXPERTS, **WEIGHTS), [feeds])
    assert not bench.run(name, score="magnitude", refit=False).edits
    refused = bench.remarks("refused")
    assert [r.code for r in refused.values()] == (
        ["stacked-layers"] * 2 if name == "prune-neurons" else []
    )
    assert all("[3x" in r.sentence for r in refused.values())


def test_a_table_of_vectors_or_constant_picks_are_no_stacks(graphs: ModuleType) -> None:
    """Tables are read by position, and what is picked by constants is one layer."""
    constant = EXPERTS.replace("(ups, best)", "(ups, first)").replace(
        "(downs, best)", "(downs, first)"
    )
    model = graphs.parse(constant, **WEIGHTS, first=np.array([[1], [1]]))
    assert list(stacked_layers("neurons", model)) == []
    table = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[n, 4] x, int64[n] places) => (float[n, 5] y) {
      h = Gather(table, places) z = Squeeze(h, one) a = Add(x, z) y = MatMul(a, w)
    }"""
    weights = {"table": np.ones((7, 1, 4), np.float32), "w": np.ones((4, 5), np.float32)}
    model = graphs.parse(table, **weights, one=np.array([1]))
    assert list(stacked_layers("neurons", model)) == []
