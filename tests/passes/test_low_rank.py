from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.compiler.backends.kernels import count_kernels
from planish.compiler.backends.legalise import legalise
from planish.compiler.calibration.observers import Masking
from planish.compiler.pipeline import parse, resolve
from planish.ir.errors import UsageError
from planish.ir.facts import FACTORIZED, FLOAT
from planish.ir.graph import constant_array
from planish.ir.load import load_model
from planish.ir.save import save_model
from planish.ir.sites import find_sites
from planish.passes.api import pass_class
from planish.targets.loader import load_target
from planish.targets.schema import Memory, Rates, Target

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(7)
TARGET = "x86-avx2"
"""A target whose ranks are multiples of 8, and that has no figures to predict a time from."""


def array(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def head(inputs: str, outputs: str, opset: int = 20) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]>\ng ({inputs}) => ({outputs})\n'


def uneven(inputs: int, outputs: int) -> Array:
    """A weight whose outputs spread far more along some directions than along others."""
    left, right = array(inputs, inputs), array(inputs, outputs)
    sizes = np.geomspace(1, 0.01, inputs)[:, None]
    return (left @ (sizes * right) / inputs).astype(np.float32)


PLAIN = head("float[n, t, 64] x", "float[n, t, 48] y") + "{ [fc] p = MatMul(x, w) y = Add(p, b) }"
W, B = uneven(64, 48), array(48)
FEEDS = [{"x": array(4, 20, 64) + 1} for _ in range(3)]


def plain(graphs: ModuleType, **settings: Any) -> Any:
    settings = {"target": TARGET, **settings}
    return graphs.Bench(graphs.parse(PLAIN, w=W, b=B), FEEDS, **settings)


def stored(model: Any, name: str) -> Array:
    found = constant_array(model.graph.initializers[name])
    assert found is not None
    return found


def rows(feeds: list[dict[str, Array]], name: str = "x") -> Array:
    return np.concatenate([f[name].reshape(-1, f[name].shape[-1]) for f in feeds]).astype(float)


def best(w: Array, x: Array, rank: int, *, centred: bool = True) -> float:
    """The least squared error that any weight of that rank (and bias) leaves, over all rows.

    By the singular values of the outputs themselves: independent of covariances.
    """
    y = x @ w.astype(float)
    y = y - y.mean(axis=0) if centred else y
    return float((np.linalg.svd(y, compute_uv=False)[rank:] ** 2).sum())


# -- what it does ----------------------------------------------------------------------


def test_a_linear_layer_becomes_two(graphs: ModuleType) -> None:
    bench = plain(graphs)
    outcome = bench.run("low-rank", rank=16)
    assert graphs.lines(bench.model) == [
        "fc_in = MatMul(x, linear1.weight_in)",
        "p = MatMul(fc_in, linear1.weight_out)",
        "y = Add(p, b_corrected)",
    ]
    assert stored(bench.model, "linear1.weight_in").shape == (64, 16)
    assert stored(bench.model, "linear1.weight_out").shape == (16, 48)
    edit = outcome.edits[0]
    assert (edit.site, edit.setting) == ("linear1", "rank=16")
    assert edit.saving == 4 * (64 * 48 - 16 * (64 + 48))
    assert edit.details == {"rank": 16, "parameters": round(16 * 112 / (64 * 48), 4)}


def test_no_two_factors_of_that_rank_lose_less(graphs: ModuleType) -> None:
    bench = plain(graphs)
    before = [bench.outputs(feed)["y"].astype(float) for feed in FEEDS]
    edit = bench.run("low-rank", rank=16).edits[0]
    after = [bench.outputs(feed)["y"].astype(float) for feed in FEEDS]
    lost = sum(((a - b) ** 2).sum() for a, b in zip(after, before, strict=True))
    assert lost == pytest.approx(best(W, rows(FEEDS), 16), rel=1e-3)
    mean = np.mean(np.concatenate(after) - np.concatenate(before), axis=(0, 1))
    np.testing.assert_allclose(mean, 0, atol=1e-5)
    assert edit.loss == pytest.approx(lost / sum((b**2).sum() for b in before), rel=0.3)


def test_without_a_bias_there_is_none_afterwards(graphs: ModuleType) -> None:
    text = head("float[n, t, 64] x", "float[n, t, 48] y") + "{ [fc] y = MatMul(x, w) }"
    bench = graphs.Bench(graphs.parse(text, w=W), FEEDS, target=TARGET)
    before = [bench.outputs(feed)["y"].astype(float) for feed in FEEDS]
    bench.run("low-rank", rank=8)
    assert graphs.ops(bench.model) == ["MatMul", "MatMul"]
    after = [bench.outputs(feed)["y"].astype(float) for feed in FEEDS]
    lost = sum(((a - b) ** 2).sum() for a, b in zip(after, before, strict=True))
    assert lost == pytest.approx(best(W, rows(FEEDS), 8, centred=False), rel=1e-3)


def test_factors_are_sites_of_their_own(graphs: ModuleType) -> None:
    bench = plain(graphs)
    bench.run("low-rank", rank=16)
    facts = {site.name: site.facts for site in find_sites(bench.model)}
    assert facts == {
        "linear1.in": {FLOAT, FACTORIZED},
        "linear1.out": {FLOAT, FACTORIZED},
    }
    assert bench.run("low-rank", rank=8).edits == []
    assert set(bench.refusals().values()) == {"already-factorized"}


def test_padding_says_nothing(graphs: ModuleType) -> None:
    text = (
        head("int64[n, s] ids, int64[n, s] mask", "float[n, s, 48] y")
        + "{ x = Gather(table, ids) p = MatMul(x, w) y = Add(p, b) }"
    )
    table = array(200, 64)
    table[0] *= 1000
    ids = RNG.integers(1, 200, (40, 9))
    mask = (np.arange(9) < RNG.integers(4, 9, (40, 1))).astype(np.int64)
    feed = {"ids": ids * mask, "mask": mask}
    bench = graphs.Bench(
        graphs.parse(text, table=table, w=W, b=B), [feed], target=TARGET,
        masking=Masking("mask", ("n", "s")),
    )  # fmt: skip
    before = bench.outputs(feed)["y"]
    bench.run("low-rank", rank=16)
    lost = (((bench.outputs(feed)["y"] - before).astype(float)[mask == 1]) ** 2).sum()
    x = table[ids[mask == 1]].astype(float)
    assert lost == pytest.approx(best(W, x, 16), rel=1e-3)


STEM = (
    head("float[n, 8, a, b] x", "float[n, 48, c, d] y")
    + "{ [stem] y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, k, b) }"
)


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_becomes_one_of_fewer_channels_and_a_point(
    graphs: ModuleType, bias: bool
) -> None:
    kernel = uneven(72, 48).T.reshape(48, 8, 3, 3)
    text = STEM if bias else STEM.replace(", b)", ")")
    tensors = {"k": kernel, "b": array(48)} if bias else {"k": kernel}
    feeds = [{"x": array(4, 8, 9, 11) + 0.5} for _ in range(2)]
    bench = graphs.Bench(graphs.parse(text, **tensors), feeds, target=TARGET)
    before = [bench.outputs(feed)["y"] for feed in feeds]
    edit = bench.run("low-rank", rank=16).edits[0]
    assert graphs.lines(bench.model) == [
        "stem_in = Conv(x, conv1.weight_in)",
        f"y = Conv(stem_in, conv1.weight_out{', b_corrected' if bias else ''})",
    ]
    assert stored(bench.model, "conv1.weight_in").shape == (16, 8, 3, 3)
    assert stored(bench.model, "conv1.weight_out").shape == (48, 16, 1, 1)
    assert edit.saving == 4 * (72 * 48 - 16 * (72 + 48))
    y = np.concatenate([np.moveaxis(b, 1, 3).reshape(-1, 48) for b in before]).astype(float)
    y = y - y.mean(axis=0) if bias else y
    lost = sum(
        ((bench.outputs(f)["y"].astype(float) - b) ** 2).sum()
        for f, b in zip(feeds, before, strict=True)
    )
    assert lost == pytest.approx((np.linalg.svd(y, compute_uv=False)[16:] ** 2).sum(), rel=1e-3)
    assert {s.name: s.facts for s in find_sites(bench.model)} == {
        "conv1.in": {FLOAT, FACTORIZED},
        "conv1.out": {FLOAT, FACTORIZED},
    }


def crossed(rank: int, outputs: int = 48) -> Array:
    """A kernel [outputs, 8, 3, 5] that is a line of 3 taps to ``rank`` channels, then one of 5."""
    down, across = array(rank, 8, 3), array(outputs, rank, 5)
    return np.asarray(np.einsum("rik,orl->oikl", down, across) / rank, np.float32)


@pytest.mark.parametrize(
    "placed",
    [
        "pads = [1, 2, 0, 1]",
        "strides = [2, 1], pads = [1, 1, 1, 1]",
        "strides = [1, 3], dilations = [2, 1]",
        'auto_pad = "SAME_UPPER", strides = [2, 2]',
        'auto_pad = "VALID"',
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_becomes_one_along_each_axis(
    graphs: ModuleType, placed: str, bias: bool
) -> None:
    """What is of that rank already stays what it was."""
    kernel, given = crossed(8), ", b" if bias else ""
    text = head("float[n, 8, a, c] x", "float[n, 48, d, e] y")
    text += f"{{ [stem] y = Conv <{placed}> (x, k{given}) }}"
    feeds = [{"x": array(4, 8, 12, 13) + 0.5} for _ in range(2)]
    tensors = {"k": kernel, "b": array(48)} if bias else {"k": kernel}
    bench = graphs.Bench(graphs.parse(text, **tensors), feeds, target=TARGET)
    before = bench.outputs(feeds[0])["y"]
    (edit,) = bench.run("low-rank", rank=8, split="spatial").edits
    assert stored(bench.model, "conv1.weight_in").shape == (8, 8, 3, 1)
    assert stored(bench.model, "conv1.weight_out").shape == (48, 8, 1, 5)
    assert edit.saving == 4 * (kernel.size - 8 * (8 * 3 + 48 * 5))
    np.testing.assert_allclose(bench.outputs(feeds[0])["y"], before, atol=2e-5 * abs(before).max())
    assert {s.name: s.facts for s in find_sites(bench.model)} == {
        "conv1.in": {FLOAT, FACTORIZED},
        "conv1.out": {FLOAT, FACTORIZED},
    }


def test_lines_lose_what_whitened_singular_values_say(graphs: ModuleType) -> None:
    """Of inputs that are independent from column to column; the mean is taken up by the bias."""
    kernel, spread = array(24, 8, 3, 3), np.geomspace(1, 0.05, 8).astype(np.float32)
    text = head("float[n, 8, a, c] x", "float[n, 24, d, e] y")
    text += "{ [stem] y = Conv (x, k, b) }"
    feeds = [{"x": (array(16, 8, 20, 20) + 1) * spread[:, None, None]} for _ in range(4)]
    bench = graphs.Bench(graphs.parse(text, k=kernel, b=array(24)), feeds, target=TARGET)
    before = [bench.outputs(feed)["y"].astype(float) for feed in feeds]
    bench.run("low-rank", rank=16, split="spatial")
    after = [bench.outputs(feed)["y"].astype(float) for feed in feeds]
    lost = np.mean([(b - a) ** 2 for b, a in zip(before, after, strict=True)]) * 24
    matrix = (kernel * spread[:, None, None]).transpose(1, 2, 0, 3).reshape(24, 72)
    expected = (np.linalg.svd(matrix.astype(float), compute_uv=False)[16:] ** 2).sum()
    assert lost == pytest.approx(expected, rel=0.05)
    means = [np.mean([y.mean(axis=(0, 2, 3)) for y in ys], axis=0) for ys in (before, after)]
    np.testing.assert_allclose(means[1], means[0], atol=5e-3)


def test_one_line_of_taps_is_split_by_channels(graphs: ModuleType) -> None:
    text = head("float[n, 8, a, c] x", "float[n, 48, d, e] y") + "{ [stem] y = Conv (x, k) }"
    feeds = [{"x": array(4, 8, 12, 13)}]
    kernel = uneven(24, 48).T.reshape(48, 8, 3, 1)
    bench = graphs.Bench(graphs.parse(text, k=kernel), feeds, target=TARGET)
    bench.run("low-rank", rank=8, split="spatial")
    assert stored(bench.model, "conv1.weight_out").shape == (48, 8, 1, 1)


def test_layers_of_one_weight_keep_one(graphs: ModuleType) -> None:
    text = (
        head("float[n, t, 48] x", "float[n, t, 48] y")
        + """{
      p = MatMul(x, w) q = Add(p, b) h = Tanh(q)
      r = MatMul(h, w) y = Add(r, b)
    }"""
    )
    feeds = [{"x": array(4, 30, 48)}]
    bench = graphs.Bench(graphs.parse(text, w=uneven(48, 48), b=B), feeds, target=TARGET)
    assert len(bench.run("low-rank", rank=16).edits) == 1
    assert len(bench.model.graph.initializers) == 3
    assert graphs.ops(bench.model) == ["MatMul", "MatMul", "Add", "Tanh", "MatMul", "MatMul", "Add"]
    assert [s.name for s in find_sites(bench.model)] == ["linear1.in", "linear1.out"]


ATTENTION = (
    head("float[n, t, 64] x", "float[n, t, 64] y")
    + """<int64[4] split = {0, 0, 4, 16}, int64[3] join = {0, 0, 64}> {
  qp = MatMul(x, wq) q = Add(qp, bq)
  kp = MatMul(x, wk) k = Add(kp, bk)
  vp = MatMul(x, wv) v = Add(vp, bv)
  qh = Reshape(q, split) kh = Reshape(k, split) vh = Reshape(v, split)
  qt = Transpose <perm = [0, 2, 1, 3]> (qh)
  kt = Transpose <perm = [0, 2, 3, 1]> (kh)
  vt = Transpose <perm = [0, 2, 1, 3]> (vh)
  s = MatMul(qt, kt) a = Softmax(s) o = MatMul(a, vt)
  ot = Transpose <perm = [0, 2, 1, 3]> (o) oj = Reshape(ot, join)
  y = MatMul(oj, wo)
}"""
)


def attention(graphs: ModuleType) -> Any:
    tensors = {f"w{role}": uneven(64, 64) for role in "qkvo"}
    tensors |= {f"b{role}": array(64) for role in "qkv"}
    return graphs.Bench(graphs.parse(ATTENTION, **tensors), FEEDS, target=TARGET)


def test_query_key_and_value_may_share_their_first_factor(graphs: ModuleType) -> None:
    bench = attention(graphs)
    site = "block1.attention"
    outcome = bench.run("low-rank", rank=40, share="qkv", exclude=(f"{site}.o",))
    assert [edit.site for edit in outcome.edits] == [f"{site}.q"]
    assert outcome.edits[0].details["layers"] == [f"{site}.{role}" for role in "qkv"]
    assert outcome.edits[0].saving == 4 * (64 * 192 - 40 * (64 + 192))
    refused = bench.refusals()
    assert refused == {
        f"{site}.k": "shared-factor", f"{site}.v": "shared-factor", f"{site}.o": "excluded"
    }  # fmt: skip
    lines = [line.replace(f"{site}.", "") for line in graphs.lines(bench.model)]
    assert [line for line in lines if "weight" in line] == [
        "MatMul_0_in = MatMul(x, q.weight_in)",
        "qp = MatMul(MatMul_0_in, q.weight_out)",
        "kp = MatMul(MatMul_0_in, k.weight_out)",
        "vp = MatMul(MatMul_0_in, v.weight_out)",
    ]
    found = find_sites(bench.model)
    assert [s.name for s in found if FACTORIZED in s.facts] == [
        f"{site}.q.in", f"{site}.q.out", f"{site}.k", f"{site}.v"
    ]  # fmt: skip
    assert found.by_name[site].roles.keys() == set("qkvo")


def test_where_they_do_not_fit_together_each_is_on_its_own(graphs: ModuleType) -> None:
    bench = attention(graphs)
    site = "block1.attention"
    outcome = bench.run("low-rank", rank=16, share="qkv", exclude=(f"{site}.k",))
    assert [edit.site for edit in outcome.edits] == [f"{site}.{role}" for role in "qvo"]


POST_NORM = (
    head("float[n, t, 64] x, float[n, t, 48] r", "float[n, t, 48] y")
    + """{
  p = MatMul(x, w) h = Add(p, b) s = Add(h, r)
  y = LayerNormalization(s, gamma, beta)
}"""
)
GAMMA = np.geomspace(10, 0.1, 48).astype(np.float32)


def weighed(graphs: ModuleType, text: str, scale: Array, **tensors: Array) -> tuple[float, float]:
    """Squared errors of the layer's outputs times a scale [48]: ours, and the least there is."""
    feeds = [{**f, "r": array(*f["x"].shape[:2], 48)} for f in FEEDS]
    feeds = feeds if " r" in text else FEEDS
    bench = graphs.Bench(graphs.parse(text, w=W, b=B, **tensors), feeds, target=TARGET)
    bench.run("low-rank", rank=8, exclude=("*.down",) if "down" in text else ())
    names = list(bench.model.graph.initializers)
    first, second = (stored(bench.model, next(n for n in names if n.endswith(f"weight_{end}")))
                     for end in ("in", "out"))  # fmt: skip
    x = rows(FEEDS)
    x = x - x.mean(axis=0)
    lost = ((x @ (first.astype(float) @ second - W) * scale) ** 2).sum()
    y = x @ W.astype(float) * scale
    return float(lost), float((np.linalg.svd(y, compute_uv=False)[8:] ** 2).sum())


def test_a_norm_behind_a_residual_addition_weighs_the_outputs(graphs: ModuleType) -> None:
    scale = np.sqrt(GAMMA.astype(float) ** 2 + 0.01 * (GAMMA.astype(float) ** 2).mean())
    ours, least = weighed(graphs, POST_NORM, scale, gamma=GAMMA, beta=array(48))
    assert ours == pytest.approx(least, rel=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        (
            "y = LayerNormalization(s, gamma, beta)",
            "z = LayerNormalization(s, gamma) y = Add(z, s)",
        ),
        ("LayerNormalization(s, gamma, beta)", "LayerNormalization <axis = 1> (s, other)"),
    ],
)
def test_a_norm_that_is_not_all_that_reads_them_weighs_nothing(
    graphs: ModuleType, change: tuple[str, str]
) -> None:
    text = POST_NORM.replace(*change)
    tensors = {"gamma": GAMMA, "beta": array(48), "other": array(20, 48)}
    tensors = {name: tensor for name, tensor in tensors.items() if name in text}
    ours, least = weighed(graphs, text, np.ones(48), **tensors)
    assert ours == pytest.approx(least, rel=1e-3)


def test_the_next_layer_of_a_feed_forward_block_weighs_the_outputs(graphs: ModuleType) -> None:
    text = (
        head("float[n, t, 64] x", "float[n, t, 64] y")
        + "{ p = MatMul(x, w) h = Add(p, b) g = Relu(h) y = MatMul(g, down) }"
    )
    down = array(48, 64) * GAMMA[:, None]
    u = rows(FEEDS) @ W.astype(float) + B
    squares = np.maximum(u, 0).var(axis=0) / u.var(axis=0) * (down.astype(float) ** 2).sum(axis=1)
    scale = np.sqrt(squares / squares.mean() + 0.01)
    ours, least = weighed(graphs, text, scale, down=down)
    assert ours == pytest.approx(least, rel=2e-3)


# -- how far it goes -------------------------------------------------------------------


def linear_parameters(model: Any) -> int:
    weights = (constant_array(site.weight) for site in find_sites(model).of_kind("linear"))
    return sum(w.size for w in weights if w is not None)


@pytest.mark.parametrize(
    ("options", "rank"),
    [
        ({"rank": 16}, 16),
        ({"rank": 23}, 16),  # multiples of 8
        ({"rank": 3}, 8),
        ({"ratio": 0.8}, 16),  # 0.8 * 64 * 48 / 112 = 21.9
        ({"ratio": 0.9}, 24),
        ({"ratio": 0.01}, 8),
    ],
)
def test_ranks_are_multiples_of_what_suits_the_target(
    graphs: ModuleType, options: dict[str, Any], rank: int
) -> None:
    assert plain(graphs).run("low-rank", **options).edits[0].details["rank"] == rank


def test_energy_keeps_that_share_of_the_variance(graphs: ModuleType) -> None:
    y = rows(FEEDS) @ W.astype(float)
    energies = np.linalg.svd(y - y.mean(axis=0), compute_uv=False) ** 2
    held = np.cumsum(energies) / energies.sum()
    for energy in (0.5, 0.8):
        found = plain(graphs).run("low-rank", energy=energy).edits[0].details["rank"]
        needed = int(np.searchsorted(held, energy)) + 1
        assert found == -(-needed // 8) * 8


def test_total_shares_out_what_all_layers_have(graphs: ModuleType) -> None:
    text = (
        head("float[n, t, 64] x", "float[n, t, 96] y")
        + "{ p = MatMul(x, u) q = Tanh(p) r = MatMul(q, v) s = Tanh(r) y = MatMul(s, w) }"
    )
    tensors = {"u": uneven(64, 256), "v": uneven(256, 128), "w": uneven(128, 96)}
    for exclude, scope in (((), "layer"), (("linear3",), "layer"), (("linear3",), "global")):
        bench = graphs.Bench(graphs.parse(text, **tensors), FEEDS, target=TARGET)
        before = linear_parameters(bench.model)
        bench.run("low-rank", total=0.7, exclude=exclude, scope=scope)
        kept = linear_parameters(bench.model) / before
        assert 0.66 < kept <= 0.7
        assert bench.remarks("missed") == {}


SIDES = (
    head("float[n, t, 64] x", "float[n, t, 48] y")
    + "{ p = MatMul(x, u) q = MatMul(x, v) r = Mul(q, small) y = Add(p, r) }"
)
"""Two layers whose own errors look alike; what one of them makes hardly counts."""


def sides(graphs: ModuleType) -> Any:
    """Weights of both sides are equal but for their order, and the same every time."""
    rng = np.random.default_rng(3)
    left, right = rng.normal(size=(64, 64)), rng.normal(size=(64, 48))
    u = (left @ (np.geomspace(1, 0.3, 64)[:, None] * right) / 64).astype(np.float32)
    tensors = {"u": u, "v": u[:, ::-1].copy(), "small": np.array(0.01, np.float32)}
    return graphs.Bench(graphs.parse(SIDES, **tensors), FEEDS, target=TARGET)


def test_a_total_goes_where_the_models_outputs_change_least(graphs: ModuleType) -> None:
    expected = sides(graphs).outputs(FEEDS[0])["y"]
    errors = {}
    for scope in ("layer", "global"):
        bench = sides(graphs)
        outcome = bench.run("low-rank", total=0.7, scope=scope)
        assert linear_parameters(bench.model) <= 0.7 * 2 * 64 * 48
        errors[scope] = float(((bench.outputs(FEEDS[0])["y"] - expected) ** 2).sum())
        if scope == "global":
            assert [edit.site for edit in outcome.edits] == ["linear2"]
            assert bench.refusals() == {"linear1": "spared"}
    assert errors["global"] < 0.01 * errors["layer"]


def test_without_data_a_total_takes_the_same_ratio_of_each(graphs: ModuleType) -> None:
    for scope in ("layer", "global"):
        outcome = sides(graphs).run("low-rank", total=0.6, method="svd", scope=scope)
        ranks = {edit.site: edit.details["rank"] for edit in outcome.edits}
        assert ranks == {"linear1": 16, "linear2": 16}


def test_changes_of_the_models_outputs_are_measured_once(
    graphs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from planish.compiler.context import CompileContext

    asked = []
    measure = CompileContext._changed

    def counted(self: CompileContext, tensors: Any) -> float:
        asked.append(sorted(tensors))
        return measure(self, tensors)

    monkeypatch.setattr(CompileContext, "_changed", counted)
    bench = sides(graphs)
    start = bench.rewriter.checkpoint()
    bench.run("low-rank", total=0.6)
    assert asked == [["u"]] * 2 + [["v"]] * 2  # at ranks 24 and 8
    bench.rewriter.rollback(start)
    bench.run("low-rank", total=0.8)
    assert len(asked) == 4


def test_a_total_that_cannot_be_is_said(graphs: ModuleType) -> None:
    text = head("float[n, t, 64] x", "float[n, t, 48] y") + "{ p = MatMul(x, u) y = MatMul(p, w) }"
    tensors = {"u": uneven(64, 48), "w": uneven(48, 48)}
    bench = graphs.Bench(graphs.parse(text, **tensors), FEEDS, target=TARGET)
    bench.run("low-rank", total=0.3, exclude=("linear1",))
    assert bench.remarks("missed")["model"].code == "total"
    assert "too much stays whole" in bench.remarks("missed")["model"].sentence


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("ratio=1", "ratio is 1.0, not between 0 and 1"),
        ("ratio=-0.5", "not between 0 and 1"),
        ("energy=0", "energy is 0.0, not between 0 and 1"),
        ("total=1.5", "total is 1.5, not between 0 and 1"),
        ("rank=0", "rank is 0, not 1 or more"),
        ("rank=8 ratio=0.5", "rank and ratio say the same thing twice"),
        ("ratio=half", "takes a finite number"),
        ("rate=0.5", "ratio"),
        ("share=kv", "one of none, qkv"),
    ],
)
def test_options_that_cannot_be_are_refused(text: str, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(parse(f"low-rank{{{text}}}")[0], pass_class("low-rank").Options)
    assert part in str(caught.value) + caught.value.hint


# -- what it leaves alone --------------------------------------------------------------


def refused(
    graphs: ModuleType, text: str, options: dict[str, Any], feeds: list[dict[str, Array]],
    settings: dict[str, Any] | None = None, **tensors: Array,
) -> dict[str, str]:  # fmt: skip
    """The codes by site; the graph must be as it was."""
    model = graphs.parse(text, **tensors)
    before = graphs.snapshot(model)
    bench = graphs.Bench(model, feeds, **{"target": TARGET, **(settings or {})})
    assert bench.run("low-rank", **options).edits == []
    assert graphs.snapshot(model) == before
    found: dict[str, str] = bench.refusals()
    return found


def test_without_data_only_the_svd_of_the_weight_is_to_be_had(graphs: ModuleType) -> None:
    settings = {"calibrated": False}
    codes = refused(graphs, PLAIN, {"rank": 16}, FEEDS, settings, w=W, b=B)
    assert codes == {"linear1": "no-calibration"}
    bench = plain(graphs, calibrated=False)
    bench.run("low-rank", rank=16, method="svd")
    made = stored(bench.model, "linear1.weight_in") @ stored(bench.model, "linear1.weight_out")
    assert "b" in bench.model.graph.initializers
    u, s, v = np.linalg.svd(W.astype(float))
    expected = (u[:, :16] * s[:16]) @ v[:16]
    np.testing.assert_allclose(made, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("options", "rank"), [({"rank": 32}, 32), ({"energy": 0.999999}, 48)])
def test_factors_that_save_nothing_are_not_made(
    graphs: ModuleType, options: dict[str, Any], rank: int
) -> None:
    """64 x 48 pays up to rank 27."""
    bench = plain(graphs)
    assert bench.run("low-rank", **options).edits == []
    remark = bench.remarks("refused")["linear1"]
    assert remark.code == "no-saving"
    assert remark.sentence == f"rank {rank} is too much: factors of 64x48 save up to rank 27"


def test_a_multiple_beyond_the_layer(graphs: ModuleType) -> None:
    text = head("float[n, t, 12] x", "float[n, t, 12] y") + "{ y = MatMul(x, w) }"
    codes = refused(graphs, text, {"ratio": 0.5}, [{"x": array(3, 9, 12)}], w=array(12, 12))
    assert codes == {"linear1": "too-small"}


def test_what_shares_its_weight_with_something_else_stays(graphs: ModuleType) -> None:
    text = (
        head("int64[n, t] ids", "float[n, t, 64] y")
        + "{ e = Gather(table, ids) u = Transpose <perm = [1, 0]> (table) y = MatMul(e, u) }"
    )
    feeds = [{"ids": RNG.integers(0, 64, (3, 20))}]
    codes = refused(graphs, text, {"ratio": 0.5}, feeds, table=array(64, 64))
    assert list(codes.values()) == ["not-canonical"]
    text = head("float[n, 64] x", "float[n, 64] y") + (
        "{ p = MatMul(x, w) u = Transpose <perm = [1, 0]> (w) y = MatMul(p, u) }"
    )
    codes = refused(graphs, text, {"ratio": 0.5}, [{"x": array(9, 64)}], w=array(64, 64))
    assert codes == {"linear1": "not-canonical"}
    text = head("float[n, 64] x", "float[n, 64] y, float[64, 64] z") + (
        "{ y = MatMul(x, w) z = Abs(w) }"
    )
    codes = refused(graphs, text, {"ratio": 0.5}, [{"x": array(9, 64)}], w=array(64, 64))
    assert codes == {"linear1": "shared"}


def test_a_weight_that_a_branch_reads_too_stays(graphs: ModuleType) -> None:
    text = (
        head("float[n, 64] x, bool flag", "float[n, 64] y")
        + """{
      p = MatMul(x, w)
      y = If (flag) <
        then_branch = one () => (float[n, 64] a) { h = Abs(p) a = MatMul(h, w) },
        else_branch = two () => (float[n, 64] b) { b = Neg(p) }
      >
    }"""
    )
    feeds = [{"x": array(9, 64), "flag": np.array(flag)} for flag in (True, False)]
    codes = refused(graphs, text, {"ratio": 0.5}, feeds, w=array(64, 64))
    assert codes == {"linear1": "subgraph"}


def test_layers_that_are_no_plain_product_stay(graphs: ModuleType) -> None:
    text = head("float[n, 64, a, b] x", "float[n, 64, c, d] y") + (
        "{ p = Conv <group = 2> (x, k) y = ConvTranspose(p, t) }"
    )
    feeds = [{"x": array(2, 64, 5, 5)}]
    codes = refused(
        graphs, text, {"ratio": 0.5}, feeds, k=array(64, 32, 1, 1), t=array(64, 64, 3, 3)
    )
    assert codes == {"conv1": "grouped", "conv2": "unsupported-op"}
    codes = refused(graphs, STEM, {"convolutions": False}, [{"x": array(1, 8, 5, 5)}],
                    k=array(48, 8, 3, 3), b=array(48))  # fmt: skip
    assert codes == {"conv1": "excluded"}


def test_a_quantized_layer_stays(graphs: ModuleType) -> None:
    bench = plain(graphs, target="x86-avx512-vnni")
    assert len(bench.run("quantize").edits) == 1
    assert bench.run("low-rank", rank=8).edits == []
    assert bench.refusals() == {"linear1": "already-quantized"}


def test_what_no_feed_reaches_is_missed(graphs: ModuleType) -> None:
    text = (
        head("int64[n, s] ids, int64[n, s] mask", "float[n, s, 48] y")
        + "{ x = Gather(table, ids) y = MatMul(x, w) }"
    )
    feed = {"ids": np.ones((2, 3), np.int64), "mask": np.zeros((2, 3), np.int64)}
    settings = {"target": TARGET, "masking": Masking("mask", ("n", "s"))}
    model = graphs.parse(text, table=array(20, 64), w=W)
    before = graphs.snapshot(model)
    bench = graphs.Bench(model, [feed], **settings)
    assert bench.run("low-rank", rank=16).edits == []
    assert bench.remarks("missed")["linear1"].code == "not-observed"
    assert bench.run("low-rank", energy=0.5).edits == []
    assert bench.refusals()["linear1"] == "not-observed"
    assert graphs.snapshot(model) == before


def test_few_rows_are_said_and_do_not_decide_alone(graphs: ModuleType) -> None:
    feeds = [{"x": array(1, 20, 64)}]
    bench = graphs.Bench(graphs.parse(PLAIN, w=W, b=B), feeds, target=TARGET)
    assert len(bench.run("low-rank", rank=24).edits) == 1
    remark = bench.remarks("note")["linear1"]
    assert remark.code == "few-rows"
    assert remark.sentence.startswith("20 rows of data for 64 channels")
    made = stored(bench.model, "linear1.weight_in") @ stored(bench.model, "linear1.weight_out")
    assert np.linalg.matrix_rank(made) == 24  # the rows alone say something of 19 directions
    plain_bench = plain(graphs)
    plain_bench.run("low-rank", rank=24)
    assert plain_bench.remarks("note") == {}


def test_a_channel_that_is_always_zero(graphs: ModuleType) -> None:
    feeds = [{"x": np.where(np.arange(64) < 5, 0, f["x"]).astype(np.float32)} for f in FEEDS]
    bench = graphs.Bench(graphs.parse(PLAIN, w=W, b=B), feeds, target=TARGET)
    before = bench.outputs(feeds[0])["y"]
    bench.run("low-rank", rank=24)
    lost = ((bench.outputs(feeds[0])["y"] - before) ** 2).sum() / (before**2).sum()
    assert lost < 0.05


# -- by the target's figures -----------------------------------------------------------


def machine(bandwidth: float, rate: float) -> Target:
    """One of that many GB/s and TFLOPS."""
    memory, rates = Memory(bandwidth_gbs=bandwidth), Rates(fp32=rate)
    return replace(load_target(TARGET), memory=memory, rates=rates)


def predicting(graphs: ModuleType, bandwidth: float, rate: float) -> Any:
    """A bench on such a machine."""
    bench = plain(graphs)
    bench.context.target = machine(bandwidth, rate)
    return bench


def test_a_layer_that_would_be_slower_is_refused_with_both_times(graphs: ModuleType) -> None:
    """80 rows: the product is bound by what passes through memory, and two factors pass more."""
    bench = predicting(graphs, bandwidth=1.0, rate=100.0)
    assert bench.run("low-rank", rank=24).edits == []
    remark = bench.remarks("refused")["linear1"]
    moved = 4 * (80 * (64 + 48) + 64 * 48), 4 * (80 * (64 + 48 + 2 * 24) + 24 * (64 + 48))
    whole, both = (f"{1e3 * size / 1e9:.4f} ms" for size in moved)
    assert remark.code == "slower"
    assert remark.sentence == (
        f"by the target's figures as factors of rank 24 it would take {both}, as it is {whole}; "
        "gain=size takes the smaller file"
    )
    assert len(predicting(graphs, 1.0, 100.0).run("low-rank", rank=24, gain="size").edits) == 1


def test_a_layer_that_would_be_faster_is_taken(graphs: ModuleType) -> None:
    bench = predicting(graphs, bandwidth=100.0, rate=0.001)
    assert len(bench.run("low-rank", rank=24).edits) == 1


@pytest.mark.parametrize(("scope", "why"), [("layer", "slower"), ("global", "spared")])
def test_a_total_counts_what_would_be_slower_as_whole(
    graphs: ModuleType, scope: str, why: str
) -> None:
    """Of two layers the small one stays as it is: the large one makes up for it."""
    text = head("float[n, t, 64] x", "float[n, t, 64] y") + (
        "{ p = MatMul(x, u) q = MatMul(p, v) y = MatMul(q, w) }"
    )
    tensors = {"u": uneven(64, 1024), "v": uneven(1024, 1024), "w": uneven(1024, 64)}
    feeds = [{"x": array(4, 100, 64)}]
    bench = graphs.Bench(graphs.parse(text, **tensors), feeds, target=TARGET)
    bench.context.target = machine(bandwidth=10.0, rate=1000.0)
    before = linear_parameters(bench.model)
    outcome = bench.run("low-rank", total=0.7, scope=scope)
    assert [edit.site for edit in outcome.edits] == ["linear2"]
    assert set(bench.refusals().values()) == {why}
    assert 0.67 < linear_parameters(bench.model) / before <= 0.7


# -- with other passes -----------------------------------------------------------------

BLOCK = (
    head("float[n, t, 128] x", "float[n, t, 128] y")
    + """{
  p = MatMul(x, up) q = Add(p, b) h = Relu(q)
  d = MatMul(h, down) y = Add(d, c)
}"""
)


def test_both_factors_run_in_integer_kernels(graphs: ModuleType, tmp_path: Path) -> None:
    tensors = {"up": uneven(128, 256), "b": array(256), "down": uneven(256, 128), "c": array(128)}
    feeds = [{"x": array(4, 32, 128)} for _ in range(4)]
    target = "x86-avx512-vnni"
    bench = graphs.Bench(graphs.parse(BLOCK, **tensors), feeds, target=target)
    bench.run("canonicalize")
    before = bench.outputs(feeds[0])["y"]
    bench.run("low-rank", ratio=0.5)
    factored = bench.outputs(feeds[0])["y"]
    assert len(bench.run("quantize", scheme="static").edits) == 4
    with bench.rewriter.edit("legalise"):
        legalise(bench.rewriter)
    after = bench.outputs(feeds[0], optimize="all")["y"]
    save_model(bench.model, tmp_path / "model.onnx")
    found = count_kernels(tmp_path / "model.onnx", bench.model, bench.context.remarks, threads=1)
    assert [(k.site.rpartition(".")[2], k.kernel, k.integer) for k in found.sites] == [
        ("in", "QLinearMatMul", True), ("out", "com.microsoft:MatMulIntegerToFloat", True),
    ] * 2  # fmt: skip
    assert found.surprises == ()
    assert Counter(graphs.ops(bench.model))["MatMul"] == 4

    def error(one: Array, two: Array) -> float:
        return float(((one - two).astype(float) ** 2).sum() / (two.astype(float) ** 2).sum())

    assert error(after, factored) < 0.05 * error(factored, before) + 2e-3


def test_one_range_fits_what_passes_between_the_factors(graphs: ModuleType) -> None:
    """In the eigenvectors' own order rounding to 8 bits would lose several times as much."""
    bench = plain(graphs)
    bench.run("low-rank", rank=24)
    first = stored(bench.model, "linear1.weight_in").astype(float)
    between = rows(FEEDS) @ first
    spread = between.std(axis=0)
    assert spread.max() / spread.min() < 1.5
    own = np.linalg.svd(between - between.mean(axis=0), compute_uv=False)
    assert own.max() / own.min() > 5


def test_rollback_and_replay(graphs: ModuleType) -> None:
    bench = plain(graphs)
    before = graphs.snapshot(bench.model)
    outcome = bench.run("low-rank", rank=16)
    once = graphs.snapshot(bench.model)
    bench.manager.undo(outcome)
    assert graphs.snapshot(bench.model) == before
    bench.run("low-rank", rank=16)
    assert graphs.snapshot(bench.model) == once


def test_an_outline_has_the_shapes_of_the_real_thing(graphs: ModuleType) -> None:
    for text, tensors, feeds in (
        (PLAIN, {"w": W, "b": B}, FEEDS),
        (STEM, {"k": array(48, 8, 3, 3), "b": array(48)}, [{"x": array(2, 8, 9, 9)}]),
    ):
        shapes = []
        for outlined in (False, True):
            bench = graphs.Bench(graphs.parse(text, **tensors), feeds, target=TARGET)
            cls = pass_class("low-rank")
            made = cls(cls.Options(rank=16))
            (candidate,) = made.candidates(bench.model, bench.context)
            half = made.outline if outlined else made.perturb
            perturbation = half(bench.model, candidate, bench.context)  # type: ignore[arg-type]
            with bench.rewriter.edit("low-rank"):
                made.lower(bench.model, candidate, perturbation, bench.rewriter, bench.context)  # type: ignore[arg-type]
            stored_shapes = [stored(bench.model, n).shape for n in bench.model.graph.initializers]
            shapes.append((graphs.ops(bench.model), sorted(stored_shapes)))
        assert shapes[0] == shapes[1]


@pytest.mark.data
@pytest.mark.parametrize("name", ["tsp20", "resnet20"])
def test_real_models(task: Any, graphs: ModuleType, name: str) -> None:
    made = task(name)
    model = load_model(made.model).model
    bench = graphs.Bench(model, list(made.calibration(64)), target=TARGET)
    bench.run("canonicalize")
    outcome = bench.run("low-rank", ratio=0.75)
    assert bench.remarks("missed") == {}
    assert len(outcome.edits) >= 6
    assert all(edit.loss < 0.2 for edit in outcome.edits)
