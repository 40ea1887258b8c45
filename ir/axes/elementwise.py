"""Operators that work position by position, with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from .relations import DATA, Key, Relations, operand, reason
from .size_table import SizeTable
from .sizes import ONE, Size

UNARY = frozenset(
    {
        *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Cos"),
        *("Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
        *("IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu"),
        *("Round", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt"),
        *("Shrink", "Swish", "Tan", "Tanh", "ThresholdedRelu", "BitwiseNot"),
    }
)
"""One input, one output of its shape."""
SCALED = frozenset({"Clip", "Dropout"})
"""As unary; what else they read are single numbers."""
NARY = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Max", "Min", "Mean", "Sum", "Where", "PRelu"),
        *("And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
        *("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift"),
    }
)
CONTRIB_UNARY = frozenset({"QuickGelu", "Gelu"})
CONTRIB_NARY = frozenset({"BiasGelu", "FastGelu"})


def unary(found: Relations, table: SizeTable) -> None:
    """Every output has the shape of the first input (of Dropout also the mask)."""
    node = found.node
    link_all(found, table, [0], node.outputs)


def nary(found: Relations, table: SizeTable) -> None:
    """The inputs are broadcast to the output, aligned at their last axes."""
    node = found.node
    places = [i for i, value in enumerate(node.inputs) if value is not None]
    link_all(found, table, places, node.outputs[:1])


def link_all(
    found: Relations, table: SizeTable, places: Sequence[int], outputs: Sequence[ir.Value]
) -> None:
    """Relate inputs with outputs that they are broadcast to."""
    for output in outputs:
        for place in places:
            link(found, table, place, output)


def link(found: Relations, table: SizeTable, place: int, output: ir.Value) -> None:
    """Relate one input with an output that it is broadcast to."""
    node = found.node
    value, wide = node.inputs[place], table.of(output)
    own = table.of(value)
    if value is None or own is None or wide is None or len(own) > len(wide):
        _blur(found, table, output)
        return
    holder, shift = operand(node, place), len(wide) - len(own)
    for axis, size in enumerate(own):
        link_axis(found, ((holder, axis), size), ((output, axis + shift), wide[axis + shift]))


def link_axis(found: Relations, own: tuple[Key, Size], wide: tuple[Key, Size]) -> None:
    """Relate an axis with the axis that it is broadcast to."""
    (a, size), (b, target) = own, wide
    if size == target:
        found.same(a, b)
    elif size != ONE:
        found.stop(reason(DATA, found.node, "may broadcast an axis of unknown size"), a, b)


def _blur(found: Relations, table: SizeTable, output: ir.Value) -> None:
    sizes = table.of(output)
    why = reason(DATA, found.node, "reads a value whose rank is not known")
    found.otherwise = why
    found.stop(why, *((output, axis) for axis in range(len(sizes or ()))))
