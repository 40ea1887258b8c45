from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.compiler.calibration.observers import Masking
from planish.compiler.pipeline import parse, resolve
from planish.ir.errors import UsageError
from planish.ir.graph import constant_array
from planish.ir.load import load_model
from planish.ir.sites import find_sites
from planish.passes.api import pass_class
from planish.targets.runtime import open_session

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(11)


def array(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def head(inputs: str, outputs: str, opset: int = 20) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]>\ng ({inputs}) => ({outputs})\n'


def wild(count: int) -> Array:
    """Channels of very unlike sizes."""
    return RNG.permutation(np.geomspace(0.05, 20, count)).astype(np.float32)


WIDTH = 64
NORM = (
    head("float[n, t, 64] x", "float[n, t, 48] y")
    + """{
  h = LayerNormalization(x, gamma, beta)
  [q] a = MatMul(h, wq)
  [k] b = MatMul(h, wk)
  y = Add(a, b)
}"""
)
GAMMA, BETA = wild(WIDTH), wild(WIDTH) * np.float32(0.1)
WQ, WK = array(WIDTH, 48), array(WIDTH, 48)
FEEDS = [{"x": array(4, 9, WIDTH)} for _ in range(2)]


def normed(graphs: ModuleType, **settings: Any) -> Any:
    model = graphs.parse(NORM, gamma=GAMMA, beta=BETA, wq=WQ, wk=WK)
    return graphs.Bench(model, FEEDS, **settings)


def weight(model: Any, node: str, graphs: ModuleType, index: int = 1) -> Array:
    found = constant_array(graphs.node(model, node).inputs[index])
    assert found is not None
    return found


def normalised(x: Array) -> Array:
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return np.asarray(centred / spread * GAMMA + BETA)


def noise(h: Array, weights: list[Array], scale: Array, levels: int = 127) -> float:
    """The rounding error in closed form, written out for the samples h [n, C]."""
    x = h / scale
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    total = 0.0
    for w in weights:
        scaled = w * scale[:, None]
        total += step**2 / 12 * (scaled**2).sum()
        total += ((np.abs(scaled).max(axis=0) / levels) ** 2 / 12).sum() * (x**2).mean(0).sum()
    return total


def smooth(h: Array, weights: list[Array], alpha: float) -> Array:
    peaks = np.max([np.abs(w).max(axis=1) for w in weights], axis=0)
    return np.asarray(np.abs(h).max(axis=0) ** alpha / peaks ** (1 - alpha))


# -- what it does ----------------------------------------------------------------------


def test_the_scale_is_divided_in_front_and_multiplied_behind(graphs: ModuleType) -> None:
    bench = normed(graphs)
    before = bench.outputs(FEEDS[0])["y"]
    outcome = bench.run("equalize", alpha=0.5)
    assert graphs.lines(bench.model) == [
        "h = LayerNormalization(x, gamma_equalized, beta_equalized)",
        "a = MatMul(h, wq_equalized)",
        "b = MatMul(h, wk_equalized)",
        "y = Add(a, b)",
    ]
    h = np.concatenate([normalised(feed["x"]) for feed in FEEDS]).reshape(-1, WIDTH)
    scale = smooth(h, [WQ, WK], 0.5)
    named = bench.model.graph.initializers
    expected = {
        "gamma_equalized": GAMMA / scale, "beta_equalized": BETA / scale,
        "wq_equalized": WQ * scale[:, None], "wk_equalized": WK * scale[:, None],
    }  # fmt: skip
    assert list(named) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_allclose(constant_array(named[name]), tensor, rtol=1e-4)  # type: ignore[arg-type]
    after = bench.outputs(FEEDS[0])["y"]
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    edit = outcome.edits[0]
    assert (edit.site, edit.setting, edit.saving) == ("linear1", "alpha=0.5", 0)
    assert edit.loss is None or edit.loss == 0.0


def test_the_strength_with_the_least_noise_is_chosen(graphs: ModuleType) -> None:
    bench = normed(graphs)
    h = np.concatenate([normalised(feed["x"]) for feed in FEEDS]).reshape(-1, WIDTH)
    plain = noise(h, [WQ, WK], np.ones(WIDTH))
    ratios = {
        round(alpha, 2): noise(h, [WQ, WK], smooth(h, [WQ, WK], alpha)) / plain
        for alpha in np.arange(21) / 20
    }
    best = min(ratios, key=lambda alpha: ratios[alpha])
    edit = bench.run("equalize").edits[0]
    assert edit.setting == f"alpha={best:g}"
    details = edit.details["groups"]["linear1"]
    assert details["layers"] == ["linear1", "linear2"]
    assert details["noise"] == pytest.approx(ratios[best], rel=0.01)
    assert ratios[best] < 0.5


def test_quantization_behind_it_loses_as_much_less(graphs: ModuleType) -> None:
    losses = []
    for equalized in (False, True):
        bench = normed(graphs)
        if equalized:
            predicted = bench.run("equalize").edits[0].details["groups"]["linear1"]["noise"]
        edits = bench.run("quantize", scheme="static", calibrator="minmax").edits
        losses.append(sum(edit.loss for edit in edits))
    assert losses[1] / losses[0] == pytest.approx(predicted, rel=0.25)


def test_seven_bits_weigh_the_weights_more(graphs: ModuleType) -> None:
    """Four times the noise of the weights: activations may take less of the range."""
    settings = [
        normed(graphs, target=target).run("equalize").edits[0].setting
        for target in ("x86-avx512-vnni", "x86-avx2")
    ]
    eight, seven = (float(setting.removeprefix("alpha=")) for setting in settings)
    assert seven < eight


CONVOLUTIONS = (
    head("float[n, 16, a, b] x", "float[n, 16, c, d] y")
    + """{
  [one] a = Conv(x, k1, b1)
  h = Relu(a)
  [two] y = Conv(h, k2)
}"""
)
K1 = array(16, 16, 3, 3) * wild(16)[:, None, None, None]
K2 = array(16, 16, 3, 3)
PICTURES = [{"x": array(4, 16, 8, 8)}]


def convolutions(graphs: ModuleType, **settings: Any) -> Any:
    model = graphs.parse(CONVOLUTIONS, k1=K1, b1=array(16), k2=K2)
    return graphs.Bench(model, PICTURES, **settings)


def test_neighbouring_convolutions_become_alike_without_data(graphs: ModuleType) -> None:
    bench = convolutions(graphs, calibrated=False)
    before = bench.outputs(PICTURES[0])["y"]
    edit = bench.run("equalize").edits[0]
    assert (edit.site, edit.setting) == ("conv2", "cross-layer")
    first, second = (weight(bench.model, name, graphs) for name in ("one", "two"))
    ranges = np.abs(first).max(axis=(1, 2, 3)), np.abs(second).max(axis=(0, 2, 3))
    np.testing.assert_allclose(ranges[0], ranges[1], rtol=1e-5)
    both = np.abs(K1).max(axis=(1, 2, 3)) * np.abs(K2).max(axis=(0, 2, 3))
    np.testing.assert_allclose(ranges[0], np.sqrt(both), rtol=1e-5)
    after = bench.outputs(PICTURES[0])["y"]
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_with_data_the_better_scale_is_taken(graphs: ModuleType) -> None:
    details = [
        convolutions(graphs, calibrated=calibrated).run("equalize").edits[0].details["groups"]
        for calibrated in (False, True)
    ]
    assert details[0]["conv2"]["scale"] == "cross-layer"
    assert details[1]["conv2"]["scale"].startswith("alpha=")


CHAIN = (
    head("float[n, 16, a, b] x", "float[n, 16, c, d] y")
    + """{
  a = Conv(x, k1)  p = Relu(a)
  b = Conv(p, k2)  q = Relu(b)
  c = Conv(q, k3)  r = Relu(c)
  y = Conv(r, k4)
}"""
)


def test_layers_that_share_weights_are_one_edit(graphs: ModuleType) -> None:
    kernels = {f"k{i}": array(16, 16, 3, 3) * wild(16)[:, None, None, None] for i in (1, 2, 3, 4)}
    bench = graphs.Bench(graphs.parse(CHAIN, **kernels), [{"x": array(2, 16, 12, 12)}])
    before = bench.outputs(bench.feeds[0])["y"]
    outcome = bench.run("equalize")
    assert [(e.site, e.setting) for e in outcome.edits] == [("conv2", "joint")]
    assert list(outcome.edits[0].details["groups"]) == ["conv2", "conv3", "conv4"]
    assert bench.remarks("missed") == {}
    after = bench.outputs(bench.feeds[0])["y"]
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-4 * np.abs(before).max())
    assert [n.op_type for n in bench.model.graph] == ["Conv", "Relu"] * 3 + ["Conv"]


def test_a_block_with_its_norm_in_front(graphs: ModuleType) -> None:
    """Norm -> query, key, value; value -> output; norm -> gate and up; up -> down."""
    text = (
        head("float[n, t, 64] x", "float[n, t, 64] y")
        + """<int64[4] split = {0, 0, 4, 16}, int64[3] join = {0, 0, 64}> {
      h = LayerNormalization(x, gamma, beta)
      q = MatMul(h, wq)  k = MatMul(h, wk)  v = MatMul(h, wv)
      qh = Reshape(q, split)  kh = Reshape(k, split)  vh = Reshape(v, split)
      qt = Transpose <perm = [0, 2, 1, 3]> (qh)
      kt = Transpose <perm = [0, 2, 3, 1]> (kh)
      vt = Transpose <perm = [0, 2, 1, 3]> (vh)
      s = MatMul(qt, kt)  p = Softmax(s)  o = MatMul(p, vt)
      ot = Transpose <perm = [0, 2, 1, 3]> (o)  oj = Reshape(ot, join)
      out = MatMul(oj, wo)
      r = Add(out, x)
      h2 = LayerNormalization(r, gamma2, beta)
      g = MatMul(h2, wg)  sg = Sigmoid(g)  gate = Mul(g, sg)
      u = MatMul(h2, wu)  m = Mul(gate, u)
      d = MatMul(m, wd)
      y = Add(d, r)
    }"""
    )
    shapes = dict.fromkeys(("wq", "wk", "wv", "wo"), (64, 64))
    shapes |= {"wg": (64, 96), "wu": (64, 96), "wd": (96, 64)}
    tensors = {n: array(*s) * np.float32(0.1) for n, s in shapes.items()}
    tensors["wv"] = tensors["wv"] * wild(64)
    tensors["wu"] = tensors["wu"] * wild(96)
    tensors |= {"gamma": wild(64), "gamma2": wild(64), "beta": array(64)}
    bench = graphs.Bench(graphs.parse(text, **tensors), [{"x": array(3, 7, 64)}])
    before = bench.outputs(bench.feeds[0])["y"]
    outcome = bench.run("equalize")
    assert [list(e.details["groups"]) for e in outcome.edits] == [
        ["block1.attention.q", "block1.attention.o"], ["block1.ffn.gate", "block1.ffn.down"]
    ]  # fmt: skip
    assert outcome.edits[0].details["groups"]["block1.attention.q"]["layers"] == [
        f"block1.attention.{role}" for role in "qkv"
    ]
    assert bench.remarks("missed") == {}
    after = bench.outputs(bench.feeds[0])["y"]
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5 * np.abs(before).max())


# -- what it leaves alone --------------------------------------------------------------


def refused(
    graphs: ModuleType, text: str, feed: dict[str, Array], options: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None, **tensors: Array,
) -> dict[str, str]:  # fmt: skip
    """The codes by site; the graph must be as it was."""
    model = graphs.parse(text, **tensors)
    before = graphs.snapshot(model)
    bench = graphs.Bench(model, [feed], **(settings or {}))
    assert bench.run("equalize", **(options or {})).edits == []
    assert graphs.snapshot(model) == before
    found: dict[str, str] = bench.refusals()
    return found


def test_linear_layers_need_data(graphs: ModuleType) -> None:
    codes = refused(
        graphs, NORM, FEEDS[0], None, {"calibrated": False}, gamma=GAMMA, beta=BETA, wq=WQ, wk=WK
    )
    assert codes == {"linear1": "no-calibration"}


def test_channels_that_are_alike_gain_nothing(graphs: ModuleType) -> None:
    text = head("float[n, 64] x", "float[n, 48] y") + "{ h = MatMul(x, w) y = MatMul(h, v) }"
    feed = {"x": np.sign(array(100, 64))}
    w = np.eye(64, dtype=np.float32)
    codes = refused(graphs, text, feed, w=w, v=np.sign(array(64, 48)))
    assert codes == {"linear1": "no-absorber", "linear2": "no-gain"}
    zero = refused(graphs, text, {"x": np.zeros((3, 64), np.float32)}, w=w, v=array(64, 48))
    assert zero["linear2"] == "no-gain"
    codes = refused(graphs, text, feed, {"alpha": 0.3}, w=w, v=np.sign(array(64, 48)))
    assert codes["linear2"] == "no-gain"


def test_a_residual_use_is_refused_with_its_reader(graphs: ModuleType) -> None:
    text = (
        head("float[n, 64] x", "float[n, 64] y")
        + "{ h = LayerNormalization(x, gamma) a = MatMul(h, w) [add] y = Add(a, h) }"
    )
    model = graphs.parse(text, gamma=GAMMA, w=array(64, 64))
    bench = graphs.Bench(model, [{"x": array(5, 64)}])
    bench.run("equalize")
    remark = bench.remarks("refused")["linear1"]
    assert remark.code == "residual-use"
    assert remark.sentence == "'h' is also read by 'add' (Add)"


def test_what_was_never_seen_is_not_scaled(graphs: ModuleType) -> None:
    text = (
        head("int64[n, s] ids, int64[n, s] mask", "float[n, s, 48] y")
        + "{ e = Gather(table, ids) h = LayerNormalization(e, gamma) y = MatMul(h, w) }"
    )
    feed = {"ids": np.ones((2, 3), np.int64), "mask": np.zeros((2, 3), np.int64)}
    masking = {"masking": Masking("mask", ("n", "s"))}
    codes = refused(
        graphs, text, feed, None, masking, table=array(20, 64), gamma=GAMMA, w=array(64, 48)
    )
    assert codes == {"linear1": "not-observed"}


def test_shared_and_quantized_weights_stay(graphs: ModuleType) -> None:
    text = (
        head("float[n, 64] x", "float[n, 64] y")
        + "{ h = LayerNormalization(x, gamma) a = MatMul(h, w) y = MatMul(a, w) }"
    )
    codes = refused(graphs, text, {"x": array(5, 64)}, gamma=GAMMA, w=array(64, 64))
    assert set(codes.values()) == {"shared"}
    bench = normed(graphs)
    bench.run("quantize")
    assert bench.run("equalize").edits == []
    assert set(bench.refusals().values()) == {"already-quantized"}


def test_the_last_layer_without_an_absorber_is_named_with_the_node_in_the_way(
    graphs: ModuleType,
) -> None:
    text = (
        head("float[n, 64] x", "float[n, 64] y")
        + "{ u = MatMul(x, w) [act] g = Gelu(u) y = MatMul(g, v) }"
    )
    bench = graphs.Bench(
        graphs.parse(text, w=array(64, 64), v=array(64, 64)), [{"x": array(5, 64)}]
    )
    bench.run("equalize")
    remarks = bench.remarks("refused")
    sites = [s.name for s in find_sites(bench.model).of_kind("linear")]
    assert [remarks[name].code for name in sites] == ["no-absorber", "no-absorber"]
    assert "'act' (Gelu)" in remarks[sites[1]].sentence
    assert "input of the model" in remarks[sites[0]].sentence


def test_a_convolution_whose_output_rounds_worse_gains_nothing(graphs: ModuleType) -> None:
    """The rounded output, which no scale changes, makes most of the error here."""
    text = (
        head("float[n, 16, a, b] x", "float[n, 16, c, d] y")
        + "{ a = Conv(x, k1) h = Relu(a) p = Conv(h, k2, big) y = Relu(p) }"
    )
    tensors = {"k1": K1, "k2": K2}
    quiet = graphs.Bench(graphs.parse(text, **tensors, big=array(16)), PICTURES)
    assert len(quiet.run("equalize").edits) == 1
    loud = np.full(16, 1e5, np.float32)
    codes = refused(graphs, text, PICTURES[0], None, None, **tensors, big=loud)
    assert codes["conv2"] == "no-gain"


@pytest.mark.parametrize("alpha", ["1.5", "-0.1", "much"])
def test_a_strength_that_cannot_be_is_refused(alpha: str) -> None:
    with pytest.raises(UsageError, match="alpha"):
        resolve(parse(f"equalize{{alpha={alpha}}}")[0], pass_class("equalize").Options)


# -- the pass as a whole ---------------------------------------------------------------


def test_rollback_and_replay(graphs: ModuleType) -> None:
    bench = normed(graphs)
    before = graphs.snapshot(bench.model)
    outcome = bench.run("equalize")
    once = graphs.snapshot(bench.model)
    bench.manager.undo(outcome)
    assert graphs.snapshot(bench.model) == before
    bench.run("equalize")
    assert graphs.snapshot(bench.model) == once


def test_a_second_run_has_nothing_left_to_gain(graphs: ModuleType) -> None:
    bench = normed(graphs)
    bench.run("equalize")
    once = graphs.snapshot(bench.model)
    assert bench.run("equalize").edits == []
    assert bench.refusals()["linear1"] == "no-gain"
    assert graphs.snapshot(bench.model) == once


def test_a_selector_restricts_it(graphs: ModuleType) -> None:
    bench = normed(graphs)
    assert bench.run("equalize", selector=("linear2",)).edits == []
    assert len(bench.run("equalize", selector=("linear1",)).edits) == 1


def test_sites_keep_their_names(graphs: ModuleType) -> None:
    text = (
        head("float[n, 64] x", "float[n, 48] y")
        + """{
      [one] a = MatMul(x, "net.first.weight") [two] b = Add(a, zeros)
      h = Relu(b)
      [three] c = MatMul(h, "net.second.weight") y = Add(c, zeros48)
    }"""
    )
    tensors = {
        "net.first.weight": array(64, 64) * wild(64), "net.second.weight": array(64, 48),
        "zeros": np.zeros(64, np.float32), "zeros48": np.zeros(48, np.float32),
    }  # fmt: skip
    bench = graphs.Bench(graphs.parse(text, **tensors), [{"x": array(30, 64)}])
    names = [site.name for site in find_sites(bench.model)]
    assert len(bench.run("equalize").edits) == 1
    assert [site.name for site in find_sites(bench.model)] == names
    assert "net.first.weight_equalized" in bench.model.graph.initializers


@pytest.mark.data
@pytest.mark.parametrize(("name", "edits"), [("minilm", 6), ("tsp20", 6), ("resnet20", 0)])
def test_real_models_compute_the_same(task: Any, graphs: ModuleType, name: str, edits: int) -> None:
    made = task(name)
    model = load_model(made.model).model
    feeds = list(made.calibration(64))
    bench = graphs.Bench(model, feeds)
    bench.run("canonicalize")
    outcome = bench.run("equalize")
    assert bench.remarks("missed") == {}
    assert len(outcome.edits) >= edits
    before = open_session(made.model, optimize="none").run(feeds[0])
    for expected, got in zip(before, bench.outputs(feeds[0]).values(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
