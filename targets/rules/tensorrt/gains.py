"""Notes on quantized layers that gain little: NVIDIA Model Optimizer leaves them in float."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from ....ir.graph import dims, given
from ...schema import Target
from ..layers import FLOAT8, Layer, integer
from ..rule import Finding, Rule, View
from .layers import FILTERS
from .scope import on_tensorrt, where


def _narrow(view: View) -> Iterator[Finding]:
    target = view.target
    for layer in view.static:
        node = layer.node
        shape = [n for n in dims(given(node, 1)) or () if isinstance(n, int)]
        if node.op_type in FILTERS:
            found = _few_channels(shape[:2], layer, target)
        else:
            small = [n for n in shape[-2:] if 1 < n < target.min_gemm]
            found = f"{small[0]}, fewer than {target.min_gemm}" if small else ""
        if found:
            yield Finding(node, found)


def _few_channels(channels: list[int], layer: Layer, target: Target) -> str:
    few = [n for n in channels if n < target.min_conv_channels]
    if few:
        return f"{few[0]} channels, fewer than {target.min_conv_channels}"
    ragged = [n for n in channels if n % 8]
    whole = layer.right is not None and layer.right.dtype == ir.DataType.INT8 and ragged
    return f"{ragged[0]} channels, no multiple of 8" if whole else ""


def _vector(view: View) -> Iterator[Finding]:
    for layer in view.static:
        if layer.node.op_type not in ("MatMul", "Gemm"):
            continue
        left, right = (dims(given(layer.node, i)) or () for i in (0, 1))
        turned = [integer(layer.node, name, 0) for name in ("transA", "transB")]
        rows = left[-1 if turned[0] else -2] if len(left) > 1 else 1 if left else None
        columns = right[-2 if turned[1] else -1] if len(right) > 1 else 1 if right else None
        if 1 in (rows, columns):
            yield Finding(layer.node, "1 row" if rows == 1 else "1 column")


def _attention(view: View) -> Iterator[Finding]:
    for layer in view.static:
        if layer.weight is None and layer.node.op_type == "MatMul":
            yield Finding(layer.node)


def _wide_filter(view: View) -> Iterator[Finding]:
    for layer in view.static:
        grid, shape = layer.right, dims(given(layer.node, 1)) or ()
        kernel = [n for n in shape[2:] if isinstance(n, int)]
        if grid is None or grid.dtype not in FLOAT8 or layer.node.op_type not in FILTERS:
            continue
        area = math.prod(kernel)
        if area > 32:
            yield Finding(layer.node, f"a kernel of {area}")
        elif any(isinstance(n, int) and n <= 16 for n in shape[:2]):
            yield Finding(layer.node, "16 channels or fewer")


def _fp8(target: Target) -> bool:
    return target.floats.float8 == "native"


RULES = (
    Rule(
        "trt-narrow-layer",
        "Sizes of quantized layers.",
        _narrow,
        "a layer that narrow gains nothing from 8 bits",
        "leave it in float16",
        "note",
        on_tensorrt,
    ),
    Rule(
        "trt-matrix-vector",
        "Quantized products with a single row or column.",
        _vector,
        "a product of a matrix and a vector waits for memory: 8-bit activations gain nothing",
        "leave it in float16, or quantize its weight only (int4)",
        "note",
        on_tensorrt,
    ),
    Rule(
        "trt-quantized-attention",
        "Quantized products of two activations.",
        _attention,
        "attention with quantized products is merged into one kernel in few forms only: in others "
        "it runs product by product",
        "leave them in float16, or use the Attention operator",
        "note",
        on_tensorrt,
    ),
    Rule(
        "trt-float8-convolution",
        "Convolutions in FP8.",
        _wide_filter,
        "kernels for FP8 convolutions want more than 16 channels and an area of at most 32",
        "leave the convolution in float16, or quantize it to int8",
        "note",
        where(_fp8, "the target does not compute in FP8"),
    ),
)
