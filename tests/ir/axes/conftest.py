"""Cutting a group against zeroing its units in the full graph: what every test here compares."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.axes.cut import cut_group
from planish.ir.axes.find import find_axis_groups
from planish.ir.axes.groups import AxisGroup, AxisGroups
from planish.ir.graph import dims
from planish.ir.rewriter import Rewriter
from planish.ir.sites import find_sites
from planish.ir.types.shapes import infer_shapes
from planish.ir.verify import violations

TOLERANCE = 2e-5
"""Of the largest output: sums in float32 are taken in another order."""
Feeds = Mapping[str, np.ndarray]


def groups_of(model: ir.Model) -> AxisGroups:
    return find_axis_groups(model, find_sites(model))


def multiplied_by_zero(model: ir.Model, group: AxisGroup, dropped: Sequence[int]) -> ir.Model:
    """A copy in which all that reads the dropped units multiplies them by zero."""
    full = model.clone()
    for member in group.of_role("consumes"):
        value = full.graph.initializers[member.value]
        assert value.const_value is not None
        data = value.const_value.numpy().copy()
        np.moveaxis(data, member.axis, 0)[member.positions(dropped)] = 0
        value.const_value = ir.tensor(data, name=member.value)
    return full


@dataclass(frozen=True)
class Against:
    """Runs what the comparison needs; ``graphs`` is the module of small graphs."""

    graphs: ModuleType

    def __call__(
        self, model: ir.Model, group: AxisGroup, keep: Sequence[int], feeds: Feeds
    ) -> ir.Model:
        """The cut model, after it was found to compute what the zeroed one does."""
        dropped = [unit for unit in range(group.units) if unit not in set(keep)]
        expected = self.graphs.run(multiplied_by_zero(model, group, dropped), feeds)
        before = self.graphs.snapshot(model)
        rewriter = Rewriter(model)
        mark = rewriter.checkpoint()
        with rewriter.edit("cut") as record:
            cut_group(rewriter, group, keep)
        assert violations(model) == []
        assert rewriter.moved(record) is True
        self.check_shapes(model)
        found = self.graphs.run(model, feeds)
        for name, value in expected.items():
            largest = np.abs(value).max()
            assert largest > 0, "a comparison of zeros proves nothing"
            np.testing.assert_allclose(found[name], value, rtol=0, atol=TOLERANCE * largest)
        cut = model.clone()
        rewriter.rollback(mark)
        assert self.graphs.snapshot(model) == before
        return cut

    def every(self, model: ir.Model, feeds: Feeds, seed: int = 0) -> AxisGroups:
        """All groups of a model, each compared without a random part of its units."""
        groups = groups_of(model)
        random = np.random.default_rng(seed)
        for group in groups.cuttable():
            count = int(random.integers(1, group.units))
            keep = np.sort(random.choice(group.units, count, replace=False)).tolist()
            if not group.emptied(keep):
                self(model, group, keep, feeds)
        return groups

    @staticmethod
    def check_shapes(model: ir.Model) -> None:
        """What the cut states agrees with what is inferred from nothing."""
        fresh = model.clone()
        for node in fresh.graph:
            for output in node.outputs:
                if not output.is_graph_output():
                    output.shape = None
        assert [r.sentence for r in infer_shapes(fresh)] == []
        for node, other in zip(model.graph, fresh.graph, strict=True):
            for value, new in zip(node.outputs, other.outputs, strict=True):
                pairs = zip(dims(value) or (), dims(new) or (), strict=False)
                wrong = [p for p in pairs if all(isinstance(d, int) for d in p) and p[0] != p[1]]
                assert not wrong, (value.name, dims(value), dims(new))


@pytest.fixture
def against(graphs: ModuleType) -> Against:
    """``against(model, group, keep, feeds)`` and ``against.every(model, feeds)``."""
    return Against(graphs)


@pytest.fixture(scope="session")
def find() -> Callable[[ir.Model], AxisGroups]:
    """The groups of a model."""
    return groups_of


@pytest.fixture(scope="session")
def zeroed() -> Callable[[ir.Model, AxisGroup, Sequence[int]], ir.Model]:
    """A copy of a model in which all that reads the dropped units multiplies them by zero."""
    return multiplied_by_zero


Random = Callable[..., np.ndarray]


@pytest.fixture
def array() -> Random:
    """``array(3, 4)``: seeded float32 numbers."""
    random = np.random.default_rng(7)

    def make(*shape: int, **_: Any) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def drafts() -> ModuleType:
    """The module ``drafts``: random small graphs."""
    path = Path(__file__).with_name("drafts.py")
    spec = importlib.util.spec_from_file_location("drafts", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["drafts"] = module
    spec.loader.exec_module(module)
    return module
