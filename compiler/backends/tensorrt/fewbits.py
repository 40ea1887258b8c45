"""What is spelled in standard operators, as TensorRT has it: codes of 4 bits and its own operators.

A typed model still says operator by operator how floats are rounded in blocks, and stores codes of
4 bits in 8, so that ONNX Runtime can run it. Here both become what TensorRT's parser reads.

MXFP8: TRT_MXFP8DynamicQuantize and TRT_MXFP8DequantizeLinear, scales as bytes that hold exponents.
NVFP4: TRT_FP4DynamicQuantize gives codes and E4M3 scales of an activation, two DequantizeLinear
widen them; a weight is two DequantizeLinear of constants, [N, K] in blocks along K, and Transpose.
Scales are float32, and a Cast stands in front of a product in half precision. int4: one
DequantizeLinear of a weight [K, N] in blocks along K, of the product's type, right in front of it.
Sources: onnx/onnx-tensorrt (onnxOpImporters.cpp); NVIDIA Model-Optimizer (modelopt/onnx/export:
nvfp4_exporter.py, mxfp8_exporter.py, int4_exporter.py); ONNX, DequantizeLinear 21 and 23.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ....ir.blocked import BlockedWeight, blocked_weights
from ....ir.graph import constant_array, consumers, dims, operator, producer
from ....ir.opset import raised
from ....ir.rewriter import Rewriter
from ....ir.rounded import Rounded, rounded_values
from ....targets.tensorrt.table import DOMAIN

_OPSETS = {"int4": 21, "float4": 23, "mxfp8": 19}
"""The first in which DequantizeLinear takes blocks of int4, and 4-bit floats; that has E4M3."""
_IRS = {"int4": 10, "float4": 11, "mxfp8": 9}
"""The IR versions that have the types."""
BIAS = 127
"""Of exponents in bytes (E8M0)."""
FLOAT4 = ir.DataType.FLOAT4E2M1
E4M3 = ir.DataType.FLOAT8E4M3FN
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def kinds_in(model: ir.Model) -> set[str]:
    """What is spelled in it that TensorRT has in a form of its own: float4, mxfp8, int4."""
    kinds: set[str] = {weight.kind for weight in blocked_weights(model)}
    known = [found for found in rounded_values(model) if _known(found)]
    return kinds | {"mxfp8" if found.scale is None else "float4" for found in known}


def in_few_bits(model: ir.Model) -> ir.Model:
    """The typed model in TensorRT's own form; itself where it has one already, else a copy.

    Raises InputError where the opset that has the types cannot be reached.
    """
    kinds = kinds_in(model)
    if not kinds:
        return model
    newer = raised(model, max(_OPSETS[kind] for kind in kinds))
    made = model.clone() if newer is model else newer
    made.ir_version = max(made.ir_version or 0, *(_IRS[kind] for kind in kinds))
    rewriter = Rewriter(made)
    for activation in [found for found in rounded_values(made) if _known(found)]:
        (_float8 if activation.scale is None else _quantized)(rewriter, activation)
    write = {"float4": _float4, "int4": _int4, "mxfp8": _mxfp8}
    for weight in list(blocked_weights(made)):
        write[weight.kind](rewriter, weight)
    return made


def _known(found: Rounded) -> bool:
    """Whether the size that falls in blocks is known; else the rounding stays as it is spelled."""
    return isinstance((dims(found.x) or (None,))[-1], int)


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


def _float8(rewriter: Rewriter, found: Rounded) -> None:
    """TRT_MXFP8DynamicQuantize and TRT_MXFP8DequantizeLinear in the place of a rounding."""
    rewriter.require_opset(DOMAIN, 1)
    x, shape, first = _half(found.x), found.x.shape, found.nodes[0]
    sizes = [*(dims(found.x) or ())]
    assert shape is not None and isinstance(sizes[-1], int)
    node = rewriter.insert(
        "TRT_MXFP8DynamicQuantize", [x], before=first, domain=DOMAIN, outputs=2,
        attributes={"axis": -1, "block_size": found.block, "output_dtype": int(E4M3)},
        name=f"{found.x.name}_float8", origins=[first],
    )  # fmt: skip
    codes, scales = node.outputs
    rewriter.set_type(codes, E4M3, shape)
    blocks = ir.Shape([*sizes[:-1], sizes[-1] // found.block])
    rewriter.set_type(scales, ir.DataType.UINT8, blocks)
    name = f"{found.x.name}_rounded"
    back = _widened(rewriter, first, name, codes, scales, found.block, _wanted(found.y))
    _stand_for(rewriter, found.y, back)
    rewriter.sweep([found.x])


def _mxfp8(rewriter: Rewriter, weight: BlockedWeight) -> None:
    """Codes of E4M3 [N, K] and exponents in bytes behind TRT_MXFP8DequantizeLinear, turned."""
    rewriter.require_opset(DOMAIN, 1)
    turn, (outputs, inputs) = weight.nodes[-1], weight.sizes
    array, steps = constant_array(weight.codes), constant_array(weight.scales)
    assert array is not None and steps is not None
    exponents = (np.frexp(steps)[1] - 1 + BIAS).astype(np.uint8).reshape(outputs, -1)
    codes = rewriter.initializer(str(weight.codes.name), array.reshape(outputs, inputs))
    scales = rewriter.initializer(str(weight.scales.name), exponents)
    dtype, name = _wanted(weight.y), f"{weight.y.name}_wide"
    wide = _widened(rewriter, turn, name, codes, scales, weight.block, dtype)
    made = rewriter.insert(
        "Transpose", [wide], before=turn, attributes={"perm": (1, 0)}, name=str(turn.name),
        origins=[turn],
    )  # fmt: skip
    rewriter.set_type(made.outputs[0], dtype, ir.Shape([inputs, outputs]))
    _stand_for(rewriter, weight.y, made.outputs[0])


def _widened(
    rewriter: Rewriter,
    before: ir.Node,
    name: str,
    codes: ir.Value,
    scales: ir.Value,
    block: int,
    dtype: ir.DataType,
) -> ir.Value:
    node = rewriter.insert(
        "TRT_MXFP8DequantizeLinear", [codes, scales], before=before, domain=DOMAIN, name=name,
        attributes={"axis": -1, "block_size": block, "output_dtype": int(dtype)}, origins=[before],
    )  # fmt: skip
    rewriter.set_type(node.outputs[0], dtype, codes.shape)
    return node.outputs[0]


def _wanted(value: ir.Value) -> ir.DataType:
    """The half type that all readers of a value cast it to, else float32."""
    readers = consumers(value)
    made = {n.outputs[0].dtype for n in readers if operator(n) == ("", "Cast")}
    casts = all(operator(n) == ("", "Cast") for n in readers)
    found = made.pop() if casts and len(made) == 1 else None
    return found if found in HALVES and found is not None else ir.DataType.FLOAT


def _stand_for(rewriter: Rewriter, old: ir.Value, new: ir.Value) -> None:
    """The new value in the place of the old one, or of what it was cast to."""
    if new.dtype == ir.DataType.FLOAT:
        rewriter.take_over(old, new)
        rewriter.sweep([old])
        return
    casts = [node.outputs[0] for node in consumers(old)]
    for cast in casts:
        rewriter.replace_uses(cast, new)
    rewriter.sweep(casts)


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
