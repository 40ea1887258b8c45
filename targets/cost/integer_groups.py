"""Groups of nodes around codes: what ONNX Runtime makes integer kernels of."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...ir.graph import (
    attribute,
    constant_tensor,
    consumers,
    given,
    operator,
    producer,
    scalar,
    single_consumer,
)
from ...ir.types.bound import Shapes
from .groups import (
    DEQUANTIZE,
    DYNAMIC,
    QUANTIZE,
    Fusion,
    becomes_gemm,
    bias_add,
    is_row,
    of,
)

_INTEGER = frozenset({"Add", "Mul", "Sigmoid", "LeakyRelu", "Softmax", "Concat", "AveragePool",
                      "GlobalAveragePool"})  # fmt: skip
_MOVES = frozenset({"Reshape", "Transpose", "MaxPool", "Squeeze", "Unsqueeze", "Flatten", "Slice",
                    "Gather", "Resize"})  # fmt: skip
_PRODUCTS = frozenset({"MatMul", "Gemm"})


def dynamic_groups(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """Products of codes whose ranges are found at run time."""
    for node in of(nodes, "MatMulInteger"):
        quantize = producer(node.inputs[0], DYNAMIC)
        cast = single_consumer(node.outputs[0])
        scale = None if cast is None else single_consumer(cast.outputs[0])
        if quantize is None or cast is None or scale is None or scale.op_type != "Mul":
            continue
        alone = len(consumers(quantize.outputs[0])) == 1
        found.kernel[node] = "dynamic" if alone else "u8s8"
        scales = [producer(v, "Mul") for v in scale.inputs if producer(v) is not cast]
        found.absorb(cast, scale, *scales, quantize if alone else None, bias_add(scale))


def static_groups(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """Products, convolutions and small operators between stored ranges."""
    for node in nodes:
        name = operator(node)[1]
        if name in _PRODUCTS:
            _quantized_product(node, shapes, found)
        elif name == "Conv":
            _quantized_convolution(node, found)
        elif name in _INTEGER | _MOVES:
            _between_codes(node, found)


def _quantized_product(node: ir.Node, shapes: Shapes, found: Fusion) -> None:
    x, w = (producer(v, DEQUANTIZE) for v in node.inputs[:2])
    if w is None or (x is None and constant_tensor(w.inputs[0]) is None):
        return
    behind = _quantizer(node.outputs[0])
    if x is None:
        if not attribute(node, "transB", 0):
            found.kernel[node] = f"nbits{_bits(w)}"
            found.absorb(w, bias_add(node))
    elif _bits(w) == 8 and not attribute(w, "block_size", 0) and _takes_bias(node, shapes, behind):
        found.kernel[node] = "u8s8"
        bias = producer(given(node, 2), DEQUANTIZE)
        add = bias_add(node) if behind is not None else None
        found.absorb(*_alone(x), *_alone(w), behind, bias, add)


def _takes_bias(node: ir.Node, shapes: Shapes, behind: ir.Node | None) -> bool:
    """A product with a float bias stays float unless its output is quantized."""
    if behind is not None:
        return True
    if node.op_type == "Gemm":
        bias = given(node, 2)
        return bias is None or producer(bias, DEQUANTIZE) is not None
    return bias_add(node) is None or not becomes_gemm(node)


def _quantized_convolution(node: ir.Node, found: Fusion) -> None:
    x, w = (producer(v, DEQUANTIZE) for v in node.inputs[:2])
    act = single_consumer(node.outputs[0])
    act = act if act is not None and operator(act)[1] in ("Relu", "Clip") else None
    behind = _quantizer((act or node).outputs[0])
    if x is None or w is None or behind is None or (act is not None and not _from_zero(behind)):
        return
    found.kernel[node] = "conv-u8s8"
    found.absorb(*_alone(x), *_alone(w), producer(given(node, 2), DEQUANTIZE), act, behind)


def _between_codes(node: ir.Node, found: Fusion) -> None:
    """An operator that computes with codes, or only moves them."""
    moves = operator(node)[1] in _MOVES
    sources = [producer(v, DEQUANTIZE) for v in (node.inputs[:1] if moves else node.inputs)]
    behind = _quantizer(node.outputs[0])
    if behind is not None and all(s is not None for s in sources):
        found.kernel[node] = "integer"
        found.absorb(behind, *(d for s in sources if s is not None for d in _alone(s)))


def _alone(dequantize: ir.Node) -> tuple[ir.Node, ...]:
    """A dequantization is gone where none of its readers computes with floats: checked at the end;
    here those that feed one kernel only."""
    return (dequantize,) if single_consumer(dequantize.outputs[0]) is not None else ()


def drop_readerless(nodes: Sequence[ir.Node], found: Fusion) -> None:
    """A dequantization all of whose readers take codes needs no kernel; else one for each."""
    """A dequantization all of whose readers take codes needs no kernel."""
    taking = {"u8s8", "conv-u8s8", "integer"}
    for node in of(nodes, DEQUANTIZE):
        readers = consumers(node.outputs[0])
        floats = [r for r in readers if found.kernel.get(r) not in taking and r not in found.gone]
        if readers and not floats:
            found.gone.add(node)
        found.copies[node] = max(1, len(floats))


def _quantizer(value: ir.Value) -> ir.Node | None:
    node = single_consumer(value)
    if node is not None and node.op_type == "Add" and any(is_row(v) for v in node.inputs):
        node = single_consumer(node.outputs[0])
    return node if node is not None and node.op_type == QUANTIZE else None


def _from_zero(quantize: ir.Node) -> bool:
    """Whether the zero point is the least code, so that a Relu in front changes nothing."""
    zero = given(quantize, 2)
    if zero is None:
        return True
    least = 0.0 if zero.dtype == ir.DataType.UINT8 else -128.0
    return scalar(zero) == least


def _bits(dequantize: ir.Node) -> int:
    codes = dequantize.inputs[0]
    dtype = None if codes is None else codes.dtype
    return 8 if dtype is None else int(dtype.bitwidth)
