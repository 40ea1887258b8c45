"""One spelling for what can be said in several ways, and none for what does nothing."""

from __future__ import annotations

import onnx_ir as ir

from ...ir.graph import attribute, is_constant, scalar
from ...ir.rewriter import Rewriter
from .edits import has_input, replace


def remove_nothing(node: ir.Node, rewriter: Rewriter) -> bool:
    """Identity, and Dropout at inference: the output is the input."""
    if node.op_type not in ("Identity", "Dropout") or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type == "Dropout" and not _inactive_dropout(node):
        return False
    source, output = node.inputs[0], node.outputs[0]
    outer = source.graph is not node.graph
    if output.is_graph_output() and (_fixed(source) or source.is_graph_output() or outer):
        return False
    inputs = list(node.inputs)
    rewriter.replace_uses(output, source)
    rewriter.remove(node)
    rewriter.sweep(inputs)
    return True


def constants_right(node: ir.Node, rewriter: Rewriter) -> bool:
    """Add(c, x) -> Add(x, c), Mul(c, x) -> Mul(x, c): patterns need one order only."""
    if node.op_type not in ("Add", "Mul") or node.domain:
        return False
    left, right = node.inputs
    if not is_constant(left) or is_constant(right):
        return False
    rewriter.set_input(node, 0, right)
    rewriter.set_input(node, 1, left)
    return True


def sum_to_add(node: ir.Node, rewriter: Rewriter) -> bool:
    """Sum of two -> Add; an earlier compile may have written it to steer a runtime."""
    if node.op_type != "Sum" or node.domain or len(node.inputs) != 2:
        return False
    added = rewriter.insert(
        "Add", list(node.inputs), before=node, name=str(node.name), origins=[node]
    )
    replace(node, added.outputs[0], rewriter)
    return True


def castlike_to_cast(node: ir.Node, rewriter: Rewriter) -> bool:
    """CastLike -> Cast where the type to match is known; then constants fold through it."""
    if node.op_type != "CastLike" or node.domain or node.inputs[1] is None:
        return False
    dtype = node.inputs[1].dtype
    if dtype is None or dtype == ir.DataType.UNDEFINED:
        return False
    cast = rewriter.insert(
        "Cast",
        [node.inputs[0]],
        before=node,
        name=str(node.name),
        attributes={"to": int(dtype)} | {k: a.value for k, a in node.attributes.items()},
        origins=[node],
    )
    replace(node, cast.outputs[0], rewriter)
    return True


def _fixed(value: ir.Value) -> bool:
    return value.is_graph_input() or value.is_initializer()


def _inactive_dropout(node: ir.Node) -> bool:
    mask_used = any(o.uses() or o.is_graph_output() for o in node.outputs[1:])
    training = has_input(node, 2) and scalar(node.inputs[2]) != 0.0
    return not mask_used and not training and attribute(node, "is_test", 1) != 0
