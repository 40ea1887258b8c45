"""Nodes that apply a stored weight: linear layers, convolutions and embeddings, in any spelling.

Float (``MatMul``, ``Gemm``, ``Conv``, …), fake-quantized (weights behind ``DequantizeLinear``),
and the integer spellings that runtimes use. Recognition reads the graph and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..graph import attribute, given, operator, producer, single_consumer
from .layer import Layer, LayerKind, features_of, is_quantized
from .lookups import find_embedding
from .stored import Stored, effective_dims, stored


@dataclass(frozen=True)
class _Spelling:
    """Input positions of one operator: activation, weight, bias; rank the weight must have."""

    kind: LayerKind
    activation: int
    weight: int
    bias: int | None = None
    rank: int | None = None


_SPELLINGS: dict[tuple[str, str], _Spelling] = {
    ("", "MatMul"): _Spelling("linear", 0, 1, rank=2),
    ("", "Gemm"): _Spelling("linear", 0, 1, 2, rank=2),
    ("", "MatMulInteger"): _Spelling("linear", 0, 1, rank=2),
    ("", "QLinearMatMul"): _Spelling("linear", 0, 3, rank=2),
    ("com.microsoft", "FusedMatMul"): _Spelling("linear", 0, 1, rank=2),
    ("com.microsoft", "FusedGemm"): _Spelling("linear", 0, 1, 2, rank=2),
    ("com.microsoft", "QGemm"): _Spelling("linear", 0, 3, 6, rank=2),
    ("com.microsoft", "DynamicQuantizeMatMul"): _Spelling("linear", 0, 1, 4, rank=2),
    ("com.microsoft", "MatMulIntegerToFloat"): _Spelling("linear", 0, 1, 6, rank=2),
    ("com.microsoft", "MatMulNBits"): _Spelling("linear", 0, 1, 5),
    ("com.microsoft", "MatMulBnb4"): _Spelling("linear", 0, 1),
    ("", "Conv"): _Spelling("conv", 0, 1, 2),
    ("", "ConvTranspose"): _Spelling("conv", 0, 1, 2),
    ("", "ConvInteger"): _Spelling("conv", 0, 1),
    ("", "QLinearConv"): _Spelling("conv", 0, 3, 8),
    ("com.microsoft", "QLinearConv"): _Spelling("conv", 0, 3, 8),
    ("com.microsoft", "FusedConv"): _Spelling("conv", 0, 1, 2),
    ("com.microsoft", "NhwcFusedConv"): _Spelling("conv", 0, 1, 2),
    ("com.microsoft", "GatherBlockQuantized"): _Spelling("embedding", 1, 0),
}


def find_layer(node: ir.Node) -> Layer | None:
    """The layer that the node applies, None where it applies no stored weight."""
    key = operator(node)
    if key == ("", "Gather"):
        return find_embedding(node)
    spelling = _SPELLINGS.get(key)
    if spelling is None or attribute(node, "transA", 0):
        return None
    weight = stored(given(node, spelling.weight))
    activation = given(node, spelling.activation)
    if weight is None or activation is None or stored(activation) is not None:
        return None
    if spelling.rank is not None and len(effective_dims(weight) or ()) != spelling.rank:
        return None
    return _layer(node, spelling, weight, activation)


def _layer(
    node: ir.Node, spelling: _Spelling, weight: Stored, activation: ir.Value
) -> Layer | None:
    tail = _integer_tail(node) if node.op_type in ("MatMulInteger", "ConvInteger") else []
    bias = _bias_value(given(node, spelling.bias))
    last = tail[-1] if tail else node
    if spelling.kind == "linear" and bias is None and operator(node) != ("", "Gemm"):
        bias, add = _added_bias(last.outputs[0], features_of(node, weight)[1])
        tail += [add] if add is not None else []
    nodes = (node, *tail)
    source = _float_source(activation) if is_quantized(weight) else activation
    return Layer(spelling.kind, nodes, weight, bias, source, nodes[-1].outputs[0])


def _bias_value(value: ir.Value | None) -> ir.Value | None:
    found = stored(value)
    return None if found is None else found.value


def _added_bias(
    value: ir.Value, features: int | None
) -> tuple[ir.Value, ir.Node] | tuple[None, None]:
    """The constant [features] that the only reader of a value adds to it, and that node."""
    node = single_consumer(value)
    if node is None or operator(node) != ("", "Add"):
        return None, None
    other = stored(node.inputs[1] if node.inputs[0] is value else node.inputs[0])
    if other is None or effective_dims(other) != (features,):
        return None, None
    return other.value, node


def _integer_tail(node: ir.Node) -> list[ir.Node]:
    """``Cast`` and the one or two ``Mul`` by scales that make an integer product float."""
    tail: list[ir.Node] = []
    value = node.outputs[0]
    for accepts in (_is_cast, _is_scaling, _is_scaling):
        after = single_consumer(value)
        if after is None or not accepts(after, value):
            break
        tail.append(after)
        value = after.outputs[0]
    return tail


def _is_cast(node: ir.Node, value: ir.Value) -> bool:
    return node.op_type == "Cast"


def _is_scaling(node: ir.Node, value: ir.Value) -> bool:
    others = [v for v in node.inputs if v is not value]
    return node.op_type == "Mul" and len(others) == 1 and _is_scale(others[0])


def _is_scale(value: ir.Value | None) -> bool:
    """A constant, the scale of a dynamic quantization, or their product."""
    if stored(value) is not None:
        return True
    node = producer(value)
    if node is None:
        return False
    if node.op_type == "DynamicQuantizeLinear":
        return value is node.outputs[1]
    return node.op_type == "Mul" and all(_is_scale(v) for v in node.inputs)


def _float_source(value: ir.Value) -> ir.Value:
    """The float value behind a (dynamic) quantize-dequantize pair on an activation."""
    node = producer(value, "DequantizeLinear")
    quantized = value if node is None else node.inputs[0]
    for op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
        node = producer(quantized, op_type)
        if node is not None and node.inputs[0] is not None:
            return node.inputs[0]
    return value
