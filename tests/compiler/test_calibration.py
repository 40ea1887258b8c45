from __future__ import annotations

from collections.abc import Hashable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.calibration.collect import collect
from planish.compiler.calibration.grams import Grams, GramStore, collect_grams, runs
from planish.compiler.calibration.observers import BINS, Columns, Masking, Request
from planish.ir.digest import contents_digest
from planish.ir.errors import InputError, PassError
from planish.passes.api import Looked, ValueStats
from planish.passes.math.histogram import Histogram

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)

TOKENS = """
<ir_version: 10, opset_import: ["" : 20]>
g (int64[batch, sequence] ids, int64[batch, sequence] mask)
  => (float[batch, sequence, 8] y, float[batch, 8] pooled)
<int64[1] one = {1}>
{
  x = Gather(table, ids)
  h = MatMul(x, w)
  y = Tanh(h)
  pooled = ReduceMean <keepdims = 0> (y, one)
}
"""
TABLE = RNG.normal(size=(11, 8)).astype(np.float32) * np.linspace(0.1, 9, 8, dtype=np.float32)
W = RNG.normal(size=(8, 8)).astype(np.float32)
MASKING = Masking("mask", ("batch", "sequence"))

IMAGES = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 3, h, w] x) => (float[n, 4, a, b] y)
{
  one = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, k1, bias)
  two = Relu(one)
  three = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (two, k2)
  four = Add(three, two)
  y = Relu(four)
}
"""
KERNELS = {
    "k1": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "k2": RNG.normal(size=(4, 4, 3, 3)).astype(np.float32),
    "bias": RNG.normal(size=4).astype(np.float32),
}


def check(stats: ValueStats, rows: Array) -> None:
    """Against float64 numbers from raw rows [elements per channel, channels]."""
    wide = rows.astype(np.float64)
    assert stats.count == len(rows)
    np.testing.assert_allclose(stats.minimum, wide.min(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(stats.maximum, wide.max(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(stats.mean, wide.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats.mean_square, (wide**2).mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats.absmax, np.abs(wide).max(axis=0), rtol=1e-6, atol=1e-6)
    expected = Histogram.of(rows)
    assert stats.histogram.total == rows.size == expected.total
    assert stats.histogram.counts.size == BINS
    assert stats.histogram.lo == pytest.approx(wide.min(), rel=1e-6)
    assert stats.histogram.hi == pytest.approx(wide.max(), rel=1e-6)
    # float32 places a value on an edge in either of two neighbours: their sum is what counts
    moved = np.abs(np.cumsum(stats.histogram.counts - expected.counts))
    assert moved.max() <= 2


def padded(sentences: Sequence[Array], padding: int = 5) -> dict[str, Array]:
    """One feed of sentences of unlike lengths; ``padding`` is the id that fills them up."""
    longest = max(map(len, sentences))
    ids = np.full((len(sentences), longest), padding, np.int64)
    mask = np.zeros_like(ids)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)] = sentence
        mask[row, : len(sentence)] = 1
    return {"ids": ids, "mask": mask}


@pytest.fixture
def tokens(graphs: ModuleType) -> ir.Model:
    parsed: ir.Model = graphs.parse(TOKENS, table=TABLE, w=W)
    return parsed


def requests(*wanted: tuple[str, int]) -> list[Request]:
    return [Request(*item) for item in wanted]


def test_statistics_are_those_of_all_feeds_together(graphs: ModuleType) -> None:
    model = graphs.parse(IMAGES, **KERNELS)
    before = contents_digest(model)
    feeds = [
        {"x": RNG.normal(size=(n, 3, size, 5)).astype(np.float32)} for n, size in [(2, 4), (3, 6)]
    ]
    wanted = requests(("x", 1), ("two", 1), ("four", 1), ("y", 1))
    found = collect(model, wanted, feeds, None)
    assert set(found) == {"x", "two", "four", "y"}
    copy = graphs.parse(IMAGES, **KERNELS)
    copy.graph.outputs.extend([graphs.value(copy, n) for n in ("two", "four")])
    values = [feed | graphs.run(copy, feed) for feed in feeds]
    for name, stats in found.items():
        channels = values[0][name].shape[1]
        rows = [v[name].transpose(0, 2, 3, 1).reshape(-1, channels) for v in values]
        check(stats, np.concatenate(rows))
        assert not stats.masked
    assert contents_digest(model) == before


def test_padding_never_counts(tokens: ir.Model, graphs: ModuleType) -> None:
    sentences = [RNG.integers(0, 11, length) for length in (3, 7, 1, 4, 6)]
    table = TABLE.copy()
    table[5] *= 1000  # would be the extreme of every channel
    model = graphs.parse(TOKENS, table=table, w=W)
    sentences = [np.where(s == 5, 6, s) for s in sentences]
    feeds = [padded(sentences[:3]), padded(sentences[3:])]
    wanted = requests(("x", 2), ("y", 2))
    with_padding = collect(model, wanted, feeds, MASKING)
    without = collect(model, wanted, [padded([s]) for s in sentences], MASKING)
    rows = np.concatenate([table[s] for s in sentences])
    check(with_padding["x"], rows)
    check(with_padding["y"], np.tanh(rows @ W))
    for name in ("x", "y"):
        one, two = with_padding[name], without[name]
        assert one.masked
        assert one.count == two.count == sum(map(len, sentences))
        np.testing.assert_array_equal(one.minimum, two.minimum)
        np.testing.assert_array_equal(one.maximum, two.maximum)
        np.testing.assert_array_equal(one.histogram.counts, two.histogram.counts)
        np.testing.assert_allclose(one.mean, two.mean, rtol=1e-5, atol=1e-6)
    unmasked = collect(model, wanted, feeds, None)
    assert unmasked["x"].maximum.max() > 10 * with_padding["x"].maximum.max()


@pytest.mark.parametrize("dtype", ["bool", "float"])
def test_masks_of_other_dtypes_work_alike(graphs: ModuleType, dtype: str) -> None:
    model = graphs.parse(TOKENS.replace("int64[batch, sequence] mask", f"{dtype}[b, s] mask"),
                         table=TABLE, w=W)  # fmt: skip
    feed = padded([np.array([1, 2]), np.array([3])])
    feed["mask"] = feed["mask"].astype({"bool": bool, "float": np.float32}[dtype])
    stats = collect(model, requests(("x", 2)), [feed], MASKING)["x"]
    check(stats, TABLE[[1, 2, 3]])


def test_values_that_hold_no_tokens_are_taken_whole(tokens: ir.Model) -> None:
    feed = padded([np.array([1, 2, 3]), np.array([4])])
    pooled = collect(tokens, requests(("pooled", 1)), [feed], MASKING)["pooled"]
    assert not pooled.masked
    assert pooled.count == 2


def test_a_feed_without_a_single_token_says_nothing(tokens: ir.Model) -> None:
    full, empty = padded([np.array([1, 2])]), padded([np.array([3, 4])])
    empty["mask"][:] = 0
    stats = collect(tokens, requests(("x", 2)), [empty, full, empty], MASKING)["x"]
    check(stats, TABLE[[1, 2]])
    assert collect(tokens, requests(("x", 2)), [empty], MASKING) == {}


def test_statistics_do_not_depend_on_what_else_is_asked(graphs: ModuleType) -> None:
    """A runtime fuses Conv, Add and Relu where nobody looks between: other last bits."""
    model = graphs.parse(IMAGES, **KERNELS)
    feeds = [{"x": RNG.normal(size=(4, 3, 16, 16)).astype(np.float32)}]
    alone = collect(model, requests(("y", 1)), feeds, None, threads=1)["y"]
    wanted = requests(("one", 1), ("three", 1), ("two", 1), ("y", 1), ("x", 1))
    among = collect(model, wanted, feeds, None, threads=1)["y"]
    for field in ("minimum", "maximum", "mean", "mean_square"):
        np.testing.assert_array_equal(getattr(alone, field), getattr(among, field))
    np.testing.assert_array_equal(alone.histogram.counts, among.histogram.counts)


def test_a_value_that_never_changes_has_a_histogram(graphs: ModuleType) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[n, 4] x) => (float[n, 4] y) <float zero = {0}> { a = Mul(x, zero) y = Relu(a) }
    """
    feeds = [{"x": np.ones((3, 4), np.float32)}]
    stats = collect(graphs.parse(text), requests(("a", 1)), feeds, None)["a"]
    assert stats.histogram.total == 12
    assert stats.absmax.tolist() == [0.0] * 4


def test_a_value_that_is_not_finite_is_named(tokens: ir.Model, graphs: ModuleType) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[n, 4] x) => (float[n, 4] y) { a = Log(x) y = Relu(a) }
    """
    feeds = [{"x": np.ones((3, 4), np.float32)}, {"x": -np.ones((3, 4), np.float32)}]
    with pytest.raises(InputError, match="not finite") as caught:
        collect(graphs.parse(text), requests(("x", 1), ("a", 1)), feeds, None)
    assert "'a'" in str(caught.value)


def test_a_changing_number_of_channels_is_an_error(graphs: ModuleType) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float[n, c] x) => (float[n, c] y) { y = Relu(x) }
    """
    feeds = [{"x": np.ones((2, c), np.float32)} for c in (3, 4)]
    with pytest.raises(InputError, match="number of channels"):
        collect(graphs.parse(text), requests(("y", 1)), feeds, None)


def test_what_cannot_be_observed_is_said(graphs: ModuleType) -> None:
    old = graphs.parse(IMAGES.replace(": 20", ": 13"), **KERNELS)
    with pytest.raises(PassError, match="opset 18"):
        collect(old, requests(("y", 1)), [], None)
    assert collect(old, [], [], None) == {}
    model = graphs.parse(IMAGES, **KERNELS)
    graphs.value(model, "two").shape = None
    with pytest.raises(PassError, match="rank"):
        collect(model, requests(("two", 1)), [], None)
    with pytest.raises(PassError, match="no value named 'nope'"):
        collect(model, requests(("nope", 1)), [], None)


def test_half_precision_is_summed_in_float32(graphs: ModuleType) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    g (float16[n, 2] x) => (float16[n, 2] y) { y = Relu(x) }
    """
    x = np.full((5000, 2), 10, np.float16)
    stats = collect(graphs.parse(text), requests(("y", 1)), [{"x": x}], None)["y"]
    np.testing.assert_array_equal(stats.mean_square, [100, 100])


# -- Gram matrices -----------------------------------------------------------------------


def kept_rows(model: ir.Model, graphs: ModuleType, feeds: Sequence[Any], name: str) -> Array:
    """Values [rows, channels] of the tokens that count, in float64."""
    model.graph.outputs.append(graphs.value(model, name))
    found = [graphs.run(model, feed)[name][feed["mask"] > 0] for feed in feeds]
    return np.concatenate(found).astype(np.float64)


def test_gram_matrices_leave_padding_out(tokens: ir.Model, graphs: ModuleType) -> None:
    feeds = [padded([RNG.integers(0, 5, n) for n in (3, 7, 1)]), padded([RNG.integers(0, 5, 4)])]
    found = collect_grams(tokens, [Columns("h", 2), Columns("x", 2, (2, 5))], feeds, MASKING)
    for name, columns in (("h", slice(None)), ("x", slice(2, 5))):
        rows = kept_rows(graphs.parse(TOKENS, table=TABLE, w=W), graphs, feeds, name)
        gram = found[name]
        assert gram.count == len(rows) == 15
        np.testing.assert_allclose(gram.matrix, (rows.T @ rows)[:, columns], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(gram.mean, rows.mean(axis=0), rtol=1e-5, atol=1e-5)


def test_rows_of_all_axes_count_where_there_is_no_mask(graphs: ModuleType) -> None:
    model = graphs.parse(IMAGES, **KERNELS)
    feeds = [{"x": RNG.normal(size=(n, 3, 4, 5)).astype(np.float32)} for n in (2, 3)]
    for axis, count in ((3, 60), (1, 100)):
        gram = collect_grams(model, [Columns("x", axis)], feeds, None)["x"]
        apart = [np.moveaxis(feed["x"], axis, -1) for feed in feeds]
        rows = np.concatenate([x.reshape(-1, x.shape[-1]) for x in apart]).astype(np.float64)
        assert gram.count == count
        np.testing.assert_allclose(gram.matrix, rows.T @ rows, rtol=1e-5, atol=1e-4)


def test_infinite_activations_have_no_gram_matrix(graphs: ModuleType) -> None:
    model = graphs.parse(IMAGES, **KERNELS)
    feed = {"x": np.full((1, 3, 4, 5), np.inf, np.float32)}
    with pytest.raises(InputError, match="not finite"):
        collect_grams(model, [Columns("x", 3)], [feed], None)


def test_large_matrices_are_made_in_stripes_that_fit() -> None:
    wanted = [("a", 1, 100), ("b", 1, 40), ("c", 1, 40)]
    made = runs(wanted, limit=100 * 4 * 30)
    assert [(c.value, c.columns) for run in made for c in run] == [
        ("a", (0, 30)), ("a", (30, 60)), ("a", (60, 90)), ("a", (90, 100)), ("b", None),
        ("c", None),
    ]  # fmt: skip
    sizes = {"a": 100, "b": 40, "c": 40}
    for run in made:
        widths = [sizes[c.value] if c.columns is None else c.columns[1] - c.columns[0] for c in run]
        assert sum(4 * sizes[c.value] * w for c, w in zip(run, widths, strict=True)) <= 12000
        assert len({c.value for c in run}) == len(run)


def test_matrices_are_collected_once_and_as_many_as_fit(tokens: ir.Model) -> None:
    feeds, asked = [padded([RNG.integers(0, 5, 6)])], []

    def collected(requests: Sequence[Columns]) -> Any:
        asked.append([c.value for c in requests])
        return collect_grams(tokens, requests, feeds, MASKING)

    names = ("x", "h", "y")
    keys: dict[Looked, Hashable] = {(name, 2): (name, 2) for name in names}
    store = GramStore(limit=2 * 8 * 8 * 8)
    grams = Grams(keys, dict.fromkeys(keys, 8), store, collected)
    for name in ("x", "h", "x", "y", "y"):
        assert grams[name, 2].matrix.shape == (8, 8)
    assert asked == [["x", "h"], ["y"]]
    whole = collect_grams(tokens, [Columns("h", 2)], feeds, MASKING)["h"]
    np.testing.assert_array_equal(grams["h", 2].matrix, whole.matrix)
