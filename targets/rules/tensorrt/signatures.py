"""Which inputs and outputs of a standard operator share a type, as ONNX's own schemas say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import TypeAlias

import onnx
import onnx_ir as ir

from ....ir.graph import operator

_DATA = {"Where": 1, "OneHot": 2}
"""The input that holds the data, where it is not the first."""
_OUTPUT = frozenset(
    {"BlackmanWindow", "ConstantOfShape", "EyeLike", "HammingWindow", "HannWindow", "If", "Loop"}
)
"""Operators whose data are what they give."""

Parameters: TypeAlias = Sequence["onnx.defs.OpSchema.FormalParameter"]


@cache
def _schema(op: str, version: int) -> onnx.defs.OpSchema | None:
    newest = min(version, onnx.defs.onnx_opset_version())
    try:
        return onnx.defs.get_schema(op, newest, "")
    except onnx.defs.SchemaError:
        return None


def groups(node: ir.Node, version: int) -> dict[str, list[ir.Value]]:
    """Inputs of a standard operator by the type variable that they share; {} when unknown."""
    schema = _schema(node.op_type, version) if not operator(node)[0] else None
    found: dict[str, list[ir.Value]] = defaultdict(list)
    if schema is not None:
        for value, variable in zip(
            node.inputs, _names(schema.inputs, len(node.inputs)), strict=True
        ):
            if value is not None and variable:
                found[variable].append(value)
    return found


def data(node: ir.Node, version: int) -> list[ir.Value]:
    """The inputs and outputs of a standard operator that are data, not axes, sizes or the like."""
    schema = _schema(node.op_type, version) if not operator(node)[0] else None
    if schema is None:
        return []
    inputs = _names(schema.inputs, len(node.inputs), mixed=True)
    outputs = _names(schema.outputs, len(node.outputs), mixed=True)
    at = _DATA.get(node.op_type, 0)
    from_output = node.op_type in _OUTPUT or at >= len(inputs)
    wanted = (outputs[:1] or [""])[0] if from_output else inputs[at]
    named = [*zip(node.inputs, inputs, strict=True), *zip(node.outputs, outputs, strict=True)]
    return [value for value, variable in named if value is not None and variable == wanted]


def _names(parameters: Parameters, count: int, *, mixed: bool = False) -> list[str]:
    """The type variable of each of ``count`` values, "" where each may have a type of its own."""
    found = []
    for i in range(count):
        if not parameters:
            return [""] * count
        parameter = parameters[min(i, len(parameters) - 1)]
        found.append(parameter.type_str if mixed or parameter.is_homogeneous else "")
    return found
