"""Layers of a finished model whose sums of two products could leave 16 bits, by their weights.

For targets whose int8 kernels add pairs of products in 16 bits: looked for in the graph as it is
handed over, whoever quantized it. See ``passes.math.saturation`` for which products are a pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.graph import all_nodes, attribute, constant_array, constant_tensor, given, producer
from ...ir.qdq import is_dequantized
from ...ir.sites import find_sites
from ...passes.math.saturation import Worst, conv_rows, sums_in_pairs, worst_pair

WEIGHT_INPUT: Mapping[str, int] = {
    "ConvInteger": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "QAttention": 1,
    "QGemm": 3,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
}
"""Operators that multiply integers, and which of their inputs is the weight."""
FLOAT_FORMS = frozenset({"MatMul", "Gemm", "Conv"})
"""Operators that do so between values out of a DequantizeLinear."""
MOVES = frozenset(
    "Flatten Gather Identity MaxPool Pad Reshape Slice Split Squeeze Transpose Unsqueeze".split()
)
"""What the runtime moves integers through: they stay quantized behind it."""


@dataclass(frozen=True)
class PairSums:
    """layers: integer layers that were looked at, by site, else by node. unsafe: those of which a
    pair can leave 16 bits, with the one that can furthest. unread: whose int8 weight stands behind
    more than transposes."""

    layers: tuple[str, ...]
    unsafe: Mapping[str, Worst]
    unread: tuple[str, ...] = ()


def pair_sums(model: ir.Model) -> PairSums:
    """Every pair of every constant int8 weight, for any 8-bit activations."""
    layers: list[str] = []
    unsafe: dict[str, Worst] = {}
    for name, node, codes in integer_layers(model):
        layers.append(name)
        found = [worst for rows in _rows(node, codes) if (worst := worst_pair(rows)) is not None]
        if found:
            unsafe[name] = max(found, key=lambda worst: abs(worst.sum))
    return PairSums(tuple(dict.fromkeys(layers)), unsafe, tuple(_unread(model)))


def integer_layers(model: ir.Model) -> Iterator[tuple[str, ir.Node, np.ndarray]]:
    """Layers of constant int8 weights that meet 8-bit activations: name, node, codes.

    uint8 weights are left out: kernels widen them to 16 bits before they multiply.
    """
    names = {node: site.name for node, site in find_sites(model, nested=True).by_node.items()}
    for node in all_nodes(model):
        codes = _codes(node)
        if codes is not None and codes.dtype == np.int8:
            yield names.get(node, str(node.name)), node, codes


def _codes(node: ir.Node) -> np.ndarray | None:
    """The integer weight that a layer multiplies with integer activations."""
    if node.op_type in WEIGHT_INPUT:
        return constant_array(given(node, WEIGHT_INPUT[node.op_type]))
    if not _takes_integers(node):
        return None
    value, turns = given(node, 1), []
    while (turn := producer(value, "Transpose")) is not None:
        turns.append(turn)
        value = turn.inputs[0]
    stored = producer(value, "DequantizeLinear")
    codes = None if stored is None else constant_array(stored.inputs[0])
    if codes is None:
        return None
    for turn in reversed(turns):
        codes = np.transpose(codes, attribute(turn, "perm"))
    return codes


def _takes_integers(node: ir.Node) -> bool:
    return node.op_type in FLOAT_FORMS and is_dequantized(_unmoved(given(node, 0)))


def _unmoved(value: ir.Value | None) -> ir.Value | None:
    """The value that this one is made of by moving elements."""
    while (node := producer(value)) is not None and node.op_type in MOVES:
        value = given(node, 0)
    return value


def _unread(model: ir.Model) -> Iterator[str]:
    for node in all_nodes(model):
        stored = producer(_unmoved(given(node, 1)), "DequantizeLinear")
        held = None if stored is None else constant_tensor(stored.inputs[0])
        int8 = held is not None and held.dtype == ir.DataType.INT8
        if int8 and _takes_integers(node) and _codes(node) is None:
            yield str(node.name)


def _rows(node: ir.Node, codes: np.ndarray) -> Iterator[np.ndarray]:
    """The weight as matrices [K, N]."""
    if "Conv" in node.op_type:
        if sums_in_pairs(codes.shape, attribute(node, "group", 1)):
            yield conv_rows(codes)
        return
    if codes.ndim < 2:
        yield codes.reshape(-1, 1)
        return
    transposed = "Gemm" in node.op_type and attribute(node, "transB", 0)
    yield from codes.T[None] if transposed else codes.reshape(-1, *codes.shape[-2:])
