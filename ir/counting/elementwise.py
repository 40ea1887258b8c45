"""What operators cost that are no products: operations for each element."""

from __future__ import annotations


def _table(text: str) -> dict[str, int]:
    rows = (line.split() for line in text.strip().splitlines())
    return {op_type: int(cost) for cost, *op_types in rows for op_type in op_types}


PER_ELEMENT = _table("""
1 Abs Add And BitShift Ceil Clip Cos CumSum Div Equal Erf Exp Floor Greater GreaterOrEqual IsInf
1 IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mod Mul Neg Not Or PRelu Pow Reciprocal Relu
1 Round Sigmoid Sign Sin Softplus Sqrt Sub Sum Tan Tanh ThresholdedRelu Where Xor
2 BatchNormalization DequantizeLinear
3 Celu Elu HardSigmoid QuantizeLinear QuickGelu RotaryEmbedding Selu Softsign Swish
4 LpNormalization RMSNormalization SimplifiedLayerNormalization
5 DynamicQuantizeLinear FastGelu Gelu HardSwish LogSoftmax Mish SkipSimplifiedLayerNormalization
5 Softmax
6 BiasGelu BiasSoftmax
8 GroupNormalization InstanceNormalization LayerNormalization
10 EmbedLayerNormalization SkipLayerNormalization
""")
"""For each element of the first output."""

REDUCTIONS = _table("""
1 ArgMax ArgMin GlobalAveragePool GlobalMaxPool ReduceMax ReduceMean ReduceMin ReduceProd
1 ReduceSum TopK
2 ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare
""")
"""For each element of the input."""

FREE = frozenset(
    _table("""
0 Cast CastLike Compress Concat Constant ConstantOfShape DepthToSpace Dropout Expand EyeLike
0 Flatten Gather GatherBlockQuantized GatherElements GatherND Identity NonZero OneHot Pad Range
0 Reshape ReverseSequence Scatter ScatterElements ScatterND SequenceAt SequenceConstruct Shape
0 Size Slice SpaceToDepth Split Squeeze TensorScatter Tile Transpose Trilu Unique Unsqueeze
""")
)
"""Data movement, and the arithmetic of shapes."""
