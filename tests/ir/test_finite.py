from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.errors import InputError
from planish.ir.storage.finite import check_finite

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[batch, 2] x, bool c) => (float[batch, 2] y)
<float[2, 2] w = {1, 2, 3, 4}, float[2, 2] mask = {0, 1, 2, 3}, float floor = {0},
 float[2, 2] moved = {1, 2, 3, 4}>
{
  h = MatMul(x, w)
  turned = Transpose(moved)
  g = Gemm(h, turned)
  m = Add(g, mask)
  l = Max(m, floor)
  y = If(c) <
    then_branch = t () => (t_out) <float[2, 2] inner = {1, 2, 3, 4}> { t_out = MatMul(l, inner) },
    else_branch = e () => (e_out) { e_out = Neg(l) }
  >
}
"""
NAN, INF = float("nan"), float("inf")


def with_weight(name: str, array: np.ndarray) -> ir.Model:
    model = ir.from_onnx_text(TEXT)
    for graph in model.graphs():
        if name in graph.initializers:
            graph.initializers[name].const_value = ir.tensor(array)
    return model


def square(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(2, 2)


def test_finite_weights_pass() -> None:
    check_finite(ir.from_onnx_text(TEXT))


@pytest.mark.parametrize(
    ("name", "array", "sentence"),
    [
        ("w", square(NAN, 1, NAN, 2), "'w' holds 2 NaN among 4 numbers"),
        ("w", square(INF, 1, -INF, INF), "'w' holds 3 infinities among 4 numbers"),
        ("moved", square(1, 2, 3, -INF), "'moved' holds 1 infinities"),
        ("mask", square(0, NAN, 0, 0), "'mask' holds 1 NaN"),
        ("inner", square(0, NAN, 0, 0), "'inner' holds 1 NaN"),
        ("w", square(1, 2, 3, INF).astype(np.float16), "'w' holds 1 infinities"),
        ("w", square(1, 2, 3, NAN).astype(ml_dtypes.bfloat16), "'w' holds 1 NaN"),
        ("w", square(1, 2, 3, NAN).astype(ml_dtypes.float8_e4m3fn), "'w' holds 1 NaN"),
    ],
)
def test_broken_weights_are_named(name: str, array: np.ndarray, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        check_finite(with_weight(name, array), "model.onnx")
    assert sentence in caught.value.what
    assert caught.value.where == "model.onnx"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("mask", square(0, -INF, 0, 0)),  # what attention adds to hide a token
        ("floor", np.array(-INF, np.float32)),
        ("floor", np.array(NAN, np.float32)),  # a marker
        ("w", np.array([[1, 2], [3, 4]], np.int64)),
    ],
)
def test_infinities_that_are_meant_pass(name: str, array: np.ndarray) -> None:
    check_finite(with_weight(name, array))


def test_every_part_of_a_large_tensor_is_looked_at() -> None:
    array = np.zeros((3, 1 << 20), np.float32)
    array[2, -1] = NAN
    with pytest.raises(InputError, match="1 NaN among 3,145,728"):
        check_finite(with_weight("mask", array))
