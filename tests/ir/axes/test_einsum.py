"""Spellings that some models bring along: Einsum, and lookups by GatherND."""

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
HEAD = '<ir_version: 10, opset_import: ["": 20]>'


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


ATTENTION = f"""{HEAD}
g (float[b, s, 8] x) => (float[b, s, 7] y) {{
    q = Einsum <equation = "bsc,chd->bshd"> (x, wq)
    k = Einsum <equation = "bsc,chd->bshd"> (x, wk)
    v = Einsum <equation = "bsc, chd -> bshd"> (x, wv)
    s0 = Einsum <equation = "bqhd,bkhd->bhqk"> (q, k)
    p = Softmax(s0)
    c = Einsum <equation = "bhqk,bkhd->bqhd"> (p, v)
    y = Einsum <equation = "bqhd,hdo->bqo"> (c, wo)
}}"""


def spelled(graphs: ModuleType, array: Array, text: str = ATTENTION) -> ir.Model:
    """Three heads of four, every product an Einsum. The only layer is a MatMul in front."""
    text = text.replace("float[b, s, 8] x", "float[b, s, 5] z").replace(
        "{\n", "{\n    x = MatMul(z, first)\n", 1
    )
    made: ir.Model = graphs.parse(
        text, first=array(5, 8), wq=array(8, 3, 4), wk=array(8, 3, 4), wv=array(8, 3, 4),
        wo=array(3, 4, 7),
    )  # fmt: skip
    return made


def test_what_an_einsum_reads_is_cut(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    model = spelled(graphs, array)
    (group,) = find(model).cuttable()
    assert (group.units, {m.value for m in group.of_role("consumes")}) == (8, {"wq", "wk", "wv"})
    cut = against(model, group, [0, 3, 6], {"z": array(2, 5, 5)})
    assert cut.graph.initializers["wk"].shape == [3, 3, 4]


HEADS = f"""{HEAD}
g (float[b, s, 8] x) => (float[b, s, 8] y) {{
    h = MatMul(x, w)
    parts = Reshape(h, to5)
    turned = Transpose <perm = [2, 0, 3, 1, 4]> (parts)
    q0, k0, v0 = Split <axis = 0, num_outputs = 3> (turned)
    q = Squeeze(q0, zero)
    k = Squeeze(k0, zero)
    v = Squeeze(v0, zero)
    s0 = Einsum <equation = "bhqd,bhkd->bhqk"> (q, k)
    near = Einsum <equation = "bhqd,qkd->bhqk"> (q, table)
    s1 = Add(s0, near)
    p = Softmax(s1)
    c0 = Einsum <equation = "bhqk,bhkd->bqhd"> (p, v)
    c = Reshape(c0, to3)
    y = MatMul(c, wo)
}}"""


def test_heads_between_einsums(graphs: ModuleType, array: Array, find: Find, against: Any) -> None:
    """With relative positions decomposed, as image encoders have them."""
    model = graphs.parse(
        HEADS, w=array(8, 36), wo=array(12, 8), table=array(6, 6, 4), to5=whole(-1, 6, 3, 3, 4),
        to3=whole(-1, 6, 12), zero=whole(0),
    )  # fmt: skip
    (group,) = find(model).cuttable("heads")
    assert (group.units, group.width) == (3, 4)
    assert {(m.value, m.role) for m in group.members if m.stored} == {
        ("w", "produces"), ("wo", "consumes")
    }  # fmt: skip
    against(model, group, [0, 2], {"x": array(2, 6, 8)})
    assert find(model).cuttable("features") == []  # queries and keys are summed over their width


def test_the_reason_is_that_of_the_heads_and_not_of_three_packed_in_one(
    graphs: ModuleType, array: Array, find: Find
) -> None:
    text = HEADS.replace('"bhqd,qkd->bhqk"', '"...qd,qkd->...qk"')
    groups = find(graphs.parse(
        text, w=array(8, 36), wo=array(12, 8), table=array(6, 6, 4), to5=whole(-1, 6, 3, 3, 4),
        to3=whole(-1, 6, 12), zero=whole(0),
    ))  # fmt: skip
    first = next(iter(groups.values()))
    assert (first.code, "Einsum" in first.sentence) == ("unknown-op", True)


@pytest.mark.parametrize(
    ("product", "code"),
    [
        ('Einsum <equation = "bsc,bsd->bc"> (z, h)', "reduction"),
        ('Einsum <equation = "bsc,btc->bst"> (h, h)', "contraction"),
        ('Einsum <equation = "...c,...d->...c"> (z, h)', "unknown-op"),
    ],
)
def test_an_einsum_that_sums_over_the_axis_or_says_too_little_is_refused(
    graphs: ModuleType, array: Array, find: Find, product: str, code: str
) -> None:
    text = f"""{HEAD} g (float[b, s, 5] x, float[b, s, 6] z) => (float[b, s, 6] y) {{
        h = MatMul(x, w)
        e = {product}
        f = ReduceSum(e)
        y = Add(z, f) }}"""
    (group,) = find(graphs.parse(text, w=array(5, 6))).values()
    assert group.code == code
    assert "Einsum" in group.sentence


GATHERED = f"""{HEAD}
g (float[b, s, 8] x) => (float[b, s, 8] y) {{
    h = MatMul(x, w)
    parts = Reshape(h, to5)
    turned = Transpose <perm = [3, 0, 1, 2, 4]> (parts)
    k0 = GatherND(turned, first)
    k1 = Squeeze(k0, zero)
    v0 = GatherND(turned, second)
    v1 = Squeeze(v0, zero)
    k = Transpose <perm = [0, 2, 3, 1]> (k1)
    v = Transpose <perm = [0, 2, 1, 3]> (v1)
    q1 = Slice(parts, zero, end, axis)
    q2 = Squeeze(q1, axis)
    q = Transpose <perm = [0, 2, 1, 3]> (q2)
    s0 = MatMul(q, k)
    p = Softmax(s0)
    c0 = MatMul(p, v)
    c1 = Transpose <perm = [0, 2, 1, 3]> (c0)
    c = Reshape(c1, to3)
    y = MatMul(c, wo)
}}"""


def test_keys_and_values_that_gather_nd_picks(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    """Two groups, each of one head's query, key and value, in this order along an axis."""
    model = graphs.parse(
        GATHERED, w=array(8, 24), wo=array(8, 8), to5=whole(0, 0, 2, 3, 4), to3=whole(0, 0, 8),
        first=np.array([[-2]]), second=np.array([[-1]]), zero=whole(0), end=whole(1),
        axis=whole(3),
    )  # fmt: skip
    (group,) = find(model).cuttable("heads")
    assert (group.units, group.width) == (2, 4)
    cut = against(model, group, [1], {"x": array(2, 5, 8)})
    assert cut.graph.initializers["w"].shape == [8, 12]


def test_what_gather_nd_looks_up_is_not_cut(graphs: ModuleType, array: Array, find: Find) -> None:
    text = f"""{HEAD} g (float[4, 8] x, int64[n, 2] places) => (float[n] y) {{
        h = MatMul(x, w)
        y = GatherND(h, places) }}"""
    (group,) = find(graphs.parse(text, w=array(8, 6))).values()
    assert (group.code, "GatherND" in group.sentence) == ("data-dependent", True)
