"""Attention and rotary embedding as one operator: heads, their attributes, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.axes.groups import AxisGroups

Array = Callable[..., np.ndarray]
Find = Callable[[ir.Model], AxisGroups]
HEAD = '<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]>'
ENDS = "g (float[b, s, 8] x{more}) => (float[b, s, 8] y)"


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def graph(body: str, more: str = "") -> str:
    return f"{HEAD} {ENDS.format(more=more)} {{ {body} }}"


PROJECTIONS = """
    q0 = MatMul(x, wq)
    q = Add(q0, bq)
    k = MatMul(x, wk)
    v0 = MatMul(x, wv)
    v = Add(v0, bv)
"""


def weights(array: Array, queries: int, pairs: int, width: int = 4) -> dict[str, np.ndarray]:
    return {
        "wq": array(8, queries * width), "wk": array(8, pairs * width),
        "wv": array(8, pairs * width), "wo": array(queries * width, 8),
        "bq": array(queries * width), "bv": array(pairs * width),
    }  # fmt: skip


def heads(find: Find, model: ir.Model, units: int, width: int) -> Any:
    (group,) = find(model).cuttable("heads")
    assert (group.units, group.width) == (units, width)
    return group


def attribute(graphs: ModuleType, model: ir.Model, op_type: str, name: str) -> Any:
    node = next(n for n in model.graph if n.op_type == op_type)
    return node.attributes[name].value


def test_attention_on_three_axes(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    body = f"""{PROJECTIONS}
        c = Attention <q_num_heads = 6, kv_num_heads = 3> (q, k, v, mask)
        y = MatMul(c, wo)"""
    model = graphs.parse(graph(body, ", float[b, 6, s, s] mask"), **weights(array, 6, 3))
    assert find(model).cuttable("heads") == []  # the heads of the mask are an input's
    model = graphs.parse(graph(body, ", float[s, s] mask"), **weights(array, 6, 3))
    group = heads(find, model, 3, 4)
    feeds = {"x": array(2, 5, 8), "mask": array(5, 5)}
    cut = against(model, group, [0, 2], feeds)
    assert attribute(graphs, cut, "Attention", "q_num_heads") == 4
    assert attribute(graphs, cut, "Attention", "kv_num_heads") == 2
    features = [g for g in find(model).cuttable() if g.kind == "features"]
    assert {(g.units, g.width) for g in features} == {(2, 12), (4, 3)}
    one_of_two, values = sorted(features, key=lambda g: g.units)
    cut = against(model, one_of_two, [1], feeds)
    assert attribute(graphs, cut, "Attention", "q_num_heads") == 3
    assert attribute(graphs, cut, "Attention", "kv_num_heads") == 3
    cut = against(model, values, [1, 2, 3], feeds)
    assert attribute(graphs, cut, "Attention", "q_num_heads") == 6


def test_attention_on_four_axes_with_a_bias_table(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    body = f"""{PROJECTIONS}
        q1 = Reshape(q, to4)
        q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
        q3 = RotaryEmbedding(q2, cosines, sines)
        k1 = Reshape(k, to4)
        k2 = Transpose <perm = [0, 2, 1, 3]> (k1)
        v1 = Reshape(v, to4)
        v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
        t = Gather(table, places)
        u = Transpose <perm = [2, 0, 1]> (t)
        c = Attention(q3, k2, v2, u)
        c1 = Transpose <perm = [0, 2, 1, 3]> (c)
        c2 = Reshape(c1, to3)
        y = MatMul(c2, wo)"""
    model = graphs.parse(
        graph(body, ", int64[s, s] places"), **weights(array, 3, 3), to4=whole(0, -1, 3, 4),
        to3=whole(0, 0, 12), table=array(7, 3), cosines=array(2, 5, 2), sines=array(2, 5, 2),
    )  # fmt: skip
    group = heads(find, model, 3, 4)
    assert "table" in {m.value for m in group.members}
    places = np.arange(25).reshape(5, 5) % 7
    against(model, group, [1], {"x": array(2, 5, 8), "places": places})


FOUR_AXES = """
        q1 = Unsqueeze(q, one)
        k1 = Unsqueeze(k, one)
        v1 = Unsqueeze(v, one)
        c1 = Attention(q1, k1, v1)
        c = Squeeze(c1, one)"""


@pytest.mark.parametrize(
    "core", ["c = Attention <q_num_heads = 1, kv_num_heads = 1> (q, k, v)", FOUR_AXES]
)
def test_the_width_of_a_single_head_makes_no_neurons(
    core: str, graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    """What is left when all heads but one were cut."""
    body = f"""{PROJECTIONS}
        {core}
        y = MatMul(c, wo)"""
    made = weights(array, 1, 1, 6)
    model = graphs.parse(graph(body), **made, **({"one": whole(1)} if core == FOUR_AXES else {}))
    (group,) = find(model).cuttable()
    assert (group.kind, group.units) == ("features", 6)
    against(model, group, [0, 2, 5], {"x": array(2, 5, 8)})


def test_multi_head_attention(graphs: ModuleType, array: Array, find: Find, against: Any) -> None:
    body = """
        q = MatMul(x, wq)
        k = MatMul(x, wk)
        v = MatMul(x, wv)
        c = com.microsoft.MultiHeadAttention <num_heads = 3> (q, k, v, bias, , scores)
        y = MatMul(c, wo)"""
    made = weights(array, 3, 3)
    del made["bq"], made["bv"]
    model = graphs.parse(graph(body), **made, bias=array(36), scores=array(1, 3, 5, 5))
    group = heads(find, model, 3, 4)
    cut = against(model, group, [0, 1], {"x": array(2, 5, 8)})
    assert attribute(graphs, cut, "MultiHeadAttention", "num_heads") == 2
    assert cut.graph.initializers["bias"].shape == [24]
    assert cut.graph.initializers["scores"].shape == [1, 2, 5, 5]


@pytest.mark.parametrize("packed", [False, True])
def test_grouped_query_attention(
    packed: bool, graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    made = weights(array, 4, 2, 8)
    read = "qkv, , , , , last, total" if packed else "q, k, v, , , last, total"
    first = "qkv = MatMul(x, packed)" if packed else PROJECTIONS
    body = f"""{first}
        c = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2> ({read})
        y = MatMul(c, wo)"""
    if packed:
        made = {"packed": array(8, 64), "wo": made["wo"]}
    total = np.array(5, np.int32)
    text = graph(body, ", int32[b] last")
    model = graphs.parse(text, **made, total=total)
    group = heads(find, model, 2, 16 if packed else 8)
    feeds = {"x": array(2, 5, 8), "last": np.full(2, 4, np.int32)}
    cut = against(model, group, [1], feeds)
    assert attribute(graphs, cut, "GroupQueryAttention", "num_heads") == 2
    assert attribute(graphs, cut, "GroupQueryAttention", "kv_num_heads") == 1


def test_attention_that_holds_its_weight(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    body = """
        c = com.microsoft.Attention <num_heads = 3> (x, packed, bias)
        y = MatMul(c, wo)"""
    model = graphs.parse(graph(body), packed=array(8, 36), bias=array(36), wo=array(12, 8))
    group = heads(find, model, 3, 4)
    cut = against(model, group, [0, 2], {"x": array(2, 5, 8)})
    assert attribute(graphs, cut, "Attention", "num_heads") == 2
    assert cut.graph.initializers["packed"].shape == [8, 24]
    assert cut.graph.initializers["bias"].shape == [24]


def test_rotary_on_three_axes(graphs: ModuleType, array: Array, find: Find, against: Any) -> None:
    body = f"""{PROJECTIONS}
        r = RotaryEmbedding <num_heads = 3> (q, cosines, sines)
        c = Attention <q_num_heads = 3, kv_num_heads = 3> (r, k, v)
        y = MatMul(c, wo)"""
    angles = {"cosines": array(2, 5, 2), "sines": array(2, 5, 2)}
    model = graphs.parse(graph(body), **weights(array, 3, 3), **angles)
    cut = against(model, heads(find, model, 3, 4), [2], {"x": array(2, 5, 8)})
    assert attribute(graphs, cut, "RotaryEmbedding", "num_heads") == 1


def test_keys_and_values_that_leave_the_model_are_refused(
    graphs: ModuleType, array: Array, find: Find
) -> None:
    text = f"""{HEAD} g (float[b, s, 8] x, float[b, 3, p, 4] pk, float[b, 3, p, 4] pv)
        => (float[b, s, 8] y, float[b, 3, t, 4] nk, float[b, 3, t, 4] nv) {{ {PROJECTIONS}
        c, nk, nv = Attention <q_num_heads = 3, kv_num_heads = 3> (q, k, v, , pk, pv)
        y = MatMul(c, wo) }}"""
    groups = find(graphs.parse(text, **weights(array, 3, 3)))
    assert groups.cuttable("heads") == []
    first = next(iter(groups.values()))
    assert first.code == "signature"
    assert "'pk'" in first.sentence or "'nk'" in first.sentence


def test_numbers_of_heads_that_do_not_fit_are_refused(
    graphs: ModuleType, array: Array, find: Find
) -> None:
    body = f"""{PROJECTIONS}
        c = com.microsoft.MultiHeadAttention <num_heads = 5> (q, k, v)
        y = MatMul(c, wo)"""
    groups = find(graphs.parse(graph(body), **weights(array, 3, 3)))
    assert groups.cuttable() == []
    first = next(iter(groups.values()))
    assert (first.code, "MultiHeadAttention" in first.sentence) == ("unknown-op", True)
