"""Attention is recognised in the exporters' spellings and nowhere else; numbers are float64's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.backends.attention import fuse_attention
from planish.compiler.backends.spellings import may_apply
from planish.ir.digest import contents_digest
from planish.ir.load import load_model
from planish.ir.rewriter import Rewriter
from planish.ir.save import to_bytes
from planish.ir.verify import violations
from planish.targets.census import runtime_census
from planish.targets.runtime import open_session

HEADS, WIDTH = 3, 4
HIDDEN = HEADS * WIDTH
MHA = "com.microsoft:MultiHeadAttention"
Feeds = dict[str, np.ndarray]

KEYS = {
    "one transpose": "k4 = Reshape(k, rk) kt = Transpose<perm=[0, 2, 3, 1]>(k4)",
    "two transposes": "k4 = Reshape(k, rk) kh = Transpose<perm=[0, 2, 1, 3]>(k4) "
    "kt = Transpose<perm=[0, 1, 3, 2]>(kh)",
    "flattened heads": "k4 = Reshape(k, rk) kh = Transpose<perm=[0, 2, 1, 3]>(k4) "
    "kf = Reshape(kh, flat) k3 = Transpose<perm=[0, 2, 1]>(kf) kt = Reshape(k3, unflat)",
}
SCALES = {
    "behind, Mul": ("qh", "kt", "s1 = Mul(s0, half)", 0.5),
    "behind, Div": ("qh", "kt", "s1 = Div(s0, two)", 0.5),
    "in front of q": ("qs", "kt", "", 0.25),
    "in front of both": ("qs", "ks", "", 0.0625),
    "everywhere": ("qs", "ks", "s1 = Div(s0, two)", 0.03125),
    "none": ("qh", "kt", "", 1.0),
}


@dataclass(frozen=True)
class Spelling:
    """How one attention is written. mask: the body that makes ``s2`` of the scores ``S``."""

    key: str = KEYS["two transposes"]
    scale: tuple[str, str, str, float] = SCALES["behind, Mul"]
    mask: str = "s2 = Add(S, mask)"
    weights: str = "w = Softmax<axis=-1>(s2)"
    value: str = "v4 = Reshape(v, rk) vh = Transpose<perm=[0, 2, 1, 3]>(v4)"
    join: str = "ot = Transpose<perm=[0, 2, 1, 3]>(o) y = Reshape(ot, join)"
    keep: str = 'bool["B", 1, "Q", "S"] keep'
    output: str = 'float["B", "Q", 12] y'
    dtype: str = "float"
    opset: int = 20


GUARDED = Spelling(weights="raw = Softmax<axis=-1>(s2) nan = IsNaN(raw) w = Where(nan, zero, raw)")


def build(spelling: Spelling) -> ir.Model:
    left, right, behind, _ = spelling.scale
    scores = "s1" if behind else "s0"
    mask = spelling.mask.replace("S,", f"{scores},").replace("S)", f"{scores})")
    weights = spelling.weights if mask else spelling.weights.replace("s2", scores)
    body = f"""
        q4 = Reshape(q, rq) qh = Transpose<perm=[0, 2, 1, 3]>(q4) qs = Mul(qh, quarter)
        {spelling.key} ks = Mul(kt, quarter) {spelling.value}
        mask = Where(keep, zero, never)
        s0 = MatMul({left}, {right}) {behind} {mask} {weights}
        o = MatMul(w, vh) {spelling.join}
    """
    ports = (
        f'{spelling.dtype}["B", "Q", 12] q, {spelling.dtype}["B", "S", 12] k, '
        f'{spelling.dtype}["B", "S", 12] v, {spelling.keep}'
    )
    if "flat" in spelling.key:  # the number of keys stands in its Reshape
        ports = ports.replace('"S"', "7")
    header = f'<ir_version: 9, opset_import: ["": {spelling.opset}]>'
    text = (
        f"{header} g ({ports}) => ({spelling.output.replace('float', spelling.dtype)}) {{{body}}}"
    )
    proto = onnx.parser.parse_model(text)
    number = np.float16 if spelling.dtype == "float16" else np.float32
    constants = {
        "rq": np.array([0, -1, HEADS, WIDTH]),
        "rk": np.array([0, -1, HEADS, WIDTH]),
        "flat": np.array([-1, 7, WIDTH]),
        "unflat": np.array([-1, HEADS, WIDTH, 7]),
        "join": np.array([0, -1, HIDDEN]),
        "half": number(0.5),
        "two": number(2.0),
        "quarter": number(0.25),
        "zero": number(0.0),
        "never": number(-np.inf),
        "cap": number(3.0),
        "by_head": np.array([0.5, 0.25, 0.125], number).reshape(1, HEADS, 1, 1),
        "other": np.array([0, -1, WIDTH, HEADS]),
        "apart": np.array([0, -1, WIDTH]),
    }
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()
    )
    return load_model(proto).model


def feeds(keep_shape: tuple[int, int, int, int] = (2, 1, 5, 7), seed: int = 0) -> Feeds:
    random = np.random.default_rng(seed)
    q, k, v = (random.normal(size=(2, n, HIDDEN)).astype(np.float32) for n in (5, 7, 7))
    keep = random.random(keep_shape) < 0.7
    keep[..., 0] = True  # every query may look at something
    return {"q": q, "k": k, "v": v, "keep": keep}


def attention(feed: Feeds, scale: float, masked: bool = True) -> np.ndarray:
    """Softmax attention in float64, [batch, queries, hidden]; wholly masked rows are zeros."""
    q, k, v = (
        feed[n].astype(np.float64).reshape(2, -1, HEADS, WIDTH).transpose(0, 2, 1, 3) for n in "qkv"
    )
    scores = scale * np.einsum("bhqd,bhkd->bhqk", q, k)
    keep = np.broadcast_to(feed["keep"] if masked else np.True_, scores.shape)
    powers = np.where(keep, np.exp(scores), 0.0)
    total = powers.sum(axis=-1, keepdims=True)
    weights = np.divide(powers, total, out=np.zeros_like(powers), where=total > 0)
    joined: np.ndarray = np.einsum("bhqk,bhkd->bqhd", weights, v).reshape(2, -1, HIDDEN)
    return joined


def fused(spelling: Spelling, feed: Feeds) -> np.ndarray:
    """What the model computes once it is fused; that it was, runs so, and is well formed."""
    rewriter = Rewriter(build(spelling))
    assert may_apply("fused-attention", rewriter.graph)
    assert fuse_attention(rewriter) == 1
    assert violations(rewriter.model) == []
    digest = contents_digest(rewriter.model)
    assert fuse_attention(rewriter) == 0
    assert contents_digest(rewriter.model) == digest
    serialized = to_bytes(rewriter.model)
    counts = runtime_census(serialized).counts
    assert counts[MHA] == 1
    assert "Softmax" not in counts
    session = open_session(serialized)
    y: np.ndarray = session.run({n: feed[n] for n in session.input_names})[0]
    return y


def check(spelling: Spelling, feed: Feeds, masked: bool = True) -> None:
    expected = attention(feed, spelling.scale[3], masked)
    np.testing.assert_allclose(fused(spelling, feed), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("key", KEYS)
def test_every_spelling_of_keys_and_scales(key: str, scale: str) -> None:
    check(Spelling(key=KEYS[key], scale=SCALES[scale]), feeds())


@pytest.mark.parametrize("key", KEYS)
def test_without_a_mask(key: str) -> None:
    check(Spelling(key=KEYS[key], mask=""), feeds(), masked=False)


@pytest.mark.parametrize(
    ("keep", "shape"),
    [
        ('bool["B", 1, "Q", "S"] keep', (2, 1, 5, 7)),
        ('bool[1, 1, "Q", "S"] keep', (1, 1, 5, 7)),
        ('bool["B", 3, "Q", "S"] keep', (2, 3, 5, 7)),
        ('bool[1, 3, "Q", "S"] keep', (1, 3, 5, 7)),
    ],
)
@pytest.mark.parametrize("left", [False, True])
def test_masks_that_differ_by_batch_and_head(
    keep: str, shape: tuple[int, int, int, int], left: bool
) -> None:
    mask = "s2 = Add(mask, S)" if left else "s2 = Add(S, mask)"
    check(Spelling(keep=keep, mask=mask), feeds(shape))


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
def test_wholly_masked_rows_are_exactly_zero_where_they_are_guarded(opset: int) -> None:
    feed = feeds()
    feed["keep"][0, 0, 2] = feed["keep"][1] = False
    spelling = replace(GUARDED, opset=opset)
    got = fused(spelling, feed)
    expected = attention(feed, spelling.scale[3])
    assert not expected[0, 2].any()
    assert np.array_equal(got[0, 2], np.zeros(HIDDEN))
    assert np.array_equal(got[1], np.zeros((5, HIDDEN)))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_two_guarded_blocks_share_the_guard_of_their_mask() -> None:
    second = " ".join(
        "q5 = Reshape(y1, rq); qi = Transpose<perm=[0, 2, 1, 3]>(q5); t0 = MatMul(qi, kt); "
        "t2 = Add(t0, mask); raw2 = Softmax<axis=-1>(t2); nan2 = IsNaN(raw2); "
        "w2 = Where(nan2, zero, raw2); p = MatMul(w2, vh); "
        "pt = Transpose<perm=[0, 2, 1, 3]>(p); y = Reshape(pt, join)".split("; ")
    )
    join = "ot = Transpose<perm=[0, 2, 1, 3]>(o) y1 = Reshape(ot, join) " + second
    rewriter = Rewriter(build(replace(GUARDED, join=join)))
    feed = feeds()
    feed["keep"][0, 0, 2] = False
    serialized = to_bytes(rewriter.model)
    before = open_session(serialized, optimize="none").run(feed)[0]
    assert may_apply("fused-attention", rewriter.graph)
    assert fuse_attention(rewriter) == 2
    assert violations(rewriter.model) == []
    assert sum(node.op_type == "ReduceMax" for node in rewriter.graph) == 1
    after = open_session(to_bytes(rewriter.model)).run(feed)[0]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    assert not after[0, 2].any()


def test_a_hidden_size_of_one_head_and_other_widths() -> None:
    for heads, width in ((1, 12), (12, 1), (2, 6)):
        model = build(Spelling(mask=""))
        for name in ("rq", "rk"):
            value = model.graph.initializers[name]
            value.const_value = ir.tensor(np.array([0, -1, heads, width]))
        model = load_model(ir.to_proto(_without_shapes(model))).model
        feed = feeds()
        before = open_session(to_bytes(model), optimize="none").run(feed)[0]
        rewriter = Rewriter(model)
        assert fuse_attention(rewriter) == 1
        (node,) = [n for n in rewriter.graph if n.op_type == "MultiHeadAttention"]
        assert node.attributes["num_heads"].as_int() == heads
        after = open_session(to_bytes(rewriter.model)).run(feed)[0]
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def _without_shapes(model: ir.Model) -> ir.Model:
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None
    return model


LEFT_ALONE = {
    "a mask that is broadcast over queries": replace(Spelling(), keep='bool["B", 1, 1, "S"] keep'),
    "a mask that is broadcast over keys": replace(Spelling(), keep='bool["B", 1, "Q", 1] keep'),
    "a mask of two axes": replace(Spelling(), keep='bool["Q", "S"] keep'),
    "a mask of unknown sizes": replace(Spelling(), keep='bool["B", 1, "Q", ?] keep'),
    "a mask for another number of heads": replace(Spelling(), keep='bool["B", "h", "Q", "S"] keep'),
    "guarded, and the mask differs by head": replace(GUARDED, keep='bool["B", 3, "Q", "S"] keep'),
    "softmax over queries": replace(Spelling(), weights="w = Softmax<axis=2>(s2)"),
    "a soft cap": replace(
        Spelling(), mask="c0 = Div(S, cap) c1 = Tanh(c0) c2 = Mul(c1, cap) s2 = Add(c2, mask)"
    ),
    "a scale by head": replace(Spelling(), scale=("qh", "kt", "s1 = Mul(s0, by_head)", 1.0)),
    "scaled behind the mask": replace(Spelling(), mask="a0 = Add(S, mask) s2 = Mul(a0, two)"),
    "a constant divided by scores": replace(
        Spelling(), scale=("qh", "kt", "s1 = Div(two, s0)", 1.0)
    ),
    "weights that are scaled": replace(
        Spelling(), weights="w0 = Softmax<axis=-1>(s2) w = Mul(w0, two)"
    ),
    "weights that are an output": replace(
        Spelling(), output='float["B", "Q", 12] y, float["B", 3, "Q", "S"] w'
    ),
    "a guard that puts in ones": replace(
        GUARDED, weights=GUARDED.weights.replace("Where(nan, zero, raw)", "Where(nan, two, raw)")
    ),
    "a guard the wrong way round": replace(
        GUARDED, weights=GUARDED.weights.replace("Where(nan, zero, raw)", "Where(nan, raw, zero)")
    ),
    "keys that are not transposed so": replace(
        Spelling(),
        key="k4 = Reshape(k, rk) kh = Transpose<perm=[0, 2, 1, 3]>(k4) "
        "ki = Transpose<perm=[0, 1, 3, 2]>(kh) kj = Transpose<perm=[0, 1, 3, 2]>(ki) "
        "kt = Transpose<perm=[0, 1, 3, 2]>(kj)",
    ),
    "values that are split the other way": replace(
        Spelling(), value="v4 = Reshape(v, other) vh = Transpose<perm=[0, 3, 1, 2]>(v4)"
    ),
    "heads that are joined the other way": replace(
        Spelling(), join="ot = Transpose<perm=[0, 2, 3, 1]>(o) y = Reshape(ot, join)"
    ),
    "heads that are not joined": replace(
        Spelling(),
        join="ot = Transpose<perm=[0, 2, 1, 3]>(o) y = Reshape(ot, apart)",
        output='float["B", "n", 4] y',
    ),
    "half precision": replace(Spelling(), dtype="float16", mask=""),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_anything_else_is_left_alone(name: str) -> None:
    rewriter = Rewriter(build(LEFT_ALONE[name]))
    digest = contents_digest(rewriter.model)
    assert fuse_attention(rewriter) == 0
    assert contents_digest(rewriter.model) == digest
