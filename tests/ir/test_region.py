from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.errors import PassError
from planish.ir.region import extract, region_nodes, with_outputs
from planish.ir.verify import violations

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 4] x, float[n, 4] other, bool flag) => (float[n, 4] y, float[n, 4] z)
{
  [one] a = MatMul(x, w)
  [two] b = Add(a, bias)
  [three] c = Mul(b, other)
  [four] d = Relu(c)
  [five] y = Add(d, a)
  [six] z = If(flag) <
    then_branch = t () => (float[n, 4] p) { p = Mul(d, bias) },
    else_branch = e () => (float[n, 4] q) { q = Neg(other) }
  >
}
"""
RNG = np.random.default_rng(1)
W, B = RNG.normal(size=(4, 4)).astype(np.float32), RNG.normal(size=4).astype(np.float32)


@pytest.fixture
def model(graphs: ModuleType) -> ir.Model:
    parsed: ir.Model = graphs.parse(TEXT, w=W, bias=B)
    return parsed


def names(nodes: list[ir.Node]) -> list[str | None]:
    return [node.name for node in nodes]


def test_a_region_is_what_lies_between(model: ir.Model, graphs: ModuleType) -> None:
    def get(name: str) -> ir.Value:
        return graphs.value(model, name)  # type: ignore[no-any-return]

    assert names(region_nodes([get("x")], [get("b")])) == ["one", "two"]
    assert names(region_nodes([get("a"), get("other")], [get("d")])) == ["two", "three", "four"]
    assert names(region_nodes([get("c")], [get("d"), get("d")])) == ["four"]
    assert names(region_nodes([get("b")], [get("b")])) == []
    everything = region_nodes(model.graph.inputs, model.graph.outputs)
    assert names(everything) == ["one", "two", "three", "four", "five", "six"]


def test_a_region_computes_what_it_did_in_the_graph(model: ir.Model, graphs: ModuleType) -> None:
    before = graphs.snapshot(model)
    region = extract(
        model, [graphs.value(model, "a"), graphs.value(model, "other")],
        [graphs.value(model, "y"), graphs.value(model, "c")],
    )  # fmt: skip
    assert violations(region) == []
    assert graphs.snapshot(model) == before
    a, other = (RNG.normal(size=(5, 4)).astype(np.float32) for _ in range(2))
    got = graphs.run(region, {"a": a, "other": other})
    c = (a.astype(np.float64) + B) * other
    np.testing.assert_allclose(got["c"], c, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got["y"], np.maximum(c, 0) + a, rtol=1e-6, atol=1e-6)


def test_a_region_runs_on_any_size(graphs: ModuleType) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[2, 4] x) => (float[2, 4] y) { a = MatMul(x, w) y = Relu(a) }
    """
    model = graphs.parse(text, w=W)
    region = extract(model, [graphs.value(model, "x")], [graphs.value(model, "y")])
    x = RNG.normal(size=(7, 4)).astype(np.float32)
    assert graphs.run(region, {"x": x})["y"].shape == (7, 4)


def test_tensors_can_be_replaced_and_the_others_are_shared(
    model: ir.Model, graphs: ModuleType
) -> None:
    x, b = graphs.value(model, "x"), graphs.value(model, "b")
    region = extract(model, [x], [b], tensors={"w": W * 2, "unrelated": W})
    data = RNG.normal(size=(3, 4)).astype(np.float32)
    expected = data.astype(np.float64) @ (2 * W) + B
    np.testing.assert_allclose(graphs.run(region, {"x": data})["b"], expected, rtol=1e-5)
    assert set(region.graph.initializers) == {"w", "bias"}
    assert graphs.value(region, "bias").const_value is graphs.value(model, "bias").const_value
    np.testing.assert_array_equal(graphs.value(model, "w").const_value.numpy(), W)


def test_a_region_that_reads_from_outside_is_refused(model: ir.Model, graphs: ModuleType) -> None:
    with pytest.raises(PassError, match="also reads the graph input 'other'"):
        extract(model, [graphs.value(model, "x")], [graphs.value(model, "d")])


def test_a_branch_counts_what_it_captures(model: ir.Model, graphs: ModuleType) -> None:
    x, flag, z = (graphs.value(model, name) for name in ("x", "flag", "z"))
    with pytest.raises(PassError, match="'other'"):
        region_nodes([x, flag], [z])
    nodes = region_nodes([x, flag, graphs.value(model, "other")], [z])
    assert names(nodes) == ["one", "two", "three", "four", "six"]
    with pytest.raises(PassError, match="subgraph"):
        extract(model, [x, flag, graphs.value(model, "other")], [z])


def test_any_value_can_become_an_output(model: ir.Model, graphs: ModuleType) -> None:
    before = graphs.snapshot(model)
    copy = with_outputs(model, ["d", "x", "d"])
    feeds = {
        "x": RNG.normal(size=(2, 4)).astype(np.float32),
        "other": RNG.normal(size=(2, 4)).astype(np.float32), "flag": np.array(True),
    }  # fmt: skip
    got = graphs.run(copy, feeds)
    assert list(got) == ["d", "x"]
    assert not graphs.value(copy, "y").is_graph_output()
    np.testing.assert_array_equal(got["x"], feeds["x"])
    expected = np.maximum((feeds["x"] @ W + B) * feeds["other"], 0)
    np.testing.assert_allclose(got["d"], expected, rtol=1e-5, atol=1e-6)
    assert graphs.snapshot(model) == before
    assert graphs.value(copy, "w").const_value is graphs.value(model, "w").const_value
    with pytest.raises(PassError, match="no value named 'nope'"):
        with_outputs(model, ["nope"])


def test_a_region_reads_constants_that_callers_may_override(graphs: ModuleType) -> None:
    model = graphs.parse(TEXT, w=W, bias=B)
    model.graph.inputs.append(model.graph.initializers["w"])
    nodes = region_nodes([graphs.value(model, "x")], [graphs.value(model, "b")])
    assert names(nodes) == ["one", "two"]


def test_only_the_region_is_walked_over(
    model: ir.Model, graphs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, b = graphs.value(model, "x"), graphs.value(model, "b")
    monkeypatch.setattr(ir.Graph, "__iter__", None)
    assert names(region_nodes([x], [b])) == ["one", "two"]
