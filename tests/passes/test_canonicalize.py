from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.graph import constant_array, constant_tensor, producer
from planish.ir.load import load_model
from planish.ir.provenance import ORIGIN_KEY
from planish.ir.rewriter import Rewriter
from planish.ir.sites import find_sites
from planish.passes.canonicalize import RULES
from planish.targets.runtime import open_session

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(6)


def array(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def head(inputs: str, outputs: str, opset: int = 17) -> str:
    return f'<ir_version: 8, opset_import: ["" : {opset}]>\ng ({inputs}) => ({outputs})\n'


X24 = head("float[n, 4] x", "float[n, 3] y")


def canonical(graphs: ModuleType, text: str, feed: dict[str, Array], **tensors: Array) -> Any:
    """The graph after the pass: the same outputs as before, and nothing left to do."""
    model = graphs.parse(text, **tensors)
    before = graphs.run(model, feed)
    bench = graphs.Bench(model, [feed])
    bench.run("canonicalize")
    after = bench.outputs(feed)
    assert list(after) == list(before)
    for name, expected in before.items():
        assert after[name].dtype == expected.dtype
        scale = float(np.abs(expected).max(initial=1.0)) if expected.dtype.kind == "f" else 0.0
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=1e-6 * scale)
    once = graphs.snapshot(model)
    assert bench.run("canonicalize").edits == []
    assert graphs.snapshot(model) == once
    return model


def weight(model: ir.Model, name: str) -> Array:
    found = constant_array(model.graph.initializers[name])
    assert found is not None
    return found


# -- what becomes of which graph -------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias_shape", [(3,), (1, 3), (1,), (), (2, 1), (2, 3)])
def test_gemm_becomes_a_product_and_a_sum(
    graphs: ModuleType, transposed: int, alpha: float, beta: float, bias_shape: tuple[int, ...]
) -> None:
    w, b, x = array(*((3, 4) if transposed else (4, 3))), array(*bias_shape), array(2, 4)
    text = X24 + f"{{ y = Gemm <alpha = {alpha}, beta = {beta}, transB = {transposed}> (x, w, b) }}"
    model = canonical(graphs, text, {"x": x}, w=w, b=np.asarray(b, np.float32))
    assert graphs.ops(model) == ["MatMul", "Add"]
    wide = w.astype(np.float64).T if transposed else w.astype(np.float64)
    expected = alpha * (x.astype(np.float64) @ wide) + beta * b
    np.testing.assert_allclose(graphs.run(model, {"x": x})["y"], expected, rtol=1e-5, atol=1e-6)
    site = find_sites(model)[0]
    assert site.nodes[0].op_type == "MatMul"
    assert (site.bias is not None) == (bias_shape in [(3,), (1, 3)])


def test_gemm_without_bias_is_a_product(graphs: ModuleType) -> None:
    model = canonical(graphs, X24 + "{ [only] y = Gemm(x, w) }", {"x": array(2, 4)}, w=array(4, 3))
    assert graphs.lines(model) == ["y = MatMul(x, w)"]
    assert graphs.node(model, "only_matmul").metadata_props[ORIGIN_KEY] == "only"


@pytest.mark.parametrize(
    ("inputs", "body"),
    [
        ("float[4, n] x", "y = Gemm <transA = 1> (x, w)"),
        ("float[n, 4] x, float[4, 3] v", "y = Gemm(x, v)"),
        ("float[n, 4] x, float[3] c", "y = Gemm(x, w, c)"),
    ],
)
def test_other_gemms_stay(graphs: ModuleType, inputs: str, body: str) -> None:
    feeds = {"x": array(4, 4), "v": array(4, 3), "c": array(3)}
    feed = {name: value for name, value in feeds.items() if f" {name}" in inputs}
    tensors = {"w": array(4, 3)} if "w" in body.split("(")[1] else {}
    text = head(inputs, "float[n, 3] y") + f"{{ {body} }}"
    assert graphs.ops(canonical(graphs, text, feed, **tensors)) == ["Gemm"]


def test_weights_are_transposed_when_they_are_asked_for(graphs: ModuleType) -> None:
    w = array(3, 4)
    model = canonical(graphs, X24 + "{ y = Gemm <transB = 1> (x, w) }", {"x": array(2, 4)}, w=w)
    tensor = constant_tensor(model.graph.initializers["w_t"])
    assert isinstance(tensor, ir.LazyTensor)
    np.testing.assert_array_equal(tensor.numpy(), w.T)
    assert list(model.graph.initializers) == ["w_t"]


@pytest.mark.parametrize(
    "body",
    [
        "a = Gemm <transB = 1, alpha = 0.5> (x, w) b = Gemm <transB = 1, alpha = 0.5> (a, w)",
        "t = Transpose(w) s = Transpose <perm = [1, 0]> (w) a = MatMul(x, t) b = MatMul(a, s)",
    ],
)
def test_a_shared_weight_stays_shared(graphs: ModuleType, body: str) -> None:
    text = head("float[n, 4] x", "float[n, 4] y") + f"{{ {body} y = Relu(b) }}"
    model = canonical(graphs, text, {"x": array(2, 4)}, w=array(4, 4))
    assert graphs.ops(model) == ["MatMul", "MatMul", "Relu"]
    assert list(model.graph.initializers) == ["w_t"]
    assert len(find_sites(model)[0].uses) == 2


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("t = Transpose(table) y = MatMul(e, t)", ["Gather", "Transpose", "MatMul"]),
        ("y = Gemm <transB = 1> (e, table)", ["Gather", "Gemm"]),
    ],
)
def test_a_table_tied_to_a_head_is_not_stored_twice(
    graphs: ModuleType, body: str, left: list[str]
) -> None:
    text = head("int64[n] ids", "float[n, 9] y") + f"{{ e = Gather(table, ids) {body} }}"
    model = canonical(graphs, text, {"ids": np.array([1, 8, 3])}, table=array(9, 4))
    assert graphs.ops(model) == left
    assert list(model.graph.initializers) == ["table"]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norms_are_folded(graphs: ModuleType, groups: int, bias: bool) -> None:
    text = (
        head("float[n, 4, h, w] x", "float[n, 6, a, b] y")
        + f"""{{
      [conv] a = Conv <kernel_shape = [3, 3], group = {groups}> (x, k{", b" * bias})
      [norm] b2 = BatchNormalization <epsilon = 0.01> (a, gamma, beta, mean, var)
      y = Relu(b2)
    }}"""
    )
    tensors = {
        "k": array(6, 4 // groups, 3, 3), "gamma": array(6), "beta": array(6), "mean": array(6),
        "var": np.abs(array(6)) + 0.1,
    } | ({"b": array(6)} if bias else {})  # fmt: skip
    model = canonical(graphs, text, {"x": array(2, 4, 5, 5)}, **tensors)
    assert graphs.ops(model) == ["Conv", "Relu"]
    conv = next(iter(model.graph))
    wide = {name: value.astype(np.float64) for name, value in tensors.items()}
    factor = wide["gamma"] / np.sqrt(wide["var"] + 0.01)
    folded, shift = constant_array(conv.inputs[1]), constant_array(conv.inputs[2])
    assert folded is not None
    assert shift is not None
    np.testing.assert_allclose(folded, wide["k"] * factor[:, None, None, None], rtol=1e-6)
    expected = (wide.get("b", 0.0) - wide["mean"]) * factor + wide["beta"]
    np.testing.assert_allclose(shift, expected, rtol=1e-6, atol=1e-7)
    assert conv.metadata_props[ORIGIN_KEY] == "conv|norm"
    assert len(model.graph.initializers) == 2


NORM = """{
  a = Conv <kernel_shape = [1, 1]> (x, k)
  y = BatchNormalization %s (a, gamma, beta, mean, var) %s
}"""


@pytest.mark.parametrize(
    ("outputs", "attributes", "more"),
    [
        ("float[n, 3, h, w] y, float[n, 3, h, w] z", "", "z = Relu(a)"),
        ("float[n, 3, h, w] y, float[n, 3, h, w] a", "", ""),
    ],
)
def test_a_convolution_that_others_read_keeps_its_batch_norm(
    graphs: ModuleType, outputs: str, attributes: str, more: str
) -> None:
    tensors = {name: np.abs(array(3)) for name in ("gamma", "beta", "mean", "var")}
    text = head("float[n, 2, h, w] x", outputs) + NORM % (attributes, more)
    model = canonical(graphs, text, {"x": array(1, 2, 3, 3)}, k=array(3, 2, 1, 1), **tensors)
    assert graphs.ops(model)[:2] == ["Conv", "BatchNormalization"]


def test_a_batch_norm_behind_anything_else_stays(graphs: ModuleType) -> None:
    tensors = {name: np.abs(array(4)) for name in ("s", "b", "m", "v")}
    text = head("float[n, 4] x", "float[n, 4] y") + "{ y = BatchNormalization(x, s, b, m, v) }"
    model = canonical(graphs, text, {"x": array(2, 4)}, **tensors)
    assert graphs.ops(model) == ["BatchNormalization"]


def test_what_does_nothing_is_removed(graphs: ModuleType) -> None:
    text = (
        head("float[n, 4] x", "float[n, 4] y, float[n, 4] z")
        + """<float ratio = {0.5}, bool off = {0}> {
      a = Identity(x)
      b = Relu(a)
      c = Dropout(b)
      d, mask = Dropout(c, ratio, off)
      y = Identity(d)
      z = Neg(c)
    }"""
    )
    model = canonical(graphs, text, {"x": array(2, 4)})
    assert graphs.lines(model) == ["y = Relu(x)", "z = Neg(y)"]
    assert list(model.graph.initializers) == []


@pytest.mark.parametrize(
    ("inputs", "outputs", "body"),
    [
        ("float[n] x", "float[n] y", "y = Identity(x)"),
        ("float[n] x", "float[n] y, float[2] z", "y = Relu(x) z = Identity(w)"),
        ("float[n] x", "float[n] y, float[n] z", "y = Relu(x) z = Identity(y)"),
        ("float[n] x, bool t", "float[n] y", "a = Relu(x) y = Dropout(a, r, t)"),
        ("float[n] x", "float[n] y, bool[n] m", "a = Relu(x) y, m = Dropout(a)"),
    ],
)
def test_an_output_needs_a_node_of_its_own(
    graphs: ModuleType, inputs: str, outputs: str, body: str
) -> None:
    tensors = {"w": array(2)} if "(w)" in body else {}
    tensors |= {"r": np.array(0.0, np.float32)} if ", r, " in body else {}
    feed = {"x": array(3)} | ({"t": np.array(False)} if "bool t" in inputs else {})
    model = canonical(graphs, head(inputs, outputs) + f"{{ {body} }}", feed, **tensors)
    assert graphs.ops(model)[-1] in ("Identity", "Dropout")


def test_identities_between_a_graph_and_its_branches_go(graphs: ModuleType) -> None:
    text = (
        head("float[2] x, bool c", "float[2] y")
        + """{
      a = Relu(x)
      b = Identity(a)
      y = If(c) <
        then_branch = t () => (float[2] p) { p = Neg(b) },
        else_branch = e () => (float[2] q) { q = Identity(b) }
      >
    }"""
    )
    model = canonical(graphs, text, {"x": array(2), "c": np.array(False)})
    assert graphs.ops(model) == ["Relu", "If"]


def test_shapes_and_indices_are_computed(graphs: ModuleType) -> None:
    text = (
        head("float[n, 4] x", "float[n, 2, 2] y")
        + """<int64 one = {1}, int64 three = {3}, int64[1] zero = {0}> {
      s = Shape(w)
      first = Gather(s, zero)
      two = Sub(three, one)
      flat = Unsqueeze(two, zero)
      shape = Concat <axis = 0> (zero, first, flat)
      y = Reshape(x, shape)
    }"""
    )
    model = canonical(graphs, text, {"x": array(3, 4)}, w=array(2, 5))
    assert graphs.ops(model) == ["Reshape"]
    assert weight(model, "shape_folded").tolist() == [0, 2, 2]
    assert list(model.graph.initializers) == ["shape_folded"]


def test_floats_are_moved_but_not_computed(graphs: ModuleType) -> None:
    """Arithmetic on floats may differ in the last bit between implementations."""
    text = (
        head("float[n, 4] x", "float[n, 4] y")
        + "{ a = Add(w, w) b = Reshape(w, s) c = Mul(x, a) y = Add(c, b) }"
    )
    shape = np.array([1, 4], np.int64)
    model = canonical(graphs, text, {"x": array(3, 4)}, w=array(4), s=shape)
    assert graphs.ops(model) == ["Add", "Mul", "Add"]


def test_large_constants_are_not_written_out(graphs: ModuleType) -> None:
    text = (
        head("float[n, m] x", "float[n, m] y")
        + "{ a = ConstantOfShape(s) b = Expand(w, s) c = Add(x, a) y = Add(c, b) }"
    )
    shape = np.array([70_000], np.int64)
    model = canonical(graphs, text, {"x": array(2, 70_000)}, s=shape, w=array(1))
    assert graphs.ops(model) == ["ConstantOfShape", "Expand", "Add", "Add"]


def test_a_constant_output_keeps_its_node(graphs: ModuleType) -> None:
    text = head("float[n] x", "float[n] y, int64[1] s") + "{ y = Relu(x) s = Shape(w) }"
    assert graphs.ops(canonical(graphs, text, {"x": array(2)}, w=array(3))) == ["Relu", "Shape"]


def test_constants_stand_on_the_right(graphs: ModuleType) -> None:
    text = (
        head("float[n, 4] x", "float[n, 4] y")
        + "{ a = Mul(w, x) b = Add(w, a) c = Sub(w, b) d = Add(c, x) y = Add(d, w) }"
    )
    model = canonical(graphs, text, {"x": array(3, 4)}, w=array(4))
    assert graphs.lines(model) == [
        "a = Mul(x, w)", "b = Add(a, w)", "c = Sub(w, b)", "d = Add(c, x)", "y = Add(d, w)",
    ]  # fmt: skip


def test_sums_of_two_are_additions(graphs: ModuleType) -> None:
    text = (
        head("float[n, 4] x, float[n, 4] z", "float[n, 4] y")
        + "{ a = Sum(x, z) b = Sum(a, x, z) y = Sum(b) }"
    )
    model = canonical(graphs, text, {"x": array(3, 4), "z": array(3, 4)})
    assert graphs.lines(model) == ["a = Add(x, z)", "b = Sum(a, x, z)", "y = Sum(b)"]


# -- the pass as a whole ---------------------------------------------------------------


def test_each_rule_that_changed_something_is_an_edit(graphs: ModuleType) -> None:
    text = X24 + "{ a = Identity(x) y = Gemm <transB = 1> (a, w, b) }"
    bench = graphs.Bench(graphs.parse(text, w=array(3, 4), b=array(3)), [{"x": array(2, 4)}])
    outcome = bench.run("canonicalize")
    assert [e.setting for e in outcome.edits] == ["remove-nothing", "gemm-to-matmul"]
    assert {e.site for e in outcome.edits} == {"graph"}
    assert set(RULES) >= {e.setting for e in outcome.edits}
    assert all(e.loss is None for e in outcome.edits)


def test_a_canonical_graph_is_left_alone(graphs: ModuleType) -> None:
    text = X24 + "{ a = MatMul(x, w) b = Add(a, c) y = Relu(b) }"
    model = graphs.parse(text, w=array(4, 3), c=array(3))
    before = graphs.snapshot(model)
    assert graphs.Bench(model, [{"x": array(2, 4)}]).run("canonicalize").edits == []
    assert graphs.snapshot(model) == before


def test_rollback_brings_the_spelling_back(graphs: ModuleType) -> None:
    text = X24 + "{ a = Identity(x) y = Gemm <transB = 1> (a, w, b) }"
    model = graphs.parse(text, w=array(3, 4), b=array(3))
    before, bench = graphs.snapshot(model), graphs.Bench(model, [{"x": array(2, 4)}])
    bench.manager.undo(bench.run("canonicalize"))
    assert graphs.snapshot(model) == before


@pytest.mark.data
@pytest.mark.parametrize("name", ["resnet20", "tsp20"])
def test_real_models_compute_the_same(task: Any, graphs: ModuleType, name: str) -> None:
    made = task(name)
    model = load_model(made.model).model
    feed = next(iter(made.calibration(8)))
    before = open_session(made.model, optimize="none").run(feed)
    names = [site.name for site in find_sites(model)]
    bench = graphs.Bench(model, [feed])
    bench.run("canonicalize")
    for expected, got in zip(before, bench.outputs(feed).values(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert [site.name for site in find_sites(model)] == names
    assert "Gemm" not in graphs.ops(model)
    norms = [n for n in model.graph if n.op_type == "BatchNormalization"]
    assert not any(producer(norm.inputs[0], "Conv") for norm in norms)


# -- a fixpoint, and what is exact -----------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "body", "left"),
    [
        # a Sum becomes an Add whose constant stands on the left
        ("float[n, 4] y", "y = Sum(w, x)", ["y = Add(x, w)"]),
        # a Dropout is inactive once its flag is computed
        (
            "float[n, 4] y",
            "t = Cast <to = 9> (off) a, m = Dropout(x, half, t) y = Relu(a)",
            ["y = Relu(x)"],
        ),
        # the weight can be transposed once its shape, which also reads it, is computed
        (
            "float[n, 4] y",
            "t = Transpose(w) a = MatMul(x, t) s = Shape(w) y = Reshape(a, s)",
            ["a = MatMul(x, w_t)", "y = Reshape(a, s_folded)"],
        ),
    ],
)
def test_a_rule_may_make_room_for_an_earlier_one(
    graphs: ModuleType, outputs: str, body: str, left: list[str]
) -> None:
    feeds: dict[str, Array] = {"x": array(4, 4)}
    tensors = {"w": array(4, 4)} if "w" in body else {}
    if "off" in body:
        tensors = {"off": np.array(0.0, np.float32), "half": np.array(0.5, np.float32)}
    model = canonical(graphs, head("float[n, 4] x", outputs) + f"{{ {body} }}", feeds, **tensors)
    assert graphs.lines(model) == left


def test_exact_rules_alone_leave_products_and_norms(graphs: ModuleType) -> None:
    text = X24 + "{ a = Identity(x) y = Gemm <transB = 1> (a, w, b) }"
    bench = graphs.Bench(graphs.parse(text, w=array(3, 4), b=array(3)), [{"x": array(2, 4)}])
    assert [e.setting for e in bench.run("canonicalize", rules="exact").edits] == ["remove-nothing"]
    assert graphs.lines(bench.model) == ["y = Gemm(x, w, b)"]


@pytest.mark.parametrize(
    ("kind", "number", "to", "folded"),
    [
        (np.float32, 0.5, 10, True),
        (np.float32, 0.1, 10, False),
        (np.float32, 1e6, 10, False),
        (np.float32, np.nan, 10, False),
        (np.float32, 2.0, 7, True),
        (np.float32, 2.5, 7, False),
        (np.float32, 1e30, 6, False),
        (np.int64, 2**24, 1, True),
        (np.int64, 2**24 + 1, 1, False),
        (np.int64, 300, 3, False),
        (np.float32, 0.5, 9, True),
        (np.float32, np.nan, 9, False),
        (np.float32, 0.5, 8, False),
    ],
)
def test_a_cast_is_computed_where_every_number_survives(
    kind: Any, number: Any, to: int, folded: bool
) -> None:
    """Roundings, overflows and NaN may come out differently in another implementation."""
    value = ir.Value(name="c", const_value=ir.tensor(np.array([number], kind)))
    cast = ir.node("Cast", [value], {"to": to}, name="cast")
    cast.outputs[0].name = "y"
    other = ir.node("Identity", cast.outputs, name="other")
    other.outputs[0].name = "z"
    graph = ir.Graph([], other.outputs, nodes=[cast, other], initializers=[value],
                     opset_imports={"": 17})  # fmt: skip
    model = ir.Model(graph, ir_version=8)
    assert RULES["fold-constants"](cast, Rewriter(model)) == folded


@pytest.mark.parametrize(
    ("start", "step", "folded"), [("int64 a = {0}", "int64 d = {2}", True),
                                  ("float a = {0.0}", "float d = {0.5}", False)]
)  # fmt: skip
def test_a_float_range_is_left_to_the_runtime(
    graphs: ModuleType, start: str, step: str, folded: bool
) -> None:
    kind = start.split()[0]
    text = (
        head(f"{kind}[3] x", f"{kind}[3] y")
        + f"<{start}, {kind} b = {{{'6' if folded else '1.5'}}}, {step}>"
    )
    x = np.arange(3).astype(np.int64 if folded else np.float32)
    model = canonical(graphs, text + "{ r = Range(a, b, d) y = Add(x, r) }", {"x": x})
    assert graphs.ops(model) == (["Add"] if folded else ["Range", "Add"])


def test_a_weight_that_others_read_as_it_is_stored_gets_no_copy_in_another_shape(
    graphs: ModuleType,
) -> None:
    for size in (64, 8):
        source = f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[n, {size}] x) => (float[n, {size}] y, float[1, {size * size}] z)
        <int64[2] s = {{1, -1}}>
        {{ y = MatMul(x, w) v = Reshape(w, s) a = ReduceSum(x) z = Add(v, a) }}"""
        model = graphs.parse(source, w=np.ones((size, size), np.float32))
        graphs.Bench(model, [{"x": np.ones((2, size), np.float32)}]).run("canonicalize")
        assert ("Reshape" in graphs.ops(model)) is (size == 64)
