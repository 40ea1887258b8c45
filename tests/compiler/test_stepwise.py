from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from planish.compiler.calibration.bypassed import replaced
from planish.compiler.calibration.steps import pair, take_steps
from planish.compiler.calibration.stepwise import segments, stepwise
from planish.passes.api import STEPPED, Looked, Makes, Paired, Patches, Reads, Window

Array = NDArray[Any]
RNG = np.random.default_rng(8)
TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 3, 6, 6] x) => (float[n, 4, 6, 6] y) {
  a = Conv (x, w0, b0)
  p = Relu(a)
  c = Conv (p, w1, b1)
  q = Relu(c)
  d = Conv (q, w2, b2)
  s = Add(p, d)
  e = Conv (s, w3, b3)
  f = Sigmoid(x)
  g = Conv (f, w4, b4)
  y = Add(e, g)
}"""
STOPS = ("a", "c", "d", "e")


def draw(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


SIZES = [(5, 3), (6, 5), (5, 6), (4, 5), (4, 3)]
WEIGHTS = {f"w{i}": draw(*size, 1, 1) for i, size in enumerate(SIZES)}
WEIGHTS |= {f"b{i}": draw(size[0]) for i, size in enumerate(SIZES)}
FEEDS = [{"x": draw(n, 3, 6, 6)} for n in (4, 2, 3)]


@pytest.fixture
def model(graphs: ModuleType) -> ir.Model:
    made: ir.Model = graphs.parse(TEXT, **WEIGHTS)
    return made


def value_of(graphs: ModuleType, model: ir.Model, name: str, feed: Any) -> Array:
    copy = model.clone()
    copy.graph.outputs.append(graphs.value(copy, name))
    found: Array = graphs.run(copy, feed)[name]
    return found


def test_each_part_computes_what_those_before_it_did_not(model: ir.Model) -> None:
    parts = list(segments(model, STOPS))
    computed = [[str(n.outputs[0].name) for n in part.model.graph] for part in parts]
    assert computed == [["a"], ["p", "c"], ["q", "d"], ["s", "e"]]
    assert [part.made for part in parts] == [("a",), ("c", "p"), ("d",), ("e",)]
    assert [sorted(part.dropped) for part in parts] == [["x"], ["a"], ["c"], ["d", "e", "p"]]


def test_both_graphs_are_seen_layer_by_layer(graphs: ModuleType, model: ir.Model) -> None:
    other = replaced(model, {"w1": 2 * WEIGHTS["w1"]})
    seen: dict[str, Any] = {}

    def look(name: str, before: Sequence[Array], after: Sequence[Array]) -> Sequence[Array]:
        seen[name] = list(before), list(after)
        return after

    stepwise(model, other, STOPS, FEEDS, look, threads=1)
    assert tuple(seen) == STOPS
    for name, versions in seen.items():
        for graph, arrays in zip((model, other), versions, strict=True):
            for feed, array in zip(FEEDS, arrays, strict=True):
                np.testing.assert_array_equal(array, value_of(graphs, graph, name, feed))


def test_what_does_not_fit_is_left_out_from_the_end(model: ir.Model) -> None:
    counts = []

    def count(name: str, before: Sequence[Array], after: Sequence[Array]) -> Sequence[Array]:
        counts.append((len(before), len(after)))
        return after

    stepwise(model, model, STOPS, FEEDS, count, threads=1, held=2 * 4 * 6 * 6 * 11 * 6)
    assert counts == [(3, 3), (3, 3), (2, 2), (2, 2)]
    counts.clear()
    stepwise(model, model, STOPS, FEEDS, count, threads=1, held=1)
    assert counts[-1] == (1, 1)


def makes(found: dict[str, tuple[Array, Array]], names: Sequence[str]) -> list[Makes]:
    """Steps that note their answers."""

    def step(name: str) -> Makes:
        return Makes(name, lambda *answer: found.update({name: answer}))

    return [step(name) for name in names]


def test_every_layer_is_put_right_before_the_next_is_looked_at(
    graphs: ModuleType, model: ir.Model
) -> None:
    """Folded into weights, the answers give the whole graph its moments back."""
    changed = {"w0": WEIGHTS["w0"] * 0.7, "w1": WEIGHTS["w1"] + 0.1, "b2": WEIGHTS["b2"] + 1}
    other = replaced(model, changed)
    found: dict[str, tuple[Array, Array]] = {}
    take_steps(model, other, makes(found, STOPS), FEEDS, threads=1)
    held = WEIGHTS | changed
    folded = {}
    for name, (factor, summand) in found.items():
        i = {"a": 0, "c": 1, "d": 2, "e": 3}[name]
        folded[f"w{i}"] = (held[f"w{i}"] * factor[:, None, None, None]).astype(np.float32)
        folded[f"b{i}"] = (held[f"b{i}"] * factor + summand).astype(np.float32)
    right = replaced(model, changed | folded)
    for name in STOPS:
        wanted, got = (
            np.concatenate([value_of(graphs, graph, name, feed) for feed in FEEDS]).astype(float)
            for graph in (model, right)
        )
        axes = (0, 2, 3)
        np.testing.assert_allclose(got.mean(axis=axes), wanted.mean(axis=axes), atol=1e-5)
        np.testing.assert_allclose(got.std(axis=axes), wanted.std(axis=axes), rtol=1e-5)


def test_a_context_answers_for_the_graph_as_the_pass_found_it(graphs: ModuleType) -> None:
    bench = graphs.Bench(graphs.parse(TEXT, **WEIGHTS), FEEDS)
    tensors = {"w0": WEIGHTS["w0"] * 2, "b0": WEIGHTS["b0"] * 2}
    found: dict[str, tuple[Array, Array]] = {}
    bench.context.analysis(STEPPED, (tensors, makes(found, ["c", "a"])))
    np.testing.assert_allclose(found["a"][0], 0.5, rtol=1e-5)
    np.testing.assert_allclose(found["c"][0], 1, rtol=1e-4)
    np.testing.assert_allclose(found["c"][1], 0, atol=1e-4)


SQUARE = (("pads", (1, 1, 1, 1)),)


@pytest.mark.parametrize(
    "looked", [("x", 1), ("x", 3), Patches("x", 1, Window("Conv", 3, (3, 3), SQUARE))], ids=str
)
def test_rows_of_two_versions_are_multiplied_pair_by_pair(looked: Looked) -> None:
    first, second = ([draw(n, 3, 5, 4) for n in (2, 3)] for _ in range(2))
    found = pair(looked, first, second, threads=1)

    def rows(arrays: list[Array]) -> Array:
        together = np.concatenate(arrays).astype(np.float64)
        if len(looked) == 2:
            moved = np.moveaxis(together, looked[1], -1)
            return np.asarray(moved.reshape(-1, moved.shape[-1]))
        wide = np.pad(together, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (2, 3))
        return np.moveaxis(windows, 1, 3).reshape(-1, 27)

    x, now = rows(first), rows(second)
    assert found.now.count == len(x)
    np.testing.assert_allclose(found.now.matrix, now.T @ now, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.across, now.T @ x, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.before, x.sum(axis=0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.now.total, now.sum(axis=0), rtol=1e-4, atol=1e-3)


def test_what_a_step_fits_holds_for_all_behind_it(graphs: ModuleType, model: ir.Model) -> None:
    """And a value that is put right is read as it was put right."""
    other = replaced(model, {"w0": 2 * WEIGHTS["w0"], "b0": 2 * WEIGHTS["b0"]})
    seen: dict[str, Paired] = {}

    def fit(name: str, made: dict[str, Array]) -> Any:
        def step(paired: Paired) -> dict[str, Array]:
            seen[name] = paired
            return made

        return step

    halved = {"w1": WEIGHTS["w1"] / 2}
    steps: list[Reads | Makes] = [
        Reads(("q", 1), fit("q", {})), Reads(("a", 1), fit("a", {})), *makes({}, ["a"]),
        Reads(("p", 1), fit("p", halved)),
    ]  # fmt: skip
    take_steps(model, other, steps, FEEDS, threads=1)
    assert list(seen) == ["a", "p", "q"]
    for name, graph in (("a", model), ("p", model), ("q", replaced(model, halved))):
        now = np.concatenate([value_of(graphs, graph, name, feed) for feed in FEEDS])
        was = np.concatenate([value_of(graphs, model, name, feed) for feed in FEEDS])
        now, was = (np.moveaxis(v, 1, -1).reshape(-1, v.shape[1]).astype(float) for v in (now, was))
        np.testing.assert_allclose(seen[name].now.matrix, now.T @ now, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(seen[name].across, now.T @ was, rtol=1e-4, atol=1e-3)
