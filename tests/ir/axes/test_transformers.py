"""Neurons and heads: spelled out by hand, and as exporters write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.axes.cut import cut_group
from planish.ir.axes.groups import AxisGroups
from planish.ir.errors import PassError
from planish.ir.load import load_model
from planish.ir.rewriter import Rewriter

Array = Callable[..., np.ndarray]
Find = Callable[[ir.Model], AxisGroups]
HEAD = '<ir_version: 10, opset_import: ["": 20]>'

FEED_FORWARD = f"""{HEAD}
g (float[b, s, 8] x) => (float[b, s, 8] y) {{
    h = MatMul(x, up)
    hb = Add(h, up_bias)
    e = Sigmoid(hb)
    o = MatMul(e, down)
    y = Add(o, down_bias)
}}"""

GATED = f"""{HEAD}
g (float[b, s, 8] x) => (float[b, s, 8] y) {{
    g = MatMul(x, gate)
    u = MatMul(x, up)
    s = Sigmoid(g)
    a = Mul(g, s)
    m = Mul(a, u)
    y = MatMul(m, down)
}}"""

PACKED = f"""{HEAD}
g (float[b, s, 8] x) => (float[b, s, 8] y) {{
    p = MatMul(x, both)
    g, u = Split <axis = -1> (p, halves)
    s = Sigmoid(g)
    a = Mul(g, s)
    m = Mul(a, u)
    y = MatMul(m, down)
}}"""

ATTENTION = f"""{HEAD}
g (float[b, s, 8] x, float[b, 1, 1, s] mask) => (float[b, s, 8] y) {{
    shape = Shape(x)
    batch = Gather <axis = 0> (shape, first)
    length = Gather <axis = 0> (shape, second)
    to4 = Concat <axis = 0> (batch, length, heads, width)
    to3 = Concat <axis = 0> (batch, length, hidden)
    q0 = MatMul(x, wq)
    q1 = Add(q0, bq)
    q2 = Reshape(q1, to4)
    q = Transpose <perm = [0, 2, 1, 3]> (q2)
    k0 = MatMul(x, wk)
    k2 = Reshape(k0, to4)
    k = Transpose <perm = [0, 2, 3, 1]> (k2)
    v0 = MatMul(x, wv)
    v1 = Add(v0, bv)
    v2 = Reshape(v1, fixed)
    v = Transpose <perm = [0, 2, 1, 3]> (v2)
    s0 = MatMul(q, k)
    s1 = Div(s0, root)
    s2 = Add(s1, mask)
    p = Softmax(s2)
    c0 = MatMul(p, v)
    c1 = Transpose <perm = [0, 2, 1, 3]> (c0)
    c = Reshape(c1, to3)
    y0 = MatMul(c, wo)
    y = Add(y0, bo)
}}"""


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def attention(graphs: ModuleType, array: Array, text: str = ATTENTION, **more: Any) -> ir.Model:
    """Four heads of three."""
    model: ir.Model = graphs.parse(
        text, wq=array(8, 12), wk=array(8, 12), wv=array(8, 12), wo=array(12, 8), bq=array(12),
        bv=array(12), bo=array(8), first=whole(0), second=whole(1), heads=whole(4),
        width=whole(3), hidden=whole(12), fixed=whole(0, -1, 4, 3), root=np.float32(1.7), **more,
    )  # fmt: skip
    return model


def attention_feeds(array: Array) -> dict[str, np.ndarray]:
    return {"x": array(2, 5, 8), "mask": array(2, 1, 1, 5)}


def test_neurons_of_a_feed_forward_block(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    model = graphs.parse(
        FEED_FORWARD, up=array(8, 16), up_bias=array(16), down=array(16, 8), down_bias=array(8)
    )
    groups = find(model)
    (group,) = groups.cuttable()
    assert (group.kind, group.units, group.width) == ("neurons", 16, 1)
    assert {(m.value, m.axis, m.role) for m in group.members if m.stored} == {
        ("up", 1, "produces"), ("up_bias", 0, "produces"), ("down", 0, "consumes")
    }  # fmt: skip
    cut = against(model, group, [0, 3, 9], {"x": array(2, 5, 8)})
    assert [cut.graph.initializers[n].shape for n in ("up", "up_bias", "down")] == [
        [8, 3], [3], [3, 8]
    ]  # fmt: skip
    refused = [g for g in groups.values() if not g.cuttable]
    assert [(g.code, g.sites) for g in refused] == [("signature", (refused[0].sites[0],))]


def test_neurons_of_a_gated_block(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    model = graphs.parse(GATED, up=array(8, 16), gate=array(8, 16), down=array(16, 8))
    (group,) = find(model).cuttable()
    assert (group.kind, group.units, len(group.sites)) == ("neurons", 16, 3)
    against(model, group, [1, 2, 15], {"x": array(2, 5, 8)})


def test_neurons_of_a_gated_block_with_packed_weights(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    model = graphs.parse(PACKED, both=array(8, 32), halves=whole(16, 16), down=array(16, 8))
    (group,) = find(model).cuttable()
    assert (group.kind, group.units, group.width) == ("neurons", 16, 1)
    (packed,) = [m for m in group.members if m.value == "both"]
    assert packed.index.tolist() == [[i, 16 + i] for i in range(16)]
    cut = against(model, group, [0, 7, 9], {"x": array(2, 5, 8)})
    assert cut.graph.initializers["both"].shape == [8, 6]


def test_heads_spelled_out(graphs: ModuleType, array: Array, find: Find, against: Any) -> None:
    model = attention(graphs, array)
    heads, features = find(model).cuttable()
    assert (heads.kind, heads.units, heads.width) == ("heads", 4, 3)
    assert (features.kind, features.units, features.width) == ("features", 3, 4)
    (query,) = [m for m in heads.members if m.value == "wq"]
    assert query.index.tolist() == np.arange(12).reshape(4, 3).tolist()
    assert {m.value for m in heads.of_role("consumes")} == {"wo"}
    cut = against(model, heads, [1, 3], attention_feeds(array))
    assert cut.graph.initializers["wo"].shape == [6, 8]
    assert graphs.ops(cut).count("Gather") == graphs.ops(model).count("Gather")
    assert "Slice" not in graphs.ops(cut)
    against(model, features, [0, 2], attention_feeds(array))


def test_a_softmax_over_heads_is_refused(graphs: ModuleType, array: Array, find: Find) -> None:
    model = attention(graphs, array, ATTENTION.replace("Softmax(s2)", "Softmax <axis = 1> (s2)"))
    groups = find(model)
    assert [g.kind for g in groups.cuttable()] == ["features"]
    (refused,) = [g for g in groups.values() if "wq" in g.name or g.sites == ("q",)] or [
        next(iter(groups.values()))
    ]
    assert refused.code == "reduction"
    assert "Softmax" in refused.sentence


def test_an_unknown_operator_is_refused(graphs: ModuleType, array: Array, find: Find) -> None:
    text = FEED_FORWARD.replace('["": 20]', '["": 20, "my.own": 1]')
    model = graphs.parse(
        text.replace("Sigmoid(hb)", "my.own.Twist(hb)").replace(
            "o = MatMul", "e2 = Reshape(e, to)\n o = MatMul"
        ).replace("MatMul(e,", "MatMul(e2,"),
        up=array(8, 16), up_bias=array(16), down=array(16, 8), down_bias=array(8),
        to=whole(1, -1, 16),
    )  # fmt: skip
    first = next(iter(find(model).values()))
    assert (first.code, first.cuttable) == ("unknown-op", False)
    assert "my.own.Twist" in first.sentence
    with pytest.raises(PassError, match="unknown-op"):
        cut_group(Rewriter(model), first, [0])


def test_bad_requests(graphs: ModuleType, array: Array, find: Find) -> None:
    model = attention(graphs, array)
    group = find(model).cuttable("heads")[0]
    before = graphs.snapshot(model)
    for keep, message in (([], "no unit is kept"), ([0, 4], "unit 4 does not exist")):
        with pytest.raises(PassError, match=message):
            cut_group(Rewriter(model), group, keep)
    rewriter = Rewriter(model)
    with pytest.raises(PassError, match="was given for"), rewriter.edit("cut"):
        cut_group(rewriter, group, [0], {"wo": array(12, 8)})
    assert graphs.snapshot(model) == before
    with rewriter.edit("cut"):
        cut_group(rewriter, group, [0])
    with pytest.raises(PassError, match="has no such group now"):
        cut_group(rewriter, group, [0])


def test_contents_can_be_given(graphs: ModuleType, array: Array, find: Find) -> None:
    model = attention(graphs, array)
    rewriter, given = Rewriter(model), array(6, 8)
    with rewriter.edit("cut"):
        cut_group(rewriter, find(model).cuttable("heads")[0], [1, 2], {"wo": given})
    tensor = model.graph.initializers["wo"].const_value
    assert tensor is not None
    assert np.array_equal(tensor.numpy(), given)


@pytest.fixture(scope="module")
def minilm(task: Callable[[str], Any]) -> ir.Model:
    return load_model(Path(task("minilm").model)).model


@pytest.mark.torch
def test_minilm(minilm: ir.Model, find: Find, against: Any) -> None:
    groups = find(minilm)
    heads, neurons = groups.cuttable("heads"), groups.cuttable("neurons")
    assert [(g.units, g.width) for g in heads] == [(12, 32)] * 6
    assert [(g.units, g.width) for g in neurons] == [(1536, 1)] * 6
    assert [g.name.rsplit(".", 1)[0] for g in heads] == [
        f"bert.encoder.layer.{i}.attention.self.query" for i in range(6)
    ]
    random = np.random.default_rng(0)
    feeds = {
        value.name: random.integers(1, 2 if "mask" in str(value.name) else 9000, (2, 9))
        for value in minilm.graph.inputs
    }
    against(minilm, heads[0], [0, 4, 5, 11], feeds)
    against(minilm, neurons[5], list(range(0, 1536, 3)), feeds)


@pytest.mark.torch
def test_cuts_of_minilm_go_together(minilm: ir.Model, find: Find, graphs: ModuleType) -> None:
    rewriter = Rewriter(minilm)
    mark, before = rewriter.checkpoint(), graphs.snapshot(minilm)
    for group in find(minilm).cuttable("heads", "neurons"):
        with rewriter.edit(group.name):
            cut_group(rewriter, group, range(group.units // 2))
    again = find(minilm)
    assert [g.units for g in again.cuttable("heads")] == [6] * 6
    assert [g.units for g in again.cuttable("neurons")] == [768] * 6
    rewriter.rollback(mark)
    assert graphs.snapshot(minilm) == before


def test_every_block_of_a_thousand_nodes(graphs: ModuleType, array: Array, find: Find) -> None:
    body: list[str] = []
    tensors: dict[str, np.ndarray] = {}
    x = "x"
    lines = ATTENTION[ATTENTION.index("q0 =") : ATTENTION.index("    y = Add")]
    names = sorted(set(re.findall(r"\b(\w+) = ", lines)), key=len, reverse=True)
    for block in range(54):
        text = re.sub(rf"\b({'|'.join(names)})\b", rf"\g<1>_{block}", lines)
        text = re.sub(r"\b(w[qkvo]|b[qv])\b", rf"\g<1>_{block}", text)
        body += [re.sub(r"\(x,", f"({x},", text), f"x_{block} = Add(y0_{block}, {x})"]
        x = f"x_{block}"
        tensors |= {f"{n}_{block}": array(48, 48) for n in ("wq", "wk", "wv", "wo")}
        tensors |= {f"{n}_{block}": array(48) for n in ("bq", "bv")}
    text = (
        f"{HEAD} g (float[b, s, 48] x, float[b, 1, 1, s] mask) => (float[b, s, 48] y)"
        f" {{ {chr(10).join(body)} y = Softmax({x}) }}"
    )
    model = graphs.parse(
        text.replace("to4", "fixed").replace("to3", "last"), **tensors, root=np.float32(2),
        fixed=whole(0, -1, 12, 4), last=whole(0, 0, 48),
    )  # fmt: skip
    assert len(model.graph) > 1000
    assert [(g.units, g.width) for g in find(model).cuttable("heads")] == [(12, 4)] * 54


@pytest.mark.torch
def test_grouped_keys_and_values_with_rotary_embedding(
    task: Callable[[str], Any], find: Find, against: Any
) -> None:
    """The Llama of 260 thousand parameters: eight query heads, four heads of keys and values."""
    model = load_model(Path(task("stories260k").model)).model
    groups = find(model)
    heads = groups.cuttable("heads")
    assert [(g.units, g.width) for g in heads] == [(4, 8)] * 5
    assert [g.units for g in groups.cuttable("neurons")] == [172] * 5
    (query,) = [m for m in heads[0].of_role("produces") if m.index.shape[1] == 16]
    assert query.index[1].tolist() == list(range(16, 32))
    names = [str(v.name) for v in model.graph.inputs]
    feeds = {n: np.random.default_rng(0).integers(3, 500, (2, 9)) for n in names}
    cut = against(model, heads[1], [0, 2, 3], feeds)
    assert sum(m.value in cut.graph.initializers for m in heads[1].members if m.stored) >= 4
    against(model, groups.cuttable("neurons")[4], range(20, 170), feeds)
    other = next(g for g in groups.cuttable("features") if g.units == 2)
    against(model, other, [1], feeds)  # one query head of each group
