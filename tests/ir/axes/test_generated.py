"""Graphs of every operator that the generator knows: what is cuttable is cut right there, too."""

from __future__ import annotations

import random
from collections import Counter
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir

from planish.compiler.harness.case import Feed
from planish.compiler.harness.generator import generated
from planish.ir.axes.cut import cut_group
from planish.ir.axes.groups import AxisGroup
from planish.ir.errors import PlanishError
from planish.ir.load import load_model
from planish.ir.rewriter import Rewriter
from planish.ir.verify import violations

COUNT = 150
TOLERANCE = 1e-4


def fed(feed: Feed) -> dict[str, Any]:
    return {name: value for name, value in feed.items() if value is not None}


def test_generated_graphs(graphs: ModuleType, find: Any, zeroed: Any) -> None:
    seen: Counter[str] = Counter()
    for case in generated(COUNT, 3):
        try:
            model = load_model(case.model).model
        except PlanishError:
            continue
        for group in find(model).cuttable():
            chosen = random.Random(1)
            keep = sorted(chosen.sample(range(group.units), chosen.randint(1, group.units - 1)))
            if not group.emptied(keep) and whole_precision(model):
                compare(graphs, model, group, keep, zeroed, fed(case.feeds[0]))
                seen[group.kind] += 1
    assert seen.total() >= 15


def whole_precision(model: ir.Model) -> bool:
    held = {v.dtype for v in model.graph.initializers.values() if v.dtype is not None}
    return not held & {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def compare(
    graphs: ModuleType, model: ir.Model, group: AxisGroup, keep: Any, zeroed: Any, feeds: Any
) -> None:
    dropped = [unit for unit in range(group.units) if unit not in keep]
    expected = graphs.run(zeroed(model, group, dropped), feeds)
    before, rewriter = graphs.snapshot(model), Rewriter(model)
    mark = rewriter.checkpoint()
    with rewriter.edit("cut"):
        cut_group(rewriter, group, keep)
    assert violations(model) == []
    found = graphs.run(model, feeds)
    for name, value in expected.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
            largest = np.abs(value[np.isfinite(value)]).max(initial=1e-3)
            np.testing.assert_allclose(found[name], value, rtol=0, atol=TOLERANCE * largest)
    rewriter.rollback(mark)
    assert graphs.snapshot(model) == before
