from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.errors import VerifyError
from planish.ir.signature import Signature
from planish.ir.verify import RULES, verify, violations

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[2] x, bool c) => (float[2] y, float[2] z)
<float[2] w = {1, 2}>
{
  [first] a = Add(x, w)
  [second] b = Relu(a)
  [choose] y = If(c) <
    then_branch = t () => (float[2] t_out) { [inner_t] t_out = Mul(b, w) },
    else_branch = e () => (float[2] e_out) { [inner_e] e_out = Neg(a) }
  >
  [last] z = Neg(b)
}
"""

FUNCTIONS = """
<ir_version: 10, opset_import: ["" : 20, "my" : 1]>
g (float[2] x) => (float[2] y) { [call] y = my.outer(x) }
<domain: "my", opset_import: ["" : 20, "my" : 1]>
outer (p) => (q) { [o] q = my.inner(p) }
<domain: "my", opset_import: ["" : 20, "my" : 1]>
inner (p) => (q) { [i] q = Relu(p) }
"""


def node(model: ir.Model, name: str) -> ir.Node:
    return next(n for n in model.graph.all_nodes() if n.name == name)


def branch(model: ir.Model, name: str) -> ir.Graph:
    return node(model, "choose").attributes[name].as_graph()


def rename_value(model: ir.Model) -> None:
    node(model, "second").outputs[0].name = "a"


def shadow(model: ir.Model) -> None:
    node(model, "inner_t").outputs[0].name = "z"


def unname_value(model: ir.Model) -> None:
    node(model, "first").outputs[0].name = None


def rename_node(model: ir.Model) -> None:
    node(model, "inner_e").name = "first"


def unname_node(model: ir.Model) -> None:
    node(model, "last").name = ""


def read_a_stranger(model: ir.Model) -> None:
    node(model, "last").replace_input_with(0, ir.val("stranger", ir.DataType.FLOAT, [2]))


def read_from_the_other_branch(model: ir.Model) -> None:
    inner = node(model, "inner_e").outputs[0]
    node(model, "inner_t").replace_input_with(0, inner)


def read_a_removed_node(model: ir.Model) -> None:
    model.graph.remove(node(model, "second"))


def move_to_the_end(model: ir.Model) -> None:
    first = node(model, "first")
    model.graph.remove(first)
    model.graph.append(first)


def capture_too_early(model: ir.Model) -> None:
    node(model, "inner_t").replace_input_with(0, node(model, "last").outputs[0])


def capture_the_own_result(model: ir.Model) -> None:
    node(model, "inner_t").replace_input_with(0, node(model, "choose").outputs[0])


def read_the_own_output(model: ir.Model) -> None:
    first = node(model, "first")
    first.replace_input_with(0, first.outputs[0])


def list_an_output_twice(model: ir.Model) -> None:
    model.graph.outputs[1] = model.graph.outputs[0]


def return_a_stranger(model: ir.Model) -> None:
    model.graph.outputs.append(ir.val("stranger", ir.DataType.FLOAT, [2]))


def return_a_stranger_from_a_branch(model: ir.Model) -> None:
    branch(model, "then_branch").outputs[0] = ir.val("stranger", ir.DataType.FLOAT, [2])


def list_an_input_twice(model: ir.Model) -> None:
    model.graph.inputs.append(model.graph.inputs[0])


def take_the_tensor(model: ir.Model) -> None:
    model.graph.initializers["w"].const_value = None


def change_the_dtype(model: ir.Model) -> None:
    model.graph.initializers["w"].dtype = ir.DataType.FLOAT16


def change_the_size(model: ir.Model) -> None:
    model.graph.initializers["w"].shape = ir.Shape([3])


def change_the_rank(model: ir.Model) -> None:
    model.graph.initializers["w"].shape = ir.Shape([2, 1])


def forget_the_opset(model: ir.Model) -> None:
    model.opset_imports.clear()


def use_an_unknown_domain(model: ir.Model) -> None:
    node(model, "inner_t").domain = "com.example"


def call_a_missing_overload(model: ir.Model) -> None:
    node(model, "last").overload = "v2"


def take_a_tensor_for_a_sequence(model: ir.Model) -> None:
    node(model, "first").op_type = "SequenceLength"


BROKEN: list[tuple[Callable[[ir.Model], None], str, str]] = [
    (rename_value, "unique-value-names", "two values of the graph are named 'a'"),
    (shadow, "unique-value-names", "'z' in then_branch of If 'choose' hides"),
    (unname_value, "unique-value-names", "has no name"),
    (rename_node, "unique-node-names", "two nodes are named 'first'"),
    (unname_node, "unique-node-names", "a Neg node of the graph has no name"),
    (read_a_stranger, "inputs-defined", "Neg 'last' reads 'stranger', which nothing defines"),
    (read_from_the_other_branch, "inputs-defined", "belongs to else_branch of If 'choose'"),
    (read_a_removed_node, "inputs-defined", "Neg 'last' reads 'b', which nothing defines"),
    (move_to_the_end, "topological-order", "Relu 'second' reads 'a' before it is computed"),
    (capture_too_early, "topological-order", "Mul 'inner_t' reads 'z' before it is computed"),
    (capture_the_own_result, "topological-order", "Mul 'inner_t' reads 'y' before"),
    (read_the_own_output, "topological-order", "Add 'first' reads 'a' before it is computed"),
    (list_an_output_twice, "unique-outputs", "output 'y' is listed twice"),
    (return_a_stranger, "outputs-produced", "output 'stranger' of the graph"),
    (return_a_stranger_from_a_branch, "outputs-produced", "of then_branch of If 'choose'"),
    (list_an_input_twice, "graph-inputs", "input 'x' of the graph is listed twice"),
    (take_the_tensor, "initializers", "initializer 'w' holds no tensor"),
    (change_the_dtype, "initializers", "initializer 'w' is FLOAT, its value FLOAT16"),
    (change_the_size, "initializers", "initializer 'w' has shape [2], its value [3]"),
    (change_the_rank, "initializers", "initializer 'w' has shape [2], its value [2,1]"),
    (forget_the_opset, "imported-domains", "'ai.onnx', which the graph does not import"),
    (use_an_unknown_domain, "imported-domains", "Mul 'inner_t' is of domain 'com.example'"),
    (call_a_missing_overload, "functions", "Neg 'last' calls overload 'v2'"),
    (take_a_tensor_for_a_sequence, "value-kinds", "'first' reads 'x', which is typed FLOAT"),
]


def test_a_sound_graph_has_no_violations() -> None:
    for text in (TEXT, FUNCTIONS):
        model = ir.from_onnx_text(text)
        assert violations(model, Signature.of(model)) == []
        verify(model, Signature.of(model))


@pytest.mark.parametrize(
    ("damage", "rule", "sentence"), BROKEN, ids=lambda x: getattr(x, "__name__", "")
)
def test_each_damage_is_named(damage: Callable[[ir.Model], None], rule: str, sentence: str) -> None:
    model = ir.from_onnx_text(TEXT)
    damage(model)
    found = violations(model)
    assert any(v.startswith(rule + ": ") and sentence in v for v in found), found


def test_every_rule_is_broken_by_some_test() -> None:
    assert {name for name, _ in RULES} == {rule for _, rule, _ in BROKEN}


def test_functions_that_call_each_other_in_a_circle() -> None:
    model = ir.from_onnx_text(FUNCTIONS)
    inner = model.functions["my", "inner", ""]
    inner.graph.node(0).domain = "my"
    inner.graph.node(0).op_type = "outer"
    assert any("call each other in a circle" in v for v in violations(model))


def test_function_bodies_are_scopes_of_their_own() -> None:
    model = ir.from_onnx_text(FUNCTIONS)
    inner = model.functions["my", "inner", ""].graph
    inner.node(0).replace_input_with(0, model.graph.inputs[0])
    (found,) = violations(model)
    assert found == "inputs-defined: Relu 'i' reads 'x', which belongs to the graph"


def test_the_same_names_in_two_branches_are_fine() -> None:
    model = ir.from_onnx_text(TEXT)
    node(model, "inner_e").outputs[0].name = "t_out"
    assert violations(model) == []


def test_outputs_nobody_asked_for_may_be_unnamed() -> None:
    model = ir.from_onnx_text(TEXT)
    model.graph.append(ir.node("Dropout", [model.graph.inputs[0]], num_outputs=2, name="drop"))
    dropped = node(model, "drop").outputs
    dropped[1].name = ""
    assert violations(model) == []


def test_a_loop_body_may_return_a_value_twice() -> None:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 20]>
        g (int64 n, bool go, float[2] x) => (float[2] last, float[m, 2] all)
        {
          [loop] last, all = Loop(n, go, x) <
            body = b (int64 i, bool c, float[2] s) => (bool c_out, float[2] t, float[2] t) {
              [keep] c_out = Identity(c)
              [step] t = Add(s, s)
            }
          >
        }
    """)
    assert violations(model) == []


def test_symbolic_declarations_agree_with_any_size() -> None:
    model = ir.from_onnx_text(TEXT)
    model.graph.initializers["w"].shape = ir.Shape(["n"])
    assert violations(model) == []


def test_a_changed_signature_is_a_violation() -> None:
    model = ir.from_onnx_text(TEXT)
    signature = Signature.of(model)
    model.graph.outputs[1].shape = ir.Shape([4])
    assert violations(model) == []
    (found,) = violations(model, signature)
    assert found == "signature: output 'z' changed its shape from [2] to [4]"


def test_the_error_carries_every_violation_and_the_place() -> None:
    model = ir.from_onnx_text(TEXT)
    rename_node(model)
    take_the_tensor(model)
    with pytest.raises(VerifyError) as caught:
        verify(model, where="pass quantize")
    assert len(caught.value.violations) == 2
    assert "pass quantize" in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_replaced_tensor_of_another_shape_shows() -> None:
    # onnx_ir lets const_value be swapped and leaves the value's shape as it was.
    model = ir.from_onnx_text(TEXT)
    model.graph.initializers["w"].const_value = ir.tensor(np.zeros((8, 4), np.float32))
    (found,) = violations(model)
    assert found == "initializers: initializer 'w' has shape [8,4], its value [2]"
