from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from planish.ir.errors import PassError
from planish.ir.signature import Signature, shape_of, type_name
from planish.ir.types.propagate import clear_downstream, infer_downstream
from planish.ir.types.shapes import infer_node, infer_shapes

TEXT = """
<ir_version: 10, opset_import: ["" : 20, "com.example" : 1]>
g (float[batch, 4] x, bool c, int64[1] length) => (float[batch, n] y)
<float[4, 6] w = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23}>
{
  [mul] h = MatMul(x, w)
  [custom] u = com.example.Op(h)
  [shape] s = Shape(h)
  [reshape] r = Reshape(h, s)
  [dynamic] d = Reshape(h, length)
  [choose] q = If(c) <
    then_branch = t () => (t_out) { [inner_t] t_out = Relu(h) },
    else_branch = e () => (e_out) { [inner_e] e_out = Neg(h) }
  >
  [pack] seq = SequenceConstruct(h, q)
  [maybe] opt = Optional(seq)
  [wrap] some = OptionalHasElement(opt)
  [out] y = Relu(u)
}
"""


@pytest.fixture
def model() -> ir.Model:
    return ir.from_onnx_text(TEXT)


def node(model: ir.Model, name: str) -> ir.Node:
    return next(n for n in model.graph.all_nodes() if n.name == name)


def output(model: ir.Model, name: str) -> ir.Value:
    return node(model, name).outputs[0]


def described(model: ir.Model, name: str) -> str:
    value = output(model, name)
    return f"{type_name(value.type)}{shape_of(value)}"


def test_types_and_shapes_of_tensors_sequences_and_optionals(model: ir.Model) -> None:
    assert infer_shapes(model) == []
    assert described(model, "mul") == "FLOAT('batch', 6)"
    assert described(model, "reshape") == "FLOAT('batch', 6)"  # by the value of Shape
    assert described(model, "dynamic") == "FLOAT(None,)"  # not 'unk__0'
    assert described(model, "choose") == "FLOAT('batch', 6)"
    assert described(model, "inner_t") == "FLOAT('batch', 6)"
    assert described(model, "pack") == "SEQUENCE(FLOAT)('batch', 6)"
    assert described(model, "maybe") == "OPTIONAL(SEQUENCE(FLOAT))('batch', 6)"
    assert described(model, "wrap") == "BOOL()"
    assert output(model, "custom").type is None


def test_a_second_time_changes_nothing(model: ir.Model) -> None:
    infer_shapes(model)
    names = [n.name for n in model.graph.all_nodes() if n.name]
    before = [described(model, n) for n in names]
    assert infer_shapes(model) == []
    assert [described(model, n) for n in names] == before


def test_stale_shapes_are_replaced(model: ir.Model) -> None:
    infer_shapes(model)
    model.graph.initializers["w"].const_value = ir.tensor(np.zeros((4, 3), np.float32))
    assert infer_shapes(model) == []
    assert shape_of(model.graph.initializers["w"]) == (4, 3)
    assert described(model, "mul") == "FLOAT('batch', 3)"
    assert described(model, "inner_e") == "FLOAT('batch', 3)"
    assert described(model, "pack") == "SEQUENCE(FLOAT)('batch', 3)"


def test_what_only_the_exporter_knew_stays(model: ir.Model) -> None:
    output(model, "custom").type = ir.TensorType(ir.DataType.FLOAT)
    output(model, "custom").shape = ir.Shape(["batch", 6])
    output(model, "dynamic").shape = ir.Shape(["tokens"])
    infer_shapes(model)
    assert described(model, "custom") == "FLOAT('batch', 6)"
    assert described(model, "dynamic") == "FLOAT('tokens',)"


def test_the_signature_stays(model: ir.Model) -> None:
    before = Signature.of(model)
    infer_shapes(model)
    assert before.difference(Signature.of(model)) == []


def test_outputs_are_completed_only_on_request(model: ir.Model) -> None:
    model.graph.outputs[0].shape = None
    model.graph.outputs.append(output(model, "mul"))
    infer_shapes(model)
    assert shape_of(output(model, "mul")) is None
    infer_shapes(model, fill_outputs=True)
    assert described(model, "mul") == "FLOAT('batch', 6)"


def test_a_failure_is_a_remark_and_the_rest_is_inferred(model: ir.Model) -> None:
    bad = ir.val(
        "bad", ir.DataType.FLOAT, [5, 5], const_value=ir.tensor(np.eye(5, dtype=np.float32))
    )
    model.graph.register_initializer(bad)
    node(model, "reshape").op_type = "MatMul"
    node(model, "reshape").replace_input_with(1, bad)
    (remark,) = infer_shapes(model)
    assert remark.code == "shapes-unknown"
    assert "MatMul" in remark.sentence
    assert "reshape" in remark.sentence
    assert described(model, "mul") == "FLOAT('batch', 6)"
    assert described(model, "pack") == "SEQUENCE(FLOAT)('batch', 6)"


def test_large_weights_are_never_read(model: ir.Model) -> None:
    def refuse() -> ir.TensorProtocol:
        raise AssertionError("the weight was read")

    lazy = ir.LazyTensor(refuse, dtype=ir.DataType.FLOAT, shape=ir.Shape([4, 1 << 40]), name="w")
    model.graph.initializers["w"].const_value = lazy
    assert infer_shapes(model) == []
    assert described(model, "mul") == f"FLOAT('batch', {1 << 40})"
    assert model.graph.initializers["w"].const_value is lazy
    assert infer_node(node(model, "choose"), model) is False


def test_one_node(model: ir.Model) -> None:
    assert infer_node(node(model, "mul"), model) is True
    assert described(model, "mul") == "FLOAT('batch', 6)"
    assert infer_node(node(model, "mul"), model) is False
    assert infer_node(node(model, "choose"), model) is True
    assert described(model, "choose") == "FLOAT('batch', 6)"


def test_one_node_by_the_value_of_a_constant(model: ir.Model) -> None:
    infer_node(node(model, "mul"), model)
    target = ir.val("target", const_value=ir.tensor(np.array([2, -1, 3], np.int64)))
    target.dtype, target.shape = ir.DataType.INT64, ir.Shape([3])
    model.graph.register_initializer(target)
    reshape = ir.node("Reshape", [output(model, "mul"), target], name="new")
    model.graph.insert_after(node(model, "mul"), reshape)
    assert infer_node(reshape, model) is True
    assert described(model, "new") == "FLOAT(2, None, 3)"


def test_one_node_without_a_schema_or_with_untyped_inputs(model: ir.Model) -> None:
    assert infer_node(node(model, "custom"), model) is False
    assert infer_node(node(model, "pack"), model) is False
    assert output(model, "pack").type is None


def test_outputs_of_the_graph_are_left_to_the_signature(model: ir.Model) -> None:
    output(model, "custom").type = ir.TensorType(ir.DataType.FLOAT)
    output(model, "custom").shape = ir.Shape([7, 7])
    assert infer_node(node(model, "out"), model) is False
    assert described(model, "out") == "FLOAT('batch', 'n')"


def test_a_node_that_cannot_take_its_inputs_is_an_error(model: ir.Model) -> None:
    square = ir.val("square", ir.DataType.FLOAT, [5, 5])
    wrong = ir.node("MatMul", [model.graph.inputs[0], square], name="wrong")
    model.graph.append(wrong)
    with pytest.raises(PassError) as caught:
        infer_node(wrong, model)
    assert "MatMul 'wrong' cannot take its inputs" in caught.value.what
    assert "square" in caught.value.where


def test_a_spectrum_without_its_mirror_image_has_half_the_bins() -> None:
    """``onesided`` is 1 by default, and ONNX's own inference takes an absent one for 0."""
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[1, 128, 1] x) => (float[a, b, c, d] y, float[a, b, e, d] both)
        <int64 step = {8}, int64 length = {16}>
        {
          [half] h = STFT(x, step, , length)
          [whole] w = STFT <onesided = 0> (x, step, , length)
          y = Identity(h)
          both = Identity(w)
        }"""
    )
    infer_shapes(model)
    assert described(model, "half") == "FLOAT(1, 15, 9, 2)"
    assert described(model, "whole") == "FLOAT(1, 15, 16, 2)"
    half = output(model, "half")
    half.shape = None
    assert infer_node(node(model, "half"), model)
    assert described(model, "half") == "FLOAT(1, 15, 9, 2)"


def test_a_change_travels_downstream_and_into_branches(model: ir.Model) -> None:
    infer_shapes(model)
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(np.zeros((4, 3), np.float32))
    weight.shape = ir.Shape([4, 3])
    affected = clear_downstream([weight], model)
    assert [n.name for n in affected] == [
        *("mul", "custom", "shape", "reshape", "dynamic", "choose", "pack", "maybe", "wrap", "out"),
        *("inner_t", "inner_e"),
    ]
    assert output(model, "inner_t").shape is None
    assert infer_downstream(affected, model) == []
    assert described(model, "mul") == "FLOAT('batch', 3)"
    assert described(model, "inner_t") == "FLOAT('batch', 3)"
    assert described(model, "choose") == "FLOAT('batch', 3)"
    assert described(model, "maybe") == "OPTIONAL(SEQUENCE(FLOAT))('batch', 3)"
    assert described(model, "out") == "FLOAT('batch', 'n')"


def test_downstream_inference_follows_changes_only(model: ir.Model) -> None:
    infer_shapes(model)
    output(model, "pack").shape = None  # nobody upstream changes, so nobody looks here
    assert infer_downstream([node(model, "mul")], model) == []
    assert output(model, "pack").shape is None
    output(model, "mul").shape = None
    assert infer_downstream([node(model, "mul")], model) == []
    assert described(model, "pack") == "SEQUENCE(FLOAT)('batch', 6)"


def test_downstream_inference_names_the_nodes_that_break(model: ir.Model) -> None:
    infer_shapes(model)
    other = ir.val(
        "other", ir.DataType.FLOAT, [6, 2], const_value=ir.tensor(np.ones((6, 2), np.float32))
    )
    model.graph.register_initializer(other)
    model.graph.append(ir.node("MatMul", [output(model, "mul"), other], name="second"))
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(np.zeros((4, 3), np.float32))
    weight.shape = ir.Shape([4, 3])
    (remark,) = infer_downstream([node(model, "mul")], model)
    assert remark.site == "second"
    assert "MatMul 'second' cannot take its inputs" in remark.sentence


def test_what_is_known_to_be_empty_stays_so_against_a_name() -> None:
    """ONNX 1.23 takes a Slice from 0 to 0 of an open axis for the whole axis."""
    text = """
    <ir_version: 8, opset_import: ["" : 13]>
    g (float[batch, 4] x) => (float[n, 4] y)
    <int64[1] zero = {0}>
    { nothing = Slice(x, zero, zero, zero)  y = Relu(nothing) }
    """
    model = ir.from_onnx_text(text)
    sliced = next(iter(model.graph)).outputs[0]
    sliced.type, sliced.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([0, 4])
    infer_shapes(model)
    assert sliced.shape is not None
    assert sliced.shape[0] == 0
