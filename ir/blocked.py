"""Weights in blocks that share a scale, stored in 8 bits so that ONNX Runtime runs them.

A row of codes for each block behind DequantizeLinear, then Reshape and Transpose: all that opset 19
has. They are found again by that spelling; TensorRT's backend packs codes of 4 bits.

Sources: OCP Microscaling Formats 1.0 (E2M1, MXFP8); NVIDIA TensorRT, operator Dequantize.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from .graph import (
    attribute,
    constant_array,
    constant_tensor,
    given,
    is_constant,
    operator,
    producer,
)
from .rewriter import Rewriter

E4M3 = ir.DataType.FLOAT8E4M3FN
_E2M1 = frozenset({0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0})


@dataclass(frozen=True, eq=False)
class BlockedWeight:
    """A stored weight [N, K] in blocks along K, read as [K, N].

    y: what layers read. codes: [N * K / block, block]; scales: one for each row of codes. float4:
    E4M3 codes, each a number of E2M1, with E4M3 scales behind the DequantizeLinear ``inner`` that
    has one float32 scale. mxfp8: E4M3 codes, float32 powers of two. int4: int8 codes from -8 to 7.
    """

    y: ir.Value
    codes: ir.Value
    scales: ir.Value
    inner: ir.Node | None
    nodes: tuple[ir.Node, ...]
    sizes: tuple[int, int]
    block: int

    @property
    def kind(self) -> Literal["float4", "mxfp8", "int4"]:
        """Of its codes."""
        if self.inner is not None:
            return "float4"
        return "int4" if self.codes.dtype == ir.DataType.INT8 else "mxfp8"

    @property
    def scale_name(self) -> str:
        """The name of what holds its scales."""
        return str(self.scales.name)


def blocked_weight(
    rewriter: Rewriter,
    before: ir.Node,
    hint: str,
    codes: np.ndarray,
    scales: np.ndarray,
    tensor_scale: float | None = None,
) -> ir.Value:
    """A weight [K, N] out of codes [N, K] with scales [N, K / block], in front of its layer.

    codes: E4M3 or int8. scales: float32, or E4M3 multiples of ``tensor_scale``.
    """
    outputs, inputs = codes.shape
    block = inputs // scales.shape[1]
    rows = rewriter.initializer(f"{hint}_codes", codes.reshape(-1, block))
    steps = rewriter.initializer(f"{hint}_scale", scales.reshape(-1))
    if tensor_scale is not None:
        one = rewriter.initializer(f"{hint}_tensor_scale", np.asarray(tensor_scale, np.float32))
        steps = _inserted(rewriter, before, hint, "DequantizeLinear", steps, one)
    wide = _inserted(rewriter, before, hint, "DequantizeLinear", rows, steps, axis=0)
    shape = rewriter.initializer(f"{hint}_shape", np.array([outputs, inputs], np.int64))
    whole = _inserted(rewriter, before, hint, "Reshape", wide, shape)
    return _inserted(rewriter, before, hint, "Transpose", whole, perm=(1, 0))


def _inserted(
    rewriter: Rewriter, before: ir.Node, hint: str, op: str, *inputs: ir.Value, **attributes: object
) -> ir.Value:
    made = rewriter.insert(
        op, inputs, before=before, attributes=attributes, name=f"{hint}_{op.lower()}",
        origins=[before],
    )  # fmt: skip
    return made.outputs[0]


def blocked_weights(model: ir.Model) -> Iterator[BlockedWeight]:
    """Every weight of the main graph that is stored so."""
    for node in model.graph:
        found = _weight_at(node) if operator(node) == ("", "Transpose") else None
        if found is not None:
            yield found


def _weight_at(turn: ir.Node) -> BlockedWeight | None:
    fold = producer(turn.inputs[0], "Reshape")
    wide = producer(fold.inputs[0], "DequantizeLinear") if fold is not None else None
    if fold is None or wide is None or given(wide, 2) is not None:
        return None
    codes, scale = wide.inputs[0], wide.inputs[1]
    tensor, shape = constant_tensor(codes), constant_array(fold.inputs[1])
    if codes is None or scale is None or tensor is None or shape is None:
        return None
    rows = tensor.shape.numpy()
    if len(rows) != 2 or len(shape) != 2 or attribute(wide, "axis", 1) != 0:
        return None
    outputs, inputs = (int(size) for size in shape)
    inner = producer(scale, "DequantizeLinear")
    floats = tensor.dtype == E4M3 and inner is not None and is_constant(inner.inputs[0])
    if not floats and (not is_constant(scale) or tensor.dtype not in (E4M3, ir.DataType.INT8)):
        return None
    if outputs < 1 or inputs % rows[1] or rows[0] * rows[1] != outputs * inputs:
        return None
    if not (
        _in_four_bits(codes, tensor.dtype) if floats or tensor.dtype != E4M3 else _powers(scale)
    ):
        return None
    if tuple(attribute(turn, "perm", (1, 0))) != (1, 0):
        return None
    scales = inner.inputs[0] if floats and inner is not None else scale
    assert scales is not None
    nodes = (*([inner] if floats and inner is not None else []), wide, fold, turn)
    return BlockedWeight(
        turn.outputs[0], codes, scales, inner if floats else None, nodes, (outputs, inputs), rows[1]
    )


def _in_four_bits(codes: ir.Value, dtype: ir.DataType) -> bool:
    """Whether each stored number is one of E2M1, or an integer of 4 bits."""
    array = constant_array(codes)
    assert array is not None
    if dtype == ir.DataType.INT8:
        return bool(array.size and array.min() >= -8 and array.max() <= 7)
    counts = np.bincount(array.view(np.uint8).reshape(-1), minlength=256)
    found = np.flatnonzero(counts).astype(np.uint8).view(dtype.numpy())
    return set(np.abs(found.astype(np.float32)).tolist()) <= _E2M1


def _powers(scale: ir.Value) -> bool:
    """Whether all scales are powers of two in float32."""
    array = constant_array(scale)
    if array is None or array.dtype != np.float32 or not np.all(np.isfinite(array)):
        return False
    return bool(np.all(np.frexp(array)[0] == 0.5))
