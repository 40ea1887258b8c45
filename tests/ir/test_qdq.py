from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.provenance import ORIGIN_KEY
from planish.ir.qdq import (
    activated,
    dynamic_view,
    is_dequantized,
    redirect_elementwise,
    static_view,
    weight_view,
)
from planish.ir.rewriter import Rewriter
from planish.ir.verify import violations

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 4] x) => (float[n, 4] y, float[n, 4] out)
{
  [one] a = MatMul(x, w)
  [two] b = Relu(a)
  [three] c = MatMul(b, v)
  [four] d = Add(b, c)
  [five] y = Sub(d, x)
  [six] out = Neg(b)
}
"""
RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4)).astype(np.float32)
W, V = (RNG.normal(size=(4, 4)).astype(np.float32) for _ in range(2))


@pytest.fixture
def model(graphs: ModuleType) -> ir.Model:
    parsed: ir.Model = graphs.parse(TEXT, w=W, v=V)
    return parsed


def rounded(x: np.ndarray, scale: float, zero: int, low: int, high: int) -> np.ndarray:
    """Written out: divide, round half to even, shift, clip, and back."""
    codes = np.clip(np.rint(x.astype(np.float64) / scale) + zero, low, high)
    return np.asarray((codes - zero) * scale)


@pytest.mark.parametrize(("dtype", "zero"), [("uint8", 7), ("int8", -3)])
@pytest.mark.parametrize("name", ["x", "b"])
def test_a_view_is_the_value_on_a_grid(
    model: ir.Model, graphs: ModuleType, name: str, dtype: str, zero: int
) -> None:
    rewriter, value = Rewriter(model), graphs.value(model, name)
    view = static_view(rewriter, value, 0.25, zero, dtype)
    model.graph.outputs.extend([view, value] if name == "b" else [view])
    assert violations(model) == []
    got = graphs.run(model, {"x": X})
    limits = (0, 255) if dtype == "uint8" else (-128, 127)
    expected = rounded(X if name == "x" else got["b"], 0.25, zero, *limits)
    np.testing.assert_array_equal(got[str(view.name)], expected.astype(np.float32))


def test_views_are_shared_by_all_who_ask_alike(model: ir.Model, graphs: ModuleType) -> None:
    rewriter, b = Rewriter(model), graphs.value(model, "b")
    view = static_view(rewriter, b, 0.1, 3, "uint8")
    assert static_view(rewriter, b, 0.1, 3, "uint8") is view
    assert graphs.ops(model).count("QuantizeLinear") == 1
    others = [(0.2, 3, "uint8"), (0.1, 4, "uint8"), (0.1, 3, "int8")]
    views = [static_view(rewriter, b, *other) for other in others]
    assert len({view, *views}) == 4


def test_other_pairs_of_an_imported_model_are_no_views(graphs: ModuleType) -> None:
    """No zero point, another dtype of codes, another scale on the way back, a scale per channel."""
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[2, 2] x) => (float[2, 2] p, uint8[2, 2] q2, float[2, 2] r, float[2, 2] t)
    <float s = {0.5}, float s2 = {0.25}, float[2] ss = {0.5, 0.5},
     uint8 z = {0}, uint8[2] zz = {0, 0}>
    {
      q = QuantizeLinear(x, s)
      p = DequantizeLinear(q, s)
      q2 = QuantizeLinear(x, s, z)
      r = DequantizeLinear(q2, s2, z)
      q3 = QuantizeLinear <axis = 1> (x, ss, zz)
      t = DequantizeLinear <axis = 1> (q3, ss, zz)
    }
    """
    model = graphs.parse(text)
    view = static_view(Rewriter(model), graphs.value(model, "x"), 0.5, 0, "uint8")
    assert view.name not in ("p", "r", "t")
    assert violations(model) == []


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_views_of_an_input_come_before_all_its_readers(graphs: ModuleType, kind: str) -> None:
    """Uses are listed in the order in which they were made, not in that of the graph."""
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[2, 2] x) => (float[2, 2] y) { [a] p = Neg(x) [b] q = Abs(x) [c] y = Add(p, q) }
    """
    model = graphs.parse(text)
    rewriter, x = Rewriter(model), graphs.value(model, "x")
    rewriter.set_input(graphs.node(model, "a"), 0, x)  # now the last of x's uses
    if kind == "static":
        view = static_view(rewriter, x, 0.5, 0, "uint8")
        rewriter.replace_uses(x, view, only=[graphs.node(model, "a"), graphs.node(model, "b")])
    else:
        codes, scale, zero = dynamic_view(rewriter, x)
        back = rewriter.insert("DequantizeLinear", [codes, scale, zero], after=codes.producer())
        rewriter.set_input(graphs.node(model, "a"), 0, back.outputs[0])
    assert violations(model) == []


def test_dynamic_views_are_shared_and_follow_the_range(model: ir.Model, graphs: ModuleType) -> None:
    rewriter, b = Rewriter(model), graphs.value(model, "b")
    codes, scale, zero = dynamic_view(rewriter, b)
    assert dynamic_view(rewriter, b) == (codes, scale, zero)
    model.graph.outputs.extend([codes, scale, zero, b])
    got = graphs.run(model, {"x": X})
    step = got["b"].max().astype(np.float64) / 255
    assert got[str(scale.name)] == pytest.approx(step, rel=1e-6)
    assert got[str(zero.name)] == 0
    np.testing.assert_allclose(got[str(codes.name)] * step, got["b"], atol=step * 0.501)


def test_a_weight_view_has_one_scale_for_each_index_of_its_axis(
    model: ir.Model, graphs: ModuleType
) -> None:
    rewriter = Rewriter(model)
    codes = RNG.integers(-127, 128, (4, 4)).astype(np.int8)
    scale = np.array([0.5, 1, 2, 4])
    for axis in (0, 1):
        view = weight_view(rewriter, graphs.node(model, "three"), "v", codes, scale, axis)
        assert is_dequantized(view)
        model.graph.outputs.append(view)
        expected = codes * (scale[:, None] if axis == 0 else scale)
        np.testing.assert_array_equal(graphs.run(model, {"x": X})[str(view.name)], expected)
    assert not is_dequantized(graphs.value(model, "b"))
    assert violations(model) == []


def test_elementwise_readers_follow_and_layers_keep_the_float_value(
    model: ir.Model, graphs: ModuleType
) -> None:
    rewriter, b = Rewriter(model), graphs.value(model, "b")
    view = static_view(rewriter, b, 0.25, 0, "uint8")
    redirect_elementwise(rewriter, b, view)
    readers = {name: graphs.node(model, name).inputs[0] for name in ("three", "four", "six")}
    assert readers == {"three": b, "four": view, "six": view}
    assert violations(model) == []


def test_pairs_descend_from_what_they_quantize(model: ir.Model, graphs: ModuleType) -> None:
    view = static_view(Rewriter(model), graphs.value(model, "b"), 0.25, 0, "uint8")
    node = view.producer()
    assert node is not None
    assert node.metadata_props[ORIGIN_KEY] == "two"


def test_only_an_activation_that_alone_reads_is_absorbed(
    model: ir.Model, graphs: ModuleType
) -> None:
    a, b = graphs.value(model, "a"), graphs.value(model, "b")
    assert activated(a) is b
    assert activated(b) is b  # several readers
    assert activated(graphs.value(model, "y")) is graphs.value(model, "y")
    model.graph.outputs.append(a)
    assert activated(a) is a


def test_what_is_moved_into_a_body_stays_float(graphs: ModuleType) -> None:
    """ONNX Runtime 1.31 aborts the process where a body reads a moved DequantizeLinear."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
g (float[4, 2] x, bool c) => (float[4, 2] y, float[2, 4] z)
{
  a = Relu(x)
  [moved] r = Transpose(a)
  s = Identity(r)
  [other] z = Transpose(a)
  y = If(c) <
    then_branch = t () => (float[4, 2] p) { p = Transpose(s) },
    else_branch = e () => (float[4, 2] q) { [inner] q = Neg(a) }
  >
}"""
    model = graphs.parse(text)
    rewriter, a = Rewriter(model), graphs.value(model, "a")
    view = static_view(rewriter, a, 0.25, 0, "uint8")
    redirect_elementwise(rewriter, a, view)
    readers = {name: graphs.node(model, name).inputs[0] for name in ("moved", "other", "inner")}
    assert readers == {"moved": a, "other": view, "inner": view}
    x = np.array([[0.1, 0.2], [0.3, 1], [-1, 0], [2, 0.6]], np.float32)
    found = graphs.run(model, {"x": x, "c": np.array(True)}, "all")
    np.testing.assert_array_equal(found["y"], np.maximum(x, 0))
