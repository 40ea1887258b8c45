from __future__ import annotations

import onnx_ir as ir
import pytest

from planish.compiler.memory import activation_bytes

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch, 4] x) => (float[batch, 4] y) { a = Relu(x)  b = Relu(a)  y = Relu(b) }
"""


def named(*axes: str | None) -> ir.Model:
    """Three values of 16 bytes a row, the number of rows under these names."""
    model = ir.from_onnx_text(TEXT)
    for node, axis in zip(model.graph, axes, strict=True):
        value = node.outputs[0]
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([axis, 4])
    return model


def test_at_most_two_neighbours_of_a_chain_live_at_one_time() -> None:
    assert activation_bytes(named("batch", "batch", "batch"), {"batch": 10}) == 2 * 10 * 16


def test_axes_named_by_what_computes_them_count() -> None:
    assert activation_bytes(named("batch", "3*batch", "batch"), {"batch": 10}) == 4 * 10 * 16


@pytest.mark.parametrize("name", ["", "N+", "9**9**9**9", "(" * 500, "batch batch", None])
def test_odd_names_are_names(name: str | None) -> None:
    assert activation_bytes(named(name, name, "batch"), {"batch": 10}) == 10 * 16
