"""What counts as the same outputs."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.quality.equality import (
    COARSE_TOLERANCES,
    difference,
    promised_tolerance,
    random_outputs,
)
from planish.ir.load import load_model

Array = np.ndarray[Any, Any]


def floats(*bits: int) -> Array:
    return np.array(bits, np.uint32).view(np.float32)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (floats(0x7FC00000), floats(0x7FC00000), None),
        (floats(0x7FC00000), floats(0x7FC00001), "NaN 0x7fc00001, was NaN 0x7fc00000"),
        (floats(0), floats(0x80000000), "-0.0, was 0.0"),
        (np.array([1, 2]), np.array([1, 3]), "1 of 2 elements differ, the first at [1]: 3, was 2"),
        (np.ones(2, np.float32), np.ones(2), "it is float64, was float32"),
        (np.ones((1, 2)), np.ones((2, 1)), "it is [2, 1], was [1, 2]"),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), "at [1]: 'c', was 'b'"),
        (np.array(["a"], object), np.array(["a"], object), None),
        ([np.ones(2)], [np.ones(2)], None),
        ([np.ones(2)], [np.zeros(2)], "item 0: 2 of 2"),
        ([np.ones(2)], [], "it holds 0 items, held 1"),
        ([{"a": 0.5}], [{"a": 0.25}], "item 0: item 0: 1 of 1"),
        ({"a": 1}, {"b": 1}, "it holds the keys ['b'], held ['a']"),
        (None, None, None),
        (None, np.ones(1), "it is of type ndarray, was absent"),
        (np.ones((0, 3)), np.ones((0, 3)), None),
    ],
)
def test_bits_are_compared(before: Any, after: Any, says: str | None) -> None:
    found = difference(before, after, None)
    assert (found is None) == (says is None)
    assert says is None or says in str(found)


@pytest.mark.parametrize(
    ("after", "same"),
    [
        ([100.0, 1.0], True),
        ([100.009, 1.0], True),
        ([100.0, 1.009], True),
        ([100.0, 1.011], False),
        ([100.0, np.nan], False),
        ([np.inf, 1.0], False),
    ],
)
def test_a_tolerance_is_relative_to_the_largest(after: list[float], same: bool) -> None:
    assert (difference(np.array([100.0, 1.0]), np.array(after), 1e-4) is None) == same


def test_one_flag_in_a_thousand_may_flip() -> None:
    before = np.zeros(1000, np.int64)
    after = before.copy()
    after[3] = 1
    assert difference(before, after, 1e-4) is None
    after[4] = 1
    assert difference(before, after, 1e-4)


@pytest.mark.parametrize(
    ("body", "bits"),
    [
        ("float[3] x) => (float[3] y) { y = Neg(x) }", True),
        ("float16[3] x) => (float16[3] y) { y = Neg(x) }", False),
        ("float16[3] x) => (float16[3] y) { y = Identity(x) }", True),
        ("float[3] x) => (float16[3] y) { a = Neg(x) y = Cast <to = 10> (a) }", True),
        ("float[3] x) => (bool[3] y) { a = Cast <to = 16> (x) y = IsNaN(a) }", False),
    ],
)
def test_bits_are_not_asked_of_what_the_runtime_emulates(body: str, bits: bool) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 17]>\ng ({body}'
    model = load_model(ir.from_onnx_text(text)).model
    assert (promised_tolerance(model, exact=True) is None) == bits
    assert promised_tolerance(model, exact=False)


def test_why_bits_are_not_asked_in_half_precision(graphs: ModuleType) -> None:
    """With two operators in between that only move numbers the runtime rounds, else it does not."""
    face = '<ir_version: 8, opset_import: ["" : 17]>\ng (float16[64] x) => (float16[64] y)'
    x = np.random.default_rng(0).normal(size=64).astype(np.float16)
    runs = [
        graphs.run(graphs.parse(f"{face} {{ {body} }}"), {"x": x})["y"]
        for body in (
            "a = Mul(x, x) b = Identity(a) c = Identity(b) y = Mul(c, x)",
            "a = Mul(x, x) y = Mul(a, x)",
        )
    ]
    found = difference(runs[0], runs[1], None)
    assert found is not None
    assert difference(runs[0], runs[1], COARSE_TOLERANCES[ir.DataType.FLOAT16]) is None


def outputs(body: str, more: str = "") -> frozenset[str]:
    face = "g (float[3] x) => (float[3] y, float[3] z)"
    text = f'<ir_version: 8, opset_import: ["" : 17]>\n{face}{more}\n{{ {body} }}'
    return random_outputs(ir.from_onnx_text(text))


@pytest.mark.parametrize(
    ("body", "more", "drawn"),
    [
        ("a = RandomNormalLike(x) y = Relu(a) z = Relu(x)", "", {"y"}),
        ("a = RandomNormalLike <seed = 3.0> (x) y = Relu(a) z = Relu(x)", "", set()),
        ("y = Dropout(x) z = Dropout(x, r, t)", "<float r = {0.5}, bool t = {1}>", {"z"}),
        ("y = Dropout(x) z = Dropout(x, r, t)", "<float r = {0.5}, bool t = {0}>", set()),
        (
            "y = If(c) <then_branch = t () => (float[3] p) { p = RandomUniformLike(x) }, "
            "else_branch = e () => (float[3] q) { q = Neg(x) }> z = Relu(x)",
            "<bool c = {1}>",
            {"y"},
        ),
    ],
)
def test_what_depends_on_a_random_number_is_known(body: str, more: str, drawn: set[str]) -> None:
    assert outputs(body, more) == drawn


@pytest.mark.parametrize("dtype", [ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN])
def test_floats_that_numpy_does_not_know_are_compared_as_floats(dtype: ir.DataType) -> None:
    before = np.array([np.nan, 1, 2]).astype(dtype.numpy())
    near, far = (np.array([np.nan, x, 2]).astype(dtype.numpy()) for x in (1.125, 1.5))
    assert difference(before, before.copy(), 0.1) is None
    assert difference(before, near, 0.1) is None
    assert "1 of 3 elements differ" in str(difference(before, far, 0.1))
    assert "1 of 3 elements differ" in str(difference(before, near, None))
