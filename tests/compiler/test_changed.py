"""How much outputs change when stored tensors have other contents."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.ir.digest import contents_digest
from planish.ir.errors import PassError
from planish.passes.api import CHANGED

RNG = np.random.default_rng(2)
TEXT = '<ir_version: 10, opset_import: ["" : 20]>\n' + (
    "g (float[n, 6] x) => (float[n, 4] y, float[n, 5] z)"
    "{ a = MatMul(x, w) y = Relu(a) z = MatMul(x, u) }"
)


def array(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


W, U, FEED = array(6, 4), array(6, 5), {"x": array(9, 6)}


def bench(graphs: ModuleType) -> Any:
    made = graphs.Bench(graphs.parse(TEXT, w=W, u=U), [FEED])
    made.context.begin_pass("test", made.model)
    return made


def test_it_is_the_relative_squared_error_of_the_worst_output(graphs: ModuleType) -> None:
    context = bench(graphs).context
    before, after = np.maximum(FEED["x"] @ W, 0), np.maximum(FEED["x"] @ (W * [1, 1, 1, 0]), 0)
    expected = ((after - before) ** 2).sum() / (before**2).sum()
    changed = context.analysis(CHANGED, {"w": W * np.array([1, 1, 1, 0], np.float32)})
    assert changed == pytest.approx(expected, rel=1e-4)
    assert context.analysis(CHANGED, {"w": W, "u": U * np.float32(0)}) == pytest.approx(1.0)
    assert context.analysis(CHANGED, {}) == 0.0


def test_the_model_stays_as_it_is(graphs: ModuleType) -> None:
    made = bench(graphs)
    digest = contents_digest(made.model)
    made.context.analysis(CHANGED, {"w": W * 2})
    assert contents_digest(made.model) == digest


def test_what_is_not_finite_is_infinitely_far(graphs: ModuleType) -> None:
    assert bench(graphs).context.analysis(CHANGED, {"u": U * np.float32(np.inf)}) == np.inf


def test_within_a_memory_limit_whole_models_are_not_run(graphs: ModuleType) -> None:
    context = bench(graphs).context
    context.limit = 1 << 30
    with pytest.raises(PassError, match="runs of the whole model"):
        context.analysis(CHANGED, {"w": W})
