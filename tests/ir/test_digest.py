from __future__ import annotations

import ctypes
import gc
import random
import struct
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.digest import (
    cone_digest,
    cone_digests,
    contents_digest,
    file_digest,
    structure_digest,
    tensor_digest,
)

TEXT = """
<ir_version: 10, opset_import: ["" : 20, "com.example" : 1]>
g (float[batch, 2] x, bool c) => (float[batch, 2] y, float[batch, 2] z)
<float[2, 2] w = {1, 2, 3, 4}, float[2] b = {0, 1}>
{
  [first] h = MatMul(x, w)
  [second] k = Add(h, b)
  [left] l = LeakyRelu<alpha = 0.5>(k)
  [right] r = com.example.Scale<mode = "fast", axes = [0, 1]>(h)
  [choose] y = If(c) <
    then_branch = t () => (t_out)
      <float[2] inner_w = {5, 6}> { [inner_t] t_out = Mul(l, inner_w) },
    else_branch = e () => (e_out) { [inner_e] e_out = Sub(r, b) }
  >
  [last] z = Sub(l, r)
}
"""


def model() -> ir.Model:
    return ir.from_onnx_text(TEXT)


def node(m: ir.Model, name: str) -> ir.Node:
    return next(n for n in m.graph.all_nodes() if n.name == name)


def floats(*values: float) -> ir.TensorProtocol:
    return ir.tensor(np.array(values, np.float32))


# What must not move any digest.


def rename_everything_inside(m: ir.Model) -> None:
    for graph in m.graphs():
        inside = [
            v for n in graph for v in n.outputs if not v.is_graph_output() or graph is not m.graph
        ]
        for index, value in enumerate([*graph.initializers.values(), *inside]):
            value.name = f"{graph.name}_{index}"
        for index, each in enumerate(graph):
            each.name = f"node_{graph.name}_{index}"
        graph.name = f"graph_{graph.name}"


def describe_everything(m: ir.Model) -> None:
    m.doc_string = m.graph.doc_string = "words"
    m.metadata_props["author"] = "somebody"
    m.producer_name = "another exporter"
    for each in m.graph.all_nodes():
        each.doc_string = "words"
        each.metadata_props["note"] = "words"
        for value in each.outputs:
            value.metadata_props["note"] = "words"


def infer_shapes_inside(m: ir.Model) -> None:
    node(m, "first").outputs[0].shape = ir.Shape(["batch", 2])
    node(m, "inner_t").outputs[0].type = ir.TensorType(ir.DataType.FLOAT)


def reorder_independent_nodes(m: ir.Model) -> None:
    right = node(m, "right")
    m.graph.remove(right)
    m.graph.insert_after(node(m, "first"), right)


def reorder_weights(m: ir.Model) -> None:
    items = dict(reversed(list(m.graph.initializers.items())))
    m.graph.initializers.clear()
    m.graph.initializers.update(items)


def reorder_attributes(m: ir.Model) -> None:
    attributes = node(m, "right").attributes
    items = dict(reversed(list(attributes.items())))
    attributes.clear()
    attributes.update(items)


@pytest.mark.parametrize(
    "change",
    [
        rename_everything_inside,
        describe_everything,
        infer_shapes_inside,
        reorder_independent_nodes,
        reorder_weights,
        reorder_attributes,
    ],
)
def test_what_is_no_change(change: Callable[[ir.Model], None]) -> None:
    changed = model()
    change(changed)
    assert structure_digest(changed) == structure_digest(model())
    assert contents_digest(changed) == contents_digest(model())


# What must move both.


def set_float(m: ir.Model) -> None:
    node(m, "left").attributes["alpha"] = ir.AttrFloat32("alpha", 0.25)


def set_string(m: ir.Model) -> None:
    node(m, "right").attributes["mode"] = ir.AttrString("mode", "slow")


def set_ints(m: ir.Model) -> None:
    node(m, "right").attributes["axes"] = ir.AttrInt64s("axes", [1, 0])


def split_ints(m: ir.Model) -> None:
    node(m, "right").attributes["axes"] = ir.AttrInt64s("axes", [0])


def add_attribute(m: ir.Model) -> None:
    node(m, "right").attributes["extra"] = ir.AttrInt64("extra", 0)


def swap_operands(m: ir.Model) -> None:
    last = node(m, "last")
    left, right = last.inputs
    last.replace_input_with(0, right)
    last.replace_input_with(1, left)


def rewire(m: ir.Model) -> None:
    node(m, "last").replace_input_with(1, node(m, "first").outputs[0])


def rewire_a_capture(m: ir.Model) -> None:
    node(m, "inner_t").replace_input_with(0, node(m, "second").outputs[0])


def change_the_operator(m: ir.Model) -> None:
    node(m, "second").op_type = "Sub"


def change_the_operator_inside(m: ir.Model) -> None:
    node(m, "inner_e").op_type = "Add"


def change_the_domain(m: ir.Model) -> None:
    node(m, "right").domain = "com.other"


def change_the_opset(m: ir.Model) -> None:
    m.opset_imports[""] = 21


def change_another_opset(m: ir.Model) -> None:
    m.opset_imports["com.example"] = 2


def rename_an_input(m: ir.Model) -> None:
    m.graph.inputs[0].name = "tokens"


def rename_an_axis(m: ir.Model) -> None:
    m.graph.inputs[0].shape = ir.Shape(["rows", 2])


def change_an_output_type(m: ir.Model) -> None:
    m.graph.outputs[1].dtype = ir.DataType.FLOAT16


def swap_the_outputs(m: ir.Model) -> None:
    first, second = m.graph.outputs
    first.name, second.name = "swap", "y"
    first.name = "z"


def reshape_a_weight(m: ir.Model) -> None:
    m.graph.initializers["b"].const_value = ir.tensor(np.array([[0, 1]], np.float32))


def cast_a_weight(m: ir.Model) -> None:
    m.graph.initializers["b"].const_value = ir.tensor(np.array([0, 1], np.float16))


def let_a_weight_be_overridden(m: ir.Model) -> None:
    m.graph.inputs.append(m.graph.initializers["b"])


def add_a_dead_node(m: ir.Model) -> None:
    m.graph.append(ir.node("Relu", [m.graph.inputs[0]]))


def add_a_dead_weight(m: ir.Model) -> None:
    m.graph.register_initializer(ir.val("unused", const_value=floats(1.0)))


def ask_for_another_output(m: ir.Model) -> None:
    node(m, "right").resize_outputs(2)
    node(m, "right").outputs[1].name = "extra"


def unshare_a_weight(m: ir.Model) -> None:
    copy = ir.val("b_copy", const_value=m.graph.initializers["b"].const_value)
    m.graph.register_initializer(copy)
    node(m, "second").replace_input_with(1, copy)


STRUCTURAL = [
    set_float,
    set_string,
    set_ints,
    split_ints,
    add_attribute,
    swap_operands,
    rewire,
    rewire_a_capture,
    change_the_operator,
    change_the_operator_inside,
    change_the_domain,
    change_the_opset,
    change_another_opset,
    rename_an_input,
    rename_an_axis,
    change_an_output_type,
    swap_the_outputs,
    reshape_a_weight,
    cast_a_weight,
    let_a_weight_be_overridden,
    add_a_dead_node,
    add_a_dead_weight,
    ask_for_another_output,
    unshare_a_weight,
]


@pytest.mark.parametrize("change", STRUCTURAL)
def test_what_is_a_change_of_structure(change: Callable[[ir.Model], None]) -> None:
    changed = model()
    change(changed)
    assert structure_digest(changed) != structure_digest(model())
    assert contents_digest(changed) != contents_digest(model())


def test_structural_changes_all_differ_from_each_other() -> None:
    seen = {structure_digest(model())}
    for change in STRUCTURAL:
        changed = model()
        change(changed)
        seen.add(structure_digest(changed))
    assert len(seen) == 1 + len(STRUCTURAL)


@pytest.mark.parametrize(
    "weight",
    [floats(0.0, 1.0000001), floats(-0.0, 1.0), floats(float("nan"), 1.0)],
    ids=["last bit", "sign of zero", "nan"],
)
def test_a_byte_of_a_weight_changes_only_the_contents(weight: ir.TensorProtocol) -> None:
    changed = model()
    changed.graph.initializers["b"].const_value = weight
    assert structure_digest(changed) == structure_digest(model())
    assert contents_digest(changed) != contents_digest(model())


def test_a_weight_inside_a_branch_counts() -> None:
    changed = model()
    branch = node(changed, "choose").attributes["then_branch"].as_graph()
    branch.initializers["inner_w"].const_value = floats(5, 7)
    assert structure_digest(changed) == structure_digest(model())
    assert contents_digest(changed) != contents_digest(model())


def test_branches_do_not_commute() -> None:
    changed = model()
    attributes = node(changed, "choose").attributes
    then, other = attributes["then_branch"].as_graph(), attributes["else_branch"].as_graph()
    attributes["then_branch"] = ir.AttrGraph("then_branch", other)
    attributes["else_branch"] = ir.AttrGraph("else_branch", then)
    assert structure_digest(changed) != structure_digest(model())


def test_two_readers_of_one_node_are_not_one_reader_each_of_two() -> None:
    shared = """<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y, float[2] z)
        { a = Relu(x) b = Relu(x) y = Neg(a) z = Abs(a) }"""
    split = shared.replace("Abs(a)", "Abs(b)")
    one, two = ir.from_onnx_text(shared), ir.from_onnx_text(split)
    assert structure_digest(one) != structure_digest(two)


def test_an_input_of_a_loop_is_not_an_input_of_the_graph() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (int64 n, bool c, float[2] x) => (float[2] last)
        { last = Loop(n, c, x) <body = b (int64 i, bool go, float[2] s) => (bool go_out, float[2] t)
          { go_out = Identity(go) t = Add(READ, s) }> }"""
    inner = ir.from_onnx_text(text.replace("READ", "s"))
    outer = ir.from_onnx_text(text.replace("READ", "x"))
    assert structure_digest(inner) != structure_digest(outer)


def test_functions_count() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20, "my" : 1]>
        g (float[2] x) => (float[2] y) { y = my.f<alpha = 0.5>(x) }
        <domain: "my", opset_import: ["" : 20]> f<alpha>(p) => (q)
        { q = LeakyRelu<alpha: float = @alpha>(p) }"""
    before = structure_digest(ir.from_onnx_text(text))
    assert (
        structure_digest(ir.from_onnx_text(text.replace("(p)", "(v)").replace("=> (q)", "=> (q)")))
        == before
    )
    assert structure_digest(ir.from_onnx_text(text.replace("LeakyRelu", "Elu"))) != before
    assert structure_digest(ir.from_onnx_text(text.replace("@alpha", "@beta"))) != before


def test_an_attribute_is_compared_as_it_is_written_to_a_file() -> None:
    one, two = model(), model()
    node(one, "left").attributes["alpha"] = ir.AttrFloat32("alpha", 0.1)
    node(two, "left").attributes["alpha"] = ir.AttrFloat32("alpha", float(np.float32(0.1)))
    assert structure_digest(one) == structure_digest(two)


def test_a_tensor_attribute_counts_as_an_attribute() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]> g () => (float[2] y)
        { y = Constant<value = float[2] {1, 2}>() }"""
    changed = text.replace("{1, 2}", "{1, 3}")
    assert structure_digest(ir.from_onnx_text(text)) != structure_digest(ir.from_onnx_text(changed))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_random_graphs_do_not_depend_on_order_but_on_every_edge(seed: int) -> None:
    draw = random.Random(seed)
    recipe = random_recipe(draw, size=12)
    before = structure_digest(build(recipe))
    assert structure_digest(build(shuffled(recipe, draw))) == before
    position = draw.randrange(len(recipe))
    name, operator, inputs = recipe[position]
    slot = draw.randrange(2)
    others = [x for x in ["x", "y", *(r[0] for r in recipe[:position])] if x != inputs[slot]]
    rewired = list(inputs)
    rewired[slot] = draw.choice(others)
    edited = list(recipe)
    edited[position] = name, operator, rewired
    assert structure_digest(build(edited)) != before


Recipe = list[tuple[str, str, list[str]]]


def random_recipe(draw: random.Random, size: int) -> Recipe:
    """Nodes with two operands each; the operator's attribute is unique, so no two are alike."""
    names = ["x", "y"]
    recipe: Recipe = []
    for index in range(size):
        recipe.append((f"v{index}", f"Op{index}", [draw.choice(names), draw.choice(names)]))
        names.append(f"v{index}")
    return recipe


def shuffled(recipe: Recipe, draw: random.Random) -> Recipe:
    """Another topological order."""
    left, done, found = list(recipe), {"x", "y"}, []
    while left:
        ready = [r for r in left if set(r[2]) <= done]
        chosen = draw.choice(ready)
        left.remove(chosen)
        done.add(chosen[0])
        found.append(chosen)
    return found


def build(recipe: Recipe) -> ir.Model:
    values = {n: ir.val(n, ir.DataType.FLOAT, [2]) for n in ("x", "y")}
    nodes = []
    for name, operator, inputs in recipe:
        nodes.append(ir.node(operator, [values[i] for i in inputs], domain="t"))
        values[name] = nodes[-1].outputs[0]
    out = nodes[max(range(len(recipe)), key=lambda i: int(recipe[i][0][1:]))].outputs[0]
    out.name = "result"
    graph = ir.Graph([values["x"], values["y"]], [out], nodes=nodes, opset_imports={"t": 1})
    return ir.Model(graph, ir_version=10)


# Tensors.


def through_proto(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.serde.deserialize_tensor(ir.serde.serialize_tensor(tensor))


def test_the_tensor_digest_is_over_dtype_shape_and_bytes() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    wanted = blake3(b"FLOAT[2,3]" + array.tobytes()).hexdigest(16)
    assert tensor_digest(ir.tensor(array)) == wanted
    assert tensor_digest(ir.tensor(array.reshape(3, 2))) != wanted
    assert tensor_digest(ir.tensor(array.view(np.int32))) != wanted


def test_signs_of_zero_and_nan_payloads_count() -> None:
    quiet, other = struct.pack("<I", 0x7FC00000), struct.pack("<I", 0x7FC00001)
    zero, minus = struct.pack("<f", 0.0), struct.pack("<f", -0.0)
    found = {
        tensor_digest(ir.tensor(np.frombuffer(data, np.float32)))
        for data in (quiet, other, zero, minus)
    }
    assert len(found) == 4


def test_how_a_tensor_is_held_does_not_count(tmp_path: Path) -> None:
    array = np.linspace(-1, 1, 1000, dtype=np.float32)
    (tmp_path / "data").write_bytes(b"\0" * 8 + array.tobytes())
    external = ir.ExternalTensor(
        "data",
        8,
        array.nbytes,
        ir.DataType.FLOAT,
        shape=ir.Shape([1000]),
        name="e",
        base_dir=tmp_path,
    )
    lazy = ir.LazyTensor(lambda: ir.tensor(array), dtype=ir.DataType.FLOAT, shape=ir.Shape([1000]))
    proto = through_proto(ir.tensor(array, name="other"))
    found = {tensor_digest(t) for t in (ir.tensor(array), external, lazy, proto)}
    assert len(found) == 1


@pytest.mark.torch
def test_a_tensor_of_pytorch_is_a_tensor() -> None:
    torch = pytest.importorskip("torch")
    exporter = pytest.importorskip("onnx_ir.tensor_adapters")
    array = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    for shape in ((2, 3), (6,), (1, 6, 1)):
        wrapped = exporter.TorchTensor(torch.from_numpy(array.reshape(shape)))
        assert tensor_digest(wrapped) == tensor_digest(ir.tensor(array.reshape(shape)))
    number = exporter.TorchTensor(torch.tensor(1.5))
    assert tensor_digest(number) == tensor_digest(ir.tensor(np.float32(1.5)))


class Exported(ir.Tensor[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]):
    """Writes itself as PyTorch's exporter does: as an array of C."""

    def tofile(self, file: Any) -> None:
        data = self.numpy()
        kind = (ctypes.c_ubyte * (data.nbytes // 2)) * 2
        file.write(kind.from_address(data.ctypes.data))


def test_a_tensor_that_writes_an_array_of_c() -> None:
    array = np.linspace(-1, 1, 6, dtype=np.float32)
    assert tensor_digest(Exported(array)) == tensor_digest(ir.tensor(array))


def test_packed_and_half_types() -> None:
    four = ir.tensor(np.array([1, -2, 3], ml_dtypes.int4), dtype=ir.DataType.INT4)
    eight = ir.tensor(np.array([1, -2, 3], np.int8))
    half = ir.tensor(np.array([1, -2, 3], ml_dtypes.bfloat16), dtype=ir.DataType.BFLOAT16)
    assert len({tensor_digest(t) for t in (four, eight, half)}) == 3
    again = through_proto(four)
    assert tensor_digest(again) == tensor_digest(four)


def test_strings_keep_their_borders() -> None:
    one = ir.StringTensor([b"ab", b"c"], shape=ir.Shape([2]))
    two = ir.StringTensor([b"a", b"bc"], shape=ir.Shape([2]))
    assert tensor_digest(one) != tensor_digest(two)


def test_the_cache_does_not_keep_tensors_alive() -> None:
    tensor = ir.tensor(np.zeros(4, np.float32))
    tensor_digest(tensor)
    alive = weakref.ref(tensor)
    del tensor
    gc.collect()
    assert alive() is None


# Cones and files.


def test_a_cone_is_what_a_value_is_computed_from() -> None:
    changed = model()
    change_the_operator_inside(changed)
    for name in ("first", "second", "left", "right", "last"):
        mine, other = node(model(), name).outputs[0], node(changed, name).outputs[0]
        assert cone_digest(mine) == cone_digest(other)
    mine, other = node(model(), "choose").outputs[0], node(changed, "choose").outputs[0]
    assert cone_digest(mine) != cone_digest(other)


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (set_float, {"left", "choose", "last"}),
        (rewire, {"last"}),
        (rewire_a_capture, {"choose"}),
        (cast_a_weight, {"second", "left", "choose", "last"}),
        (rename_an_input, {"first", "second", "left", "right", "choose", "last"}),
        (rename_everything_inside, set()),
        (reorder_independent_nodes, set()),
    ],
)
def test_a_change_moves_the_cones_below_it(
    change: Callable[[ir.Model], None], moved: set[str]
) -> None:
    names = ["first", "second", "left", "right", "choose", "last"]
    before = dict(zip(names, cone_digests(node(model(), n).outputs[0] for n in names), strict=True))
    changed = model()
    outputs = [node(changed, n).outputs[0] for n in names]
    change(changed)
    after = dict(zip(names, cone_digests(outputs), strict=True))
    assert {n for n in names if before[n] != after[n]} == moved


def test_cones_together_are_cones_alone() -> None:
    m = model()
    values = [n.outputs[0] for n in m.graph]
    assert cone_digests(values) == [cone_digest(v) for v in values]


def test_a_cone_reaches_into_and_out_of_a_branch() -> None:
    m = model()
    inner = node(m, "inner_t").outputs[0]
    before = cone_digest(inner)
    set_float(m)
    assert cone_digest(inner) != before


def test_deep_graphs_have_cones() -> None:
    value = ir.val("x", ir.DataType.FLOAT, [2])
    for _ in range(5000):
        value = ir.node("Relu", [value]).outputs[0]
    assert len(cone_digest(value)) == 32


def test_the_file_digest_is_plain_blake3(tmp_path: Path) -> None:
    data = random.Random(0).randbytes(3_000_000)
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(data)
    two.write_bytes(data[:-1])
    assert file_digest(one) == blake3(data).hexdigest(16)
    assert len({file_digest(one), file_digest(one, two), file_digest(two, one)}) == 3
