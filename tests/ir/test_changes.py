from __future__ import annotations

import numpy as np
import onnx_ir as ir

from planish.ir.editing.changes import Changed, changed_regions

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
BEFORE = (
    HEAD
    + """
g (float[2, 4] x, bool c) => (float[2, 4] y, float[2, 4] z)
<float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, float[4] b = {1, 2, 3, 4}>
{
  a = Gemm(x, w, b)
  r = Relu(a)
  i = Identity(r)
  y = Neg(i)
  s, t = Split <axis = 1, num_outputs = 2> (r)
  z = Concat <axis = 1> (t, s)
}
"""
)


def model(text: str) -> ir.Model:
    return ir.from_onnx_text(text)


def alike(before: ir.Model) -> ir.Model:
    return before.clone()


def ops(nodes: tuple[ir.Node, ...]) -> list[str]:
    return [n.op_type for n in nodes]


def node(graph: ir.Model, op: str) -> ir.Node:
    return next(n for n in graph.graph if n.op_type == op)


def only(found: list[Changed]) -> Changed:
    assert len(found) == 1
    return found[0]


def test_equal_graphs_have_no_changed_region() -> None:
    before = model(BEFORE)
    assert changed_regions(before, alike(before)) == []


def test_a_rewritten_node_is_a_region_of_its_own() -> None:
    before = model(BEFORE)
    after = alike(before)
    gemm = node(after, "Gemm")
    x, w, b = gemm.inputs
    product = ir.node("MatMul", [x, w])
    product.outputs[0].name = "p"
    total = ir.node("Add", [product.outputs[0], b])
    after.graph.insert_before(gemm, [product, total])
    ir.convenience.replace_all_uses_with(gemm.outputs[0], total.outputs[0])
    gemm.outputs[0].name, total.outputs[0].name = "old", "a"
    after.graph.remove(gemm, safe=True)
    region = only(changed_regions(before, after))
    assert (region.inputs, region.outputs) == (("x",), ("a",))
    assert (ops(region.before), ops(region.after)) == (["Gemm"], ["MatMul", "Add"])


def test_a_removed_node_belongs_to_the_region_of_its_reader() -> None:
    before = model(BEFORE)
    after = alike(before)
    gone = node(after, "Identity")
    read = gone.inputs[0]
    assert read is not None
    ir.convenience.replace_all_uses_with(gone.outputs[0], read)
    after.graph.remove(gone, safe=True)
    region = only(changed_regions(before, after))
    assert (region.inputs, region.outputs) == (("r",), ("y",))
    assert (ops(region.before), ops(region.after)) == (["Identity", "Neg"], ["Neg"])


def test_attributes_constants_and_positions_count() -> None:
    before = model(BEFORE)
    for change in (_attribute, _weight, _swapped):
        after = alike(before)
        change(after)
        assert len(changed_regions(before, after)) == 1, change.__name__


def _attribute(after: ir.Model) -> None:
    node(after, "Gemm").attributes["alpha"] = ir.AttrFloat32("alpha", 2.0)


def _weight(after: ir.Model) -> None:
    after.graph.initializers["w"].const_value = ir.tensor(np.zeros((4, 4), np.float32), name="w")


def _swapped(after: ir.Model) -> None:
    concat = node(after, "Concat")
    first, second = concat.inputs
    concat.replace_input_with(0, second)
    concat.replace_input_with(1, first)


def test_outputs_of_one_node_are_one_region() -> None:
    before = model(BEFORE)
    after = alike(before)
    node(after, "Split").attributes["axis"] = ir.AttrInt64("axis", -1)
    region = only(changed_regions(before, after))
    assert region.outputs == ("s", "t")


def test_a_distrusted_name_is_reached_over() -> None:
    before = model(BEFORE)
    after = alike(before)
    _attribute(after)
    region = only(changed_regions(before, after, distrusted=["a"]))
    assert (region.inputs, region.outputs) == (("x",), ("r",))
    assert ops(region.before) == ops(region.after) == ["Gemm", "Relu"]
    whole = {name for r in changed_regions(before, after, ["a", "r"]) for name in r.outputs}
    assert whole == {"i", "s", "t"}
