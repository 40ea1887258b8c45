"""Signed codes of activations as unsigned ones: the same numbers, in the codes that x86 is fast at.

A code and its zero point both move by 128, so that every dequantized number stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from ...ir.graph import all_nodes, constant_array, constant_tensor, given, operator
from ...ir.rewriter import Rewriter

SHIFT = 128

Places = tuple[tuple[int, int], ...]
# By operator: positions of codes with that of their zero point, and of the output's zero point.
# QLinearConcat takes any number of codes, see _coded.
_CODED: Mapping[str, tuple[Places, int | None]] = MappingProxyType(
    {
        "QuantizeLinear": ((), 2),
        "DequantizeLinear": (((0, 2),), None),
        "QLinearMatMul": (((0, 2), (3, 5)), 7),
        "QLinearConv": (((0, 2), (3, 5)), 7),
        "MatMulInteger": (((0, 2), (1, 3)), None),
        "ConvInteger": (((0, 2), (1, 3)), None),
        "QLinearAdd": (((0, 2), (3, 5)), 7),
        "QLinearMul": (((0, 2), (3, 5)), 7),
        "QLinearSigmoid": (((0, 2),), 4),
        "QLinearLeakyRelu": (((0, 2),), 4),
        "QLinearSoftmax": (((0, 2),), 4),
        "QLinearAveragePool": (((0, 2),), 4),
        "QLinearGlobalAveragePool": (((0, 2),), 4),
        "QLinearWhere": (((1, 3), (4, 6)), 8),
        "QGemm": (((0, 2), (3, 5)), 8),
    }
)
_MOVES = frozenset(
    "Transpose Reshape Squeeze Unsqueeze Flatten Gather Slice Split Identity MaxPool Expand".split()
)
_WEIGHT: Mapping[str, int] = MappingProxyType(
    {"QLinearMatMul": 3, "QLinearConv": 3, "MatMulInteger": 1, "ConvInteger": 1, "QGemm": 3,
     "DequantizeLinear": 0}
)  # fmt: skip
"""Where a constant may stay signed."""


def obstacle(model: ir.Model) -> str:
    """Why signed codes that are computed cannot become unsigned ones; "" where they can."""
    found = _signed(model)
    if not found:
        return "it computes no signed codes whose zero points are known"
    return next((why for value in found for why in _obstacles(value)), "")


def to_unsigned(rewriter: Rewriter) -> None:
    """Turn all signed codes that are computed into unsigned ones, or none (see ``obstacle``)."""
    if obstacle(rewriter.model):
        return
    found = _signed(rewriter.model)
    shifted: dict[ir.Value, ir.Value] = {}
    nodes = [n for value in found for n in (value.producer(), *(u.node for u in value.uses()))]
    for node in dict.fromkeys(n for n in nodes if n is not None):
        _turn(node, found, rewriter, shifted)
    for value in found:
        rewriter.set_type(value, ir.DataType.UINT8, value.shape)


def _coded(node: ir.Node) -> tuple[Places, int | None] | None:
    """Places of a node's codes and zero points; None where they are not known."""
    kind = operator(node)[1]
    if kind != "QLinearConcat":
        return _CODED.get(kind)
    return tuple((at, at + 2) for at in range(2, len(node.inputs) - 2, 3)), 1


def _signed(model: ir.Model) -> dict[ir.Value, None]:
    """Computed codes of int8, by the zero points of what makes them, in graph order."""
    found: dict[ir.Value, None] = {}
    for node in all_nodes(model):
        kind = operator(node)[1]
        if _makes_signed(node, kind, found):
            found[node.outputs[0]] = None
    return found


def _makes_signed(node: ir.Node, kind: str, found: Mapping[ir.Value, None]) -> bool:
    if kind in _MOVES and node.inputs:
        return node.inputs[0] in found or _is_int8(node.inputs[0])
    _, output = _coded(node) or ((), None)
    return output is not None and _is_int8(given(node, output))


def _is_int8(value: ir.Value | None) -> bool:
    tensor = constant_tensor(value)
    return tensor is not None and tensor.dtype == ir.DataType.INT8


def _obstacles(value: ir.Value) -> Iterator[str]:
    if value.is_graph_output():
        yield f"{value.name} is an output of the model and int8"
    for node in (value.producer(), *(use.node for use in value.uses())):
        if node is None:
            continue
        kind = operator(node)[1]
        if _coded(node) is None and kind not in _MOVES:
            yield f"it is not known what {node.op_type} {node.name} makes of int8 codes"
        for place in _zero_places(node):
            if constant_tensor(given(node, place)) is None:
                yield f"{node.op_type} {node.name} has no zero point, or a computed one"


def _zero_places(node: ir.Node) -> list[int]:
    inputs, output = _coded(node) or ((), None)
    return [zero for _, zero in inputs] + ([output] if output is not None else [])


def _turn(
    node: ir.Node, found: Mapping[ir.Value, None], rewriter: Rewriter,
    shifted: dict[ir.Value, ir.Value],
) -> None:  # fmt: skip
    kind = operator(node)[1]
    if kind in _MOVES:
        if node.inputs[0] not in found and constant_tensor(node.inputs[0]) is not None:
            _shift(node, 0, rewriter, shifted)
        return
    inputs, output = _coded(node) or ((), None)
    for place, zero in inputs:
        value = given(node, place)
        constant = constant_tensor(value)
        if value in found:
            _shift(node, zero, rewriter, shifted)
        elif constant is not None and _WEIGHT.get(kind) != place:
            _shift(node, place, rewriter, shifted)
            _shift(node, zero, rewriter, shifted)
    if output is not None:
        _shift(node, output, rewriter, shifted)


def _shift(
    node: ir.Node, place: int, rewriter: Rewriter, shifted: dict[ir.Value, ir.Value]
) -> None:
    """Let a node read a constant of int8 moved by 128, as uint8."""
    old = given(node, place)
    array = constant_array(old)
    if old is None or array is None or array.dtype != np.int8:
        return
    if old not in shifted:
        moved = (array.astype(np.int16) + SHIFT).astype(np.uint8)
        shifted[old] = rewriter.initializer(f"{old.name}_unsigned", moved)
    rewriter.set_input(node, place, shifted[old])
    rewriter.sweep([old])
