"""Rules of ONNX Runtime's CUDA provider: which nodes have a kernel there, and which only run.

A node without a kernel is run by the CPU provider, with a copy of its inputs and outputs between
the memories: the model works, slowly. Which kernels there are is read from the table that the
project generates from its registries (docs/OperatorKernels.md, at 001d12d of 2025), and from
``GetCapability`` of the provider; nothing here was run on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir

from ...ir.graph import attribute, given, operator, opset
from ..schema import Target
from ..techniques import runs_on_cuda, runtime_label
from .rule import Finding, Rule, View

FLOAT, HALF, BRAIN = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
_IN_ALL = frozenset(
    "Abs Add Attention Cast Compress Concat ConstantOfShape Div Dropout Erf Exp Expand Flatten "
    "Gather GatherElements GatherND Gelu Gemm Identity If IsInf IsNaN LayerNormalization Loop "
    "MatMul Max Min Mod Mul Neg Pow RMSNormalization RandomNormalLike RandomUniformLike ReduceSum "
    "Relu Reshape ReverseSequence RotaryEmbedding Scan ScatterElements ScatterND Shape Sigmoid "
    "Sign SimplifiedLayerNormalization Size Slice Softmax Split Sqrt Squeeze Sub Sum Tanh "
    "TensorScatter Tile Transpose Trilu Unsqueeze Where "
    "AveragePool Conv HardSigmoid HardSwish "
    "SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength "
    "ConcatFromSequence "
    "com.microsoft:Attention com.microsoft:BiasDropout com.microsoft:BiasGelu "
    "com.microsoft:FastGelu com.microsoft:FusedMatMul com.microsoft:GatherBlockQuantized "
    "com.microsoft:Gelu com.microsoft:MatMulBnb4 com.microsoft:MatMulNBits com.microsoft:MoE "
    "com.microsoft:MultiHeadAttention com.microsoft:QuickGelu com.microsoft:RotaryEmbedding "
    "com.microsoft:SkipLayerNormalization com.microsoft:SkipSimplifiedLayerNormalization "
    "com.microsoft:TransposeMatMul com.microsoft:Trilu".split()
)
"""Kernels for float32, float16 and bfloat16, at the newest opset that the runtime takes."""
_NO_BRAIN = frozenset(
    "ArgMax ArgMin BatchNormalization Ceil Clip ConvTranspose Cos CumSum DepthToSpace "
    "DequantizeLinear Einsum Elu Equal Floor GRU GlobalAveragePool GlobalMaxPool Greater "
    "GreaterOrEqual InstanceNormalization LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax "
    "MaxPool NonZero OneHot PRelu Pad QuantizeLinear RNN RandomNormal RandomUniform Reciprocal "
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSumSquare Resize Round Selu Shrink Sin Softplus Softsign SpaceToDepth ThresholdedRelu "
    "TopK Upsample "
    "com.microsoft:BiasAdd com.microsoft:BiasSoftmax com.microsoft:BiasSplitGelu "
    "com.microsoft:DecoderMaskedMultiHeadAttention com.microsoft:EmbedLayerNormalization "
    "com.microsoft:GroupNorm com.microsoft:NhwcConv com.microsoft:PackedAttention "
    "com.microsoft:PackedMultiHeadAttention com.microsoft:QAttention "
    "com.microsoft:RelativePositionBias com.microsoft:SkipGroupNorm".split()
)
"""Kernels for float32 and float16."""
_FLOAT_ONLY = frozenset(
    "EyeLike GridSample Range RoiAlign com.microsoft:FusedConv com.microsoft:GridSample".split()
)
_HALF_ONLY = frozenset(
    "com.microsoft:GroupQueryAttention com.microsoft:PagedAttention com.microsoft:QMoE "
    "com.microsoft:SparseAttention".split()
)
"""Kernels for float16 and bfloat16, none for float32."""
_NO_FLOATS = frozenset("And MatMulInteger Not Or Xor".split())
_NEVER_RUN = frozenset({"Constant"})
_SINCE_22 = frozenset({"AveragePool", "Conv", "HardSigmoid", "HardSwish"})
"""Kernels for bfloat16 from opset 22 on only."""
_SINCE_20 = frozenset({"IsInf"})
"""Kernels for half precision from opset 20 on only."""

INTEGER_OPERATORS = frozenset(
    "QLinearMatMul QLinearConv ConvInteger DynamicQuantizeLinear com.microsoft:QGemm "
    "com.microsoft:MatMulIntegerToFloat com.microsoft:DynamicQuantizeMatMul "
    "com.microsoft:QLinearAdd com.microsoft:QLinearMul com.microsoft:QLinearConcat "
    "com.microsoft:QLinearSigmoid com.microsoft:QLinearSoftmax com.microsoft:QLinearLeakyRelu "
    "com.microsoft:QLinearAveragePool com.microsoft:QLinearGlobalAveragePool "
    "com.microsoft:QLinearWhere".split()
)
"""Operators on integers that only other providers have kernels for."""

_LSTM = ("sigmoid", "tanh", "tanh") * 2
_ACTIVATIONS = {"LSTM": _LSTM, "GRU": ("sigmoid", "tanh") * 2, "RNN": ("tanh",) * 2}


def float_types(kind: str, version: int) -> frozenset[ir.DataType] | None:
    """In which floats the CUDA provider computes "(domain:)op"; None where it has no kernel.

    version: of the default domain.
    """
    if kind in _HALF_ONLY:
        return frozenset({HALF, BRAIN})
    if kind in _FLOAT_ONLY or (kind in _SINCE_20 and version < 20):
        return frozenset({FLOAT})
    if kind in _NO_BRAIN or (kind in _SINCE_22 and version < 22):
        return frozenset({FLOAT, HALF})
    if kind in _NO_FLOATS:
        return frozenset()
    return frozenset({FLOAT, HALF, BRAIN}) if kind in _IN_ALL else None


def _lacking(view: View) -> Iterator[Finding]:
    version = opset(view.model)
    for node in view.nodes:
        kind = _kind(node)
        if (
            kind in INTEGER_OPERATORS
            or kind in _NEVER_RUN
            or _is_function(*operator(node), version)
        ):
            continue
        if float_types(kind, version) is None:
            yield Finding(node)


def _other_float(view: View) -> Iterator[Finding]:
    version = opset(view.model)
    for node in view.nodes:
        known = float_types(_kind(node), version)
        if known is None:
            continue
        values = (v for v in (*node.inputs[:1], *node.outputs[:1]) if v is not None)
        lacking = {FLOAT, HALF, BRAIN} - known
        found = [v.dtype for v in values if v.dtype in lacking]
        if found and node.op_type not in ("Cast", "QuantizeLinear", "DequantizeLinear"):
            yield Finding(node, found[0].name.lower())


def _integer_operators(view: View) -> Iterator[Finding]:
    for node in view.nodes:
        if _kind(node) in INTEGER_OPERATORS:
            yield Finding(node)
        elif _kind(node) == "MatMulInteger":
            types = {v.dtype for v in node.inputs[:2] if v is not None}
            if types - {ir.DataType.INT8}:
                yield Finding(node, " x ".join(sorted(d.name.lower() for d in types if d)))


def _recurrent(view: View) -> Iterator[Finding]:
    for node in view.of(*_ACTIVATIONS):
        if found := _beyond_cudnn(node):
            yield Finding(node, found)


def _beyond_cudnn(node: ir.Node) -> str:
    """What of a recurrent layer cuDNN has no kernel for, "" where it has."""
    for name in ("activation_alpha", "activation_beta", "clip"):
        if name in node.attributes:
            return name
    usual = _ACTIVATIONS[node.op_type]
    named = attribute(node, "activations", ())
    if any(str(a).lower() != b for a, b in zip(named, usual, strict=False)):
        return f"activations {', '.join(map(str, named))}"
    if node.op_type == "GRU" and attribute(node, "linear_before_reset", 1) != 1:
        return "linear_before_reset 0"
    if node.op_type == "LSTM" and attribute(node, "input_forget", 0):
        return "input_forget"
    return "peepholes" if node.op_type == "LSTM" and given(node, 7) is not None else ""


def _kind(node: ir.Node) -> str:
    domain, op = operator(node)
    return f"{domain}:{op}" if domain else op


@cache
def _is_function(domain: str, op: str, version: int) -> bool:
    """Whether the runtime writes out an operator that it has no kernel for."""
    try:
        schema: Any = onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def on_cuda(target: Target) -> str:
    """Why a rule of the CUDA provider does not apply to the target, "" where it does."""
    if runs_on_cuda(target):
        return ""
    return f"a rule of ONNX Runtime's CUDA provider, not of {runtime_label(target)}"


RULES = (
    Rule(
        "cuda-integer-operator",
        "Operators that compute in 8-bit integers.",
        _integer_operators,
        "the CUDA provider has no kernel for it: the CPU runs it, with copies both ways",
        "compile the float model for this target instead",
        "slow",
        on_cuda,
    ),
    Rule(
        "cuda-no-kernel",
        "Operators, against the kernels of the CUDA provider.",
        _lacking,
        "the CUDA provider has no kernel for it: the CPU runs it, with copies both ways",
        "write it with other operators, or keep it at an end of the graph",
        "slow",
        on_cuda,
    ),
    Rule(
        "cuda-float-kernel",
        "Types of floats, against the kernels of the CUDA provider.",
        _other_float,
        "the CUDA provider has a kernel for it, but not in that type: the CPU runs it, with copies "
        "both ways",
        "put casts to a type around it that the kernel takes (float32 nearly always)",
        "slow",
        on_cuda,
    ),
    Rule(
        "cuda-recurrent",
        "Recurrent layers, against what cuDNN computes.",
        _recurrent,
        "cuDNN has no such layer: the CPU runs it, with copies both ways",
        "use the usual activations, no clip and no peepholes, and linear_before_reset=1 (GRU)",
        "slow",
        on_cuda,
    ),
)
