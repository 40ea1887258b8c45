from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.compiler.pipeline import parse
from planish.compiler.workshop import instantiate
from planish.ir.errors import UsageError
from planish.ir.graph import attribute, constant_array
from planish.ir.sites import find_sites

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)
HEADS, SIZE, WIDTH = 4, 8, 32


def array(*shape: int) -> Array:
    return np.asarray(RNG.normal(size=shape) / np.sqrt(shape[0]), dtype=np.float32)


def head(inputs: str, outputs: str, opset: int = 20) -> str:
    return (
        f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
        f"g ({inputs}) => ({outputs})\n"
    )


def attention(x: str, y: str, at: str = "") -> str:
    """A block with a residual, spelled out; ``at`` ends the names of its values and weights."""
    return f"""
  shape{at} = Shape <start = 0, end = 2> ({x})
  split{at} = Concat <axis = 0> (shape{at}, heads)
  flat{at} = Concat <axis = 0> (shape{at}, all)
  q0{at} = MatMul({x}, wq{at}) q1{at} = Add(q0{at}, bq{at}) q2{at} = Reshape(q1{at}, split{at})
  q{at} = Transpose <perm = [0, 2, 1, 3]> (q2{at})
  k0{at} = MatMul({x}, wk{at}) k2{at} = Reshape(k0{at}, split{at})
  k{at} = Transpose <perm = [0, 2, 3, 1]> (k2{at})
  v0{at} = MatMul({x}, wv{at}) v2{at} = Reshape(v0{at}, split{at})
  v{at} = Transpose <perm = [0, 2, 1, 3]> (v2{at})
  s0{at} = MatMul(q{at}, k{at}) s1{at} = Mul(s0{at}, scale) s{at} = Add(s1{at}, mask)
  p{at} = Softmax <axis = -1> (s{at})
  c0{at} = MatMul(p{at}, v{at}) c1{at} = Transpose <perm = [0, 2, 1, 3]> (c0{at})
  c{at} = Reshape(c1{at}, flat{at})
  o{at} = MatMul(c{at}, wo{at}) a{at} = Add(o{at}, bo{at})
  {y} = Add({x}, a{at})"""


INPUTS = "float[n, t, 32] x, float[n, 1, 1, t] mask"
SPELLED = head(INPUTS, "float[n, t, 32] y") + "{" + attention("x", "y") + "}"
WEIGHTS = {
    "wq": array(WIDTH, WIDTH), "wk": array(WIDTH, WIDTH), "wv": array(WIDTH, WIDTH),
    "wo": array(WIDTH, WIDTH), "bq": array(WIDTH), "bo": array(WIDTH),
}  # fmt: skip
CONSTANTS = {
    "heads": np.array([HEADS, SIZE]), "all": np.array([HEADS * SIZE]),
    "scale": np.float32(SIZE**-0.5),
}  # fmt: skip
FEEDS = [
    {
        "x": RNG.normal(size=(12, 9, WIDTH)).astype(np.float32),
        "mask": np.where(RNG.random((12, 1, 1, 9)) < 0.2, -30, 0).astype(np.float32),
    }
    for _ in range(3)
]


def spelled(graphs: ModuleType, **settings: Any) -> Any:
    return graphs.Bench(graphs.parse(SPELLED, **WEIGHTS, **CONSTANTS), FEEDS, **settings)


def tensor(bench: Any, name: str) -> Array:
    found = constant_array(bench.model.graph.initializers[name])
    assert found is not None
    return found


def columns(kept: list[int], size: int = SIZE) -> Array:
    return np.concatenate([np.arange(unit * size, (unit + 1) * size) for unit in kept])


def kept_of(edit: Any, units: int = HEADS) -> list[int]:
    (about,) = edit.details["groups"].values()
    return sorted(set(range(units)) - set(about["removed"]))


def context(bench: Any, feeds: Any = FEEDS) -> Array:
    """What the output projection reads, float64 [rows, WIDTH]."""
    found = []
    for feed in feeds:
        x, mask = feed["x"].astype(np.float64), feed["mask"]
        q, k, v = (x @ WEIGHTS[f"w{r}"] for r in "qkv")
        q = q + WEIGHTS["bq"]
        split = [z.reshape(*z.shape[:2], HEADS, SIZE).transpose(0, 2, 1, 3) for z in (q, k, v)]
        s = split[0] @ split[1].swapaxes(2, 3) * SIZE**-0.5 + mask
        p = np.exp(s - s.max(axis=-1, keepdims=True))
        c = (p / p.sum(axis=-1, keepdims=True)) @ split[2]
        found.append(c.transpose(0, 2, 1, 3).reshape(-1, WIDTH))
    return np.concatenate(found)


# -- what it does ----------------------------------------------------------------------


def test_heads_are_cut_out_of_all_projections_and_the_last_is_fitted(graphs: ModuleType) -> None:
    bench = spelled(graphs)
    ops = graphs.ops(bench.model)
    (edit,) = bench.run("prune-heads", ratio=0.5).edits
    kept = kept_of(edit)
    places = columns(kept)
    assert (edit.setting, len(kept)) == ("2-of-4", 2)
    moved = [op for op in graphs.ops(bench.model) if op != "Concat"]
    assert moved == [op for op in ops if op != "Concat"]
    for name in ("wq", "wk", "wv"):
        np.testing.assert_array_equal(tensor(bench, name), WEIGHTS[name][:, places])
    np.testing.assert_array_equal(tensor(bench, "bq"), WEIGHTS["bq"][places])
    assert graphs.value(bench.model, "q2").shape[2:] == (2, SIZE)
    assert graphs.value(bench.model, "c").shape[-1] == 2 * SIZE
    c = context(bench)
    wanted = c @ WEIGHTS["wo"] + WEIGHTS["bo"]
    explicit, *_ = np.linalg.lstsq(np.c_[c[:, places], np.ones(len(c))], wanted, rcond=None)
    best = ((c[:, places] @ explicit[:-1] + explicit[-1] - wanted) ** 2).sum()
    made = c[:, places] @ tensor(bench, "wo") + tensor(bench, "bo")
    assert ((made - wanted) ** 2).sum() == pytest.approx(best, rel=0.02)
    block = next(site for site in find_sites(bench.model) if site.kind == "attention")
    assert set(block.roles) == set("qkvo")


def test_the_head_with_the_least_schur_complement_goes(graphs: ModuleType) -> None:
    bench = spelled(graphs)
    (edit,) = bench.run("prune-heads", ratio=0.25).edits
    c = context(bench)
    moments = np.cov(c.T, bias=True)
    costs = []
    for unit in range(HEADS):
        own, rest = columns([unit]), columns([u for u in range(HEADS) if u != unit])
        told = moments[np.ix_(own, rest)] @ np.linalg.solve(
            moments[np.ix_(rest, rest)], moments[np.ix_(rest, own)]
        )
        left, w = moments[np.ix_(own, own)] - told, WEIGHTS["wo"][own].astype(np.float64)
        costs.append(float(np.trace(w.T @ left @ w)))
    (about,) = edit.details["groups"].values()
    assert about["removed"] == [int(np.argmin(costs))]


def test_a_head_that_repeats_another_costs_nothing(graphs: ModuleType) -> None:
    weights = {name: array.copy() for name, array in WEIGHTS.items()}
    for name in ("wq", "wk", "wv", "bq"):
        weights[name][..., columns([2])] = weights[name][..., columns([0])]
    bench = graphs.Bench(graphs.parse(SPELLED, **weights, **CONSTANTS), FEEDS)
    before = bench.outputs(FEEDS[0])["y"]
    (edit,) = bench.run("prune-heads", ratio=0.25).edits
    (about,) = edit.details["groups"].values()
    assert about["removed"] in ([0], [2])
    assert edit.loss < 1e-3
    np.testing.assert_allclose(bench.outputs(FEEDS[0])["y"], before, rtol=0, atol=0.05)


def test_the_declared_loss_is_that_of_the_block(graphs: ModuleType) -> None:
    bench, plain = spelled(graphs), spelled(graphs)
    few = FEEDS[0]
    (edit,) = bench.run("prune-heads", ratio=0.5).edits
    float_out = plain.outputs(few)["y"] - few["x"]
    change = bench.outputs(few)["y"] - few["x"] - float_out
    assert edit.loss == pytest.approx((change**2).sum() / (float_out**2).sum(), rel=1e-3)


def test_rollback_brings_everything_back(graphs: ModuleType) -> None:
    bench = spelled(graphs)
    before = graphs.snapshot(bench.model)
    outcome = bench.run("prune-heads", ratio=0.5)
    bench.manager.undo(outcome)
    assert graphs.snapshot(bench.model) == before


@pytest.mark.parametrize("score", ["schur", "variance", "wanda", "magnitude"])
def test_every_score_makes_a_model_that_runs(graphs: ModuleType, score: str) -> None:
    losses = []
    for refit in (True, False):
        bench = spelled(graphs)
        (edit,) = bench.run("prune-heads", ratio=0.5, score=score, refit=refit).edits
        assert bench.outputs(FEEDS[0])["y"].shape == FEEDS[0]["x"].shape
        losses.append(edit.loss)
    assert losses[0] < losses[1]


# -- forms of attention ----------------------------------------------------------------


GROUPED = (
    head("float[n, t, 32] x", "float[n, t, 32] y")
    + """{
  q0 = MatMul(x, wq) q2 = Reshape(q0, split) q = Transpose <perm = [0, 2, 1, 3]> (q2)
  k0 = MatMul(x, wk) k2 = Reshape(k0, few) k3 = Transpose <perm = [0, 2, 1, 3]> (k2)
  k4 = Unsqueeze(k3, two) k5 = Expand(k4, repeated) k6 = Reshape(k5, merged)
  k = Transpose <perm = [0, 1, 3, 2]> (k6)
  v0 = MatMul(x, wv) v2 = Reshape(v0, few) v3 = Transpose <perm = [0, 2, 1, 3]> (v2)
  v4 = Unsqueeze(v3, two) v5 = Expand(v4, repeated) v = Reshape(v5, merged)
  s = MatMul(q, k) p = Softmax <axis = -1> (s)
  c0 = MatMul(p, v) c1 = Transpose <perm = [0, 2, 1, 3]> (c0) c = Reshape(c1, flat)
  o = MatMul(c, wo)
  y = Add(x, o)
}"""
)


def test_heads_that_share_keys_and_values_go_together(graphs: ModuleType) -> None:
    """Four query heads, two of keys and values; without a bias the fit is about zero."""
    weights = {n: WEIGHTS[n] for n in ("wq", "wo")} | {n: WEIGHTS[n][:, :16] for n in ("wk", "wv")}
    shapes = {
        "split": np.array([0, -1, 4, 8]), "few": np.array([0, -1, 2, 8]), "two": np.array([2]),
        "repeated": np.array([1, 1, 2, 1, 1]), "merged": np.array([0, 4, -1, 8]),
        "flat": np.array([0, 0, 32]),
    }  # fmt: skip
    bench = graphs.Bench(graphs.parse(GROUPED, **weights, **shapes), [{"x": f["x"]} for f in FEEDS])
    (edit,) = bench.run("prune-heads", ratio=0.5).edits
    kept = kept_of(edit, 2)
    assert edit.setting == "1-of-2"
    assert len(kept) == 1
    np.testing.assert_array_equal(tensor(bench, "wk"), weights["wk"][:, columns(kept)])
    np.testing.assert_array_equal(tensor(bench, "wq"), weights["wq"][:, columns(kept, 16)])
    assert tensor(bench, "wo").shape == (16, 32)
    assert bench.outputs({"x": FEEDS[0]["x"]})["y"].shape == FEEDS[0]["x"].shape


FUSED = (
    head("float[n, t, 32] x", "float[n, t, 32] y", opset=23)
    + """{
  q0 = MatMul(x, wq) q = Add(q0, bq)
  k = MatMul(x, wk)
  v = MatMul(x, wv)
  c = Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v)
  o = MatMul(c, wo) y = Add(o, bo)
}"""
)


def test_the_attributes_of_a_fused_operator_follow(graphs: ModuleType) -> None:
    bench = graphs.Bench(graphs.parse(FUSED, **WEIGHTS), [{"x": f["x"]} for f in FEEDS])
    bench.run("prune-heads", ratio=0.5)
    node = next(n for n in bench.model.graph if n.op_type == "Attention")
    assert (attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")) == (2, 2)
    assert tensor(bench, "wo").shape == (2 * SIZE, WIDTH)
    assert bench.outputs({"x": FEEDS[0]["x"]})["y"].shape == FEEDS[0]["x"].shape


PACKED = (
    head("float[n, t, 32] x", "float[n, t, 32] y")
    + """{
  h = MatMul(x, w) hb = Add(h, b)
  q0, k0, v0 = Split <axis = -1> (hb, parts)
  q2 = Reshape(q0, split) q = Transpose <perm = [0, 2, 1, 3]> (q2)
  k2 = Reshape(k0, split) k = Transpose <perm = [0, 2, 3, 1]> (k2)
  v2 = Reshape(v0, split) v = Transpose <perm = [0, 2, 1, 3]> (v2)
  s = MatMul(q, k) p = Softmax <axis = -1> (s)
  c0 = MatMul(p, v) c1 = Transpose <perm = [0, 2, 1, 3]> (c0) c = Reshape(c1, flat)
  o = MatMul(c, wo) y = Add(o, bo)
}"""
)


def test_where_no_rank_is_known_nothing_can_be_observed(graphs: ModuleType) -> None:
    """Nobody infers shapes behind a runtime's own operator."""
    text = FUSED.replace(
        "Attention <q_num_heads = 4, kv_num_heads = 4>",
        "com.microsoft.MultiHeadAttention <num_heads = 4>",
    )
    bench = graphs.Bench(graphs.parse(text, **WEIGHTS), [{"x": f["x"]} for f in FEEDS])
    assert not bench.run("prune-heads", ratio=0.5).edits
    assert "unknown-rank" in bench.refusals().values()
    bench = graphs.Bench(graphs.parse(text, **WEIGHTS), [{"x": f["x"]} for f in FEEDS])
    (edit,) = bench.run("prune-heads", ratio=0.5, score="magnitude", refit=False).edits
    assert edit.setting == "2-of-4"


def test_a_packed_projection_loses_columns_in_three_places(graphs: ModuleType) -> None:
    w = np.hstack([WEIGHTS[f"w{r}"] for r in "qkv"])
    b = array(3 * WIDTH)
    shapes = {
        "parts": np.array([32, 32, 32]), "split": np.array([0, 0, 4, 8]),
        "flat": np.array([0, 0, 32]),
    }  # fmt: skip
    model = graphs.parse(PACKED, w=w, b=b, wo=WEIGHTS["wo"], bo=WEIGHTS["bo"], **shapes)
    bench = graphs.Bench(model, [{"x": f["x"]} for f in FEEDS])
    (edit,) = bench.run("prune-heads", ratio=0.5).edits
    places = columns(kept_of(edit))
    thrice = np.concatenate([places, 32 + places, 64 + places])
    np.testing.assert_array_equal(tensor(bench, "w"), w[:, thrice])
    np.testing.assert_array_equal(tensor(bench, "b"), b[thrice])
    assert [graphs.value(bench.model, n).shape[-1] for n in ("q0", "k0", "v0")] == [16, 16, 16]


# -- how many --------------------------------------------------------------------------


def stacked(graphs: ModuleType) -> Any:
    """Two blocks; in the first, three heads of four are alike."""
    text = head(INPUTS, "float[n, t, 32] z") + (
        f"{{{attention('x', 'y')}{attention('y', 'z', at='_two')}}}"
    )
    weights = {name: array.copy() for name, array in WEIGHTS.items()}
    for name in ("wq", "wk", "wv", "bq"):
        for unit in (1, 2):
            weights[name][..., columns([unit])] = weights[name][..., columns([0])]
    second = {f"{name}_two": np.roll(array, 1, axis=0) for name, array in WEIGHTS.items()}
    return graphs.Bench(graphs.parse(text, **weights, **second, **CONSTANTS), FEEDS)


def test_one_request_goes_where_heads_say_least(graphs: ModuleType) -> None:
    bench = stacked(graphs)
    edits = bench.run("prune-heads", ratio=0.25).edits
    assert [edit.setting for edit in edits] == ["2-of-4"]
    assert tensor(bench, "wo").shape == (2 * SIZE, WIDTH)
    assert tensor(bench, "wo_two").shape == (WIDTH, WIDTH)
    alike = stacked(graphs)
    edits = alike.run("prune-heads", ratio=0.25, scope="layer").edits
    assert [edit.setting for edit in edits] == ["3-of-4", "3-of-4"]


def test_at_least_one_head_of_each_layer_stays(graphs: ModuleType) -> None:
    for options in ({"ratio": 0.99}, {"keep": 1}):
        bench = stacked(graphs)
        edits = bench.run("prune-heads", **options).edits
        assert [edit.setting for edit in edits] == ["1-of-4", "1-of-4"]
        assert bench.outputs(FEEDS[0])["z"].shape == FEEDS[0]["x"].shape


def test_a_single_head_stays(graphs: ModuleType) -> None:
    shapes = CONSTANTS | {"heads": np.array([1, WIDTH])}
    bench = graphs.Bench(graphs.parse(SPELLED, **WEIGHTS, **shapes), FEEDS)
    assert not bench.run("prune-heads", ratio=0.5).edits
    assert bench.remarks("refused")


def test_a_kept_count_beyond_all_heads_is_an_error(graphs: ModuleType) -> None:
    with pytest.raises(UsageError, match="more heads than any layer has: 4"):
        stacked(graphs).run("prune-heads", keep=5)


def test_the_targets_multiple_of_heads(graphs: ModuleType) -> None:
    bench = spelled(graphs)
    target = bench.context.target
    bench.context.target = replace(target, multiples=replace(target.multiples, heads=2))
    (edit,) = bench.run("prune-heads", ratio=0.3, scope="layer").edits
    assert edit.setting == "2-of-4"
    bench = spelled(graphs)
    bench.context.target = replace(target, multiples=replace(target.multiples, heads=8))
    assert not bench.run("prune-heads", ratio=0.5).edits
    assert "multiple" in bench.refusals().values()


# -- what it leaves alone --------------------------------------------------------------


def test_keys_and_values_that_leave_the_model_keep_their_heads(graphs: ModuleType) -> None:
    text = SPELLED.replace("float[n, t, 32] y", "float[n, t, 32] y, float[n, 4, t, 8] v")
    bench = graphs.Bench(graphs.parse(text, **WEIGHTS, **CONSTANTS), FEEDS)
    assert not bench.run("prune-heads", ratio=0.5).edits
    assert "signature" in bench.refusals().values()


def test_excluded_blocks_stay_whole(graphs: ModuleType) -> None:
    bench = stacked(graphs)
    first = next(site for site in find_sites(bench.model) if site.kind == "attention")
    bench.run("prune-heads", ratio=0.25, exclude=(first.name,))
    assert "excluded" in bench.refusals().values()
    assert tensor(bench, "wo").shape == (WIDTH, WIDTH)
    assert tensor(bench, "wo_two").shape == (3 * SIZE, WIDTH)


def test_without_data_it_is_refused(graphs: ModuleType) -> None:
    bench = spelled(graphs, calibrated=False)
    assert not bench.run("prune-heads").edits
    assert "no-calibration" in bench.refusals().values()


def test_options_are_its_own() -> None:
    instantiate(parse("prune-heads{score=schur scope=layer keep=3}"))
    with pytest.raises(UsageError, match="score"):
        instantiate(parse("prune-heads{score=obs}"))
    with pytest.raises(UsageError, match="no site can be float any more when prune-heads"):
        instantiate(parse("quantize,prune-heads"))
