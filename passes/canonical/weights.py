"""Weights turned and scaled lazily, once for all who read them."""

from __future__ import annotations

import onnx_ir as ir

from ...ir.graph import attribute, constant_tensor, consumers
from ...ir.rewriter import Rewriter
from ...ir.storage.derived import Derived


def oriented(node: ir.Node, weight: ir.Value, rewriter: Rewriter) -> ir.Value | None:
    """The weight of a Gemm as [in, out], alpha in it; None where others need it as it is.

    All Gemms that share it get the new one, so that it stays shared and is stored once.
    """
    how = _orientation(node)
    if how == (0, 1.0):
        return weight
    alike = [n for n in consumers(weight) if _orientation(n) == how and n.inputs[1] is weight]
    if len(alike) != len(weight.uses()):
        return None
    new = _derived(rewriter, weight, bool(how[0]), how[1])
    for gemm in alike:
        rewriter.set_input(gemm, 1, new)
        rewriter.set_attribute(gemm, "transB", 0)
        rewriter.set_attribute(gemm, "alpha", 1.0)
    rewriter.sweep([weight])
    return new


def fold_weight_transpose(node: ir.Node, rewriter: Rewriter) -> bool:
    """Once for all who read the weight transposed; not where others need it as it is."""
    weight = node.inputs[0]
    assert weight is not None
    alike = [n for n in consumers(weight) if _transposes(n, rewriter)]
    if node not in alike or len(alike) != len(weight.uses()):
        return False
    new = _derived(rewriter, weight, True, 1.0)
    for transpose in alike:
        rewriter.replace_uses(transpose.outputs[0], new)
        rewriter.remove(transpose)
    rewriter.sweep([weight])
    return True


def _orientation(node: ir.Node) -> tuple[int, float]:
    if node.op_type != "Gemm" or node.domain:
        return (-1, 0.0)
    return attribute(node, "transB", 0), float(attribute(node, "alpha", 1.0))


def _transposes(node: ir.Node, rewriter: Rewriter) -> bool:
    plain = node.op_type == "Transpose" and not node.domain
    order = tuple(attribute(node, "perm", (1, 0)))
    return plain and order == (1, 0) and not node.outputs[0].is_graph_output()


def _derived(rewriter: Rewriter, weight: ir.Value, transpose: bool, factor: float) -> ir.Value:
    """The weight transposed and scaled, computed when its bytes are asked for."""
    source = constant_tensor(weight)
    assert source is not None
    name = f"{weight.name}_t" if transpose else f"{weight.name}_scaled"
    return rewriter.initializer(name, Derived(source, transpose, factor), graph=weight.graph)
