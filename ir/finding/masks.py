"""Which graph inputs are attention masks, and nothing else: the tokens they mark count.

A token mask is an integer or boolean [batch, sequence] input that decides which scores reach a
softmax. Reading it as such is safe only if the model uses it for nothing that carries meaning:
one forward sweep follows what is computed from the input and from constants, and where it meets
activations decides by what they are met with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

import onnx_ir as ir

from ..graph import captured_values, consumers, dims

Role = Literal["mask", "attention", "gate", "other"]

MASK_DTYPES = frozenset(d for d in ir.DataType if d.is_integer()) | {ir.DataType.BOOL}

# Positions at which an operator takes a mask (or the lengths computed from one).
_ATTENTION: dict[str, set[int]] = {
    "Attention": {3, 6},
    "com.microsoft::Attention": {3, 5},
    "com.microsoft::QAttention": {5},
    "com.microsoft::MultiHeadAttention": {4, 5},
    "com.microsoft::GroupQueryAttention": {5, 6, 10},
    "com.microsoft::DecoderMaskedSelfAttention": {3, 5},
    "com.microsoft::DecoderMaskedMultiHeadAttention": {3, 4},
    "com.microsoft::LongformerAttention": {3},
    "com.microsoft::BiasSoftmax": {1},
}
# Operators that hand a mask from one input to one output.
_PASSED_ON: dict[str, tuple[int, int]] = {
    "com.microsoft::EmbedLayerNormalization": (7, 1),
    "com.microsoft::QEmbedLayerNormalization": (7, 1),
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The first input (ScatterND: also the updates) is reshaped, selected from, converted or counted.
_RESHAPING = _words(
    "Abs Cast CastLike Clip DequantizeLinear Expand Flatten Gather GatherElements GatherND "
    "Identity Neg Not Pad QuantizeLinear ReduceMax ReduceMean ReduceMin ReduceSum Reshape "
    "ScatterND Sign Slice Split Squeeze Tile Transpose Trilu Unsqueeze"
)
_LOGIC = _words("And Equal Greater GreaterOrEqual Less LessOrEqual Or Xor")
_ARITHMETIC = _words("Add Concat Div Max Min Mul Sub Sum Where")
_GATES = _words("Div Mul Where")  # pooling over the real tokens, zeroing the others
_SHAPE_ONLY = _words("Shape Size")
# What may stand between masked scores and their softmax.
_SCORES = _words(
    "Add Cast Clip Concat DequantizeLinear Div Expand Identity Max Min Mul QuantizeLinear Reshape "
    "Slice Squeeze Sub Transpose Unsqueeze Where"
)


def mask_inputs(model: ir.Model) -> list[str]:
    """Names of the inputs that only mask attention, in graph order.

    At least one use must reach a softmax over activations (``Add``, ``Where`` or ``Mul`` into the
    scores, or the mask of an attention operator). Besides that a mask may gate activations, as
    masked mean pooling does. One that reaches an index, a matrix product, an unknown operator, a
    nested graph or a graph output is none. The graph must be in topological order.
    """
    return [str(value.name) for value in candidates(model) if _only_masks(model.graph, value)]


def candidates(model: ir.Model) -> list[ir.Value]:
    """Integer and boolean inputs of rank 2 that no initializer provides, in graph order."""
    return [
        value
        for value in model.graph.inputs
        if not value.is_initializer() and value.dtype in MASK_DTYPES and len(dims(value) or ()) == 2
    ]


def _only_masks(graph: ir.Graph, source: ir.Value) -> bool:
    data = _activations(graph, source)
    masks, attends = {source}, False
    for node in graph:
        at = {i for i, value in enumerate(node.inputs) if value in masks}
        if masks.intersection(captured_values(node)):
            return False
        if not at or _operator(node) in _SHAPE_ONLY:
            continue
        role = _role(node, at, data)
        if role == "other":
            return False
        attends |= role == "attention"
        masks.update(_mask_outputs(node) if role == "mask" else ())
    return attends and not masks.intersection(graph.outputs)


def _activations(graph: ir.Graph, source: ir.Value) -> set[ir.Value]:
    """Values that depend on the content, not only the shape, of another input than source."""
    found = {v for v in graph.inputs if v is not source and not v.is_initializer()}
    for node in graph:
        read = [v for v in (*node.inputs, *captured_values(node)) if v is not None]
        if _operator(node) not in _SHAPE_ONLY and not found.isdisjoint(read):
            found.update(node.outputs)
    return found


def _role(node: ir.Node, at: Collection[int], data: set[ir.Value]) -> Role:
    """What a node makes of the masks it takes at the positions ``at``."""
    operator = _operator(node)
    if operator in _ATTENTION:
        return "attention" if _ATTENTION[operator].issuperset(at) else "other"
    if operator in _PASSED_ON:
        return "mask" if set(at) == {_PASSED_ON[operator][0]} else "other"
    if operator in _RESHAPING:
        return "mask" if set(at) <= ({0, 2} if operator == "ScatterND" else {0}) else "other"
    if operator in _LOGIC:
        return "mask"
    if operator in _ARITHMETIC:
        return _arithmetic_role(node, at, data)
    return "other"


def _arithmetic_role(node: ir.Node, at: Collection[int], data: set[ir.Value]) -> Role:
    mixed = {i for i, v in enumerate(node.inputs) if i not in at and v in data}
    if node.op_type == "Where":
        mixed.discard(0)  # a condition computed from other inputs chooses, it does not mix
    if not mixed:
        return "mask"
    if _reaches_softmax(node.outputs):
        return "attention"
    return "gate" if node.op_type in _GATES else "other"


def _mask_outputs(node: ir.Node) -> Iterable[ir.Value]:
    passed_on = _PASSED_ON.get(_operator(node))
    return node.outputs if passed_on is None else (node.outputs[passed_on[1]],)


def _reaches_softmax(values: Iterable[ir.Value]) -> bool:
    todo, seen = list(values), set[ir.Value]()
    while todo:
        value = todo.pop()
        seen.add(value)
        for node in consumers(value):
            operator = _operator(node)
            if operator in ("Softmax", "com.microsoft::BiasSoftmax"):
                return True
            if operator in _SCORES:
                todo.extend(v for v in node.outputs if v not in seen)
    return False


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
