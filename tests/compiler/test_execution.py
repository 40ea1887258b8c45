"""Models in memory run, small ones from memory and large ones through a file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from planish.compiler import execution
from planish.compiler.execution import running, weight_bytes
from planish.ir.load import load_model


@pytest.mark.parametrize("limit", [1 << 29, 0])
def test_the_way_makes_no_difference_and_leaves_nothing(
    kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(execution, "IN_MEMORY_BYTES", limit)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = load_model(kit.chain(2)).model
    (feed,) = kit.feeds(1)
    expected = feed["x"].astype(np.float64)
    for i in range(2):
        names = (f"block{i}.weight", f"block{i}.bias")
        weight, bias = (model.graph.initializers[n].const_value for n in names)
        assert weight is not None
        assert bias is not None
        expected = expected @ weight.numpy().astype(np.float64) + bias.numpy()
        expected = np.maximum(expected, 0) if i == 0 else expected
    with running(model, threads=1) as session:
        assert bool(list(tmp_path.iterdir())) is (limit == 0)
        np.testing.assert_allclose(session.run(feed)[0], expected, rtol=1e-4, atol=1e-5)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_counted_in_bytes(kit: ModuleType) -> None:
    assert weight_bytes(load_model(kit.chain(3)).model) == 3 * (64 * 64 + 64) * 4
