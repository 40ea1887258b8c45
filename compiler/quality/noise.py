"""Outputs that are nothing but rounding: numbers that cancel, a normalisation of what is constant.

No bound relative to the size of an output holds there: whichever way a runtime adds up, others come
out. What such an output may differ by is told by a copy of the graph in which every operator rounds
a little differently, the stochastic arithmetic of Vignes (1993), in three runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ...ir.errors import PlanishError
from ...ir.graph import consumers, opset
from ...ir.rewriter import Rewriter

STEPS = {ir.DataType.DOUBLE: 2.0**-51, ir.DataType.FLOAT: 2.0**-22, ir.DataType.FLOAT16: 2.0**-9}
"""Relative: two units in the last place, as sums in another order differ by, or a few."""
RUNS, TIMES = 3, 16.0
"""Runs; and how many times more than in these an output may differ by."""
OPSET = 7
"""From which on operators broadcast."""

Run = Callable[[ir.Model], Mapping[str, Any]]


def is_noise(model: ir.Model, name: str, before: Any, after: Any, run: Run) -> bool:
    """Whether an output differs by no more than what rounding alone makes of it.

    before, after: the output of two graphs that are equal in real arithmetic, ``model`` one of
    them. run: gives a graph's outputs by name on the feed that these come from. False where that
    cannot be told: outputs that are no numbers, graphs that do not run so.
    """
    if not _comparable(before, after) or opset(model) < OPSET:
        return False
    try:
        plain = run(model)[name]
        others = [run(shaken(model, seed))[name] for seed in range(RUNS)]
    except PlanishError:
        return False
    if not all(_comparable(plain, other) for other in others):
        return False
    moved = max(_distance(plain, other) for other in others)
    return 0 < _distance(before, after) <= TIMES * moved < np.inf


def shaken(model: ir.Model, seed: int) -> ir.Model:
    """A copy in which each number that a node of the main graph computes is a step off, up or
    down at random."""
    copy, random = model.clone(), np.random.default_rng(seed)
    rewriter = Rewriter(copy)
    for node in list(copy.graph):
        for value in node.outputs if node.op_type != "Constant" else ():
            step = _step(value)
            if step and (value.uses() or value.is_graph_output()):
                _shake(value, 1.0 + step * random.choice([-1.0, 1.0]), rewriter)
    return copy


def _step(value: ir.Value) -> float:
    """0 for all but tensors of floats."""
    if value.dtype is None or not isinstance(value.type, ir.TensorType):
        return 0.0
    return STEPS.get(value.dtype, 0.0)


def _shake(value: ir.Value, factor: float, rewriter: Rewriter) -> None:
    readers, node, dtype = consumers(value), value.producer(), value.dtype
    assert node is not None
    assert dtype is not None
    stored = rewriter.initializer("step", np.asarray(factor, dtype.numpy()))
    made = rewriter.insert("Mul", [value, stored], after=node).outputs[0]
    rewriter.replace_uses(value, made, only=readers)
    if value.is_graph_output():
        rewriter.hand_out(value, made)


def _comparable(one: Any, other: Any) -> bool:
    return all(isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in (one, other)) and (
        one.shape == other.shape and one.size > 0
    )


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """The largest; infinite where only one of two numbers is finite."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return float(np.where(same, 0.0, np.where(np.isfinite(apart), apart, np.inf)).max())
