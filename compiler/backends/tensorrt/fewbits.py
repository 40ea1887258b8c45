"""What is spelled in standard operators, as TensorRT has it: codes of 4 bits and its own operators.

A typed model still says operator by operator how 4-bit floats are rounded, and stores codes of 4
bits in 8, so that ONNX Runtime can run it. Here both become what TensorRT's parser reads.

NVFP4: TRT_FP4DynamicQuantize gives codes and E4M3 scales of an activation, two DequantizeLinear
widen them; a weight is two DequantizeLinear of constants, [N, K] in blocks along K, and Transpose.
Scales are float32, and a Cast stands in front of a product in half precision. int4: one
DequantizeLinear of a weight [K, N] in blocks along K, of the product's type, right in front of it.
Sources: onnx/onnx-tensorrt (onnxOpImporters.cpp, TRT_FP4DynamicQuantize); NVIDIA Model-Optimizer
(modelopt/onnx/export/nvfp4_exporter.py, int4_exporter.py); ONNX, DequantizeLinear 21 and 23.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ....ir.blocked import BlockedWeight, Rounded, blocked_weights, rounded_values
from ....ir.graph import constant_array, consumers, dims, operator, producer
from ....ir.opset import raised
from ....ir.rewriter import Rewriter
from ....targets.tensorrt.table import DOMAIN

INT4_OPSET, FLOAT4_OPSET = 21, 23
"""The first in which DequantizeLinear takes blocks of int4, and 4-bit floats."""
INT4_IR, FLOAT4_IR = 10, 11
"""The IR versions that have the types."""
FLOAT4 = ir.DataType.FLOAT4E2M1
E4M3 = ir.DataType.FLOAT8E4M3FN
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def holds_few_bits(model: ir.Model) -> bool:
    """Whether anything in it becomes codes of 4 bits."""
    return any(True for _ in rounded_values(model)) or any(True for _ in blocked_weights(model))


def in_few_bits(model: ir.Model) -> ir.Model:
    """The typed model in TensorRT's own form; itself where nothing in it has 4 bits, else a copy.

    Raises InputError where the opset that has the types cannot be reached.
    """
    if not holds_few_bits(model):
        return model
    floats = any(weight.inner is not None for weight in blocked_weights(model))
    floats = floats or any(True for _ in rounded_values(model))
    newer = raised(model, FLOAT4_OPSET if floats else INT4_OPSET)
    made = model.clone() if newer is model else newer
    made.ir_version = max(made.ir_version or 0, FLOAT4_IR if floats else INT4_IR)
    rewriter = Rewriter(made)
    for activation in list(rounded_values(made)):
        _quantized(rewriter, activation)
    for weight in list(blocked_weights(made)):
        (_int4 if weight.inner is None else _float4)(rewriter, weight)
    return made


def _quantized(rewriter: Rewriter, found: Rounded) -> None:
    """TRT_FP4DynamicQuantize and two DequantizeLinear in the place of a rounding."""
    rewriter.require_opset(DOMAIN, 1)
    x, shape, first = _half(found.x), found.x.shape, found.nodes[0]
    sizes = [*(dims(found.x) or ())]
    assert shape is not None and isinstance(sizes[-1], int)
    node = rewriter.insert(
        "TRT_FP4DynamicQuantize", [x, found.scale], before=first, domain=DOMAIN, outputs=2,
        attributes={"axis": -1, "block_size": found.block, "scale_type": int(E4M3)},
        name=f"{found.x.name}_float4", origins=[first],
    )  # fmt: skip
    codes, scales = node.outputs
    blocks = ir.Shape([*sizes[:-1], sizes[-1] // found.block])
    rewriter.set_type(codes, FLOAT4, shape)
    rewriter.set_type(scales, E4M3, blocks)
    steps = _dequantized(rewriter, first, f"{found.x.name}_steps", scales, found.scale)
    rewriter.set_type(steps, ir.DataType.FLOAT, blocks)
    back = _dequantized(
        rewriter, first, f"{found.x.name}_rounded", codes, steps, axis=-1, block_size=found.block
    )
    rewriter.set_type(back, ir.DataType.FLOAT, shape)
    rewriter.take_over(found.y, back)
    rewriter.sweep([found.y, found.x])


def _float4(rewriter: Rewriter, weight: BlockedWeight) -> None:
    """Packed codes of E2M1 behind two DequantizeLinear, turned."""
    turn, (outputs, inputs) = weight.nodes[-1], weight.sizes
    array, steps = constant_array(weight.codes), constant_array(weight.scales)
    assert array is not None and steps is not None and weight.inner is not None
    codes = array.reshape(outputs, inputs).astype(np.float32).astype(FLOAT4.numpy())
    packed = rewriter.initializer(str(weight.codes.name), codes)
    blocks = rewriter.initializer(str(weight.scales.name), steps.reshape(outputs, -1))
    hint = str(weight.y.name)
    inner = _dequantized(rewriter, turn, f"{hint}_steps", blocks, weight.inner.inputs[1])
    wide = _dequantized(
        rewriter, turn, f"{hint}_wide", packed, inner, axis=-1, block_size=weight.block
    )
    old = turn.inputs[0]
    rewriter.set_input(turn, 0, wide)
    rewriter.sweep([old])


def _int4(rewriter: Rewriter, weight: BlockedWeight) -> None:
    """Packed codes of int4 [K, N] behind one DequantizeLinear."""
    turn, wide = weight.nodes[-1], weight.nodes[0]
    outputs, inputs = weight.sizes
    array, steps = constant_array(weight.codes), constant_array(weight.scales)
    assert array is not None and steps is not None
    codes = np.ascontiguousarray(array.reshape(outputs, inputs).T).astype(ir.DataType.INT4.numpy())
    packed = rewriter.initializer(str(weight.codes.name), codes)
    scales = np.ascontiguousarray(steps.reshape(outputs, -1).T)
    blocks = rewriter.initializer(str(weight.scales.name), scales)
    made = _dequantized(
        rewriter, turn, str(wide.name), packed, blocks, axis=0, block_size=weight.block
    )
    rewriter.take_over(weight.y, made)
    rewriter.sweep([weight.y])


def _dequantized(
    rewriter: Rewriter,
    before: ir.Node,
    name: str,
    codes: ir.Value | None,
    scale: ir.Value | None,
    **attributes: int,
) -> ir.Value:
    node = rewriter.insert(
        "DequantizeLinear", [codes, scale], before=before, attributes=attributes, name=name,
        origins=[before],
    )  # fmt: skip
    return node.outputs[0]


def _half(value: ir.Value) -> ir.Value:
    """The value in half precision where there is such: it was cast for the spelling only, or is
    cast for other readers. NVIDIA's exporter hands over nothing else."""
    node = producer(value, "Cast")
    source = node.inputs[0] if node is not None else None
    if source is not None and source.dtype in HALVES:
        return source
    casts = [n.outputs[0] for n in consumers(value) if operator(n) == ("", "Cast")]
    return next((cast for cast in casts if cast.dtype in HALVES), value)
