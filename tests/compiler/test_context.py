from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.compiler.context import head
from planish.compiler.data.feeds import load_feeds
from planish.ir.signature import Signature
from planish.passes.api import CALIBRATED, SITES, STATS

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 8] x) => (float[n, 8] y)
{
  a = MatMul(x, w1)
  b = Relu(a)
  c = MatMul(b, w2)
  y = Relu(c)
}
"""
RNG = np.random.default_rng(7)
WEIGHTS = {name: RNG.normal(size=(8, 8)).astype(np.float32) for name in ("w1", "w2")}
FEEDS = [{"x": RNG.normal(size=(n, 8)).astype(np.float32)} for n in (20, 3)]


@pytest.fixture
def bench(graphs: ModuleType) -> Any:
    return graphs.Bench(graphs.parse(TEXT, **WEIGHTS), FEEDS)


def feeds(graphs: ModuleType, inputs: str, **arrays: Any) -> Any:
    names = "".join(f"y_{name} = Identity({name}) " for name in arrays)
    outputs = ", ".join(f"float y_{name}" for name in arrays)
    text = f'<ir_version: 10, opset_import: ["" : 20]> g ({inputs}) => ({outputs}) {{ {names} }}'
    return load_feeds([arrays], Signature.of(graphs.parse(text)))


@pytest.mark.parametrize(
    ("inputs", "shapes", "kept"),
    [
        ("float[n, 4] x", {"x": (20, 4)}, {"x": (2, 4)}),
        ("float[n, 4] x", {"x": (1, 4)}, {"x": (1, 4)}),
        ("float[n, 4] x, float[n] m", {"x": (20, 4), "m": (20,)}, {"x": (2, 4), "m": (2,)}),
        ("float[n, 4] x, float[7] p", {"x": (20, 4), "p": (7,)}, {"x": (2, 4), "p": (7,)}),
        ("float[n, 4] x, float[2, n] h", {"x": (5, 4), "h": (2, 5)}, {"x": (2, 4), "h": (2, 2)}),
        ("float[n, 4] x, float[m, 4] z", {"x": (5, 4), "z": (9, 4)}, {"x": (5, 4), "z": (9, 4)}),
        ("float[n, 4] x, float s", {"x": (5, 4), "s": ()}, {"x": (2, 4), "s": ()}),
        ("float[n, 4] x, float[] s", {"x": (5, 4), "s": ()}, {"x": (2, 4), "s": ()}),
        ("float[20, 4] x", {"x": (20, 4)}, {"x": (20, 4)}),
        ("float[20] x", {"x": (20,)}, {"x": (20,)}),
    ],
)
def test_feeds_are_cut_along_the_samples_and_only_where_a_model_allows(
    graphs: ModuleType, inputs: str, shapes: dict[str, Any], kept: dict[str, Any]
) -> None:
    arrays = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    cut = head(feeds(graphs, inputs, **arrays), 0, 2)
    assert {name: array.shape for name, array in cut.items()} == kept
    for name, array in cut.items():
        region = tuple(slice(size) for size in array.shape)
        np.testing.assert_array_equal(array, arrays[name][region])


def test_samples_are_values_of_the_graph(bench: Any, graphs: ModuleType) -> None:
    found = bench.context.samples(bench.model, ["x", "b"])
    x = FEEDS[0]["x"][:16]
    np.testing.assert_array_equal(found["x"], x)
    np.testing.assert_allclose(found["b"], np.maximum(x @ WEIGHTS["w1"], 0), rtol=1e-5, atol=1e-6)


def test_statistics_are_kept_while_what_they_come_from_is_the_same(
    bench: Any, graphs: ModuleType
) -> None:
    context, model, asked = bench.context, bench.model, []
    collect = context._collect

    def counted(requests: Any) -> Any:
        asked.append(sorted(r.value for r in requests))
        return collect(requests)

    context._collect = counted
    first = context.analysis(STATS, (("b", 1), ("x", 1)))
    assert set(first) == {("b", 1), ("x", 1)}
    assert context.analysis(STATS, (("b", 1), ("x", 1))) is first
    assert asked == [["b", "x"]]

    bench.rewriter.set_tensor(graphs.value(model, "w2"), WEIGHTS["w2"] * 2)
    context.begin_pass("next", model, model.clone())
    again = context.analysis(STATS, (("b", 1), ("y", 1)))
    assert asked == [["b", "x"], ["y"]]
    assert again["b", 1] is first["b", 1]

    bench.rewriter.set_tensor(graphs.value(model, "w1"), WEIGHTS["w1"] * 2)
    context.begin_pass("last", model, model.clone())
    changed = context.analysis(STATS, (("b", 1), ("x", 1)))
    assert asked == [["b", "x"], ["y"], ["b"]]
    np.testing.assert_allclose(changed["b", 1].maximum, first["b", 1].maximum * 2, rtol=1e-6)
    assert changed["x", 1] is first["x", 1]


def test_one_value_may_be_asked_for_along_two_axes(graphs: ModuleType) -> None:
    text = graphs.parse("""
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[n, 3, 8] x) => (float[n, 3, 8] y) { y = Relu(x) }
    """)
    x = np.random.default_rng(0).normal(size=(16, 3, 8)).astype(np.float32)
    bench = graphs.Bench(text, [{"x": x}])
    asked = bench.context.analysis(STATS, (("x", 1), ("x", 2), ("y", 2)))
    for axis, others in ((1, (0, 2)), (2, (0, 1))):
        np.testing.assert_array_equal(asked["x", axis].maximum, x.max(axis=others))
    np.testing.assert_array_equal(asked["y", 2].maximum, np.maximum(x, 0).max(axis=(0, 1)))
    assert bench.context.analysis(STATS, (("x", 2),))["x", 2] is asked["x", 2]


def test_a_pass_sees_statistics_and_sites_of_the_graph_as_it_found_it(
    bench: Any, graphs: ModuleType
) -> None:
    context, model = bench.context, bench.model
    context.begin_pass("one", model, model.clone())
    sites = context.analysis(SITES)
    bench.rewriter.set_tensor(graphs.value(model, "w1"), WEIGHTS["w1"] * 100)
    assert context.analysis(SITES) is sites
    peak = np.max(FEEDS[0]["x"] @ WEIGHTS["w1"])
    assert context.analysis(STATS, (("b", 1),))["b", 1].maximum.max() < 2 * peak
    context.begin_pass("two", model, model.clone())
    assert context.analysis(SITES) is not sites


def test_generated_feeds_do_not_calibrate(bench: Any, graphs: ModuleType) -> None:
    assert bench.context.analysis(CALIBRATED) is True
    model = graphs.parse(TEXT, **WEIGHTS)
    assert graphs.Bench(model, FEEDS, calibrated=False).context.analysis(CALIBRATED) is False


def test_remarks_carry_the_name_of_the_pass(bench: Any) -> None:
    bench.context.begin_pass("one", bench.model, bench.model)
    bench.context.remark("note", "site", "code", "sentence")
    remark = bench.context.remarks[-1]
    assert (remark.kind, remark.pass_name, remark.site) == ("note", "one", "site")


def test_a_graph_that_observers_cannot_be_put_into_gives_no_statistics(graphs: ModuleType) -> None:
    """Its opset cannot be raised; passes then refuse, and a remark says why, once."""
    text = """<ir_version: 8, opset_import: ["" : 10]>
g (float[n, 8] x) => (float[n, 8] y, bool[n, 8] mask) { a = Relu(x) y, mask = Dropout(a) }"""
    context = graphs.Bench(graphs.parse(text), FEEDS[:1]).context
    assert context.analysis(STATS, (("a", 1),)) == {}
    assert context.analysis(STATS, (("a", 1), ("x", 1))) == {}
    assert [(r.kind, r.code) for r in context.remarks] == [("missed", "not-observed")]
    assert "opset 10 cannot be raised" in context.remarks[0].sentence
