"""Attention blocks: ``softmax(q kᵀ) v`` on activations, spelled out or as one operator.

The layers around are found by walking back from q, k and v and forward from the result through
data movement, scaling, rotary embedding and norms over heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..graph import attribute, consumers, dims, given, operator, rank
from .block import Block
from .layer import Layer
from .packed import segment
from .stored import stored
from .walks import MIXES, Step, activations, walk

_MOVES = frozenset(
    {
        *("Reshape", "Transpose", "Expand", "Slice", "Split", "Squeeze", "Unsqueeze", "Tile"),
        *("Gather", "Cast", "Identity", "Dropout", "Neg", "Pad", "Flatten", "RotaryEmbedding"),
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    }
)
_NORMS = frozenset(
    {
        *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
        *("LpNormalization", "InstanceNormalization", "BatchNormalization"),
    }
)
_SCORES = frozenset(
    {
        *("Mul", "Div", "Add", "Sub", "Where", "Cast", "Identity", "Dropout", "Tanh", "Clip"),
        *("Max", "Min", "Reshape", "Squeeze", "Unsqueeze", "QuantizeLinear", "DequantizeLinear"),
    }
)
_CONTRACTIONS = frozenset({"MatMul", "FusedMatMul", "Einsum"})
_QKV_OPS = frozenset(
    {
        ("", "Attention"),
        ("com.microsoft", "MultiHeadAttention"),
        ("com.microsoft", "GroupQueryAttention"),
        ("com.microsoft", "DecoderMaskedMultiHeadAttention"),
        ("com.microsoft", "SparseAttention"),
    }
)
_PACKED_OPS = frozenset({("com.microsoft", "Attention"), ("com.microsoft", "QAttention")})


@dataclass(frozen=True)
class _Reach:
    """A layer that a walk arrived at, and the nodes between."""

    layer: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class _Core:
    nodes: tuple[ir.Node, ...]
    operands: Mapping[str, ir.Value]
    output: ir.Value
    weight: ir.Value | None = None
    bias: ir.Value | None = None


def find_attention(
    nodes: Iterable[ir.Node],
    layers: Sequence[Layer],
    made: Mapping[ir.Value, int],
    read: Mapping[ir.Node, int],
) -> list[Block]:
    """Every attention block. made, read: linear layers by their output value and operator."""
    return [_attention(core, layers, made, read) for core in _cores(nodes)]


def _cores(nodes: Iterable[ir.Node]) -> Iterator[_Core]:
    for node in nodes:
        key = operator(node)
        if key in _QKV_OPS:
            found = {role: given(node, i) for i, role in enumerate("qkv")}
            packed = found["k"] is None  # com.microsoft: all three in the query
            operands = {r: found["q"] if packed else v for r, v in found.items()}
            yield _Core((node,), _present(operands), node.outputs[0])
        elif key in _PACKED_OPS and node.inputs[0] is not None:
            bias = given(node, 2)
            yield _Core((node,), {}, node.outputs[0], given(node, 1), bias)
        elif key == ("", "Softmax"):
            yield from _spelled_out(node)


def _present(operands: Mapping[str, ir.Value | None]) -> dict[str, ir.Value]:
    return {role: value for role, value in operands.items() if value is not None}


def _spelled_out(softmax: ir.Node) -> Iterator[_Core]:
    """Softmax between a product of two activations and a product with a third."""
    before = walk(softmax.inputs[0], _score_sources, _made_by_contraction)
    after = walk(softmax.outputs[0], _probability_readers, _read_by_contraction)
    if before is None or after is None:
        return
    scores, probabilities = before[0].producer(), after[0]
    context = _read_by_contraction(probabilities)
    if scores is None or context is None:
        return
    others = [v for v in context.inputs if v is not None and v is not probabilities]
    if not others:
        return
    operands = _present({"q": scores.inputs[0], "k": scores.inputs[1], "v": others[0]})
    between = [step.node for step in (*before[1], *after[1])]
    nodes = dict.fromkeys([softmax, scores, *between, context])
    yield _Core(tuple(nodes), operands, context.outputs[0])


def _made_by_contraction(value: ir.Value) -> ir.Node | None:
    node = value.producer()
    return node if node is not None and _is_contraction(node) else None


def _read_by_contraction(value: ir.Value) -> ir.Node | None:
    return next((node for node in consumers(value) if _is_contraction(node)), None)


def _is_contraction(node: ir.Node) -> bool:
    """A product of two activations."""
    if node.op_type not in _CONTRACTIONS or len(node.inputs) != 2:
        return False
    return all(v is not None and stored(v) is None for v in node.inputs)


def _score_sources(value: ir.Value) -> Iterator[tuple[Step, ir.Value]]:
    node = value.producer()
    if node is not None and node.op_type in _SCORES:
        for source in activations(node):
            yield Step(node, value), source


def _probability_readers(value: ir.Value) -> Iterator[tuple[Step, ir.Value]]:
    for node in consumers(value):
        if node.op_type in _SCORES and node.outputs:
            yield Step(node, node.outputs[0]), node.outputs[0]


def _attention(
    core: _Core, layers: Sequence[Layer], made: Mapping[ir.Value, int], read: Mapping[ir.Node, int]
) -> Block:
    reached = {role: _source_layer(value, made) for role, value in core.operands.items()}
    found = {role: reach for role, reach in reached.items() if reach is not None}
    roles = {role: reach.layer for role, reach in found.items()}
    out = _target_layer(core.output, read)
    if out is not None and out not in roles.values():
        roles["o"] = out
    query = roles.get("q")
    start = core.operands.get("q", core.nodes[0].inputs[0])
    return Block(
        "attention",
        core.nodes,
        roles,
        start if query is None else layers[query].input,
        layers[roles["o"]].output if "o" in roles else core.output,
        _segments(found, layers) or _packed_columns(core),
        core.weight,
        core.bias,
    )


def _source_layer(value: ir.Value, made: Mapping[ir.Value, int]) -> _Reach | None:
    """The nearest linear layer that a query, key or value comes from."""
    found = walk(value, _projection_sources, lambda v: v if v in made else None)
    return None if found is None else _Reach(made[found[0]], tuple(reversed(found[1])))


def _projection_sources(value: ir.Value) -> Iterator[tuple[Step, ir.Value]]:
    node = value.producer()
    if node is None:
        return
    if node.op_type in MIXES:
        sources = activations(node)
    elif node.op_type in _MOVES or (node.op_type in _NORMS and _per_head(node)):
        sources = [v for v in node.inputs[:1] if v is not None]
    else:
        return
    for source in sources:
        yield Step(node, value), source


def _per_head(norm: ir.Node) -> bool:
    """A norm over heads, not the one before the block: there the query has no projection."""
    return (rank(norm.inputs[0]) or 4) >= 4


def _target_layer(value: ir.Value, read: Mapping[ir.Node, int]) -> int | None:
    """The linear layer that reads a result directly, but for data movement."""

    def reader(v: ir.Value) -> ir.Node | None:
        return next((n for n in consumers(v) if n in read and n.inputs[0] is v), None)

    def movers(v: ir.Value) -> Iterator[tuple[Step, ir.Value]]:
        for node in consumers(v):
            if node.op_type in _MOVES and node.inputs[0] is v:
                yield Step(node, node.outputs[0]), node.outputs[0]

    found = walk(value, movers, reader)
    node = None if found is None else reader(found[0])
    return None if node is None else read[node]


def _packed_columns(core: _Core) -> dict[str, tuple[int, int]]:
    """The columns of q, k and v in the weight that an operator holds itself."""
    shape = dims(core.weight)
    if shape is None or not isinstance(shape[-1], int):
        return {}
    sizes = attribute(core.nodes[0], "qkv_hidden_sizes", (shape[-1] // 3,) * 3)
    ends = [sum(sizes[: i + 1]) for i in range(3)]
    return {role: (end - size, end) for role, size, end in zip("qkv", sizes, ends, strict=True)}


def _segments(found: Mapping[str, _Reach], layers: Sequence[Layer]) -> dict[str, tuple[int, int]]:
    """The columns of each role, where several roles share one layer."""
    shared = [reach.layer for reach in found.values()]
    result: dict[str, tuple[int, int]] = {}
    for role, reach in found.items():
        layer = layers[reach.layer]
        features = layer.features[1]
        if shared.count(reach.layer) < 2 or features is None:
            continue
        columns = segment(layer.output, reach.steps, features)
        if columns is not None and columns != (0, features):
            result[role] = columns
    return result
