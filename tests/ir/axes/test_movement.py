"""Reshapes, shapes that graphs compute, shared tensors: repaired exactly, or refused."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.axes.cut import cut_group
from planish.ir.axes.groups import AxisGroups
from planish.ir.axes.reshapes import blocks
from planish.ir.axes.sizes import Size
from planish.ir.rewriter import Rewriter

Array = Callable[..., np.ndarray]
Find = Callable[[ir.Model], AxisGroups]
ENDS = "g (float[b, s, 8] x) => (float[b, s, 5] y)"


def graph(body: str, ends: str = ENDS) -> str:
    return f'<ir_version: 8, opset_import: ["": 20]> {ends} {{ {body} }}'


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def between(graphs: ModuleType, array: Array, text: str, **more: np.ndarray) -> ir.Model:
    """``a`` of 12 features from one layer, ``z`` into the next."""
    body = f"a = MatMul(x, first) \n {text} \n y = MatMul(z, last)"
    wide = more.pop("last", array(12, 5))
    model: ir.Model = graphs.parse(graph(body), first=array(8, 12), last=wide, **more)
    return model


def first_code(groups: AxisGroups) -> str:
    return next(iter(groups.values())).code


def test_a_size_that_scales_is_refused(graphs: ModuleType, array: Array, find: Find) -> None:
    text = """
        n = Shape(a)
        w = Gather <axis = 0> (n, place)
        f = Cast <to = 1> (w)
        r = Sqrt(f)
        z = Div(a, r)"""
    refused = find(between(graphs, array, text, place=np.array(2)))
    assert first_code(refused) == "data-dependent"
    assert "Cast" in next(iter(refused.values())).sentence
    assert len(find(between(graphs, array, text, place=np.array(1))).cuttable()) == 1


def test_a_size_that_leaves_the_model_is_refused(
    graphs: ModuleType, array: Array, find: Find
) -> None:
    ends = "g (float[b, s, 8] x) => (float[b, s, 5] y, int64[3] n)"
    body = "a = MatMul(x, first) \n n = Shape(a) \n y = MatMul(a, last)"
    model = graphs.parse(graph(body, ends), first=array(8, 12), last=array(12, 5))
    assert first_code(find(model)) == "data-dependent"


def test_a_target_that_reads_the_size_of_what_is_cut_needs_no_repair(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    text = """
        n = Shape(a)
        w = Gather <axis = 0> (n, last_place)
        t = Concat <axis = 0> (flat, w)
        f = Reshape(a, t)
        g = Relu(f)
        z = Reshape(g, n)"""
    model = between(graphs, array, text, last_place=whole(2), flat=whole(-1))
    (group,) = find(model).cuttable()
    cut = against(model, group, [0, 3, 11], {"x": array(2, 3, 8)})
    assert graphs.lines(cut) == graphs.lines(model)


def test_a_target_is_repaired_for_one_of_two_readers(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    body = """
        a = MatMul(x, first)
        b = MatMul(x, second)
        t = Concat <axis = 0> (two, twelve)
        c = Reshape(a, t)
        d = Reshape(b, t)
        e = Softmax(d)
        p = MatMul(c, last)
        q = MatMul(e, other)
        y = Add(p, q)"""
    model = graphs.parse(
        graph(body, "g (float[2, 3, 8] x) => (float[2, 3, 5] y)"), first=array(8, 12),
        second=array(8, 12), last=array(12, 5), other=array(12, 5), two=whole(2, 3),
        twelve=whole(12),
    )  # fmt: skip
    (group,) = find(model).cuttable()
    cut = against(model, group, [1, 2], {"x": array(2, 3, 8)})
    assert graphs.ops(cut).count("Concat") == 2


def test_a_target_from_an_input_is_refused(graphs: ModuleType, array: Array, find: Find) -> None:
    ends = "g (float[b, s, 8] x, int64[3] t) => (float[b, s, 5] y)"
    body = "a = MatMul(x, first) \n z = Reshape(a, t) \n y = MatMul(z, last)"
    model = graphs.parse(graph(body, ends), first=array(8, 12), last=array(12, 5))
    assert first_code(find(model)) == "data-dependent"


def test_an_axis_mixed_with_the_length_is_refused(
    graphs: ModuleType, array: Array, find: Find
) -> None:
    text = """
        t = Transpose <perm = [0, 2, 1]> (a)
        f = Reshape(t, flat)
        g = Relu(f)
        u = Reshape(g, back)
        z = Transpose <perm = [0, 2, 1]> (u)"""
    groups = find(between(graphs, array, text, flat=whole(0, -1), back=whole(0, 12, -1)))
    assert first_code(groups) == "data-dependent"


def test_a_shared_vector_is_cut_for_one_reader_only(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    body = """
        a = MatMul(x, first)
        b = Add(a, bias)
        c = Sigmoid(b)
        d = MatMul(c, middle)
        e = Add(d, bias)
        f = LayerNormalization(e, bias)
        y = MatMul(f, last)"""
    model = graphs.parse(
        graph(body), first=array(8, 12), bias=array(12), middle=array(12, 12), last=array(12, 5)
    )
    (group,) = find(model).cuttable()
    (bias,) = [m for m in group.members if m.value == "bias"]
    assert (len(bias.uses), bias.role) == (1, "produces")
    cut = against(model, group, [0, 5], {"x": array(2, 3, 8)})
    assert cut.graph.initializers["bias"].shape == [12]
    assert cut.graph.initializers["bias_1"].shape == [2]


def test_a_shared_weight_couples_its_readers(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    body = """
        a = MatMul(x, up)
        b = Gelu(a)
        c = MatMul(b, down)
        d = Add(c, x)
        e = MatMul(d, up)
        f = Gelu(e)
        g = MatMul(f, down)
        y = MatMul(g, last)"""
    model = graphs.parse(graph(body), up=array(8, 12), down=array(12, 8), last=array(8, 5))
    (group,) = find(model).cuttable("neurons")
    assert {m.value for m in group.members} >= {"a", "b", "e", "f", "up", "down"}
    against(model, group, [0, 1, 2], {"x": array(2, 3, 8)})


def test_a_tied_embedding_is_refused_with_its_norm(
    graphs: ModuleType, array: Array, find: Find
) -> None:
    ends = "g (int64[b, s] i) => (float[b, s, 20] y)"
    body = """
        a = Gather(table, i)
        n = LayerNormalization(a, scale)
        t = Transpose(table)
        y = MatMul(n, t)"""
    model = graphs.parse(graph(body, ends), table=array(20, 8), scale=array(8))
    assert {g.code for g in find(model).values()} == {"reduction", "signature"}


def test_a_tied_embedding_without_a_norm_is_cut_on_both_sides(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    ends = "g (int64[b, s] i) => (float[b, s, 20] y)"
    body = """
        a = Gather(table, i)
        n = Tanh(a)
        m = MatMul(n, inner)
        t = Transpose(table)
        y = MatMul(m, t)"""
    model = graphs.parse(graph(body, ends), table=array(20, 8), inner=array(8, 8))
    (group,) = find(model).cuttable()
    assert group.kind == "features"
    against(model, group, [0, 1, 5], {"i": np.array([[1, 2, 19]])})


def test_a_reader_in_a_body_is_refused(graphs: ModuleType, array: Array, find: Find) -> None:
    ends = "g (float[b, s, 8] x, bool c) => (float[b, s, 5] y)"
    body = """
        a = MatMul(x, first)
        z = If (c) <
            then_branch = t () => (float[b, s, 12] p) { p = Relu(a) },
            else_branch = e () => (float[b, s, 12] q) { q = Neg(a) } >
        y = MatMul(z, last)"""
    model = graphs.parse(graph(body, ends), first=array(8, 12), last=array(12, 5))
    assert first_code(find(model)) == "control-flow"


@pytest.mark.parametrize(
    "text",
    [
        "z = Tile(a, repeats)",
        "n = ConstantOfShape(size) \n z = Concat <axis = 2> (a, n)",
        "t = Transpose <perm = [2, 1, 0]> (a) \n q = MatMul(a, t) \n z = MatMul(q, a)",
    ],
)
def test_the_rest_is_refused_or_right(
    text: str, graphs: ModuleType, array: Array, against: Any
) -> None:
    """Repeated features, a part that is not cut, a product of activations."""
    more = {"repeats": whole(1, 1, 2)} if "Tile" in text else {}
    more |= {"size": whole(2, 2, 3)} if "size" in text else {}
    width = {"T": 24, "n": 15, "t": 12}["T" if "Tile" in text else text[0]]
    ends = "g (float[2, 2, 8] x) => (float[2, 2, 5] y)"
    body = f"a = MatMul(x, first) \n {text} \n y = MatMul(z, last)"
    model = graphs.parse(graph(body, ends), first=array(8, 12), last=array(width, 5), **more)
    groups = against.every(model, {"x": array(2, 2, 8)})
    assert len(groups.cuttable()) == (0 if "Transpose" in text else 1)


def test_a_group_that_is_cut_twice(graphs: ModuleType, array: Array, find: Find) -> None:
    model = between(graphs, array, "z = Relu(a)")
    (group,) = find(model).cuttable()
    rewriter = Rewriter(model)
    with rewriter.edit("all"):
        cut_group(rewriter, group, range(12))  # nothing goes, nothing happens
    assert model.graph.initializers["first"].shape == [8, 12]
    with rewriter.edit("some"):
        cut_group(rewriter, group, [0, 1, 2, 3])
    (again,) = find(model).cuttable()
    with rewriter.edit("more"):
        cut_group(rewriter, again, [0])
    assert model.graph.initializers["first"].shape == [8, 1]


def sizes(*found: int | str) -> tuple[Size, ...]:
    return tuple((1, (f,)) if isinstance(f, str) else (f, ()) for f in found)


@pytest.mark.parametrize(
    ("ins", "outs", "expected"),
    [
        (("b", "s", 12), ("b", "s", 3, 4), [((0, 1), (0, 1)), ((1, 2), (1, 2)), ((2, 3), (2, 4))]),
        ((2, 6), (6, 2), [((0, 2), (0, 2))]),
        (("b", 3, "s"), ("c", "s"), [((0, 2), (0, 1)), ((2, 3), (1, 2))]),
        ((1, 12), (12,), [((0, 2), (0, 1))]),
        (("b", "s"), ("n",), [((0, 2), (0, 1))]),
    ],
)
def test_blocks_of_a_reshape(ins: Any, outs: Any, expected: Any) -> None:
    found = [(block.ins, block.outs) for block in blocks(sizes(*ins), sizes(*outs))]
    assert found == expected
