"""Policy proposes what suits the layers, the data and the target; proposals parse and run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType

import numpy as np
import onnx
import pytest

from planish.compiler.pipeline import parse
from planish.compiler.policy import propose
from planish.compiler.workshop import instantiate
from planish.ir.load import load_model
from planish.targets.loader import load_target, target_names

LINEAR = ("p = MatMul(x, w) y = Add(p, b)", 'float["n", 64] x', 'float["n", 64] y')
CONV = ("y = Conv(x, c)", 'float["n", 32, 8, 8] x', 'float["n", 32, 6, 6] y')
BOTH = (
    "f = Conv(x, c) t = GlobalAveragePool(f) u = Reshape(t, flat) y = MatMul(u, v)",
    'float["n", 32, 8, 8] x',
    'float["n", 64] y',
)
TABLE = ("y = Gather(table, x)", 'int64["n", "s"] x', 'float["n", "s", 64] y')
WORDS = ("e = Gather(table, x) y = MatMul(e, w)", TABLE[1], TABLE[2])
NEITHER = ("y = Relu(x)", 'float["n", 64] x', 'float["n", 64] y')
QUANTIZED = (
    "d = DequantizeLinear(q, s) y = MatMul(x, d)",
    'float["n", 64] x',
    'float["n", 64] y',
)
WEIGHTS = {
    "w": (64, 64),
    "v": (32, 64),
    "b": (64,),
    "c": (32, 32, 3, 3),
    "table": (1000, 64),
}


def model(kit: ModuleType, text: tuple[str, str, str]) -> onnx.ModelProto:
    weights: Mapping[str, np.ndarray] = {n: kit.normal(*s) for n, s in WEIGHTS.items()}
    extra = {"flat": np.array([0, -1]), "q": np.ones((64, 64), np.int8), "s": np.float32(0.1)}
    used = {n: a for n, a in {**weights, **extra}.items() if n in text[0].replace("(", " ")}
    return kit.graph(text[0], used, text[1], text[2])  # type: ignore[no-any-return]


def proposed(
    kit: ModuleType, text: tuple[str, str, str], calibrated: bool, name: str = "x86-avx2"
) -> list[str]:
    graph = load_model(model(kit, text)).model
    return [p.pipeline for p in propose(graph, load_target(name), calibrated=calibrated)]


DYNAMIC = "canonicalize,quantize"
STATIC = "canonicalize,quantize{scheme=static}"
EQUALIZED = "canonicalize,equalize,quantize{scheme=static}"


@pytest.mark.parametrize(
    ("text", "with_data", "without"),
    [
        (LINEAR, [DYNAMIC, STATIC, EQUALIZED], [DYNAMIC]),
        (CONV, [STATIC, EQUALIZED], []),
        (BOTH, [DYNAMIC, STATIC, EQUALIZED], [DYNAMIC]),
        (WORDS, [DYNAMIC, STATIC, EQUALIZED], [DYNAMIC]),
        (TABLE, [DYNAMIC], [DYNAMIC]),
        (NEITHER, [], []),
        (QUANTIZED, [], []),
    ],
)
def test_what_is_proposed(
    kit: ModuleType, text: tuple[str, str, str], with_data: list[str], without: list[str]
) -> None:
    assert proposed(kit, text, True) == with_data
    assert proposed(kit, text, False) == without


def test_without_integer_kernels_nothing_is_proposed(kit: ModuleType) -> None:
    target = load_target("generic")
    none = replace(target, int8=replace(target.int8, supported=False))
    assert propose(load_model(model(kit, LINEAR)).model, none, calibrated=True) == []


@pytest.mark.parametrize("name", target_names())
def test_every_proposal_is_a_pipeline_with_a_reason(kit: ModuleType, name: str) -> None:
    graph = load_model(model(kit, BOTH)).model
    for proposal in propose(graph, load_target(name), calibrated=True):
        pipeline = parse(proposal.pipeline)
        assert str(pipeline) == proposal.pipeline
        assert instantiate(pipeline)
        assert proposal.reason
