"""What was done has a name: rounded, stored in integers, fused, computed in advance, cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.diff.changes import GraphDiff
from planish.ir.diff.hunks import diff_models
from planish.ir.diff.patterns import pattern_of
from planish.ir.diff.replay import patch_of, replay, store_of
from planish.ir.digest import contents_digest

Net = Callable[..., ir.Model]
Weight = Callable[[int], np.ndarray]
SCALE, ZERO = np.float32(0.1), np.int8(0)


def named(diff: GraphDiff) -> dict[str, int]:
    """How often each pattern occurs."""
    return dict(Counter(pattern_of(diff, hunk).title for hunk in diff.hunks))


def operators(diff: GraphDiff) -> list[tuple[list[str], list[str]]]:
    return [
        ([diff.before.nodes[n].op_type for n in h.before],
         [diff.after.nodes[n].op_type for n in h.after])
        for h in diff.hunks
    ]  # fmt: skip


def test_rounded_values_tie_no_layers_together(net: Net, weight: Weight) -> None:
    """Q and DQ between two products, weights behind DQ: each of it is a hunk of its own."""
    one = net("a = MatMul(x, v) y = MatMul(a, w)", v=weight(0), w=weight(1))
    codes = {f"q{i}": np.full((4, 4), i, np.int8) for i in range(2)}
    other = net(
        "dv = DequantizeLinear(q0, s, z) dw = DequantizeLinear(q1, s, z) "
        "p = QuantizeLinear(x, s, z) u = DequantizeLinear(p, s, z) a = MatMul(u, dv) "
        "q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, dw)",
        s=SCALE, z=ZERO, **codes,
    )  # fmt: skip
    for prefix in ("", "n."):
        for node in other.graph:
            for value in node.outputs:
                value.name = value.name if value.is_graph_output() else f"{prefix}{value.name}"
        found = diff_models(one, other)
        assert named(found) == {"weights stored as INT8": 2, "values rounded to INT8": 2}
        assert len(found.matching.pairs) == 2
        played = replay(one, patch_of(found), store_of(other))
        assert contents_digest(played) == contents_digest(other)


def test_fusions_along_a_chain_are_hunks_of_their_own(net: Net, weight: Weight) -> None:
    """The value between two fused stretches is one that a node reads which both graphs have."""
    face = "(float[2, 4] x) => (float[2, 4] y, float[2, 4] z)"
    tensors = {f"b{i}": weight(i)[0] for i in range(2)}
    one = net("a = Add(x, b0) b = Relu(a) z = Abs(b) c = Add(b, b1) y = Relu(c)",
              face=face, **tensors)  # fmt: skip
    other = net("b = Max(x, b0) z = Abs(b) y = Max(b, b1)", face=face, **tensors)
    found = diff_models(one, other)
    assert operators(found) == [(["Add", "Relu"], ["Max"])] * 2
    assert named(found) == {"fused into Max": 2}


def test_an_input_that_is_constant_now(net: Net, weight: Weight) -> None:
    face = "(float[2, 4] x, float[4, 4] c) => (float[2, 4] y)"
    one = net("n = Neg(w) a = MatMul(x, c) y = Add(a, n)", face=face, w=weight(0)[0])
    other = net("a = MatMul(x, c) y = Add(a, m)", face=face, m=-weight(0)[0])
    found = diff_models(one, other)
    assert named(found) == {"computed in advance": 1}
    assert len(found.matching.pairs) == 2


@pytest.mark.parametrize(
    ("body", "tensors", "title"),
    [
        ("h = MatMul(x, u) y = MatMul(h, v)", {"u": (4, 2), "v": (2, 4)}, "written as two factors"),
        ("y = MatMul(x, u)", {"u": (4, 4)}, "other weights"),
        (
            "q, s, z = DynamicQuantizeLinear(x) a = MatMulInteger(q, k, z) b = Cast <to = 1> (a) "
            "y = Mul(b, s)",
            {},
            "computed in 8-bit integers, inputs rounded at run time",
        ),
    ],
)
def test_what_became_of_a_product(
    net: Net, weight: Weight, body: str, tensors: dict[str, tuple[int, int]], title: str
) -> None:
    made = {name: weight(7)[: size[0], : size[1]] for name, size in tensors.items()}
    one = net("y = MatMul(x, w)", w=weight(0))
    found = diff_models(one, net(body, k=np.ones((4, 4), np.uint8), **made))
    assert named(found) == {title: 1}


def test_a_default_that_is_spelled_out(net: Net) -> None:
    (hunk,) = diff_models(net("y = Softmax(x)"), net("y = Softmax <axis = -1> (x)")).hunks
    assert hunk.details == ("Softmax: axis: absent -> -1, its default",)


def test_a_default_that_is_spelled_out_ties_nothing_together(net: Net, weight: Weight) -> None:
    one = net("a = Neg(x) b = Gemm(a, w) y = Abs(b)", w=weight(0))
    other = net("b = Gemm <transA = 0> (x, w) y = Abs(b)", w=weight(0))
    found = diff_models(one, other)
    assert named(found) == {"removed": 1, "a default spelled out, or no longer": 1}
    changed = diff_models(one, net("b = Gemm <transB = 1> (x, w) y = Abs(b)", w=weight(0)))
    assert "a default spelled out, or no longer" not in named(changed)
    assert contents_digest(replay(one, patch_of(found), store_of(other))) == contents_digest(other)


@pytest.mark.parametrize(("opset", "default"), [(12, 1), (20, -1)])
def test_defaults_are_those_of_the_opset(net: Net, opset: int, default: int) -> None:
    """Softmax 1 to 12 went along axis 1 where nothing was said."""
    models = net("y = Softmax(x)"), net(f"y = Softmax <axis = {default}> (x)")
    for model in models:
        model.opset_imports[""] = opset
    assert named(diff_models(*models)) == {"a default spelled out, or no longer": 1}
    for model in models:
        model.opset_imports[""] = 32 - opset
    assert named(diff_models(*models)) == {"modified": 1}


def test_weights_in_narrower_floats(net: Net, weight: Weight) -> None:
    one = net("y = MatMul(x, w)", w=weight(0))
    other = net("d = Cast <to = 1> (h) y = MatMul(x, d)", h=weight(0).astype(np.float16))
    assert named(diff_models(one, other)) == {"weights stored as FLOAT16": 1}


def test_operators_on_integers_stand_for_those_on_floats(net: Net, weight: Weight) -> None:
    """Each of a chain of its own, though no value between them is one that both graphs compute."""
    one = net("a = MatMul(x, v) b = MatMul(a, w) y = Relu(b)", v=weight(0), w=weight(1))
    codes = {f"q{i}": np.full((4, 4), i + 1, np.int8) for i in range(2)}
    other = net(
        "p = QuantizeLinear(x, s, z) a = QLinearMatMul(p, s, z, q0, s, z, s, z) "
        "b = QLinearMatMul(a, s, z, q1, s, z, s, z) d = DequantizeLinear(b, s, z) y = Relu(d)",
        s=SCALE, z=ZERO, **codes,
    )  # fmt: skip
    found = diff_models(one, other)
    assert named(found) == {"computed in 8-bit integers": 2}
    assert [sum("MatMul" in op for op in after) for _, after in operators(found)] == [1, 1]


def test_operators_on_integers_that_do_the_activation_too(net: Net) -> None:
    """Convolutions with Relu in a chain, a pool on codes, a Concat whose scale comes first."""
    face = "(float[1, 4, 4, 4] x) => (float[1, 8, 4, 4] y)"
    kernels = [np.random.default_rng(i).normal(size=(4, 4, 1, 1)).astype("f4") for i in range(2)]
    pool = "MaxPool <kernel_shape = [1, 1]>"
    one = net(
        f"a = Conv(x, v) b = Relu(a) l = {pool} (b) c = Conv(l, w) d = Relu(c) m = {pool} (d) "
        "e = Concat <axis = 1> (l, m) y = Neg(e)",
        face=face, v=kernels[0], w=kernels[1],
    )  # fmt: skip
    codes = {f"k{i}": np.full((4, 4, 1, 1), i + 1, np.int8) for i in range(2)}
    other = net(
        "p = QuantizeLinear(x, s, z) f = QLinearConv(p, s, z, k0, s, z, s, low) "
        f"o = {pool} (f) g = QLinearConv(o, s, low, k1, s, z, s, low) n = {pool} (g) "
        "h = com.microsoft.QLinearConcat <axis = 1> (s, low, o, s, low, n, s, low) "
        "i = DequantizeLinear(h, s, low) y = Neg(i)",
        face=face, s=SCALE, z=ZERO, low=np.int8(-128), **codes,
    )  # fmt: skip
    found = diff_models(one, other)
    assert named(found) == {"computed in 8-bit integers": 5}
    gone = [before for before, _ in operators(found)]
    assert gone == [["Conv", "Relu"], ["MaxPool"], ["Conv", "Relu"], ["MaxPool"], ["Concat"]]
    played = replay(one, patch_of(found), store_of(other))
    assert contents_digest(played) == contents_digest(other)


ACTIVATIONS = [
    ("Relu(a)", -128, ", Relu done by rounding"),
    ("Clip(a, lo, hi)", -128, ", Clip done by rounding"),
    ("Relu(a)", 0, ""),  # codes below zero let negative values pass
    ("Clip(a, lo, low_hi)", -128, ""),  # the highest code stands for more than that
]
ENDS = {"lo": np.float32(0), "hi": np.float32(25.5), "low_hi": np.float32(6)}


@pytest.mark.parametrize(("activation", "lowest", "told"), ACTIVATIONS)
def test_an_activation_that_rounding_does(
    net: Net, weight: Weight, activation: str, lowest: int, told: str
) -> None:
    """Names tell nothing of the products, nor do weights."""
    layer = "a{0} = Gemm({1}, w{0}, b{0}) r{0} = " + activation.replace("(a", "(a{0}")
    one = net(" ".join([layer.format(0, "x"), layer.format(1, "r0"), "y = Neg(r1)"]),
              w0=weight(0), w1=weight(1), b0=weight(2)[0], b1=weight(3)[0], **ENDS)  # fmt: skip
    layer = (
        "d{0} = DequantizeLinear(k{0}, s, z) e{0} = DequantizeLinear(i{0}, s, j) "
        "g{0} = Gemm({1}, d{0}, e{0}) q{0} = QuantizeLinear(g{0}, s, low) "
        "r{0} = DequantizeLinear(q{0}, s, low)"
    )
    codes = {f"k{i}": np.arange(i, i + 16, dtype=np.int8).reshape(4, 4) for i in range(2)}
    biases = {f"i{i}": np.arange(i, i + 4, dtype=np.int32) for i in range(2)}
    other = net(
        " ".join([layer.format(0, "x"), layer.format(1, "r0"), "y = Neg(r1)"]),
        s=SCALE, z=ZERO, low=np.int8(lowest), j=np.int32(0), **codes, **biases,
    )  # fmt: skip
    titles = named(diff_models(one, other))
    assert titles == {f"weights stored as INT8{told}" if told else "replaced": 1}


@pytest.mark.parametrize(("activation", "lowest", "told"), ACTIVATIONS)
def test_an_activation_that_became_rounding_is_not_written_out(
    net: Net, activation: str, lowest: int, told: str
) -> None:
    one = net(f"a = Abs(x) r = {activation} y = Neg(r)", **ENDS)
    other = net("a = Abs(x) q = QuantizeLinear(a, s, low) r = DequantizeLinear(q, s, low) "
                "y = Neg(r)", s=SCALE, low=np.int8(lowest))  # fmt: skip
    assert named(diff_models(one, other)) == {
        f"values rounded to INT8{told}" if told else "replaced": 1
    }
