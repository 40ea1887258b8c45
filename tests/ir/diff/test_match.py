"""Which nodes of two graphs are the same: against what is known of how the second was made."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.diff.match import match
from planish.ir.diff.pool import Pool

Net = Callable[..., ir.Model]
Weight = Callable[[int], np.ndarray]


def pairs(before: ir.Model, after: ir.Model) -> dict[str, str]:
    """Output names of matched nodes."""
    a, b = Pool.of(before), Pool.of(after)
    return {a.names[x]: b.names[y] for x, y in match(a, b).pairs.items()}


def test_a_model_is_itself_under_other_names(net: Net, weight: Weight) -> None:
    one = net("a = MatMul(x, v) b = Relu(a) y = MatMul(b, w)", v=weight(0), w=weight(1))
    other = net("q = MatMul(x, t) r = Relu(q) y = MatMul(r, u)", t=weight(0), u=weight(1))
    assert pairs(one, other) == {"a": "q", "b": "r", "y": "y"}


def test_names_that_moved_on_do_not_mislead(net: Net, weight: Weight) -> None:
    """Exporters number what they write: one node more in front, and every name means another."""
    tensors = {f"w{i}": weight(i) for i in range(3)}
    one = net("n0 = MatMul(x, w0) n1 = Relu(n0) n2 = MatMul(n1, w1) n3 = Relu(n2) "
              "y = MatMul(n3, w2)", **tensors)  # fmt: skip
    other = net("n0 = Neg(x) n1 = MatMul(n0, w0) n2 = Relu(n1) n3 = MatMul(n2, w1) n4 = Relu(n3) "
                "y = MatMul(n4, w2)", **tensors)  # fmt: skip
    assert pairs(one, other) == {"n0": "n1", "n1": "n2", "n2": "n3", "n3": "n4", "y": "y"}


def test_equal_blocks_are_told_apart_by_their_neighbours(net: Net, weight: Weight) -> None:
    """Eight equal branches without names of their own, one of them changed."""

    def branches(changed: int | None, names: str) -> ir.Model:
        body, last = [f"{names}s = Identity(x)"], f"{names}s"
        for i in range(8):
            op = "Sigmoid" if i == changed else "Relu"
            body += [f"{names}a{i} = MatMul({last}, w)", f"{names}b{i} = {op}({names}a{i})",
                     f"{names}c{i} = Add({names}b{i}, {last})"]  # fmt: skip
            last = f"{names}c{i}"
        return net(" ".join([*body, f"y = Neg({last})"]), w=weight(0))

    found = pairs(branches(None, "p"), branches(4, "q"))
    assert {k: v for k, v in found.items() if k not in ("pb4", "y")} == {
        f"p{name}": f"q{name}"
        for name in ["s", *(f"{x}{i}" for i, x in itertools.product(range(8), "abc"))]
        if name != "b4"
    }
    assert "pb4" not in found


def test_order_does_not_matter(net: Net, weight: Weight) -> None:
    body = ["a = MatMul(x, v)", "b = MatMul(x, w)"]
    one = net(" ".join([*body, "y = Add(a, b)"]), v=weight(0), w=weight(1))
    other = net(" ".join([*body[::-1], "y = Add(a, b)"]), v=weight(0), w=weight(1))
    assert pairs(one, other) == {"a": "a", "b": "b", "y": "y"}


def test_a_weight_that_changed_leaves_the_node_what_it_was(net: Net, weight: Weight) -> None:
    one = net("a = MatMul(x, w) y = Relu(a)", w=weight(0))
    other = net("q = MatMul(x, w) y = Relu(q)", w=weight(1))
    assert pairs(one, other) == {"a": "q", "y": "y"}


def test_nodes_of_bodies_match_within_bodies_that_do(net: Net) -> None:
    face = "(bool c, float[2, 4] x) => (float[2, 4] y)"

    def branches(name: str, op: str) -> ir.Model:
        nodes = f"{name}0 = Neg(x) {name}1 = {op}({name}0)"
        then = f"then_branch = t () => (float[2, 4] {name}1) {{ {nodes} }}"
        other = f"else_branch = e () => (float[2, 4] {name}2) {{ {name}2 = Neg(x) }}"
        return net(f"y = If (c) <{then}, {other}>", face=face)

    found = pairs(branches("p", "Relu"), branches("q", "Sigmoid"))
    assert found == {"y": "y", "p0": "q0", "p2": "q2"}


def test_what_stands_alone_between_known_nodes(net: Net, weight: Weight) -> None:
    """Every layer became another one; the activations between them are as they were."""
    norms = {f"s{i}": weight(i)[0] for i in range(3)}
    one, other = list[str](), list[str]()
    last = "x"
    for i in range(3):
        one += [f"p{i} = MatMul({last}, w)", f"g{i} = Tanh(p{i})", f"n{i} = Mul(g{i}, s{i})"]
        other += [f"k{i} = Add(m{i}, w)" if j else f"m{i} = MatMul({last}, v)" for j in (0, 1)]
        other += [f"h{i} = Tanh(k{i})", f"i{i} = Neg(h{i})", f"n{i} = Mul(i{i}, s{i})"]
        last = f"n{i}"
    one, other = ([*body, f"y = Identity({last})"] for body in (one, other))
    tensors = norms | {"w": weight(8)[0] * np.eye(4, dtype=np.float32), "v": weight(9)}
    bias = norms | {"w": weight(8)[0], "v": weight(9)}
    found = pairs(net(" ".join(one), **tensors), net(" ".join(other), **bias))
    assert {a: b for a, b in found.items() if a.startswith("g")} == {
        "g0": "h0", "g1": "h1", "g2": "h2",
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_rewrites_in_a_long_graph_without_names(net: Net, seed: int) -> None:
    """A node in twelve is replaced by two; all others are found, and no wrong pair is."""
    rng = np.random.default_rng(seed)
    one, other, truth = ["p0 = Identity(x)"], ["q0 = Identity(x)"], {"p0": "q0"}
    tensors, last = dict[str, np.ndarray](), ("p0", "q0")
    for i in range(1, 120):
        op = rng.choice(["MatMul", "Relu", "Add"])
        more = f", w{i}" if op != "Relu" else ""
        if more:
            tensors[f"w{i}"] = rng.normal(size=(4, 4) if op == "MatMul" else 4).astype(np.float32)
        one.append(f"p{i} = {op}({last[0]}{more})")
        if i % 12 == 5:
            other += [f"r{i} = Sigmoid({last[1]})", f"q{i} = Neg(r{i})"]
        else:
            other.append(f"q{i} = {op}({last[1]}{more})")
            truth[f"p{i}"] = f"q{i}"
        last = f"p{i}", f"q{i}"
    models = [
        net(" ".join([*body, f"y = Identity({end})"]), **tensors)
        for body, end in zip((one, other), last, strict=True)
    ]
    found = pairs(*models)
    assert {k: v for k, v in found.items() if k in truth and truth[k] != v} == {}
    assert set(truth) <= set(found)
