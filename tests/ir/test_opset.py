from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.digest import contents_digest
from planish.ir.errors import InputError
from planish.ir.graph import constant_tensor, opset
from planish.ir.opset import raised
from planish.ir.provenance import ORIGIN_KEY, SCOPE_KEY
from planish.ir.verify import violations

TEXT = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[n, 16] x) => (float[n, 16] y, float[n, 1] mean)
<int64[1] first = {0}>
{
  [layer] a = MatMul(x, w)
  [act] b = Relu(a)
  [reduce] mean = ReduceMean <axes = [1]> (b)
  [shape] s = Shape(b)
  [norm] c = BatchNormalization(b, scale, bias, running_mean, variance)
  [row] d = Unsqueeze(c, first)
  [back] y = Squeeze(d, first)
}
"""
RNG = np.random.default_rng(2)
TENSORS = {
    "w": RNG.normal(size=(16, 16)).astype(np.float32),
    "scale": RNG.uniform(0.5, 2, 16).astype(np.float32),
    "bias": RNG.normal(size=16).astype(np.float32),
    "running_mean": RNG.normal(size=16).astype(np.float32),
    "variance": RNG.uniform(0.5, 2, 16).astype(np.float32),
}
X = RNG.normal(size=(3, 16)).astype(np.float32)


@pytest.fixture
def model(graphs: ModuleType) -> ir.Model:
    parsed: ir.Model = graphs.parse(TEXT, **TENSORS)
    return parsed


def test_the_function_and_the_names_stay(model: ir.Model, graphs: ModuleType) -> None:
    before = contents_digest(model)
    newer = raised(model, 18)
    assert opset(newer) == 18
    assert violations(newer) == []
    assert [v.name for v in newer.graph.inputs] == ["x"]
    assert {o.name for n in model.graph for o in n.outputs} <= {
        o.name for n in newer.graph for o in n.outputs
    }
    expected, got = graphs.run(model, {"x": X}), graphs.run(newer, {"x": X})
    assert all(np.array_equal(expected[name], got[name]) for name in expected)
    assert contents_digest(model) == before


def test_nodes_still_know_where_they_come_from(model: ir.Model, graphs: ModuleType) -> None:
    graphs.node(model, "layer").metadata_props[SCOPE_KEY] = "['encoder', 'linear']"
    newer = raised(model, 18)
    assert [n.name for n in newer.graph] == [n.name for n in model.graph]
    assert all(n.metadata_props[ORIGIN_KEY] == n.name for n in newer.graph)
    assert graphs.node(newer, "layer").metadata_props[SCOPE_KEY] == "['encoder', 'linear']"
    assert all(o.type is not None and o.shape is not None for n in newer.graph for o in n.outputs)


def test_weights_are_shared_and_not_copied(model: ir.Model, graphs: ModuleType) -> None:
    newer = raised(model, 18)
    assert constant_tensor(graphs.value(newer, "w")) is constant_tensor(graphs.value(model, "w"))


def test_a_model_that_is_new_enough_is_left_alone(model: ir.Model) -> None:
    assert raised(model, 13) is model
    assert raised(model, 7) is model


def test_what_cannot_be_converted_is_said(graphs: ModuleType) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 12]>
    g (float[2] x) => (float[2] y) { a = Relu(x) y = Invented(a) }
    """
    model = graphs.parse(text)
    before = contents_digest(model)
    with pytest.raises(InputError, match="opset 12 cannot be raised to 18: Invented is unknown"):
        raised(model, 18)
    assert contents_digest(model) == before
