"""Channels of convolutional networks: what goes together, and what must not be cut."""

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
from planish.ir.axes.groups import AxisGroup, AxisGroups
from planish.ir.errors import PassError
from planish.ir.graph import dims
from planish.ir.load import load_model
from planish.ir.rewriter import Rewriter

Array = Callable[..., np.ndarray]
Find = Callable[[ir.Model], AxisGroups]


def graph(body: str, *, opset: int = 20, ends: str = "") -> str:
    head = f'<ir_version: 8, opset_import: ["": {opset}]>'
    ends = ends or "g (float[n, 3, 8, 8] x) => (float[n, 5] y)"
    return f"{head} {ends} {{ {body} }}"


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


HEAD = "p = GlobalAveragePool(z) \n f = Flatten(p) \n y = Gemm <transB = 1> (f, head)"
FEEDS = {"x": np.random.default_rng(3).normal(size=(2, 3, 8, 8)).astype(np.float32)}


def only(groups: AxisGroups) -> AxisGroup:
    (group,) = groups.cuttable()
    return group


def stored(group: AxisGroup) -> set[tuple[str, int, str]]:
    return {(m.value, m.axis, m.role) for m in group.members if m.stored}


def test_a_residual_block(graphs: ModuleType, array: Array, find: Find, against: Any) -> None:
    body = f"""
        a = Conv <pads = [1, 1, 1, 1]> (x, first, bias)
        r = Relu(a)
        b = Conv <pads = [1, 1, 1, 1]> (r, inner)
        c = BatchNormalization(b, scale, shift, mean, spread)
        d = Relu(c)
        e = Conv(d, last)
        z = Add(e, r)
        {HEAD}"""
    made = {n: array(6) for n in ("bias",)} | {n: array(4) for n in ("scale", "shift", "mean")}
    model = graphs.parse(
        graph(body), first=array(6, 3, 3, 3), inner=array(4, 6, 3, 3), last=array(6, 4, 1, 1),
        spread=np.abs(array(4)) + 1, head=array(5, 6), **made,
    )  # fmt: skip
    outer, inner = find(model).cuttable()
    assert stored(outer) == {
        ("first", 0, "produces"), ("bias", 0, "produces"), ("inner", 1, "consumes"),
        ("last", 0, "produces"), ("head", 1, "consumes"),
    }  # fmt: skip
    assert ("scale", 0, "carries") in stored(inner)
    against(model, outer, [0, 2, 5], FEEDS)
    against(model, inner, [3], FEEDS)


def test_a_depthwise_convolution(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    body = f"""
        a = Conv(x, first)
        b = Clip(a, low, high)
        c = Conv <group = 6, pads = [1, 1, 1, 1]> (b, deep, bias)
        z = Relu(c)
        {HEAD}"""
    model = graphs.parse(
        graph(body), first=array(6, 3, 1, 1), deep=array(6, 1, 3, 3), bias=array(6),
        head=array(5, 6), low=np.float32(0), high=np.float32(6),
    )  # fmt: skip
    group = only(find(model))
    assert ("deep", 0, "carries") in stored(group)
    cut = against(model, group, [1, 2, 3], FEEDS)
    assert next(n for n in cut.graph if len(n.inputs) == 3).op_type == "Clip"
    assert [n.attributes["group"].value for n in cut.graph if "group" in n.attributes] == [3]


def test_a_grouped_convolution_goes_by_groups_or_by_places_in_every_group(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    body = f"""
        a = Conv(x, first)
        b = Conv <group = 2> (a, grouped)
        z = Relu(b)
        {HEAD}"""
    model = graphs.parse(
        graph(body), first=array(6, 3, 1, 1), grouped=array(8, 3, 1, 1), head=array(5, 8)
    )
    groups = find(model).cuttable()
    assert sorted((g.units, len(stored(g)), g.kind) for g in groups) == [
        (2, 3, "features"), (3, 2, "channels"), (4, 2, "channels")
    ]  # fmt: skip
    for group in groups:
        cut = against(model, group, [0], FEEDS)
        conv = next(n for n in cut.graph if n.inputs[1].name == "grouped")
        assert conv.attributes["group"].value == (1 if group.units == 2 else 2)


def test_ways_that_collapse_leave_the_others(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    """Whole groups hold all of ``a``, places one of its channels each."""
    body = f"""
        a = Conv(x, first)
        b = Conv(x, second)
        c = Concat <axis = 1> (a, b, b, a)
        z = Conv <group = 2> (c, grouped)
        {HEAD}"""
    model = graphs.parse(
        graph(body), first=array(2, 3, 1, 1), second=array(2, 3, 1, 1),
        grouped=array(6, 4, 1, 1), head=array(5, 6),
    )  # fmt: skip
    group = find(model).cuttable("channels")[0]
    assert (group.units, group.kind) == (2, "channels")
    assert {"first", "second"} <= {m.value for m in group.members}
    cut = against(model, group, [1], FEEDS)
    assert cut.graph.initializers["grouped"].shape == [6, 2, 1, 1]


def test_channels_that_groups_tie_together_are_refused_with_the_layer_that_does(
    graphs: ModuleType, array: Array, find: Find
) -> None:
    """Channel 0 has the place of channel 1 in the other group."""
    body = f"""
        a = Conv(x, first)
        b = Gather <axis = 1> (a, swapped)
        c = Concat <axis = 1> (a, b)
        z = Conv <group = 2> (c, grouped)
        {HEAD}"""
    model = graphs.parse(
        graph(body), first=array(2, 3, 1, 1), grouped=array(6, 2, 1, 1), head=array(5, 6),
        swapped=whole(1, 0),
    )  # fmt: skip
    refused = next(iter(find(model).values()))
    assert refused.code == "single"
    assert "of Conv 'Conv_3' go together" in refused.sentence


@pytest.mark.parametrize(("groups", "units"), [(4, 4), (8, 8), (1, None)])
def test_a_group_norm_is_cut_in_whole_groups(
    groups: int, units: int | None, graphs: ModuleType, array: Array, find: Find, zeroed: Any
) -> None:
    body = f"""
        a = Conv(x, first)
        b = GroupNormalization <num_groups = {groups}> (a, scale, shift)
        z = Relu(b)
        {HEAD}"""
    # ONNX infers nothing behind this operator; exporters state the shapes.
    ends = """g (float[n, 3, 8, 8] x) => (float[n, 5] y)
        <float[n, 8, 8, 8] b, float[n, 8, 8, 8] z, float[n, 8, 1, 1] p, float[n, 8] f>"""
    model = graphs.parse(
        graph(body, opset=21, ends=ends), first=array(8, 3, 1, 1), head=array(5, 8),
        scale=array(8), shift=array(8),
    )  # fmt: skip
    if units is None:
        assert next(iter(find(model).values())).code == "reduction"
        return
    group = only(find(model))
    assert (group.units, group.width) == (units, 8 // units)
    keep = [0, 2, 3]
    dropped = [unit for unit in range(units) if unit not in keep]
    expected = graphs.run(zeroed(model, group, dropped), FEEDS)["y"]
    with (rewriter := Rewriter(model)).edit("cut"):
        cut_group(rewriter, group, keep)
    (norm,) = [n for n in model.graph if n.op_type == "GroupNormalization"]
    assert norm.attributes["num_groups"].value == 3
    assert model.graph.initializers["scale"].shape == [24 // units]
    np.testing.assert_allclose(graphs.run(model, FEEDS)["y"], expected, rtol=0, atol=1e-4)


COMPUTED = """
        a = Conv(x, first)
        n = Shape(a)
        c = Gather <axis = 0> (n, one)
        c1 = Add(c, one)
        h = Div(c1, two)
        h2 = Mul(two, h)
        left = Slice(a, zero, h, one)
        right = Slice(a, h, h2, one)
        r = Relu(right)
        j = Concat <axis = 1> (r, left)
        m = Shape(j)
        d0 = Gather <axis = 0> (m, zero)
        dc = Gather <axis = 0> (m, one)
        dh = Gather <axis = 0> (m, two)
        dw = Gather <axis = 0> (m, three)
        part = Div(dc, two)
        w = Cast <to = 7> (part)
        t5 = Concat <axis = 0> (d0, two, w, dh, dw)
        v = Reshape(j, t5)
        u = Transpose <perm = [0, 2, 1, 3, 4]> (v)
        t4 = Concat <axis = 0> (d0, dc, dh, dw)
        z = Reshape(u, t4)"""
"""Halves and a shuffle as the older exporter of PyTorch writes them."""


def test_sizes_that_are_computed_from_channels_are_put_right(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    vectors = {"zero": 0, "one": 1, "two": 2, "three": 3}
    model = graphs.parse(
        graph(f"{COMPUTED} \n {HEAD}"), first=array(8, 3, 1, 1), head=array(5, 8),
        **{name: whole(n) for name, n in vectors.items()},
    )  # fmt: skip
    group = only(find(model))
    assert group.units == 4  # channels p and p + 4 lie side by side behind the shuffle
    cut = against(model, group, [0, 2, 3], FEEDS)
    assert cut.graph.initializers["first"].shape == [6, 3, 1, 1]


@pytest.mark.parametrize("use", ["s = Cast <to = 1> (h) \n z = Mul(r, s)", "z = Tile(r, t)"])
def test_sizes_that_are_computed_with_otherwise_are_refused(
    use: str, graphs: ModuleType, array: Array, find: Find
) -> None:
    body = f"""
        a = Conv(x, first)
        n = Shape(a)
        c = Gather <axis = 0> (n, one)
        h = Div(c, two)
        r = Relu(a)
        t = Concat <axis = 0> (one, one, h, one)
        {use}
        {HEAD}"""
    model = graphs.parse(
        graph(body), first=array(8, 3, 1, 1), head=array(5, 8), one=whole(1), two=whole(2)
    )
    refused = next(iter(find(model).values()))
    assert refused.code == "data-dependent"
    assert "Cast" in refused.sentence or "Tile" in refused.sentence


def test_concatenated_channels_keep_their_own_groups(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    body = f"""
        a = Conv(x, first)
        b = Conv(x, second)
        c = Concat <axis = 1> (a, b)
        d = Relu(c)
        z = Conv(d, third)
        {HEAD}"""
    model = graphs.parse(
        graph(body), first=array(4, 3, 1, 1), second=array(6, 3, 1, 1),
        third=array(5, 10, 1, 1), head=array(5, 5),
    )  # fmt: skip
    one, two, _ = find(model).cuttable()
    (third,) = [m for m in two.members if m.value == "third"]
    assert third.index[:, 0].tolist() == [4, 5, 6, 7, 8, 9]
    assert one.axes & two.axes == {("third", 1)}
    against(model, two, [0, 5], FEEDS)
    rewriter = Rewriter(model)
    for group in (one, two):  # the second one is found anew
        with rewriter.edit(group.name):
            cut_group(rewriter, group, [0, 2])
    assert model.graph.initializers["third"].shape == [5, 4, 1, 1]
    assert graphs.run(model, FEEDS)["y"].shape == (2, 5)


def test_a_channel_shuffle_joins_channels(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    body = f"""
        a = Conv(x, first)
        b = Reshape(a, apart)
        c = Transpose <perm = [0, 2, 1, 3, 4]> (b)
        d = Reshape(c, joined)
        z = Conv <group = 2> (d, grouped)
        {HEAD}"""
    model = graphs.parse(
        graph(body), first=array(8, 3, 1, 1), grouped=array(6, 4, 1, 1), head=array(5, 6),
        apart=whole(0, 2, 4, 8, 8), joined=whole(0, 8, 8, 8),
    )  # fmt: skip
    groups = find(model).cuttable()
    assert groups
    for group in groups:
        against(model, group, [0], FEEDS)


def test_channels_that_are_flattened_into_a_layer(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    body = """
        a = Conv(x, first)
        b = MaxPool <kernel_shape = [4, 4], strides = [4, 4]> (a)
        f = Flatten(b)
        y = Gemm(f, head)"""
    model = graphs.parse(graph(body), first=array(6, 3, 1, 1), head=array(24, 5))
    group = only(find(model))
    assert (group.units, group.width) == (6, 1)
    (head,) = [m for m in group.members if m.value == "head"]
    assert head.index[1].tolist() == [4, 5, 6, 7]
    cut = against(model, group, [0, 4], FEEDS)
    assert cut.graph.initializers["head"].shape == [8, 5]


def test_a_shortcut_padded_with_channels(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    body = f"""
        a = Conv(x, narrow)
        b = Conv(a, wide)
        c = Pad(a, pads)
        z = Add(b, c)
        {HEAD}"""
    model = graphs.parse(
        graph(body), narrow=array(4, 3, 1, 1), wide=array(8, 4, 1, 1), head=array(5, 8),
        pads=whole(0, 2, 0, 0, 0, 2, 0, 0),
    )  # fmt: skip
    group = only(find(model))
    assert group.units == 8
    (narrow,) = [m for m in group.members if m.value == "narrow"]
    assert sorted(len(narrow.positions([u])) for u in range(8)) == [0] * 4 + [1] * 4
    only_pads = [u for u in range(8) if not len(narrow.positions([u]))]
    others = [u for u in range(8) if u not in only_pads]
    against(model, group, sorted([*others[1:], *only_pads[2:]]), FEEDS)
    assert "narrow" in group.emptied(only_pads)
    with pytest.raises(PassError, match="nothing would be left"):
        cut_group(Rewriter(model), group, only_pads)


def test_transposed_and_squeezed(
    graphs: ModuleType, array: Array, find: Find, against: Any
) -> None:
    body = f"""
        a = Conv(x, first)
        m = GlobalAveragePool(a)
        q = Conv(m, down)
        r = Relu(q)
        u = Conv(r, up)
        s = Sigmoid(u)
        b = Mul(a, s)
        z = ConvTranspose(b, turned, bias)
        {HEAD}"""
    model = graphs.parse(
        graph(body), first=array(6, 3, 1, 1), down=array(2, 6, 1, 1), up=array(6, 2, 1, 1),
        turned=array(6, 4, 2, 2), bias=array(4), head=array(5, 4),
    )  # fmt: skip
    groups = against.every(model, FEEDS)
    assert [g.units for g in groups.cuttable()] == [6, 2, 4]


REFUSED = {
    "LRN": ("b = LRN <size = 3> (a)", "reduction"),
    "GroupNormalization": ("b = GroupNormalization <num_groups = 2> (a, six, six)", "reduction"),
    "Softmax": ("b = Softmax <axis = 1> (a)", "reduction"),
    "ReduceMean": ("m = ReduceMean(a, one) \n b = Sub(a, m)", "reduction"),
    "DepthToSpace": ("d = DepthToSpace <blocksize = 2> (a8) \n b = Pad(a, none)", "unknown-op"),
    "Slice": ("b = Slice(a, zero, last, one, two)", "unknown-op"),
    "Gather": ("q = Gather <axis = 1> (a, three) \n b = Unsqueeze(q, one)", "data-dependent"),
    "Pad": ('b = Pad <mode = "reflect"> (a, pads)', "unknown-op"),
    "CumSum": ("b = CumSum(a, along)", "unknown-op"),
    "TopK": ("b, i = TopK <axis = 1> (a, two)", "unknown-op"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_computes_over_channels_is_refused(
    name: str, graphs: ModuleType, array: Array, find: Find
) -> None:
    text, code = REFUSED[name]
    body = f"""
        a = Conv(x, first)
        {text.replace("a8", "a")}
        {"e = Flatten(d)" if name == "DepthToSpace" else ""}
        p = GlobalAveragePool(b)
        f = Flatten(p)
        {"s = ReduceSum(e)" if name == "DepthToSpace" else ""}
        y0 = Gemm <transB = 1> (f, head)
        y = {"Add(y0, s)" if name == "DepthToSpace" else "Identity(y0)"}"""
    units = 8 if name == "DepthToSpace" else 6
    left = {"Slice": 3, "Gather": 1, "Pad": 8, "TopK": 2}.get(name, units)
    constants = {
        "six": np.ones(6, np.float32), "one": whole(1), "two": whole(2), "zero": whole(0),
        "last": whole(6), "three": np.array(3), "pads": whole(0, 1, 0, 0, 0, 1, 0, 0),
        "none": whole(*[0] * 8), "along": np.array(1),
    }  # fmt: skip
    used = {n: c for n, c in constants.items() if n in re.findall(r"\w+", text)}
    model = graphs.parse(graph(body), first=array(units, 3, 1, 1), head=array(5, left), **used)
    first = next(iter(find(model).values()))
    assert (first.code, name in first.sentence) == (code, True), first.sentence


def test_places_of_maxima_count_all_channels(graphs: ModuleType, array: Array, find: Find) -> None:
    body = """
        a = Conv(x, first)
        b, places = MaxPool <kernel_shape = [8, 8]> (a)
        f = Flatten(b)
        y0 = Gemm(f, head)
        g = Cast <to = 1> (places)
        h = ReduceMean(g)
        y = Add(y0, h)"""
    model = graphs.parse(graph(body), first=array(6, 3, 1, 1), head=array(6, 5))
    assert find(model).cuttable() == []


def test_an_old_softmax_computes_over_all_axes_behind(
    graphs: ModuleType, array: Array, find: Find
) -> None:
    body = """
        a = Conv(x, first)
        b = Softmax <axis = {axis}> (a)
        p = GlobalAveragePool(b)
        f = Flatten(p)
        y = Gemm(f, head)"""
    made = {"first": array(6, 3, 1, 1), "head": array(6, 5)}
    old = graphs.parse(graph(body.format(axis=1), opset=11), **made)
    assert next(iter(find(old).values())).code == "reduction"
    assert len(find(graphs.parse(graph(body.format(axis=2), opset=11), **made)).cuttable()) == 1
    assert len(find(graphs.parse(graph(body.format(axis=2)), **made)).cuttable()) == 1


@pytest.mark.parametrize("name", ["squeezenet", "yolox_nano", "mnist_cnn"])
def test_networks(name: str, task: Callable[[str], Any], find: Find, against: Any) -> None:
    model = load_model(Path(task(name).model)).model
    (image,) = model.graph.inputs
    shape = [d if isinstance(d, int) else 1 for d in dims(image) or ()]
    feeds = {str(image.name): np.random.default_rng(0).random(shape, np.float32)}
    groups = find(model).cuttable("channels")
    assert len(groups) >= {"squeezenet": 25, "yolox_nano": 60, "mnist_cnn": 2}[name]
    for group in (groups[0], groups[len(groups) // 2]):
        against(model, group, range(0, group.units, 2), feeds)


def test_resnet20_with_padded_shortcuts(
    task: Callable[[str], Any], graphs: ModuleType, find: Find, against: Any
) -> None:
    model = load_model(Path(task("resnet20").model)).model
    feeds = {"x": np.random.default_rng(0).random((2, 3, 32, 32), np.float32)}
    graphs.Bench(model, [feeds], calibrated=False).run("canonicalize")
    groups = find(model)
    assert sorted(g.units for g in groups.cuttable()) == [16] * 3 + [32] * 3 + [64] * 4
    stream = max(groups.cuttable(), key=lambda group: len(group.sites))
    against(model, stream, range(5, 60), feeds)
