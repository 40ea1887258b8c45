"""Where a scale for each channel can go: shown by putting a random one there."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.graph import dims
from planish.ir.rewriter import Rewriter
from planish.ir.scaling.absorb import ObstacleError, find_absorber
from planish.ir.scaling.rescale import Constants, put_in_place
from planish.ir.scaling.scale_groups import boundary, float_readers, joined, scale_group
from planish.ir.sites import find_sites
from planish.ir.verify import violations

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(10)
SHAPES = {
    "w": (8, 8), "w2": (8, 8), "w3": (8, 8), "wide": (8, 24), "gamma": (8,), "beta": (8,),
    "mean": (8,), "k1": (8, 8, 3, 3), "k2": (6, 8, 3, 3), "dw": (8, 1, 3, 3), "half": (6, 4, 1, 1),
    "b1": (8,), "kb": (8,), "head": (8, 5), "scale3": (1, 1, 8), "one": (), "token": (1, 8),
}  # fmt: skip
INTS = {
    "split": [0, 0, 2, 4], "join": [0, 0, 8], "three": [0, 0, 3, 2, 4], "flat": [-1, 8],
    "two": 2, "first": [16], "last": [24], "axis": [2], "heads": [0, 4, 0, 4],
    "none": [0], "thirds": [8, 8, 8], "spread": [1, 1, 2, 1, 1],
}  # fmt: skip
TOKENS, PICTURE = "float[n, t, 8] x", "float[n, 8, a, b] x"
FEEDS: dict[str, tuple[int, ...]] = {TOKENS: (3, 5, 8), PICTURE: (2, 8, 6, 6)}

ATTENTION = """
  q = MatMul(x, w2)  qh = Reshape(q, split)  qt = Transpose <perm = [0, 2, 3, 1]> (qh)
  p0 = MatMul(kt, qt)  p = Softmax(p0)
  o = MatMul(p, vt)  ot = Transpose <perm = [0, 2, 1, 3]> (o)  h = Reshape(ot, join)
  y = MatMul(h, head)
"""

LEGAL = {
    "layer-norm": (TOKENS, "h = LayerNormalization(x, gamma, beta) y = MatMul(h, head)"),
    "layer-norm-bare": (TOKENS, "h = LayerNormalization <axis = 2> (x, gamma) y = MatMul(h, head)"),
    "two readers": (
        TOKENS,
        "h = LayerNormalization(x, gamma, beta) a = MatMul(h, w) b = MatMul(h, w2) y = Add(a, b)",
    ),
    "shape is free": (
        TOKENS,
        "h = LayerNormalization(x, gamma) s = Shape(h) a = MatMul(h, head) r = Reshape(a, s5) "
        "s6 = Shape(r) z = Size(h) c = Cast <to = 1> (z) y = Mul(r, c)",
    ),
    "rms-norm": (TOKENS, "h = RMSNormalization(x, gamma) y = MatMul(h, head)"),
    "batch-norm": (
        TOKENS,
        "f = Reshape(x, flat) n = BatchNormalization(f, gamma, beta, mean, var) "
        "s = Shape(x) h = Reshape(n, s) y = MatMul(h, head)",
    ),
    "linear": (TOKENS, "h = MatMul(x, w) y = MatMul(h, head)"),
    "bias": (TOKENS, "a = MatMul(x, w) h = Add(a, b1) y = MatMul(h, head)"),
    "scalar bias": (TOKENS, "a = MatMul(x, w) h = Add(a, one) y = MatMul(h, head)"),
    "bias on the left": (TOKENS, "a = MatMul(x, w) h = Add(b1, a) y = MatMul(h, head)"),
    "relu": (TOKENS, "a = MatMul(x, w) b = Add(a, b1) h = Relu(b) y = MatMul(h, head)"),
    "leaky": (TOKENS, "a = MatMul(x, w) h = LeakyRelu <alpha = 0.1> (a) y = MatMul(h, head)"),
    "affine tail": (TOKENS, "a = Tanh(x) b = Mul(a, gamma) h = Add(b, beta) y = MatMul(h, head)"),
    "affine, whole rank": (TOKENS, "a = Tanh(x) h = Mul(scale3, a) y = MatMul(h, head)"),
    "by a number": (TOKENS, "a = MatMul(x, w) b = Mul(a, one) h = Div(b, one) y = MatMul(h, head)"),
    "by tokens": (
        TOKENS,
        "a = MatMul(x, w) n = ReduceMax(x, axis) h = Div(a, n) y = MatMul(h, head)",
    ),
    "gated": (
        TOKENS,
        "g = MatMul(x, w) sg = Sigmoid(g) gate = Mul(g, sg) u = MatMul(x, w2) b = Add(u, b1) "
        "h = Mul(gate, b) y = MatMul(h, head)",
    ),
    "gate last": (
        TOKENS,
        "u = MatMul(x, w2) g = MatMul(x, w) gate = Sigmoid(g) h = Mul(u, gate) y = MatMul(h, head)",
    ),
    "transposed and back": (
        TOKENS,
        "a = MatMul(x, w) t = Transpose <perm = [2, 0, 1]> (a) r = Relu(t) "
        "h = Transpose <perm = [1, 2, 0]> (r) y = MatMul(h, head)",
    ),
    "squeezed": (
        TOKENS,
        "a = MatMul(x, w) u = Unsqueeze(a, axis) h = Squeeze(u, axis) y = MatMul(h, head)",
    ),
    "values": (
        TOKENS,
        "v0 = MatMul(x, w) v = Add(v0, b1) vh = Reshape(v, split) "
        "vt = Transpose <perm = [0, 2, 1, 3]> (vh) k = MatMul(x, w3) kh = Reshape(k, split) "
        "kt = Transpose <perm = [0, 2, 1, 3]> (kh) " + ATTENTION,
    ),
    "values of a packed layer, split": (
        TOKENS,
        "qkv = MatMul(x, wide) qs, ks, vs = Split <axis = -1> (qkv, thirds) "
        "vh = Reshape(vs, split) vt = Transpose <perm = [0, 2, 1, 3]> (vh) kh = Reshape(ks, split) "
        "kt = Transpose <perm = [0, 2, 1, 3]> (kh) " + ATTENTION,
    ),
    "values of a packed layer, sliced": (
        TOKENS,
        "qkv = MatMul(x, wide) ks = Slice(qkv, none, first, axis) k = Relu(ks) "
        "vs = Slice(qkv, first, last, axis) h = Relu(vs) y0 = MatMul(h, head) "
        "kk = ReduceMax(k, axis) y = Mul(y0, kk)",
    ),
    "values of a packed layer, unbound": (
        TOKENS,
        "qkv = MatMul(x, wide) r = Reshape(qkv, three) t = Transpose <perm = [2, 0, 3, 1, 4]> (r) "
        "kt = Gather <axis = 0> (t, one_index) vt = Gather <axis = 0> (t, two) " + ATTENTION,
    ),
    "attention operator": (
        TOKENS,
        "q = MatMul(x, w) k = MatMul(x, w2) v = MatMul(x, w3) "
        "h = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v) y = MatMul(h, head)",
    ),
    "convolution": (PICTURE, "a = Conv(x, k1, kb) h = Relu(a) y = Conv(h, k2)"),
    "pool": (
        PICTURE,
        "a = Conv(x, k1, kb) h = MaxPool <kernel_shape = [2, 2]> (a) y = Conv(h, k2)",
    ),
    "depthwise": (PICTURE, "a = Conv <group = 8> (x, dw) h = Relu(a) y = Conv(h, k2)"),
    "into depthwise": (PICTURE, "a = Conv(x, k1) h = Relu(a) y = Conv <group = 8> (h, dw)"),
    "into groups": (PICTURE, "a = Conv(x, k1) h = Relu(a) y = Conv <group = 2> (h, half)"),
    "two convolutions read": (
        PICTURE,
        "a = Conv(x, k1) h = Relu(a) p = Conv(h, k2) q = Conv(h, k2b) y = Add(p, q)",
    ),
    "normalised picture": (
        PICTURE,
        "h = BatchNormalization(x, gamma, beta, mean, var) y = Conv(h, k2)",
    ),
    "head of a network": (
        PICTURE,
        "a = Conv(x, k1, kb) r = Relu(a) p = GlobalAveragePool(r) h = Flatten(p) "
        "y = MatMul(h, head)",
    ),
}


def tensors(body: str) -> dict[str, Array]:
    made = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    made |= {name: np.array(value, np.int64) for name, value in INTS.items()}
    made["var"] = RNG.uniform(0.5, 2, 8).astype(np.float32)
    made["s5"], made["one_index"] = np.array([0, 0, 5], np.int64), np.array(1, np.int64)
    made["k2b"] = made["k2"] * np.float32(0.5)
    read = {word.strip() for part in body.split("(")[1:] for word in part.split(")")[0].split(",")}
    return {name: value for name, value in made.items() if name in read}


def parse(graphs: ModuleType, case: tuple[str, str]) -> ir.Model:
    inputs, body = case
    opset = 23 if "RMS" in body or "= Attention" in body else 17 if "ReduceMax" not in body else 18
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g ({inputs}) => (float y) {{ {body} }}'
    model: ir.Model = graphs.parse(text, **tensors(body))
    graphs.value(model, "y").shape = None
    return model


def readers_of(model: ir.Model, graphs: ModuleType, name: str = "h") -> Any:
    members = float_readers(find_sites(model))
    return members[graphs.value(model, name)]


def watched(model: ir.Model, graphs: ModuleType, feed: dict[str, Array]) -> dict[str, Array]:
    """The outputs, and the activation that is scaled."""
    model.graph.outputs.append(graphs.value(model, "h"))
    found: dict[str, Array] = graphs.run(model, feed)
    model.graph.outputs.pop()
    return found


@pytest.mark.parametrize("name", LEGAL)
def test_a_scale_goes_in_front_and_comes_back_behind(graphs: ModuleType, name: str) -> None:
    model = parse(graphs, LEGAL[name])
    feed = {"x": RNG.normal(size=FEEDS[LEGAL[name][0]]).astype(np.float32)}
    before = watched(model, graphs, feed)
    group = scale_group(readers_of(model, graphs))
    assert dims(group.x) is not None
    size = before["h"].shape[group.axis]
    scale = RNG.uniform(0.2, 5, size).astype(np.float32).astype(np.float64)
    constants, rewriter = Constants(), Rewriter(model)
    constants.scale(group, scale)
    put_in_place(rewriter, constants.rescaled())
    assert violations(model) == []
    after = watched(model, graphs, feed)
    shape = [1] * before["h"].ndim
    shape[group.axis] = size
    peak = np.abs(before["h"]).max()
    np.testing.assert_allclose(
        after["h"] * scale.reshape(shape), before["h"], rtol=1e-4, atol=1e-5 * peak
    )
    np.testing.assert_allclose(
        after["y"], before["y"], rtol=1e-4, atol=1e-5 * np.abs(before["y"]).max()
    )


ILLEGAL = {
    "an input": (TOKENS, "h = Identity(x) y = MatMul(h, head)", "no-absorber", "input"),
    "gelu": (TOKENS, "a = MatMul(x, w) h = Tanh(a) y = MatMul(h, head)", "no-absorber", "Tanh"),
    "residual": (
        TOKENS,
        "h = LayerNormalization(x, gamma) a = MatMul(h, w) y = Add(a, h)",
        "residual-use", "(Add)",
    ),
    "residual further in front": (
        TOKENS,
        "a = MatMul(x, w) h = Relu(a) b = MatMul(h, w2) y = Add(b, a)",
        "residual-use", "'a' is also read by",
    ),
    "sum of activations": (
        TOKENS, "h = Add(x, x) y = MatMul(h, head)", "no-absorber", "adds two activations",
    ),
    "square": (TOKENS, "a = MatMul(x, w) h = Mul(a, a) y = MatMul(h, head)", "residual-use", "'a'"),
    "its own gate": (
        TOKENS,
        "a = MatMul(x, w) s = Sigmoid(a) h = Mul(a, s) y = MatMul(h, head)",
        "residual-use", "Sigmoid",
    ),
    "joined": (
        TOKENS,
        "a = MatMul(x, w) b = MatMul(x, w2) h = Concat <axis = 1> (a, b) y = MatMul(h, head)",
        "no-absorber", "Concat",
    ),
    "product of activations": (
        TOKENS,
        "a = MatMul(x, w) t = Transpose <perm = [0, 2, 1]> (x) b = MatMul(a, t) "
        "h = MatMul(b, a) y = MatMul(h, head)",
        "residual-use", "",
    ),
    "shared values": (
        TOKENS,
        "v = MatMul(x, w) vh = Reshape(v, split) vt = Transpose <perm = [0, 2, 1, 3]> (vh) "
        "u = Unsqueeze(vt, axis) e = Expand(u, spread) vv = Reshape(e, heads) "
        "t = Transpose <perm = [0, 2, 1, 3]> (vv) h = Reshape(t, join16) y = MatMul(h, head16)",
        "no-absorber", "",
    ),
    "attention with shared heads": (
        TOKENS,
        "q = MatMul(x, wide) k = MatMul(x, w2) v = MatMul(x, w3) "
        "h = Attention <q_num_heads = 6, kv_num_heads = 2> (q, k, v) y = MatMul(h, head24)",
        "grouped", "share their values",
    ),
    "pixels become inputs": (
        "float[n, 8, 4, 4] x",
        "a = Conv(x, k1) h = Flatten(a) y = MatMul(h, head32)",
        "no-absorber", "Conv",
    ),
    "rows are mixed": (
        TOKENS,
        "a = MatMul(x, w) t = Transpose <perm = [0, 2, 1]> (a) h = Reshape(t, join) "
        "y = MatMul(h, head)",
        "no-absorber", "Reshape",
    ),
    "a convolution and a layer": (
        "float[n, 8, 5, 8] x",
        "a = Conv(x, k1) h = Relu(a) p = Conv(h, k2) y = MatMul(h, head6)",
        "mixed", "a convolution and a linear layer",
    ),
    "relu with a ceiling": (
        PICTURE, "a = Conv(x, k1) h = Clip(a, low, high) y = Conv(h, k2)", "no-absorber", "Clip",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ILLEGAL)
def test_where_no_scale_can_go_is_said(graphs: ModuleType, name: str) -> None:
    inputs, body, code, words = ILLEGAL[name]
    more = {"head6": (6, 5), "head16": (16, 5), "head24": (24, 5), "head32": (32, 5)}
    given = tensors(body) | {
        key: RNG.normal(size=shape).astype(np.float32)
        for key, shape in more.items()
        if re.search(rf"\b{key}\b", body)
    }
    if "Clip" in body:
        given |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    if "join16" in body:
        given["join16"] = np.array([0, 0, 16], np.int64)
    opset = 23 if "= Attention" in body else 17
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g ({inputs}) => (float y) {{ {body} }}'
    model = graphs.parse(text, **given)
    before = graphs.snapshot(model)
    with pytest.raises(ObstacleError) as caught:
        scale_group(readers_of(model, graphs))
    assert caught.value.code == code
    assert words in str(caught.value)
    assert graphs.snapshot(model) == before


def test_outputs_of_the_model_keep_their_values(graphs: ModuleType) -> None:
    for name, value in (("relu", "h"), ("relu", "a"), ("layer-norm", "h")):
        model = parse(graphs, LEGAL[name])
        model.graph.outputs.append(graphs.value(model, value))
        with pytest.raises(ObstacleError, match="is also an output of the model") as caught:
            scale_group(readers_of(model, graphs))
        assert caught.value.code == "residual-use"


def test_a_branch_that_reads_a_value_counts(graphs: ModuleType) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 17]>
    g (float[n, t, 8] x, bool c) => (float y, float z) {
      h = LayerNormalization(x, gamma)
      y = MatMul(h, head)
      z = If(c) <
        then_branch = t () => (float p) { p = ReduceMax(h) },
        else_branch = e () => (float q) { q = ReduceMax(x) }
      >
    }"""
    model = graphs.parse(text, gamma=np.ones(8, np.float32), head=np.ones((8, 5), np.float32))
    with pytest.raises(ObstacleError, match="also read by") as caught:
        scale_group(readers_of(model, graphs))
    assert caught.value.code == "residual-use"


def test_an_unknown_number_of_channels_is_said(graphs: ModuleType) -> None:
    model = parse(graphs, LEGAL["linear"])
    x = graphs.value(model, "h")
    x.shape = ir.Shape(["n", "t", None])
    with pytest.raises(ObstacleError, match="number of channels") as caught:
        find_absorber(x, -1, [])
    assert caught.value.code == "unknown-shape"
    x.shape = None
    with pytest.raises(ObstacleError, match="number of channels"):
        find_absorber(x, -1, [])


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("a = MatMul(x, w) h = MatMul(a, w) y = MatMul(h, w2)", "shared"),
        ("a = MatMul(x, w2) h = Relu(a) b = MatMul(h, w) y = MatMul(b, w)", "shared"),
        ("h = MatMul(x, w) b = MatMul(h, w2) s = ReduceMax(w) y = Add(b, s)", "shared"),
    ],
)
def test_weights_that_others_use_are_left_alone(graphs: ModuleType, body: str, code: str) -> None:
    model = parse(graphs, (TOKENS, body))
    with pytest.raises(ObstacleError, match=r"several places|other nodes use") as caught:
        scale_group(readers_of(model, graphs))
    assert caught.value.code == code


def test_vectors_that_others_use_are_unshared(graphs: ModuleType) -> None:
    body = (
        "n1 = LayerNormalization(x, gamma, beta) a = MatMul(n1, w) "
        "h = LayerNormalization(a, gamma, beta) y = MatMul(h, head)"
    )
    model = parse(graphs, (TOKENS, body))
    feed = {"x": RNG.normal(size=(3, 5, 8)).astype(np.float32)}
    before, constants = graphs.run(model, feed)["y"], Constants()
    constants.scale(scale_group(readers_of(model, graphs)), RNG.uniform(0.2, 5, 8))
    put_in_place(Rewriter(model), constants.rescaled())
    np.testing.assert_allclose(graphs.run(model, feed)["y"], before, rtol=1e-4, atol=1e-4)
    first = next(n for n in model.graph if n.outputs[0].name == "n1")
    assert [v.name for v in first.inputs if v is not None] == ["x", "gamma", "beta"]


def test_other_dtypes_are_left_alone(graphs: ModuleType) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 17]>
    g (float16[n, 8] x) => (float16[n, 8] y) { h = MatMul(x, w) y = MatMul(h, w2) }
    """
    half = RNG.normal(size=(8, 8)).astype(np.float16)
    model = graphs.parse(text, w=half, w2=half + half)
    with pytest.raises(ObstacleError, match="float16; only constant float32") as caught:
        scale_group(readers_of(model, graphs))
    assert caught.value.code == "dtype"


CHAIN = "a = Conv(x, k1) p = Relu(a) b = Conv(p, k1b) q = Relu(b) y = Conv(q, k2)"


def test_groups_that_share_a_weight_belong_together(graphs: ModuleType) -> None:
    text = f'<ir_version: 10, opset_import: ["" : 17]> g ({PICTURE}) => (float y) {{ {CHAIN} }}'
    given = tensors(CHAIN) | {"k1b": RNG.normal(size=(8, 8, 3, 3)).astype(np.float32)}
    model = graphs.parse(text, **given)
    one, two = (scale_group(readers_of(model, graphs, name)) for name in ("p", "q"))
    assert joined([one, two]) == [[one, two]]
    assert joined([one]) == [[one]]
    inputs, outputs = boundary([one, two])
    assert [v.name for v in inputs] == ["x"]
    assert [v.name for v in outputs] == ["y"]
    inputs, outputs = boundary([one])
    assert ([v.name for v in inputs], [v.name for v in outputs]) == (["x"], ["b"])


def test_a_region_takes_in_what_the_nodes_between_read(graphs: ModuleType) -> None:
    gated = scale_group(readers_of(parse(graphs, LEGAL["gated"]), graphs))
    inputs, outputs = boundary([gated])
    assert [v.name for v in inputs] == ["x", "gate"]
    assert [v.name for v in outputs] == ["y"]
    values = scale_group(readers_of(parse(graphs, LEGAL["values"]), graphs))
    assert [v.name for v in boundary([values])[0]] == ["x", "p"]


def test_several_scales_on_one_constant_are_rounded_once(graphs: ModuleType) -> None:
    text = f'<ir_version: 10, opset_import: ["" : 17]> g ({PICTURE}) => (float y) {{ {CHAIN} }}'
    given = tensors(CHAIN) | {"k1b": RNG.normal(size=(8, 8, 3, 3)).astype(np.float32)}
    model = graphs.parse(text, **given)
    one, two = (scale_group(readers_of(model, graphs, name)) for name in ("p", "q"))
    first, second = RNG.uniform(0.2, 5, 8), RNG.uniform(0.2, 5, 8)
    constants = Constants()
    constants.scale(one, first)
    constants.scale(two, second)
    wide = (
        given["k1b"].astype(np.float64) * first[None, :, None, None] / second[:, None, None, None]
    )
    np.testing.assert_array_equal(constants.array(two.absorber.main), wide.astype(np.float32))
    peaks = constants.peaks(two.absorber.main)
    np.testing.assert_allclose(peaks, np.abs(wide).max(axis=(1, 2, 3)), rtol=1e-6)
    assert len(constants.rescaled()) == 3
