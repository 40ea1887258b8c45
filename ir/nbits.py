"""Weights of few bits in a graph: ONNX Runtime's operators that read them packed.

Source: schemas of com.microsoft MatMulNBits and GatherBlockQuantized (version 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .graph import attribute, operator
from .rewriter import Rewriter

DOMAIN, VERSION = "com.microsoft", 1
MATMUL, GATHER = "MatMulNBits", "GatherBlockQuantized"
INT8_ACTIVATIONS = 4
"""The accuracy level that rounds activations to int8; all others compute in float32."""
IN_FLOAT = 1


@dataclass(frozen=True)
class PackedWeight:
    """A weight [inputs, outputs] in blocks along its inputs, as the operators read it.

    data: uint8 [outputs, blocks, block * bits / 8], or [outputs, inputs * bits / 8] for a table
    of which rows are looked up and that no layer multiplies by. scales: float32 or float16
    [outputs, blocks]. zero_points: packed uint8 [outputs, bytes], None: 2^(bits-1) everywhere.
    """

    data: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None
    inputs: int
    bits: int
    block: int

    @property
    def outputs(self) -> int:
        """Rows of the packed weight."""
        return len(self.data)

    @property
    def nbytes(self) -> int:
        """Of everything that is stored."""
        zeros = 0 if self.zero_points is None else self.zero_points.nbytes
        return int(self.data.nbytes + self.scales.nbytes + zeros)


@dataclass(frozen=True)
class PackedValues:
    """The initializers that hold a packed weight; every use reads the same."""

    weight: PackedWeight
    data: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None


def store(rewriter: Rewriter, hint: str, weight: PackedWeight) -> PackedValues:
    """Register the initializers of a packed weight, names starting with ``hint``."""
    rewriter.require_opset(DOMAIN, VERSION)
    zeros = weight.zero_points
    return PackedValues(
        weight,
        rewriter.initializer(f"{hint}_packed", weight.data),
        rewriter.initializer(f"{hint}_scale", weight.scales),
        None if zeros is None else rewriter.initializer(f"{hint}_zero_point", zeros),
    )


def multiply(
    rewriter: Rewriter, before: ir.Node, x: ir.Value, held: PackedValues, accuracy_level: int
) -> ir.Value:
    """x [..., inputs] times the weight: the output [..., outputs] of a node in front of another."""
    weight = held.weight
    node = rewriter.insert(
        MATMUL,
        _given(x, held.data, held.scales, held.zero_points),
        before=before,
        domain=DOMAIN,
        attributes={
            "K": weight.inputs,
            "N": weight.outputs,
            "bits": weight.bits,
            "block_size": weight.block,
            "accuracy_level": accuracy_level,
        },
        name=f"{before.name}_nbits",
        origins=[before],
    )
    return node.outputs[0]


def look_up(
    rewriter: Rewriter, before: ir.Node, indices: ir.Value, held: PackedValues, dtype: ir.DataType
) -> ir.Value:
    """Rows of the table at ``indices``, in ``dtype``: the output of nodes in front of another."""
    node = rewriter.insert(
        GATHER,
        _given(_as_rows(rewriter, before, held), indices, held.scales, held.zero_points),
        before=before,
        domain=DOMAIN,
        attributes={
            "gather_axis": 0,
            "quantize_axis": 1,
            "bits": held.weight.bits,
            "block_size": held.weight.block,
        },
        name=f"{before.name}_rows",
        origins=[before],
    )
    rows = node.outputs[0]
    if held.scales.dtype == dtype:
        return rows
    name = f"{before.name}_cast"
    cast = rewriter.insert(
        "Cast", [rows], before=before, attributes={"to": int(dtype)}, name=name, origins=[before]
    )
    return cast.outputs[0]


def _as_rows(rewriter: Rewriter, before: ir.Node, held: PackedValues) -> ir.Value:
    """The packed bytes as [outputs, bytes]: a view, where a layer reads them in blocks.

    The view is on the table's side: the kernel of 8-bit products takes no computed weight.
    """
    data = held.weight.data
    if data.ndim == 2:
        return held.data
    for node in (use.node for use in held.data.uses()):
        if operator(node) == ("", "Reshape") and node.graph is before.graph:
            return node.outputs[0]
    shape = rewriter.initializer(
        f"{held.data.name}_shape", np.array([len(data), data[0].size], np.int64)
    )
    name = f"{held.data.name}_rows"
    first = next(iter(rewriter.graph))  # other uses may stand in front of this one
    made = rewriter.insert("Reshape", [held.data, shape], before=first, name=name, origins=[before])
    return made.outputs[0]


def computes_in_integers(node: ir.Node) -> bool:
    """Whether the node rounds its activations to int8 to multiply them by a weight of few bits."""
    wanted = attribute(node, "accuracy_level", 0) == INT8_ACTIVATIONS
    return operator(node) == (DOMAIN, MATMUL) and wanted


def compute_in_float(model: ir.Model) -> bool:
    """Have all products with weights of few bits computed in float32; whether any was not."""
    found = [node for node in model.graph if computes_in_integers(node)]
    for node in found:
        node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", IN_FLOAT)
    return bool(found)


def _given(*values: ir.Value | None) -> list[ir.Value | None]:
    """Inputs of a node; those left out at the end are not written."""
    given = list(values)
    while given and given[-1] is None:
        given.pop()
    return given
