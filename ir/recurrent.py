"""LSTM layers with int8 weights: ONNX Runtime's operator, and its form in float.

Source: schema of com.microsoft DynamicQuantizeLSTM (version 1). Weights are transposed against
``LSTM``: [directions, inputs, 4 hidden]; scales [directions, 4 hidden]. Inputs and state are
rounded to uint8 with the range that they have at each step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .graph import attribute, constant_array, operator
from .rewriter import Rewriter

DOMAIN, VERSION, OP = "com.microsoft", 1, "DynamicQuantizeLSTM"
FORWARDED = (
    "activation_alpha", "activation_beta", "activations", "clip", "direction", "input_forget"
)  # fmt: skip
"""Attributes that both operators have, but for the number of hidden units."""
FIRST_QUANTIZED = 8
"""Number of the first input that ``LSTM`` does not have."""


@dataclass(frozen=True)
class LstmCodes:
    """int8 codes [directions, 4 hidden, inputs] as ``LSTM`` has them, and float32 scales
    [directions, 4 hidden], of the weights of the input and of the state."""

    w: np.ndarray
    w_scale: np.ndarray
    r: np.ndarray
    r_scale: np.ndarray


def quantized(rewriter: Rewriter, node: ir.Node, codes: LstmCodes) -> ir.Node:
    """Put the operator with these codes in place of an ``LSTM``; the new node."""
    rewriter.require_opset(DOMAIN, VERSION)
    stored = [
        *_stored(rewriter, f"{node.name}.w", codes.w, codes.w_scale),
        *_stored(rewriter, f"{node.name}.r", codes.r, codes.r_scale),
    ]
    given = [*node.inputs, *[None] * (FIRST_QUANTIZED - len(node.inputs))]
    inputs = [given[0], stored[0], stored[3], *given[3:], *stored[1:3], *stored[4:]]
    kept = {n: node.attributes[n].value for n in FORWARDED if n in node.attributes}
    made = rewriter.insert(
        OP, inputs, before=node, domain=DOMAIN, outputs=len(node.outputs),
        attributes={**kept, "hidden_size": int(codes.r.shape[-1])}, name=str(node.name),
        origins=[node],
    )  # fmt: skip
    old = list(node.inputs)
    for before, after in zip(node.outputs, made.outputs, strict=True):
        if before.dtype is not None:
            rewriter.set_type(after, before.dtype, before.shape)
        rewriter.take_over(before, after)
    rewriter.remove(node)
    rewriter.sweep(old)
    return made


def rounds_activations(node: ir.Node) -> bool:
    """Whether it is that operator."""
    return operator(node) == (DOMAIN, OP)


def in_float(model: ir.Model) -> None:
    """Write every such operator of the main graph as the ``LSTM`` whose weights its codes are."""
    found = [node for node in model.graph if rounds_activations(node)]
    rewriter = Rewriter(model) if found else None
    for node in found:
        assert rewriter is not None
        w, r = (_widened(node, weight, scale) for weight, scale in ((1, 8), (2, 10)))
        inputs = [*node.inputs[:FIRST_QUANTIZED]]
        inputs[1:3] = [rewriter.initializer(f"{node.name}.{n}", a) for n, a in (("w", w), ("r", r))]
        while inputs[-1] is None:
            inputs.pop()
        kept = {n: node.attributes[n].value for n in FORWARDED if n in node.attributes}
        made = rewriter.insert(
            "LSTM", inputs, before=node, outputs=len(node.outputs), name=str(node.name),
            attributes={**kept, "hidden_size": attribute(node, "hidden_size")},
        )  # fmt: skip
        for before, after in zip(node.outputs, made.outputs, strict=True):
            rewriter.take_over(before, after)
        rewriter.remove(node)


def dequantized(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32 [directions, 4 hidden, inputs] of codes of that shape, one scale for each row."""
    return np.asarray(codes.astype(np.float32) * scale[..., None].astype(np.float32))


def _stored(
    rewriter: Rewriter, hint: str, codes: np.ndarray, scale: np.ndarray
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Codes as the operator reads them, scales, and zero points of zero."""
    turned = np.ascontiguousarray(codes.transpose(0, 2, 1))
    return (
        rewriter.initializer(f"{hint}_quantized", turned),
        rewriter.initializer(f"{hint}_scale", scale.astype(np.float32)),
        rewriter.initializer(f"{hint}_zero_point", np.zeros(scale.shape, np.int8)),
    )


def _widened(node: ir.Node, weight: int, scale: int) -> np.ndarray:
    codes, scales = constant_array(node.inputs[weight]), constant_array(node.inputs[scale])
    assert codes is not None and scales is not None
    return dequantized(codes.transpose(0, 2, 1), scales)
