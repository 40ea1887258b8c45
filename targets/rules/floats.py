"""Rules on floats narrower than float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from ...ir.graph import given, operator
from ..schema import Target
from ..techniques import runs_on_cpu
from .fusion import int32_bias, merged_add, quantizer_behind
from .layers import FLOAT8, PRODUCTS, Layer, code_dtype, grid_of
from .rule import Finding, Rule, View, on_cpu

FLOAT4 = frozenset({ir.DataType.FLOAT4E2M1, ir.DataType.FLOAT8E8M0})

BF16_KERNELS = frozenset(
    "BitCast Cast Compress Concat ConstantOfShape DynamicSlice Flatten Gather GatherElements "
    "GatherND Identity If IsInf IsNaN LayerNormalization Loop Optional OptionalGetElement "
    "OptionalHasElement RandomNormalLike RandomUniformLike Reshape ReverseSequence Scan Scatter "
    "ScatterElements ScatterND SequenceAt SequenceConstruct Shape Shrink Sign Size Slice Split "
    "Squeeze TensorScatter Transpose Unsqueeze Constant SimplifiedLayerNormalization".split()
)
"""Standard operators with a kernel for bfloat16 (onnxruntime 1.31.1, CPU)."""
FP16_KERNELS = BF16_KERNELS | frozenset(
    "Attention Clip DequantizeLinear Dropout Expand Max Min Mod QuantizeLinear RMSNormalization "
    "RotaryEmbedding Round SplitToSequence".split()
)
"""Standard operators with a kernel for float16 (onnxruntime 1.31.1, CPU)."""
_INTEGER_FORMS = frozenset({"Add", "Mul", "Sigmoid", "LeakyRelu", "Softmax", "Concat"})


def _computed_in(
    dtype: ir.DataType, kernels: frozenset[str]
) -> Callable[[View], Iterator[Finding]]:
    def check(view: View) -> Iterator[Finding]:
        for node in view.nodes:
            domain, op = operator(node)
            if domain or dtype not in {v.dtype for v in (*node.inputs, *node.outputs) if v}:
                continue
            lacking = op not in kernels if runs_on_cpu(view.target) else op in PRODUCTS
            if lacking:
                yield Finding(node, dtype.name.lower())

    return check


def _fused_fp8(view: View) -> Iterator[Finding]:
    """Groups that become an integer kernel, which takes no floats as codes."""
    for layer in view.static:
        grids = [g for g in (layer.left, layer.right) if g is not None and g.dtype in FLOAT8]
        if grids and _selected(layer):
            yield Finding(layer.node, grids[0].dtype.name.lower())
    for node in view.nodes:
        if node.op_type not in _INTEGER_FORMS or not any(map(quantizer_behind, node.outputs)):
            continue
        found = [grid_of(value) for value in node.inputs]
        if found and all(g is not None and g.dtype in FLOAT8 for g in found):
            yield Finding(node, "float8")


def _selected(layer: Layer) -> bool:
    """Whether the runtime takes a layer for an integer one, whatever its types."""
    node = layer.node
    if node.op_type == "ConvTranspose":
        return False
    add = merged_add(node)
    if node.op_type == "MatMul" and add is None:
        return True
    last = node if add is None else add
    if quantizer_behind(last.outputs[0]) is not None:
        return True
    bias = given(node, 2) if add is None else next(v for v in add.inputs if v not in node.outputs)
    return node.op_type != "Conv" and (bias is None or int32_bias(bias))


def _stored_fp8(view: View) -> Iterator[Finding]:
    for layer in view.layers:
        grid = layer.weight
        if layer.weight_only and grid is not None and grid.dtype in FLOAT8:
            yield Finding(layer.node, grid.dtype.name.lower())


def _fp4(view: View) -> Iterator[Finding]:
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        dtype = code_dtype(node)
        if dtype in FLOAT4:
            yield Finding(node, dtype.name.lower())


def _half_scales(view: View) -> Iterator[Finding]:
    for layer in view.static:
        for grid in (layer.left, layer.right):
            scale = grid.node.inputs[1] if grid is not None else None
            if scale is not None and scale.dtype == ir.DataType.FLOAT16:
                yield Finding(layer.node, "float16 scale")
                break


def _when(field: str, wanted: str, spoken: str) -> Callable[[Target], str]:
    def excused(target: Target) -> str:
        found = getattr(target.floats, field)
        return "" if found == wanted else f"{spoken} is {found} on this target"

    return excused


def _fp8_on_cpu(target: Target) -> str:
    return on_cpu(target) or _when("float8", "refused", "float8")(target)


RULES = (
    Rule(
        "bfloat16-refused",
        "Operators that compute in bfloat16.",
        _computed_in(ir.DataType.BFLOAT16, BF16_KERNELS),
        "nothing computes that operator in bfloat16: the runtime refuses the model at load",
        "export the model in float32, or cast to float32 around the operator",
        "error",
        _when("bfloat16", "refused", "bfloat16"),
    ),
    Rule(
        "float16-widened",
        "Operators that compute in float16.",
        _computed_in(ir.DataType.FLOAT16, FP16_KERNELS),
        "there is no float16 kernel: the runtime casts to float32 and back around the operator",
        "keep float32 for this target; quantize where it should be smaller",
        "slow",
        _when("float16", "widened", "float16"),
    ),
    Rule(
        "float8-fused",
        "Groups of Q/DQ pairs with codes in 8-bit floats.",
        _fused_fp8,
        "the runtime makes an integer kernel of the group, which takes no floats, and refuses "
        "the model at load",
        "quantize to int8; to run it all the same: session.disable_quant_qdq=1, in float32",
        "error",
        _fp8_on_cpu,
    ),
    Rule(
        "float8-weight",
        "Weights stored as 8-bit floats.",
        _stored_fp8,
        "no kernel takes them: they are widened to float32 on every run",
        "store the weight as int8, or as 4-bit blocks along its rows",
        "slow",
        _fp8_on_cpu,
    ),
    Rule(
        "float4-refused",
        "Q/DQ pairs with codes in 4-bit floats or scales that are powers of two.",
        _fp4,
        "there is no kernel that even dequantizes them: the runtime refuses the model",
        "use int4 or uint4 in blocks",
        "error",
        _when("float4", "refused", "float4"),
    ),
    Rule(
        "float16-scale",
        "Scales of quantized layers.",
        _half_scales,
        "integer kernels take float32 scales only: the layer runs in float",
        "store the scales as float32, and cast the activations to float32 in front",
        "slow",
        on_cpu,
    ),
)
