"""The canonical form inside the bodies of If, Loop and Scan: safe, and nothing moved in or out."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.graph import all_nodes, constant_tensor
from planish.ir.rewriter import Rewriter
from planish.ir.sites import find_sites
from planish.passes.canonical.constants import fold_constants
from planish.passes.canonical.spelling import castlike_to_cast

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(11)
X = {"x": RNG.normal(size=(3, 4)).astype(np.float32)}
W = RNG.normal(size=(5, 4)).astype(np.float32)
B = RNG.normal(size=(5,)).astype(np.float32)


def graph(body: str, opset: int = 17) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
g (float[n, 4] x, bool b) => (float[n, m] y) {{ {body} }}"""


def branches(then: str, other: str = "q = Neg(x)") -> str:
    return f"""y = If (b) <then_branch = t () => (float[n, m] p) {{ {then} }},
                         else_branch = e () => (float[n, k] q) {{ {other} }}>"""


def canonical(graphs: ModuleType, text: str, feeds: dict[str, Array], **tensors: Array) -> ir.Model:
    """The graph after the pass, the same outputs as before, and nothing left to do."""
    model: ir.Model = graphs.parse(text, **tensors)
    before = graphs.run(model, feeds)
    bench = graphs.Bench(model, [feeds])
    bench.run("canonicalize")
    after = bench.outputs(feeds)
    for name, expected in before.items():
        np.testing.assert_allclose(after[name], expected, rtol=1e-6, atol=1e-6)
    assert bench.run("canonicalize").edits == []
    return model


def homes(model: ir.Model) -> dict[str, str]:
    """For each operator inside a body the name of the graph it stands in."""
    nodes = [(n.op_type, n.graph) for n in all_nodes(model) if n.graph is not model.graph]
    return {op_type: str(home.name) for op_type, home in nodes if home is not None}


@pytest.mark.parametrize("b", [True, False])
def test_a_gemm_in_a_branch_with_a_captured_weight(graphs: ModuleType, b: bool) -> None:
    text = graph(branches("p = Gemm <transB = 1> (x, w, c)"))
    model = canonical(graphs, text, X | {"b": np.array(b)}, w=W, c=B)
    assert homes(model) == {"MatMul": "t", "Add": "t", "Neg": "e"}
    assert [v.name for v in model.graph.initializers.values()] == ["c", "w_t"]
    site = find_sites(model, nested=True)[0]
    assert site.nested
    assert site.nodes[0].op_type == "MatMul"


def test_a_weight_that_bodies_and_the_main_graph_share_stays_shared(graphs: ModuleType) -> None:
    body = "z = Gemm <transB = 1> (x, w)\n" + branches("s = Gemm <transB = 1> (x, w) p = Add(s, z)")
    model = canonical(graphs, graph(body), X | {"b": np.array(True)}, w=W)
    assert list(model.graph.initializers) == ["w_t"]
    [site] = [s for s in find_sites(model, nested=True) if s.kind == "linear"]
    assert len(site.uses) == 2


def test_a_weight_of_the_body_itself_stays_there(graphs: ModuleType) -> None:
    then = """w = Constant <value = float[2, 4] {1, 2, 3, 4, 5, 6, 7, 8}> ()
              p = Gemm <transB = 1> (x, w)"""
    model = canonical(graphs, graph(branches(then)), X | {"b": np.array(True)})
    product = next(n for n in all_nodes(model) if n.op_type == "MatMul")
    weight = product.inputs[1]
    assert weight is not None
    assert weight.graph is product.graph
    assert not model.graph.initializers


def test_constants_are_folded_where_they_stand(graphs: ModuleType) -> None:
    then = """a = Constant <value_ints = [2]> ()
              c = Add(a, one) s = Cast <to = 1> (c) p = Add(s, x)"""
    one = np.array([1], np.int64)
    model = canonical(graphs, graph(branches(then)), X | {"b": np.array(True)}, one=one)
    assert homes(model) == {"Add": "t", "Neg": "e"}
    added = next(n for n in all_nodes(model) if n.op_type == "Add")
    assert added.inputs[0] is model.graph.inputs[0]  # the constant stands on the right
    tensor = constant_tensor(added.inputs[1])
    assert tensor is not None
    assert tensor.numpy().tolist() == [3.0]


def test_an_identity_that_returns_an_outer_value_stays(graphs: ModuleType) -> None:
    text = graph("r = Relu(x)\n" + branches("p = Identity(r)", "q = Identity(x)"))
    for b in (True, False):
        model = canonical(graphs, text, X | {"b": np.array(b)})
        assert sorted(n.op_type for n in all_nodes(model)) == ["Identity", "Identity", "If", "Relu"]


def test_an_identity_inside_a_body_goes(graphs: ModuleType) -> None:
    text = graph(branches("i = Identity(x) j = Relu(i) p = Identity(j)"))
    model = canonical(graphs, text, X | {"b": np.array(True)})
    assert homes(model) == {"Relu": "t", "Neg": "e"}


LOOP = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 4] x, int64 m) => (float[n, 4] y, float[k, n, 4] all)
{
  b = Constant <value = bool {1}> ()
  y, all = Loop (m, b, x)
  <body = l (int64 i, bool c, float[n, 4] s) => (bool d, float[n, 4] t, float[n, 4] u)
  {
    d = Identity(c)
    v = Gemm <transB = 1> (s, w, h)
    t = Dropout(v)
    o = Constant <value_float = 2.0> ()
    u = Mul(o, v)
  }>
}"""


def test_a_loop_body_keeps_what_it_carries(graphs: ModuleType) -> None:
    square = RNG.normal(size=(4, 4)).astype(np.float32) / 2
    feeds = X | {"m": np.array(3)}
    model = canonical(graphs, LOOP, feeds, w=square, h=B[:4])
    ops = [n.op_type for n in all_nodes(model) if n.graph is not model.graph]
    assert ops == ["Identity", "MatMul", "Add", "Mul"]  # the condition is an input handed on


def test_a_convolution_is_not_drawn_into_a_loop(graphs: ModuleType) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 2, 5, 5] x, int64 m) => (float[1, 2, 3, 3] y)
    {
      b = Constant <value = bool {1}> ()
      z = ConstantOfShape <value = float[1] {0}> (shape)
      c = Conv(x, w)
      y = Loop (m, b, z)
      <body = l (int64 i, bool k, float[1, 2, 3, 3] s) => (bool d, float[1, 2, 3, 3] t)
      {
        d = Identity(k)
        n = BatchNormalization(c, o, o, o, o)
        t = Add(s, n)
      }>
    }"""
    w = RNG.normal(size=(2, 2, 3, 3)).astype(np.float32)
    x = RNG.normal(size=(1, 2, 5, 5)).astype(np.float32)
    tensors = {"w": w, "o": np.ones(2, np.float32), "shape": np.array([1, 2, 3, 3])}
    model = canonical(graphs, text, {"x": x, "m": np.array(2)}, **tensors)
    assert "Conv" in graphs.ops(model)
    assert homes(model)["BatchNormalization"] == "l"


def test_a_batch_norm_and_its_convolution_are_folded_inside_a_branch(graphs: ModuleType) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 2, 5, 5] x, bool b) => (float[1, 2, u, v] y)
    {
      y = If (b) <then_branch = t () => (float[1, 2, u, v] p) {
                    c = Conv(x, w)
                    p = BatchNormalization(c, o, o, o, o) },
                  else_branch = e () => (float[1, 2, u, v] q) { q = Neg(x) }>
    }"""
    w = RNG.normal(size=(2, 2, 3, 3)).astype(np.float32)
    x = RNG.normal(size=(1, 2, 5, 5)).astype(np.float32)
    feeds = {"x": x, "b": np.array(True)}
    model = canonical(graphs, text, feeds, w=w, o=np.full(2, 2, np.float32))
    assert homes(model) == {"Conv": "t", "Neg": "e"}


# -- what must not be folded -----------------------------------------------------------

NORM = """<ir_version: 8, opset_import: ["" : {opset}]>
g (float[1, 2, 5, 5] x) => (float[1, 2, 3, 3] y{more}) {{
  c = Conv(x, w)
  y{outputs} = BatchNormalization{attributes}(c, s, s, s, s)
}}"""


@pytest.mark.parametrize(
    ("opset", "outputs", "attributes"),
    [(9, ", m, v, a, d", ""), (15, ", m, v", "<training_mode = 1>"), (7, "", "<spatial = 0>")],
)
def test_batch_norms_in_training_or_per_pixel_stay(
    graphs: ModuleType, opset: int, outputs: str, attributes: str
) -> None:
    text = NORM.format(opset=opset, outputs=outputs, attributes=attributes, more="")
    stored = np.ones((2, 3, 3) if "spatial" in attributes else 2, np.float32)
    model = graphs.parse(text, w=np.ones((2, 2, 3, 3), np.float32), s=stored)
    bench = graphs.Bench(model, [{"x": np.ones((1, 2, 5, 5), np.float32)}])
    assert bench.run("canonicalize").edits == []


HUGE = "s = Constant <value_ints = [{}]> () "


@pytest.mark.parametrize(
    "text",
    [
        HUGE.format("30000, 30000") + "r = ConstantOfShape(s)",
        HUGE.format("100000000000") + "t = Constant <value_ints = [1]> () r = Expand(t, s)",
        HUGE.format("1000000") + "t = Constant <value_ints = [1, 2]> () r = Tile(t, s)",
        """a = Constant <value_int = 0> () b = Constant <value_int = 9000000000000> ()
           c = Constant <value_int = 1> () r = Range(a, b, c)""",
    ],
)
def test_large_constants_are_not_made(
    graphs: ModuleType, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def fail(_: object) -> None:
        pytest.fail("computed")  # no Exception: nothing catches it

    monkeypatch.setattr("planish.passes.canonical.constants.ReferenceEvaluator", fail)
    head = (
        """<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] y, int64[1] z) """
    )
    model = graphs.parse(f"{head} {{ {text} z = Size(r) y = Neg(x) }}")
    assert not fold_constants(next(iter(model.graph)), Rewriter(model))


# -- casts to the type of another value ------------------------------------------------


def test_a_cast_like_a_known_value_is_a_cast_and_folds(graphs: ModuleType) -> None:
    body = """one = Constant <value_int = 1> () like = CastLike(one, x)
              h = Cast <to = 10> (x) half = CastLike(x, h) back = Cast <to = 1> (half)
              y = Add(back, like)"""
    model = canonical(graphs, graph(body), X | {"b": np.array(True)})
    assert graphs.ops(model) == ["Cast", "Cast", "Add"]


def test_a_cast_like_a_value_of_unknown_type_stays(graphs: ModuleType) -> None:
    model = graphs.parse(graph("z = Relu(x) y = CastLike(x, z)"))
    node = graphs.node(model, "CastLike_1")
    node.inputs[1].type = None
    assert not castlike_to_cast(node, Rewriter(model))
