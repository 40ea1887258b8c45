from __future__ import annotations

import onnx_ir as ir
import pytest

from planish.ir.signature import Signature, TensorSpec, shape_text, type_name

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[batch, 4] x, int64[batch] lengths, float[4] bias) => (float[batch, 4] y, float[?] z)
<float[4] bias = {1, 2, 3, 4}>
{
  y = Add(x, bias)
  z = Cast<to = 1>(lengths)
}
"""


@pytest.fixture
def model() -> ir.Model:
    return ir.from_onnx_text(TEXT)


def test_an_input_with_an_initializer_is_no_part_of_the_signature(model: ir.Model) -> None:
    signature = Signature.of(model)
    assert signature.inputs == (
        TensorSpec("x", "FLOAT", ("batch", 4)),
        TensorSpec("lengths", "INT64", ("batch",)),
    )
    assert signature.outputs == (
        TensorSpec("y", "FLOAT", ("batch", 4)),
        TensorSpec("z", "FLOAT", (None,)),
    )


def test_equal_signatures_have_no_difference(model: ir.Model) -> None:
    assert Signature.of(model).difference(Signature.of(ir.from_onnx_text(TEXT))) == []


def test_internal_changes_do_not_show(model: ir.Model) -> None:
    before = Signature.of(model)
    node = model.graph.node(0)
    node.name = "renamed"
    model.graph.initializers["bias"].name = "other"
    # The overridable input of the same name went with it.
    assert before.difference(Signature.of(model)) == []


def test_each_change_is_named(model: ir.Model) -> None:
    before = Signature.of(model)
    graph = model.graph
    graph.inputs[0].dtype = ir.DataType.FLOAT16
    graph.inputs[1].shape = ir.Shape([1])
    graph.outputs[0].name = "renamed"
    assert before.difference(Signature.of(model)) == [
        "input 'x' changed its dtype from FLOAT to FLOAT16",
        "input 'lengths' changed its shape from [batch] to [1]",
        "output 'y' is gone",
        "output 'renamed' is new",
    ]


def test_order_counts(model: ir.Model) -> None:
    before = Signature.of(model)
    outputs = list(model.graph.outputs)
    model.graph.outputs.clear()
    model.graph.outputs.extend(reversed(outputs))
    (sentence,) = before.difference(Signature.of(model))
    assert sentence == "the outputs stand in another order: z, y (was y, z)"


def test_an_output_listed_twice_is_a_difference(model: ir.Model) -> None:
    before = Signature.of(model)
    model.graph.outputs.append(model.graph.outputs[0])
    assert before.difference(Signature.of(model)) == ["an output is listed twice: y, z, y"]


def test_a_lost_shape_is_a_difference(model: ir.Model) -> None:
    before = Signature.of(model)
    model.graph.outputs[0].shape = None
    assert before.difference(Signature.of(model)) == [
        "output 'y' changed its shape from [batch, 4] to […]"
    ]


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (None, "UNDEFINED"),
        (ir.TensorType(ir.DataType.INT4), "INT4"),
        (ir.SparseTensorType(ir.DataType.FLOAT), "SPARSE(FLOAT)"),
        (ir.SequenceType(ir.TensorType(ir.DataType.FLOAT)), "SEQUENCE(FLOAT)"),
        (
            ir.OptionalType(ir.SequenceType(ir.TensorType(ir.DataType.BOOL))),
            "OPTIONAL(SEQUENCE(BOOL))",
        ),
    ],
)
def test_type_names(type_: ir.TypeProtocol | None, text: str) -> None:
    assert type_name(type_) == text


def test_shapes_read_well() -> None:
    assert shape_text(("batch", 3, None)) == "[batch, 3, ?]"
    assert shape_text(()) == "[]"
    assert shape_text(None) == "[…]"
