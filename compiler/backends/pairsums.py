"""Layers of a finished model whose sums of two products could leave 16 bits, by their weights.

For targets whose int8 kernels add pairs of products in 16 bits: looked for in the graph as it is
handed over, whoever quantized it. See ``passes.math.saturation`` for which products are a pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.graph import all_nodes, attribute, constant_array, given, producer
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


@dataclass(frozen=True)
class PairSums:
    """layers: integer layers that were looked at, by site, else by node. unsafe: those of which a
    pair can leave 16 bits, with the one that can furthest."""

    layers: tuple[str, ...]
    unsafe: Mapping[str, Worst]


def pair_sums(model: ir.Model) -> PairSums:
    """Every pair of every constant int8 weight, for any 8-bit activations."""
    layers: list[str] = []
    unsafe: dict[str, Worst] = {}
    for name, node, codes in integer_layers(model):
        layers.append(name)
        found = [worst for rows in _rows(node, codes) if (worst := worst_pair(rows)) is not None]
        if found:
            unsafe[name] = max(found, key=lambda worst: abs(worst.sum))
    return PairSums(tuple(dict.fromkeys(layers)), unsafe)


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
    if node.op_type not in FLOAT_FORMS or not is_dequantized(given(node, 0)):
        return None
    stored = producer(given(node, 1), "DequantizeLinear")
    return None if stored is None else constant_array(stored.inputs[0])


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
