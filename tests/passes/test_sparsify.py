"""sparsify: where zeros stand, what the others become, and when nothing is done."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.compiler import manager
from planish.compiler.checking.patterns import KeepsPatterns
from planish.compiler.pipeline import parse, resolve
from planish.ir.errors import UsageError
from planish.ir.facts import FLOAT, QUANTIZED, SPARSE, sparse_fact
from planish.ir.graph import constant_array
from planish.ir.sites import find_sites
from planish.passes.api import AXES, pass_class
from planish.passes.math.refit import damped
from planish.passes.sparse.orders import reorder

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(11)
GPU = "nvidia-ampere"
SMALL: dict[str, Any] = {"small": True}


def array(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def head(inputs: str, outputs: str, opset: int = 20) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]>\ng ({inputs}) => ({outputs})\n'


PLAIN = head("float[n, 32] x", "float[n, 16] y") + "{ p = MatMul(x, w) y = Add(p, b) }"
W, B = array(32, 16), array(16)
MIX = array(32, 32) * np.geomspace(1, 0.1, 32).astype(np.float32)
FEEDS = [{"x": array(90, 32) @ MIX + np.float32(0.5)} for _ in range(3)]

BLOCK = (
    head("float[n, 32] x", "float[n, 16] y")
    + "{ a = MatMul(x, up) b = Add(a, up_bias) h = Relu(b) c = MatMul(h, down) "
    "y = Add(c, down_bias) }"
)
WIDE = 64
UP, UP_BIAS, DOWN, DOWN_BIAS = array(32, WIDE) / 5, array(WIDE), array(WIDE, 16), array(16)
DOWN[: WIDE // 4] *= 6  # heavy channels stand together: the pattern would take half of them
SITES = ("up", "down")


def plain(graphs: ModuleType, **settings: Any) -> Any:
    settings = {"target": GPU, **settings}
    return graphs.Bench(graphs.parse(PLAIN, w=W, b=B), FEEDS, **settings)


def block(graphs: ModuleType, **settings: Any) -> Any:
    settings = {"target": GPU, "instruments": [KeepsPatterns()], **settings}
    model = graphs.parse(BLOCK, up=UP, up_bias=UP_BIAS, down=DOWN, down_bias=DOWN_BIAS)
    return graphs.Bench(model, FEEDS, **settings)


def stored(model: Any, name: str) -> Array:
    found = constant_array(model.graph.initializers[name])
    assert found is not None
    return found


def keeps(weight: Array, axis: int, keep: int = 2, group: int = 4) -> bool:
    """Whether at most ``keep`` of every ``group`` along an axis are not zero, one by one."""
    lines = np.moveaxis(weight, axis, -1).reshape(-1, weight.shape[axis])
    return all(
        np.count_nonzero(line[start : start + group]) <= keep
        for line in lines
        for start in range(0, len(line), group)
    )


def facts(model: Any) -> dict[str, set[str]]:
    return {site.name: set(site.facts) for site in find_sites(model) if site.uses}


def outputs(bench: Any) -> Array:
    return np.concatenate([bench.outputs(feed)["y"] for feed in FEEDS]).astype(np.float64)


def rows(name: str = "x") -> Array:
    return np.concatenate([feed[name] for feed in FEEDS]).astype(np.float64)


# -- what it does ----------------------------------------------------------------------


def test_half_of_the_weights_become_zero_and_nothing_else_changes(graphs: ModuleType) -> None:
    bench = plain(graphs)
    nodes = graphs.lines(bench.model)
    (edit,) = bench.run("sparsify", **SMALL).edits
    assert graphs.lines(bench.model) == nodes
    assert keeps(stored(bench.model, "w"), 0)
    assert np.count_nonzero(stored(bench.model, "w")) == W.size // 2
    assert facts(bench.model) == {"linear1": {FLOAT, "sparse-2:4"}}
    assert (edit.site, edit.setting, edit.saving) == ("linear1", "2:4", 0)
    assert edit.details == {"zeros": 0.5, "score": "sparsegpt"}


@pytest.mark.parametrize("score", ["sparsegpt", "wanda", "magnitude"])
def test_what_stays_is_the_ridge_regression_on_what_was_seen(
    graphs: ModuleType, score: str
) -> None:
    """Column by column from the rows of data themselves, an intercept included."""
    bench = plain(graphs)
    bench.run("sparsify", score=score, **SMALL)
    made, x = stored(bench.model, "w"), rows()
    moved = x - x.mean(axis=0)
    covariance = moved.T @ moved / len(x)
    ridge = (damped(covariance, len(x)) - covariance)[0, 0]
    data = np.concatenate([moved, np.sqrt(ridge * len(x)) * np.eye(32)])
    for column in range(16):
        kept = made[:, column] != 0
        fit = np.linalg.lstsq(data[:, kept], data @ W[:, column].astype(float), rcond=None)[0]
        np.testing.assert_allclose(made[kept, column], fit, rtol=2e-3, atol=1e-4)
    intercept = B + x.mean(axis=0) @ (W.astype(float) - made)
    np.testing.assert_allclose(stored(bench.model, "b"), intercept, rtol=1e-4, atol=1e-4)


def test_the_declared_loss_is_that_of_the_model(graphs: ModuleType) -> None:
    bench = plain(graphs)
    before = outputs(bench)
    (edit,) = bench.run("sparsify", **SMALL).edits
    after = outputs(bench)
    lost = ((after - before) ** 2).sum() / (before**2).sum()
    assert edit.loss == pytest.approx(lost, rel=0.3)  # measured on the first 16 rows
    np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), atol=1e-4)


def test_each_step_loses_less(graphs: ModuleType) -> None:
    lost = []
    for settings in (
        {}, {"refit": False}, {"score": "magnitude"}, {"score": "magnitude", "refit": False}
    ):  # fmt: skip
        bench = plain(graphs)
        before = outputs(bench)
        bench.run("sparsify", **SMALL, **settings)
        lost.append(float(((outputs(bench) - before) ** 2).sum()))
    assert lost[0] < lost[1] < lost[3]
    assert lost[0] < lost[2] < lost[3]


def test_without_data_the_smallest_go(graphs: ModuleType) -> None:
    bench = plain(graphs, calibrated=False)
    bench.run("sparsify", score="magnitude", refit=False, **SMALL)
    made = stored(bench.model, "w")
    for start in range(0, 32, 4):
        for column in range(16):
            part = np.abs(W[start : start + 4, column])
            kept = np.flatnonzero(made[start : start + 4, column])
            assert kept.tolist() == sorted(np.argsort(part)[2:].tolist())
    np.testing.assert_array_equal(made[made != 0], W[made != 0])
    np.testing.assert_array_equal(stored(bench.model, "b"), B)


def test_a_bias_that_does_not_belong_to_the_layer_stays(graphs: ModuleType) -> None:
    text = PLAIN.replace("y = Add(p, b)", "q = Add(p, b) y = Mul(q, b)")
    bench = graphs.Bench(graphs.parse(text, w=W, b=B), FEEDS, target=GPU)
    assert bench.run("sparsify", **SMALL).edits
    np.testing.assert_array_equal(stored(bench.model, "b"), B)


# -- every way in which weights are stored ---------------------------------------------


def test_of_a_transposed_weight_the_pattern_goes_along_its_inputs(graphs: ModuleType) -> None:
    text = head("float[n, 32] x", "float[n, 16] y") + "{ y = Gemm<transB = 1>(x, w, b) }"
    bench = graphs.Bench(graphs.parse(text, w=W.T.copy(), b=B), FEEDS, target=GPU)
    assert bench.run("sparsify", **SMALL).edits
    assert keeps(stored(bench.model, "w"), 1)
    assert not keeps(stored(bench.model, "w"), 0)
    straight = plain(graphs)
    straight.run("sparsify", **SMALL)
    np.testing.assert_allclose(
        stored(bench.model, "w").T, stored(straight.model, "w"), rtol=1e-4, atol=1e-5
    )


def test_a_weight_that_two_products_share_stays_shared(graphs: ModuleType) -> None:
    text = head("float[n, 32] x, float[n, 32] z", "float[n, 16] y, float[n, 16] u")
    text += "{ y = MatMul(x, w) u = MatMul(z, w) }"
    feeds = [{"x": f["x"], "z": 3 * f["x"]} for f in FEEDS]
    bench = graphs.Bench(graphs.parse(text, w=W), feeds, target=GPU)
    assert bench.run("sparsify", **SMALL).edits
    assert keeps(stored(bench.model, "w"), 0)


CONV = head("float[n, 16, 9, 9] x", "float[n, 8, 5, 5] y")
IMAGES = [{"x": array(6, 16, 9, 9) + np.float32(0.3)} for _ in range(2)]


def unfolded(images: Array, taps: int = 3, stride: int = 2, pad: int = 1) -> Array:
    """[places, channels, taps, taps] of every place, by plain loops."""
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad))).astype(np.float64)
    size = (padded.shape[2] - taps) // stride + 1
    return np.stack(
        [
            image[:, i * stride : i * stride + taps, j * stride : j * stride + taps]
            for image in padded
            for i in range(size)
            for j in range(size)
        ]
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_of_a_convolution_the_pattern_goes_along_its_channels(
    graphs: ModuleType, groups: int
) -> None:
    kernel, bias = array(8, 16 // groups, 3, 3), array(8)
    text = (
        CONV + f"{{ y = Conv<strides = [2, 2], pads = [1, 1, 1, 1], group = {groups}>(x, w, b) }}"
    )
    bench = graphs.Bench(graphs.parse(text, w=kernel, b=bias), IMAGES, target=GPU)
    bench.context.target = without_sizes(bench.context.target)
    assert bench.run("sparsify").edits
    made = stored(bench.model, "w")
    assert keeps(made, 1)
    assert not keeps(made.reshape(8, -1), 1), "groups of weights at one tap, not of taps in a row"
    patches = unfolded(np.concatenate([feed["x"] for feed in IMAGES]))
    each, outputs_each = 16 // groups, 8 // groups
    for out in (0, 7):
        part = slice(out // outputs_each * each, (out // outputs_each + 1) * each)
        x = patches[:, part].reshape(len(patches), -1)
        moved = x - x.mean(axis=0)
        moments = damped(moved.T @ moved / len(x), len(x))
        kept, w = made[out].reshape(-1) != 0, kernel[out].reshape(-1).astype(float)
        fit = np.linalg.solve(moments[np.ix_(kept, kept)], (moments @ w)[kept])
        np.testing.assert_allclose(made[out].reshape(-1)[kept], fit, rtol=2e-3, atol=2e-4)


def without_sizes(target: Any) -> Any:
    """The target with kernels for layers of any size."""
    sparse = replace(target.sparse, inputs=None, outputs=None, min_size=None)
    return replace(target, sparse=sparse)


@pytest.mark.parametrize(
    ("pattern", "keep", "group"), [("1:4", 1, 4), ("4:8", 4, 8), ("2:8", 2, 8)]
)
def test_other_patterns_where_a_target_declares_them(
    graphs: ModuleType, pattern: str, keep: int, group: int
) -> None:
    bench = plain(graphs)
    assert not bench.run("sparsify", pattern=pattern, **SMALL).edits
    assert bench.refusals() == {"linear1": "no-sparse-kernel"}
    target = bench.context.target
    bench.context.target = replace(target, sparse=replace(target.sparse, patterns=(pattern,)))
    assert bench.run("sparsify", pattern=pattern, **SMALL).edits
    assert keeps(stored(bench.model, "w"), 0, keep, group)
    assert np.count_nonzero(stored(bench.model, "w")) == W.size * keep // group
    assert facts(bench.model)["linear1"] == {FLOAT, sparse_fact(pattern)}


# -- the order of channels -------------------------------------------------------------


def test_channels_that_compete_are_put_apart_and_their_makers_follow(graphs: ModuleType) -> None:
    moved, still = block(graphs), block(graphs)
    outcome = moved.run("sparsify", **SMALL)
    still.run("sparsify", permute=False, **SMALL)
    assert [edit.site for edit in outcome.edits] == list(SITES)
    assert outcome.edits[1].details["reordered"] == "up.neurons"
    up, bias = stored(still.model, "up"), stored(still.model, "up_bias")
    same = (stored(moved.model, "up")[:, :, None] == up[:, None, :]).all(axis=0)
    order = same.argmax(axis=1)  # each column is one of those that were
    assert same.any(axis=1).all()
    assert sorted(order) != order.tolist()
    assert sorted(order) == list(range(WIDE))
    np.testing.assert_array_equal(stored(moved.model, "up_bias"), bias[order])
    assert keeps(stored(moved.model, "down"), 0)
    assert keeps(stored(moved.model, "up"), 0)
    assert all("sparse-2:4" in found for found in facts(moved.model).values())


def test_the_order_is_worth_it(graphs: ModuleType) -> None:
    lost = []
    for permute in (True, False):
        bench = block(graphs)
        before = outputs(bench)
        bench.run("sparsify", selector=(SITES[1],), permute=permute, **SMALL)
        lost.append(float(((outputs(bench) - before) ** 2).sum()))
    assert lost[0] < 0.75 * lost[1]


def test_channels_between_convolutions_are_reordered_too(graphs: ModuleType) -> None:
    """With a depthwise one, and a scale for each channel, on the way."""
    text = head("float[n, 16, 9, 9] x", "float[n, 8, 9, 9] y") + (
        "{ a = Conv<pads = [1, 1, 1, 1]>(x, first, bias) r = Relu(a) "
        "d = Conv<pads = [1, 1, 1, 1], group = 32>(r, each) m = Mul(d, scale) "
        "y = Conv<pads = [1, 1, 1, 1]>(m, last) }"
    )
    last = array(8, 32, 3, 3)
    last[:, :8] *= 6
    weights = {
        "first": array(32, 16, 3, 3) / 10, "bias": array(32), "each": array(32, 1, 3, 3),
        "scale": array(32, 1, 1), "last": last / 10,
    }  # fmt: skip
    bench = graphs.Bench(graphs.parse(text, **weights), IMAGES, target=GPU)
    edits = bench.run("sparsify", **SMALL).edits
    assert [(edit.site, "reordered" in edit.details) for edit in edits] == [
        ("conv1", False), ("conv3", True),
    ]  # fmt: skip
    assert "missed" not in {remark.kind for remark in bench.context.remarks}
    each, scale = stored(bench.model, "each"), stored(bench.model, "scale")
    order = [int(np.flatnonzero(weights["scale"][:, 0, 0] == s)[0]) for s in scale[:, 0, 0]]
    assert sorted(order) == list(range(32))
    assert order != sorted(order)
    np.testing.assert_array_equal(each, weights["each"][order])
    assert keeps(stored(bench.model, "last"), 1)
    assert keeps(stored(bench.model, "first"), 1)


def test_an_order_changes_nothing_where_all_else_stays(graphs: ModuleType) -> None:
    """Every weight of the reader has its zeros already when it is reordered, by hand."""
    bench = block(graphs)
    before = outputs(bench)
    axis = bench.context.analysis(AXES)["up.neurons"]
    with bench.rewriter.edit("by hand"):
        reorder(bench.rewriter, axis, np.random.default_rng(0).permutation(WIDE))
    np.testing.assert_allclose(outputs(bench), before, rtol=1e-4, atol=1e-4)
    assert not np.array_equal(stored(bench.model, "down"), DOWN)


def test_makers_that_were_edited_before_are_not_thinned_again(
    graphs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates are taken a few at a time; here the maker is in the graph before its reader."""
    monkeypatch.setattr(manager, "CHUNK", 1)
    bench, together = block(graphs), block(graphs)
    assert len(bench.run("sparsify", **SMALL).edits) == 2
    assert "missed" not in {remark.kind for remark in bench.context.remarks}
    monkeypatch.undo()
    together.run("sparsify", **SMALL)
    for name in ("up", "up_bias", "down", "down_bias"):
        np.testing.assert_array_equal(stored(bench.model, name), stored(together.model, name))


def test_a_selected_layer_takes_no_other_with_it(graphs: ModuleType) -> None:
    bench = block(graphs)
    outcome = bench.run("sparsify", selector=(SITES[1],), **SMALL)
    assert [edit.site for edit in outcome.edits] == [SITES[1]]
    assert facts(bench.model) == {SITES[0]: {FLOAT}, SITES[1]: {FLOAT, "sparse-2:4"}}
    np.testing.assert_array_equal(np.sort(stored(bench.model, "up_bias")), np.sort(UP_BIAS))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("p = MatMul(x, w) q = MatMul(p, v) y = Add(q, x)", "free"),
        ("p = MatMul(x, w) r = Add(p, x) q = MatMul(r, v) y = Add(q, r)", "a residual sum"),
        ("p = MatMul(x, w) q = MatMul(p, v) s = MatMul(p, v2) y = Add(q, s)", "two readers"),
        ("p = MatMul(x, w) s = Softmax(p) q = MatMul(s, v) y = Add(q, x)", "a norm over it"),
    ],
)
def test_only_a_free_order_is_chosen(graphs: ModuleType, body: str, why: str) -> None:
    text = head("float[n, 32] x", "float[n, 32] y") + f"{{ {body} }}"
    names = {"w": array(32, 32), "v": array(32, 32), "v2": array(32, 32)}
    used = {name: weight for name, weight in names.items() if f", {name})" in body}
    bench = graphs.Bench(graphs.parse(text, **used), FEEDS, target=GPU)
    edits = bench.run("sparsify", **SMALL).edits
    assert len(edits) == len(used)
    assert any("reordered" in edit.details for edit in edits) == (why == "free"), why


def test_a_layer_that_is_left_whole_keeps_its_order(graphs: ModuleType) -> None:
    bench = block(graphs)
    (edit,) = bench.run("sparsify", exclude=(SITES[0],), **SMALL).edits
    assert "reordered" not in edit.details
    np.testing.assert_array_equal(stored(bench.model, "up"), UP)
    assert bench.refusals() == {SITES[0]: "excluded"}


# -- when nothing is done --------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("x86-avx512-vnni", "no-sparse-kernel"), ("generic", "no-sparse-kernel"),
        ("arm-i8mm", "no-sparse-kernel"), ("nvidia-t4", "no-sparse-kernel"),
        ("nvidia-onnxruntime-cuda", "no-sparse-kernel"), ("apple-coreml", "unknown"),
        ("nvidia-a100", ""), ("nvidia-h100", ""), ("l4", ""), ("jetson-agx-orin", ""),
        ("nvidia-b200", ""),
    ],
)  # fmt: skip
def test_only_targets_with_kernels_for_zeros_are_offered_any(
    graphs: ModuleType, target: str, code: str
) -> None:
    bench = plain(graphs, target=target)
    edits = bench.run("sparsify", **SMALL).edits
    assert len(edits) == (code == "")
    assert bench.refusals() == ({"linear1": code} if code else {})
    if code == "no-sparse-kernel":
        assert "takes as long as a dense one" in bench.remarks("refused")["linear1"].sentence
    if code == "":
        note = bench.remarks("note")["model"]
        assert note.code == "sparse-gain"
        assert "1.2 times" in note.sentence
        assert "NVIDIA" in note.sentence, "with the source"


@pytest.mark.parametrize(
    ("inputs", "outputs", "code", "said"),
    [
        (34, 32, "ragged", "34 input channels do not fall into groups of 4"),
        (36, 32, "multiple", "a multiple of 16 inputs, not 36"),
        (32, 28, "multiple", "a multiple of 8 outputs, not 28"),
        (255 // 16 * 16, 256, "too-small", "a 240x256 product is smaller than 256"),
        (256, 256, "", ""),
    ],
)
def test_sizes_that_kernels_do_not_take_or_gain_nothing_from(
    graphs: ModuleType, inputs: int, outputs: int, code: str, said: str
) -> None:
    text = head(f"float[n, {inputs}] x", f"float[n, {outputs}] y") + "{ y = MatMul(x, w) }"
    model = graphs.parse(text, w=array(inputs, outputs))
    bench = graphs.Bench(model, [{"x": array(40, inputs)}], target=GPU)
    edits = bench.run("sparsify", score="magnitude", refit=False).edits
    assert len(edits) == (code == "")
    assert bench.refusals() == ({"linear1": code} if code else {})
    assert said in (bench.remarks("refused")["linear1"].sentence if code else "")


def test_depthwise_convolutions_have_nothing_to_choose_from(graphs: ModuleType) -> None:
    text = CONV + "{ y = Conv<strides = [2, 2], pads = [1, 1, 1, 1], group = 16>(x, w) }"
    text = text.replace("float[n, 8, 5, 5]", "float[n, 16, 5, 5]")
    bench = graphs.Bench(graphs.parse(text, w=array(16, 1, 3, 3)), IMAGES, target=GPU)
    bench.run("sparsify", **SMALL)
    assert set(bench.refusals().values()) == {"ragged"}


def test_what_else_stays_whole(graphs: ModuleType) -> None:
    bench = plain(graphs, calibrated=False)
    bench.run("sparsify", **SMALL)
    assert bench.refusals() == {"linear1": "no-calibration"}
    assert "--calibration" in bench.remarks("refused")["linear1"].sentence
    text = head("double[n, 32] x", "double[n, 16] y") + "{ y = MatMul(x, w) }"
    bench = graphs.Bench(
        graphs.parse(text, w=W.astype(np.float64)), [{"x": array(9, 32).astype(np.float64)}],
        target=GPU,
    )  # fmt: skip
    bench.run("sparsify", **SMALL)
    assert bench.refusals() == {"linear1": "dtype"}
    assert "fp16" in bench.remarks("refused")["linear1"].sentence


def test_float16_is_taken(graphs: ModuleType) -> None:
    text = head("float16[n, 32] x", "float16[n, 16] y") + "{ p = MatMul(x, w) y = Add(p, b) }"
    feeds = [{"x": f["x"].astype(np.float16)} for f in FEEDS]
    model = graphs.parse(text, w=W.astype(np.float16), b=B.astype(np.float16))
    bench = graphs.Bench(model, feeds, target=GPU)
    assert bench.run("sparsify", **SMALL).edits
    assert keeps(stored(bench.model, "w"), 0)


def test_few_rows_are_said(graphs: ModuleType) -> None:
    bench = graphs.Bench(graphs.parse(PLAIN, w=W, b=B), [{"x": array(9, 32)}], target=GPU)
    assert bench.run("sparsify", **SMALL).edits
    assert bench.remarks("note")["linear1"].code == "few-rows"
    assert "9 rows of data for 32 inputs" in bench.remarks("note")["linear1"].sentence


def test_data_that_says_nothing_leaves_layers_whole(graphs: ModuleType) -> None:
    """Sums of squares beyond float32; and a layer that no feed reaches."""
    bench = graphs.Bench(
        graphs.parse(PLAIN, w=W, b=B), [{"x": array(9, 32) * np.float32(1e30)}], target=GPU
    )
    assert bench.run("sparsify", **SMALL).edits == []
    assert bench.remarks("missed")["linear1"].code == "not-observed"
    assert bench.run("sparsify", score="magnitude", refit=False, **SMALL).edits
    offset = array(90, 32) + np.float32(1e5)  # sums in float32 leave nothing of the variance
    bench = graphs.Bench(graphs.parse(PLAIN, w=W, b=B), [{"x": offset}], target=GPU)
    assert bench.run("sparsify", **SMALL).edits == []
    assert bench.remarks("missed")["linear1"].code == "not-usable"


def test_a_second_run_finds_the_zeros_there(graphs: ModuleType) -> None:
    bench = block(graphs)
    bench.run("sparsify", **SMALL)
    assert bench.run("sparsify", **SMALL).edits == []
    assert set(bench.refusals().values()) == {"already-sparse"}


def test_options_out_of_range() -> None:
    options = pass_class("sparsify").Options
    with pytest.raises(UsageError, match="the share of zeros"):
        resolve(next(iter(parse("sparsify{ratio=1}"))), options)
    with pytest.raises(UsageError, match="2:4"):
        resolve(next(iter(parse("sparsify{pattern=2:5}"))), options)


# -- zeros for storage -----------------------------------------------------------------


@pytest.mark.parametrize(("pattern", "share"), [("unstructured", 0.5), ("block", 0.5)])
def test_zeros_that_only_make_files_compressible(
    graphs: ModuleType, pattern: str, share: float
) -> None:
    bench = block(graphs, target="generic")
    edits = bench.run("sparsify", pattern=pattern).edits
    assert [edit.setting for edit in edits] == [f"{pattern}-0.5"] * 2
    for name in ("up", "down"):
        assert np.mean(stored(bench.model, name) == 0) == pytest.approx(share, abs=0.01)
    note = bench.remarks("note")["model"]
    assert note.code == "storage-only"
    assert "nothing faster" in note.sentence
    assert not any(SPARSE[:7] in fact for found in facts(bench.model).values() for fact in found)


def test_how_many_zeros_is_a_choice(graphs: ModuleType) -> None:
    bench = block(graphs, target="generic")
    bench.run("sparsify", pattern="unstructured", ratio=0.75)
    assert (np.count_nonzero(stored(bench.model, "down"), axis=0) == WIDE // 4).all()


# -- what comes behind -----------------------------------------------------------------


def test_quantization_keeps_the_zeros(graphs: ModuleType) -> None:
    bench = block(graphs, target="nvidia-a100")
    bench.run("sparsify", **SMALL)
    assert len(bench.run("quantize", scheme="static").edits) == 2
    assert all(found == {QUANTIZED, "sparse-2:4"} for found in facts(bench.model).values())
    arrays = map(constant_array, bench.model.graph.initializers.values())
    codes = [a for a in arrays if a is not None and a.dtype == np.int8 and a.ndim == 2]
    assert len(codes) == 2
    for weight in codes:
        assert keeps(weight, 0)
        assert np.abs(weight).max() == 127


def test_dynamic_integers_keep_imported_zeros(graphs: ModuleType) -> None:
    bench = block(graphs)
    bench.run("sparsify", **SMALL)
    cpu = graphs.Bench(bench.model, FEEDS, target="generic")
    cpu.context.target = replace(cpu.context.target, min_gemm=1)
    assert len(cpu.run("quantize").edits) == 2
    assert all(found == {QUANTIZED, "sparse-2:4"} for found in facts(cpu.model).values())


def test_equalization_keeps_the_zeros(graphs: ModuleType) -> None:
    bench = block(graphs)
    bench.run("sparsify", **SMALL)
    edits = bench.run("equalize", alpha=0.8).edits
    assert edits
    assert "missed" not in {remark.kind for remark in bench.context.remarks}
    assert all("sparse-2:4" in found for found in facts(bench.model).values())


@pytest.mark.parametrize(
    ("name", "options"),
    [("low-rank", {"ratio": 0.4, "gain": "size"}), ("weight-only", {"block": 16})],
)
def test_what_would_fill_the_zeros_comes_before(
    graphs: ModuleType, name: str, options: dict[str, Any]
) -> None:
    bench = block(graphs)
    few = replace(bench.context.target.weight_only, blocks=(16,))
    bench.context.target = replace(bench.context.target, weight_only=few)
    bench.run("sparsify", **SMALL)
    assert bench.run(name, **options).edits == []
    refused = bench.remarks("refused")
    assert {refused[site].code for site in SITES} == {"sparse"}
    assert "put sparsify behind this pass" in refused[SITES[0]].sentence


def test_units_are_removed_before_zeros_come(graphs: ModuleType) -> None:
    bench = block(graphs)
    bench.run("sparsify", **SMALL)
    assert bench.run("prune-neurons", ratio=0.5).edits == []
    assert bench.refusals()[SITES[0]] == "sparse"
    fresh = block(graphs)
    assert fresh.run("prune-neurons", ratio=0.5).edits
    assert len(fresh.run("sparsify", **SMALL).edits) == 2


def test_zeros_that_no_kernel_skips_are_nobodys_business(graphs: ModuleType) -> None:
    bench = block(graphs)
    bench.run("sparsify", **SMALL)
    cpu = graphs.Bench(bench.model, FEEDS, target="x86-avx2", instruments=[KeepsPatterns()])
    assert cpu.run("low-rank", ratio=0.4, gain="size").edits


def test_quantized_layers_get_no_zeros(graphs: ModuleType) -> None:
    bench = block(graphs, target="nvidia-a100")
    bench.run("quantize", scheme="static")
    assert bench.run("sparsify", **SMALL).edits == []
    assert set(bench.refusals().values()) == {"already-quantized"}
