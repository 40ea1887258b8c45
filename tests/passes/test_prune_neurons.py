from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.compiler.calibration.observers import Masking
from planish.compiler.pipeline import parse, resolve
from planish.compiler.workshop import instantiate
from planish.ir.digest import contents_digest
from planish.ir.errors import UsageError
from planish.ir.facts import FLOAT, PRUNED
from planish.ir.graph import constant_array
from planish.passes.api import pass_class
from planish.passes.math.pruning import Reader, second_order
from planish.passes.math.refit import centred, damped

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(5)


def array(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def head(inputs: str, outputs: str, opset: int = 20) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]>\ng ({inputs}) => ({outputs})\n'


WIDE = 32
BLOCK = (
    head("float[n, t, 12] x", "float[n, t, 8] y")
    + """{
  a = MatMul(x, up)
  b = Add(a, up_bias)
  h = Relu(b)
  c = MatMul(h, down)
  y = Add(c, down_bias)
}"""
)
UP, UP_BIAS, DOWN, DOWN_BIAS = array(12, WIDE), array(WIDE), array(WIDE, 8), array(8)
FEEDS = [{"x": array(20, 9, 12) + np.float32(0.5)} for _ in range(2)]
ANY: dict[str, Any] = {"target": "generic"}


def block(graphs: ModuleType, **settings: Any) -> Any:
    model = graphs.parse(BLOCK, up=UP, up_bias=UP_BIAS, down=DOWN, down_bias=DOWN_BIAS)
    feeds = settings.pop("feeds", FEEDS)
    return graphs.Bench(model, feeds, **settings)


def tensor(bench: Any, name: str) -> Array:
    found = constant_array(bench.model.graph.initializers[name])
    assert found is not None
    return found


def hidden(feeds: list[dict[str, Array]] = FEEDS) -> Array:
    """What the second layer reads, float64 [rows, WIDE]."""
    x = np.concatenate([f["x"].reshape(-1, 12) for f in feeds]).astype(np.float64)
    return np.asarray(np.maximum(x @ UP + UP_BIAS, 0))


def kept_by_obs(feeds: list[dict[str, Array]], count: int) -> list[int]:
    h = hidden(feeds)
    moments = damped(centred(h.T @ h, h.sum(axis=0), len(h)), len(h))
    index = np.arange(WIDE)[:, None]
    removal = second_order([Reader(DOWN.astype(np.float64), moments, index)], WIDE - count)
    return sorted(set(range(WIDE)) - set(removal.order.tolist()))


def relative(got: Array, expected: Array) -> float:
    wide = expected.astype(np.float64)
    return float(((got - wide) ** 2).sum() / (wide**2).sum())


# -- what it does ----------------------------------------------------------------------


def test_both_layers_get_smaller_and_the_second_is_the_least_squares_fit(
    graphs: ModuleType,
) -> None:
    bench = block(graphs)
    (edit,) = bench.run("prune-neurons", ratio=0.5).edits
    keep = kept_by_obs(FEEDS, 16)
    assert graphs.lines(bench.model) == [
        "a = MatMul(x, up)", "b = Add(a, up_bias)", "h = Relu(b)",
        "c = MatMul(h, down)", "y = Add(c, down_bias)",
    ]  # fmt: skip
    np.testing.assert_array_equal(tensor(bench, "up"), UP[:, keep])
    np.testing.assert_array_equal(tensor(bench, "up_bias"), UP_BIAS[keep])
    assert graphs.value(bench.model, "h").shape[-1] == 16
    h = hidden()
    wanted = h @ DOWN + DOWN_BIAS
    explicit, *_ = np.linalg.lstsq(np.c_[h[:, keep], np.ones(len(h))], wanted, rcond=None)
    made = h[:, keep] @ tensor(bench, "down") + tensor(bench, "down_bias")
    least = relative(h[:, keep] @ explicit[:-1] + explicit[-1], wanted)
    assert relative(made, wanted) == pytest.approx(least, rel=0.01)
    np.testing.assert_allclose(made.mean(axis=0), wanted.mean(axis=0), atol=1e-4)
    assert (edit.site, edit.setting) == ("up", "16-of-32")
    assert edit.saving == 4 * (12 * 16 + 16 + 16 * 8)
    assert edit.details["groups"]["up.neurons"]["removed"] == sorted(set(range(WIDE)) - set(keep))


def test_the_declared_loss_is_that_of_the_outputs(graphs: ModuleType) -> None:
    bench = block(graphs)
    few = {"x": FEEDS[0]["x"][:16]}
    before = bench.outputs(few)["y"]
    (edit,) = bench.run("prune-neurons", ratio=0.5).edits
    assert edit.loss == pytest.approx(relative(bench.outputs(few)["y"], before), rel=1e-3)
    assert 0 < edit.loss < 0.1


def test_rollback_brings_everything_back(graphs: ModuleType) -> None:
    bench = block(graphs)
    before = graphs.snapshot(bench.model)
    outcome = bench.run("prune-neurons", ratio=0.5)
    assert graphs.snapshot(bench.model) != before
    bench.manager.undo(outcome)
    assert graphs.snapshot(bench.model) == before


def test_a_second_run_of_a_build_gives_the_same_bytes(graphs: ModuleType) -> None:
    bench = block(graphs)
    outcome = bench.run("prune-neurons", ratio=0.5)
    digest = contents_digest(bench.model)
    bench.manager.undo(outcome)
    bench.run("prune-neurons", ratio=0.5)
    assert contents_digest(bench.model) == digest


def test_better_scores_and_the_fit_lose_less(graphs: ModuleType) -> None:
    losses = {}
    for score in ("obs", "variance", "wanda", "magnitude"):
        for refit in (True, False):
            (edit,) = block(graphs).run("prune-neurons", ratio=0.5, score=score, refit=refit).edits
            losses[score, refit] = edit.loss
    for score in ("obs", "variance", "wanda", "magnitude"):
        assert losses[score, True] < 0.6 * losses[score, False]
    assert losses["obs", True] == min(losses.values())


def test_without_a_fit_the_other_rows_stay_as_they_were(graphs: ModuleType) -> None:
    bench = block(graphs)
    bench.run("prune-neurons", ratio=0.5, refit=False)
    keep = kept_by_obs(FEEDS, 16)
    np.testing.assert_array_equal(tensor(bench, "down"), DOWN[keep])
    np.testing.assert_array_equal(tensor(bench, "down_bias"), DOWN_BIAS)


def test_padding_is_not_learnt_from(graphs: ModuleType) -> None:
    text = BLOCK.replace("x) =>", "x, int64[n, t] mask) =>")
    mask = np.zeros((20, 9), np.int64)
    mask[:, :4] = 1
    padded = [feed["x"].copy() for feed in FEEDS]
    for x in padded:
        x[:, 4:] = 100
    junk = [{"x": x, "mask": mask} for x in padded]
    model = graphs.parse(text, up=UP, up_bias=UP_BIAS, down=DOWN, down_bias=DOWN_BIAS)
    masked = graphs.Bench(model, junk, masking=Masking("mask", ("n", "t")))
    masked.run("prune-neurons", ratio=0.5)
    clean = block(graphs, feeds=[{"x": f["x"][:, :4]} for f in FEEDS])
    clean.run("prune-neurons", ratio=0.5)
    np.testing.assert_allclose(tensor(masked, "down"), tensor(clean, "down"), rtol=0, atol=1e-4)


# -- forms of the block ----------------------------------------------------------------


GATED = (
    head("float[n, t, 12] x", "float[n, t, 12] y")
    + """{
  g = MatMul(x, gate)
  s = Sigmoid(g)
  w = Mul(g, s)
  u = MatMul(x, up)
  h = Mul(w, u)
  d = MatMul(h, down)
  y = Add(x, d)
}"""
)


def test_both_layers_of_a_gate_are_cut_and_without_a_bias_the_mean_is_part_of_the_fit(
    graphs: ModuleType,
) -> None:
    gate, up, down = array(12, WIDE), array(12, WIDE), array(WIDE, 12)
    bench = graphs.Bench(graphs.parse(GATED, gate=gate, up=up, down=down), FEEDS)
    (edit,) = bench.run("prune-neurons", ratio=0.5).edits
    (about,) = edit.details["groups"].values()
    keep = sorted(set(range(WIDE)) - set(about["removed"]))
    np.testing.assert_array_equal(tensor(bench, "gate"), gate[:, keep])
    np.testing.assert_array_equal(tensor(bench, "up"), up[:, keep])
    x = np.concatenate([f["x"].reshape(-1, 12) for f in FEEDS]).astype(np.float64)
    g = x @ gate
    h = g / (1 + np.exp(-g)) * (x @ up)
    explicit, *_ = np.linalg.lstsq(h[:, keep], h @ down, rcond=None)
    least = relative(h[:, keep] @ explicit, h @ down)
    assert relative(h[:, keep] @ tensor(bench, "down"), h @ down) == pytest.approx(least, rel=0.05)
    assert list(bench.model.graph.initializers) == ["gate", "up", "down"]


@pytest.mark.parametrize("turned", [0, 1])
def test_gemm_is_cut_and_fitted_however_its_weight_is_stored(
    graphs: ModuleType, turned: int
) -> None:
    text = (
        head("float[n, 12] x", "float[n, 8] y")
        + f"""{{
  a = Gemm <transB = {turned}> (x, up, up_bias)
  h = Relu(a)
  y = Gemm <transB = {turned}> (h, down, down_bias)
}}"""
    )
    feeds = [{"x": f["x"].reshape(-1, 12)} for f in FEEDS]
    stored = {"up": UP.T.copy(), "down": DOWN.T.copy()} if turned else {"up": UP, "down": DOWN}
    model = graphs.parse(text, up_bias=UP_BIAS, down_bias=DOWN_BIAS, **stored)
    bench = graphs.Bench(model, feeds)
    bench.run("prune-neurons", ratio=0.5)
    plain = block(graphs)
    plain.run("prune-neurons", ratio=0.5)
    for name in ("up", "down"):
        found = tensor(bench, name).T if turned else tensor(bench, name)
        np.testing.assert_allclose(found, tensor(plain, name), rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        tensor(bench, "down_bias"), tensor(plain, "down_bias"), rtol=0, atol=1e-4
    )


def test_a_bias_that_others_read_stays_and_the_fit_is_about_zero(graphs: ModuleType) -> None:
    text = BLOCK.replace("float[n, t, 8] y", "float[n, t, 8] y, float[8] z").replace(
        "y = Add(c, down_bias)", "y = Add(c, down_bias)\n  z = Relu(down_bias)"
    )
    model = graphs.parse(text, up=UP, up_bias=UP_BIAS, down=DOWN, down_bias=DOWN_BIAS)
    bench = graphs.Bench(model, FEEDS)
    bench.run("prune-neurons", ratio=0.5)
    np.testing.assert_array_equal(tensor(bench, "down_bias"), DOWN_BIAS)
    assert tensor(bench, "down").shape == (16, 8)


CHAIN = (
    head("float[n, 12] x", "float[n, 8] y")
    + """{
  a = MatMul(x, first)
  p = Tanh(a)
  b = MatMul(p, second)
  c = Add(b, second_bias)
  q = Tanh(c)
  d = MatMul(q, third)
  y = Add(d, third_bias)
}"""
)


def test_hidden_layers_in_a_row_are_one_edit(graphs: ModuleType) -> None:
    weights = {"first": array(12, WIDE), "second": array(WIDE, 48), "third": array(48, 8)}
    biases = {"second_bias": array(48), "third_bias": array(8)}
    bench = graphs.Bench(
        graphs.parse(CHAIN, **weights, **biases),
        [{"x": f["x"].reshape(-1, 12)} for f in FEEDS],
        target="generic",
    )
    (edit,) = bench.run("prune-neurons", ratio=0.5, scope="layer").edits
    assert edit.setting == "40-of-80"
    assert [about["kept"] for about in edit.details["groups"].values()] == [16, 24]
    shapes = {name: tensor(bench, name).shape for name in weights | biases}
    assert shapes == {
        "first": (12, 16), "second": (16, 24), "third": (24, 8),
        "second_bias": (24,), "third_bias": (8,),
    }  # fmt: skip
    assert edit.loss < 0.5


NORMED = (
    head("float[n, t, 12] x", "float[n, t, 12] y")
    + """{
  a = MatMul(x, up) h = Relu(a) b = MatMul(h, down) c = Add(b, bias)
  s = Add(x, c)
  y = LayerNormalization(s, gamma, beta)
}"""
)


def test_outputs_count_as_the_norm_behind_them_lets_them(graphs: ModuleType) -> None:
    """Half of the neurons are heard in outputs only that the norm silences."""
    down = array(WIDE, 12)
    down[:16, :6], down[16:, 6:] = 0, 0
    down[:16] *= 5
    gamma = np.repeat(np.array([1, 1e-3], np.float32), 6)
    weights = {"up": UP, "down": down, "bias": array(12), "beta": array(12)}
    gone = {}
    for name, scale in (("normed", gamma), ("plain", np.ones(12, np.float32))):
        bench = graphs.Bench(graphs.parse(NORMED, **weights, gamma=scale), FEEDS)
        (edit,) = bench.run("prune-neurons", ratio=0.5).edits
        (about,) = edit.details["groups"].values()
        gone[name] = about["removed"]
    assert gone["normed"] == list(range(16))
    assert gone["plain"] != gone["normed"]
    also_read = NORMED.replace("12] y)", "12] y, float[n, t, 12] s)")
    bench = graphs.Bench(graphs.parse(also_read, **weights, gamma=gamma), FEEDS)
    (edit,) = bench.run("prune-neurons", ratio=0.5).edits
    (about,) = edit.details["groups"].values()
    assert about["removed"] == gone["plain"]


def test_a_layer_that_is_used_twice_is_fitted_to_both(graphs: ModuleType) -> None:
    text = (
        head("float[n, 12] x", "float[n, 12] y")
        + """{
  a = MatMul(x, up) p = Relu(a) b = MatMul(p, down) c = Add(b, bias) m = Tanh(c)
  d = MatMul(m, up) q = Relu(d) e = MatMul(q, down) y = Add(e, bias)
}"""
    )
    down, bias = array(WIDE, 12), array(12)
    model = graphs.parse(text, up=UP, down=down, bias=bias)
    bench = graphs.Bench(model, [{"x": f["x"].reshape(-1, 12)} for f in FEEDS])
    (edit,) = bench.run("prune-neurons", ratio=0.5).edits
    assert tensor(bench, "up").shape == (12, 16)
    assert edit.loss < 0.5


# -- how many --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"ratio": 0.25}, 24), ({"ratio": 0.5}, 16), ({"keep": 8}, 8), ({"keep": 9}, 8),
        ({"keep": 3}, 8), ({"ratio": 0.45}, 16), ({"ratio": 0.45, "multiples": False}, 18),
        ({"keep": 3, "multiples": False}, 3), ({"ratio": 0.99, "multiples": False}, 1),
    ],
)  # fmt: skip
def test_counts_are_the_targets_multiples(
    graphs: ModuleType, options: dict[str, Any], kept: int
) -> None:
    bench = block(graphs, target="generic")
    assert bench.context.target.multiples.channels == 8
    bench.run("prune-neurons", **options)
    assert tensor(bench, "down").shape == (kept, 8)


@pytest.mark.parametrize("of", ["flops", "parameters"])
def test_a_share_may_be_one_of_operations_or_parameters(graphs: ModuleType, of: str) -> None:
    """Both layers of the block lose in proportion, and there are no others."""
    bench = block(graphs)
    (edit,) = bench.run("prune-neurons", ratio=0.5, of=of, multiples=False).edits
    assert edit.setting == "16-of-32"


def test_a_multiple_beyond_the_layer_leaves_it_whole(graphs: ModuleType) -> None:
    model = graphs.parse(
        BLOCK, up=UP[:, :8], up_bias=UP_BIAS[:8], down=DOWN[:8], down_bias=DOWN_BIAS
    )
    bench = graphs.Bench(model, FEEDS, target="generic")
    assert not bench.run("prune-neurons", ratio=0.5).edits
    remark = bench.remarks("refused")["up"]
    assert remark.code == "multiple"
    assert "multiples of 8" in remark.sentence
    assert "multiples=false" in remark.sentence


def test_a_share_that_rounds_to_nothing_is_said(graphs: ModuleType) -> None:
    bench = block(graphs, target="generic")
    assert not bench.run("prune-neurons", ratio=0.05).edits
    assert bench.refusals()["up"] == "nothing-to-remove"


TWO = (
    head("float[n, 12] x", "float[n, 12] z")
    + """{
  a = MatMul(x, up0) h = Relu(a) b = MatMul(h, down0) y = Add(x, b)
  c = MatMul(y, up1) k = Relu(c) d = MatMul(k, down1) z = Add(y, d)
}"""
)


def two(graphs: ModuleType, rank: int = 8) -> Any:
    """Two blocks; of the first, most neurons are copies of others."""
    up0, up1 = array(12, WIDE), array(12, WIDE)
    up0[:, rank:] = up0[:, np.arange(WIDE - rank) % rank]
    weights = {"up0": up0, "down0": array(WIDE, 12) / 4, "up1": up1, "down1": array(WIDE, 12) / 4}
    return graphs.Bench(graphs.parse(TWO, **weights), [{"x": array(4000, 12)}], target="generic")


def test_a_global_request_takes_where_it_costs_least(graphs: ModuleType) -> None:
    bench = two(graphs)
    losses = [e.loss for e in bench.run("prune-neurons", ratio=0.375, scope="global").edits]
    assert tensor(bench, "down0").shape[0] == 8
    assert tensor(bench, "down1").shape[0] == 32
    assert bench.refusals()["block2.ffn.up"] == "nothing-to-remove"
    alike = two(graphs)
    assert sum(losses) < sum(e.loss for e in alike.run("prune-neurons", keep=24).edits)
    assert [tensor(alike, f"down{i}").shape[0] for i in (0, 1)] == [24, 24]


def test_magnitudes_are_shared_out_as_shares_of_their_layer(graphs: ModuleType) -> None:
    bench = two(graphs)
    bench.run("prune-neurons", ratio=0.5, scope="global", score="magnitude", refit=False)
    assert sum(tensor(bench, f"down{i}").shape[0] for i in (0, 1)) == 32


# -- what it leaves alone --------------------------------------------------------------


def test_excluded_layers_stay_whole_and_do_not_count(graphs: ModuleType) -> None:
    bench = two(graphs)
    bench.run("prune-neurons", ratio=0.5, scope="global", exclude=("block1.ffn.down",))
    assert bench.refusals()["block1.ffn.up"] == "excluded"
    assert [tensor(bench, f"down{i}").shape[0] for i in (0, 1)] == [32, 16]


def test_selected_blocks_only(graphs: ModuleType) -> None:
    bench = two(graphs)
    bench.run("prune-neurons", selector=("block2",), ratio=0.5, scope="layer")
    assert [tensor(bench, f"down{i}").shape[0] for i in (0, 1)] == [32, 16]


def test_a_selector_that_matches_nothing_is_an_error(graphs: ModuleType) -> None:
    with pytest.raises(UsageError, match="no site matches 'linear9'"):
        two(graphs).run("prune-neurons", exclude=("linear9",))


def test_an_axis_that_reaches_an_output_is_refused(graphs: ModuleType) -> None:
    model = graphs.parse(
        BLOCK.replace("float[n, t, 8] y", "float[n, t, 8] y, float[n, t, 32] h"),
        up=UP, up_bias=UP_BIAS, down=DOWN, down_bias=DOWN_BIAS,
    )  # fmt: skip
    bench = graphs.Bench(model, FEEDS)
    assert not bench.run("prune-neurons").edits
    remark = bench.remarks("refused")["block1.ffn"]
    assert (remark.code, remark.sentence) == ("signature", "the axis reaches the output 'h'")
    assert tensor(bench, "down").shape == (WIDE, 8)


def test_quantized_layers_are_refused(graphs: ModuleType) -> None:
    bench = block(graphs)
    bench.run("quantize", scheme="dynamic", selector=("down",))
    bench.run("prune-neurons")
    assert set(bench.refusals()) >= {"up"}
    assert tensor(bench, "up").shape == UP.shape


def test_without_data_it_is_refused_unless_asked_by_magnitude(graphs: ModuleType) -> None:
    for options in ({}, {"score": "magnitude"}, {"refit": False}):
        bench = block(graphs, calibrated=False)
        assert not bench.run("prune-neurons", **options).edits
        remark = bench.remarks("refused")["up"]
        assert remark.code == "no-calibration"
        assert "score=magnitude refit=false" in remark.sentence
    bench = block(graphs, calibrated=False)
    (edit,) = bench.run("prune-neurons", ratio=0.5, score="magnitude", refit=False).edits
    norms = np.linalg.norm(UP, axis=0) * np.linalg.norm(DOWN, axis=1)
    (about,) = edit.details["groups"].values()
    assert about["removed"] == sorted(np.argsort(norms)[:16].tolist())


def test_few_rows_are_said_and_regularised(graphs: ModuleType) -> None:
    feeds = [{"x": f["x"][:1]} for f in FEEDS]
    bench = block(graphs, feeds=feeds)
    bench.run("prune-neurons", ratio=0.5)
    remark = bench.remarks("note")["down"]
    assert remark.code == "few-rows"
    assert "18 rows of data for 32 inputs" in remark.sentence
    assert np.abs(tensor(bench, "down")).max() < 3 * np.abs(DOWN).max()
    enough = block(graphs)
    enough.run("prune-neurons", ratio=0.5)
    assert not enough.remarks("note")


def test_a_layer_that_reads_nothing_but_zeros_is_cut_all_the_same(graphs: ModuleType) -> None:
    model = graphs.parse(
        BLOCK, up=UP, up_bias=UP_BIAS - np.float32(1e3), down=DOWN, down_bias=DOWN_BIAS
    )
    bench = graphs.Bench(model, FEEDS)
    (edit,) = bench.run("prune-neurons", ratio=0.5).edits
    assert edit.loss == 0
    np.testing.assert_allclose(tensor(bench, "down_bias"), DOWN_BIAS)


# -- options and order -----------------------------------------------------------------


@pytest.mark.parametrize("text", ["ratio=0", "ratio=1", "ratio=1.5", "ratio=-0.1"])
def test_a_ratio_is_a_share(text: str) -> None:
    with pytest.raises(UsageError, match="not between 0 and 1"):
        instantiate(parse(f"prune-neurons{{{text}}}"))


def test_a_kept_count_is_at_least_one_and_no_more_than_there_are(graphs: ModuleType) -> None:
    with pytest.raises(UsageError, match="keep is 0, not 1 or more"):
        instantiate(parse("prune-neurons{keep=0}"))
    with pytest.raises(UsageError, match="keep=33 is more neurons than any layer has: 32"):
        block(graphs).run("prune-neurons", keep=33)


def test_a_layer_with_no_more_than_are_kept_stays(graphs: ModuleType) -> None:
    bench = block(graphs)
    bench.run("prune-neurons", keep=32)
    remark = bench.remarks("refused")["up"]
    assert remark.code == "nothing-to-remove"
    assert "all are kept" in remark.sentence


def test_options_are_read_from_text() -> None:
    (step,) = parse("prune-neurons{ratio=0.5 score=wanda refit=false scope=global exclude=a|b}")
    options: Any = resolve(step, pass_class("prune-neurons").Options)
    assert (options.ratio, options.score, options.refit) == (0.5, "wanda", False)
    assert (options.scope, options.exclude) == ("global", ("a", "b"))
    with pytest.raises(UsageError, match="score"):
        instantiate(parse("prune-neurons{score=schur}"))


def test_facts_order_the_passes() -> None:
    cls = pass_class("prune-neurons")
    assert cls.requires == {FLOAT}
    assert PRUNED in cls.produces
    instantiate(parse("prune-neurons,prune-heads,quantize"))
    instantiate(parse("quantize{exclude=a},prune-neurons"))
    for before in ("quantize", "weight-only"):
        with pytest.raises(UsageError, match="no site can be float any more when prune-neurons"):
            instantiate(parse(f"{before},prune-neurons"))


@pytest.mark.parametrize("options", [{}, {"scope": "global"}, {"score": "magnitude"}])
def test_data_that_says_nothing_leaves_layers_whole(
    graphs: ModuleType, options: dict[str, Any]
) -> None:
    """Behind inputs that never change, variances are what rounding makes of zero."""
    feeds = [{"x": np.full((20, 9, 12), 0.3, np.float32)}]
    bench = block(graphs, feeds=feeds)
    assert bench.run("prune-neurons", ratio=0.5, **options).edits == []
    assert set(bench.refusals().values()) == {"not-usable"}


def test_a_bias_that_scales_something_else_does_not_widen_the_region(graphs: ModuleType) -> None:
    """Another cut in between would count as a difference: its reader in front is left alone."""
    text = (
        head("float[n, t, 8] x", "float[n, t, 8] y")
        + """{
  s = Mul(x, shared) a = MatMul(s, w0) b = MatMul(a, w1) n = LayerNormalization(b, gain)
  c = MatMul(n, w2) d = Add(c, shared) y = MatMul(d, w3)
}"""
    )
    made = {f"w{i}": array(8, 8) for i in range(4)}
    made |= {"shared": 1 + array(8) / 9, "gain": 1 + array(8) / 9}
    bench = graphs.Bench(graphs.parse(text, **made), [{"x": array(20, 9, 8)}], **ANY)
    edits = bench.run("prune-neurons", ratio=0.5, multiples=False).edits
    assert len(edits) == 2
    assert not bench.remarks("missed")
    assert tensor(bench, "shared").shape == (8,)
