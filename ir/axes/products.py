"""Operators that multiply and sum: linear layers, products of activations, convolutions."""

from __future__ import annotations

import onnx_ir as ir

from ..finding.stored import stored
from ..graph import attribute, given, rank
from .elementwise import link_axis
from .relations import DATA, UNKNOWN, Contract, Inner, Key, Relations, operand, reason
from .size_table import SizeTable


def matmul(found: Relations, table: SizeTable) -> None:
    """``[…, m, k] x […, k, n]``: rows, columns and batch axes stay, ``k`` is summed over."""
    node = found.node
    a, b, y = node.inputs[0], node.inputs[1], node.outputs[0]
    left, right, out = table.of(a), table.of(b), table.of(y)
    if a is None or b is None or left is None or right is None or out is None:
        return
    m, n, wide = len(left), len(right), len(out)
    if m < 2 or n < 2:
        return
    found.add(Contract((a, m - 1), (b, n - 2)))
    found.same((a, m - 2), (y, wide - 2))
    found.same((b, n - 1), (y, wide - 1))
    for value, sizes in ((a, left), (b, right)):
        for axis in range(len(sizes) - 2):
            place = axis + wide - len(sizes)
            link_axis(found, ((value, axis), sizes[axis]), ((y, place), out[place]))
    if stored(a) is None and stored(b) is None:
        found.marks.update({(y, axis): "heads" for axis in range(wide - 2)})
        found.marks.update({(y, wide - 1): "features", (y, wide - 2): "features"})
    weigh(found, b, produces=n - 1, consumes=n - 2)
    weigh(found, a, produces=m - 2, consumes=m - 1)


def weigh(found: Relations, weight: ir.Value, *, produces: int, consumes: int) -> None:
    """Name the roles of a stored operand's axes."""
    if stored(weight) is not None:
        found.roles.update({(weight, produces): "produces", (weight, consumes): "consumes"})


def gemm(found: Relations, table: SizeTable) -> None:
    """``[m, k] x [k, n] + c``, either factor transposed or not."""
    node = found.node
    a, b, y = node.inputs[0], node.inputs[1], node.outputs[0]
    left, right, out = table.of(a), table.of(b), table.of(y)
    if a is None or b is None or left is None or right is None or out is None:
        return
    flip_a, flip_b = int(attribute(node, "transA", 0)), int(attribute(node, "transB", 0))
    m, k = flip_a, 1 - flip_a
    inner, n = flip_b, 1 - flip_b
    found.add(Contract((a, k), (b, inner)))
    found.same((a, m), (y, 0))
    found.same((b, n), (y, 1))
    weigh(found, b, produces=n, consumes=inner)
    weigh(found, a, produces=m, consumes=k)
    if given(node, 2) is not None:
        _added(found, table, y)


def _added(found: Relations, table: SizeTable, y: ir.Value) -> None:
    """The summand of a Gemm is broadcast to its output."""
    value, out = found.node.inputs[2], table.of(y)
    own = table.of(value)
    if value is None or own is None or out is None:
        found.stop(reason(DATA, found.node, "adds a value of unknown rank"), (y, 0), (y, 1))
        return
    holder = operand(found.node, 2)
    for axis, size in enumerate(own):
        place = axis + 2 - len(own)
        link_axis(found, ((holder, axis), size), ((y, place), out[place]))
    if stored(value) is not None and own:
        found.roles[holder, len(own) - 1] = "produces"


def conv(found: Relations, table: SizeTable) -> None:
    """``W[o, c / g, …]``: channels of the input in ``g`` groups, each makes o / g outputs."""
    _convolution(found, table, output_axis=0, input_axis=1)


def conv_transpose(found: Relations, table: SizeTable) -> None:
    """``W[c, o / g, …]``, the other way round."""
    _convolution(found, table, output_axis=1, input_axis=0)


def _convolution(found: Relations, table: SizeTable, *, output_axis: int, input_axis: int) -> None:
    node = found.node
    x, weight, y = node.inputs[0], node.inputs[1], node.outputs[0]
    if x is None or weight is None or stored(weight) is None:
        found.otherwise = reason(UNKNOWN, node, "has a weight that is not stored")
        return
    groups, known = int(attribute(node, "group", 1)), table.of(weight)
    sizes = [table.length(weight, axis) for axis in (output_axis, input_axis)] if known else []
    if not sizes or None in sizes or rank(x) is None:
        return
    found.otherwise = reason("reduction", node, "sums over the axis")
    found.same((x, 0), (y, 0))
    if given(node, 2) is not None:
        bias = operand(node, 2), 0
        found.same(bias, (y, 1))
        found.roles[bias] = "produces"
    if groups == 1:
        found.add(Contract((x, 1), (weight, input_axis)))
        found.same((weight, output_axis), (y, 1))
        found.roles.update({(weight, output_axis): "produces", (weight, input_axis): "consumes"})
        return
    _grouped(found, table, groups, output_axis)


def _grouped(found: Relations, table: SizeTable, groups: int, output_axis: int) -> None:
    """Whole groups are cut, or the same places in every group.

    The axis of the weight that holds all groups is the output's (Conv) or the input's
    (ConvTranspose); the other one belongs to one group.
    """
    node = found.node
    x, weight, y = node.inputs[0], node.inputs[1], node.outputs[0]
    assert x is not None and weight is not None
    all_groups, one_group = ((y, 1), (x, 1)) if output_axis == 0 else ((x, 1), (y, 1))
    own, held = table.length(weight, 0), table.length(weight, 1)
    if own is None or held is None or own % groups:
        return
    group: Key = Inner(node, "group"), 0
    part: Key = Inner(node, "part"), 0
    found.same((weight, 0), all_groups)
    found.fold(all_groups, [(group, groups), (part, own // groups)])
    found.fold(one_group, [(group, groups), ((weight, 1), held)])
    found.roles[weight, 0] = "produces" if output_axis == 0 else "consumes"
    found.roles[weight, 1] = "consumes" if output_axis == 0 else "produces"


def whole_groups(node: ir.Node) -> Key:
    """The inner axis along which whole groups of a convolution are cut."""
    return Inner(node, "group"), 0


def fused_matmul(found: Relations, table: SizeTable) -> None:
    """As MatMul where nothing is transposed; else it is left alone."""
    flags = ("transA", "transB", "transBatchA", "transBatchB")
    if not any(attribute(found.node, name, 0) for name in flags):
        matmul(found, table)
