"""A reader is told which parameters no pass could even consider."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.reporting.unreached import unreached
from planish.ir.provenance import EDIT_KEY
from planish.ir.sites import find_sites

GRU = """<ir_version: 9, opset_import: ["" : 17]>
g (float[5, n, 32] x) => (float[n, 8] y) {
    moved = Transpose <perm = [0, 2, 1]> (w)
    a, last = GRU <hidden_size = 16> (x, moved, r)
    flat = Squeeze (last, zero)
    y = MatMul (flat, v)
}"""

BRANCH = """<ir_version: 9, opset_import: ["" : 17]>
g (bool which, float[n, 32] x) => (float[n, 32] y) {
    a = MatMul (x, v)
    y = If (which) <
        then_branch = t () => (float[n, 32] b) { b = MatMul (a, w) },
        else_branch = e () => (float[n, 32] c) { c = Identity (a) }
    >
}"""


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.fixture(scope="module")
def recurrent(graphs: ModuleType) -> ir.Model:
    weights = {"w": zeros(1, 32, 48), "r": zeros(1, 48, 16), "v": zeros(16, 8)}
    model: ir.Model = graphs.parse(GRU, **weights, zero=np.zeros(1, np.int64))
    return model


def test_weights_of_recurrent_layers_are_named_with_those_who_compute_with_them(
    recurrent: ir.Model,
) -> None:
    share = (32 * 48 + 48 * 16) / (32 * 48 + 48 * 16 + 16 * 8)
    assert unreached(recurrent, ()) == (
        f"{share:.0%} of the parameters are in nodes that no pass treats: 1 GRU"
    )


def test_a_layer_inside_a_branch_counts_unless_a_remark_is_about_it(graphs: ModuleType) -> None:
    model = graphs.parse(BRANCH, v=zeros(32, 32), w=zeros(32, 32))
    (inner,) = [site.name for site in find_sites(model, nested=True) if site.nested]
    assert unreached(model, ()) == (
        "50% of the parameters are in nodes that no pass treats: 1 MatMul inside branches or loops"
    )
    assert unreached(model, {inner}) == ""


def test_few_parameters_are_not_worth_a_word(graphs: ModuleType) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[n, 64] x) => (float[n, 64] y) { a = MatMul (x, w) y = Mul (a, gain) }"""
    assert unreached(graphs.parse(text, w=zeros(64, 64), gain=zeros(64)), ()) == ""
    assert "1 Mul" in unreached(graphs.parse(text, w=zeros(64, 64), gain=zeros(64, 64)), ())


def test_what_a_pass_made_was_treated(graphs: ModuleType) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[n, 64] x) => (float[n, 64] y) {
        wide = Cast <to = 6> (codes) w = Gather (table, wide) y = MatMul (x, w) }"""
    codes, table = np.zeros((64, 64), np.uint8), zeros(16)
    model = graphs.parse(text, codes=codes, table=table)
    assert "all of the parameters" in unreached(model, ())
    gather = next(node for node in model.graph if node.op_type == "Gather")
    gather.metadata_props[EDIT_KEY] = "0004-canonicalize/lookup"
    assert "1 Gather" in unreached(model, ())
    gather.metadata_props[EDIT_KEY] = "0005-cluster/layer-1"
    assert unreached(model, ()) == ""
