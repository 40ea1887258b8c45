"""A patch makes the second graph out of the first, by contents."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.harness.generator import generated
from planish.ir.diff.hunks import diff_models
from planish.ir.diff.replay import Patch, patch_of, replay, store_of
from planish.ir.digest import contents_digest
from planish.ir.errors import InputError
from planish.ir.load import load_model
from planish.ir.verify import violations

Net = Callable[..., ir.Model]
Weight = Callable[[int], np.ndarray]


def replayed(before: ir.Model, after: ir.Model) -> ir.Model:
    """``after`` again, by way of JSON; ``before`` stays as it is."""
    digest = contents_digest(before)
    text = json.dumps(dataclasses.asdict(patch_of(diff_models(before, after))))
    made = replay(before, Patch(**json.loads(text)), store_of(after))
    assert contents_digest(before) == digest
    assert not violations(made)
    return made


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("y = Relu(x)", "y = Relu(x)"),
        ("a = MatMul(x, v) y = Relu(a)", "a = MatMul(x, w) n = Neg(a) y = Relu(n)"),
        ("a = MatMul(x, v) b = MatMul(a, v) y = Relu(b)", "a = MatMul(x, v) y = Relu(a)"),
        ("a = MatMul(x, v) y = MatMul(a, v)", "a = MatMul(x, v) y = MatMul(a, twin)"),
        ("a = Softmax <axis = 0> (x) y = Relu(a)", "a = Softmax <axis = 1> (x) y = Relu(a)"),
        ("a = Neg(x) y = Sub(a, x)", "a = Neg(x) y = Sub(x, a)"),
        ("y = Neg(x)", "a = Neg(x) y = Abs(a)"),
        ("a = Neg(x) b = Abs(a) y = Sub(b, a)", "a = Neg(x) b = Abs(a) y = Sub(b, x)"),
    ],
)
def test_both_ways(net: Net, weight: Weight, one: str, other: str) -> None:
    tensors = {"v": weight(0), "w": weight(1), "twin": weight(0)}
    models = net(one, **tensors), net(other, **tensors)
    for before, after in (models, models[::-1]):
        assert contents_digest(replayed(before, after)) == contents_digest(after)


def test_a_body_that_reads_what_changed_outside(net: Net) -> None:
    face = "(bool c, float[2, 4] x) => (float[2, 4] y)"
    branches = (
        "y = If (c) <then_branch = t () => (float[2, 4] p) { p = Abs(a) }, "
        "else_branch = e () => (float[2, 4] q) { q = Identity(a) }>"
    )
    one, other = net(f"a = Relu(x) {branches}", face=face), net(f"a = Neg(x) {branches}", face=face)
    changed = branches.replace("Abs", "Exp")
    third = net(f"a = Relu(x) {changed}", face=face)
    for before, after in ((one, other), (other, one), (one, third), (third, other)):
        assert contents_digest(replayed(before, after)) == contents_digest(after)


def test_generated_graphs_one_out_of_another() -> None:
    """Neighbours in a row of graphs that have nothing to do with each other, bodies included."""
    models = [load_model(case.model).model for case in generated(40, seed=3)]
    for before, after in zip(models, [*models[1:], models[0]], strict=True):
        assert contents_digest(replayed(before, after)) == contents_digest(after)


def test_the_net_of_another_patch_is_refused(net: Net, weight: Weight) -> None:
    one, other = net("a = Sin(x) y = Cos(a)"), net("a = MatMul(x, w) y = Cos(a)", w=weight(0))
    patch = patch_of(diff_models(one, other))
    with pytest.raises(InputError, match="has no tensor"):
        replay(one, patch, {})
    stranger = net("q = Exp(x) y = Tan(q)")
    for node in stranger.graph:
        node.name = f"stranger_{node.name}"
    with pytest.raises(InputError, match="no node"):
        replay(stranger, patch, store_of(other))


def test_a_real_model_and_back(data: Path) -> None:
    """Silero's detector with its weights in branches, against the one without."""
    files = sorted((data / "silero_vad").glob("*.onnx"))
    one, other = (load_model(file).model for file in files[:2])
    for before, after in ((one, other), (other, one)):
        assert contents_digest(replayed(before, after)) == contents_digest(after)
