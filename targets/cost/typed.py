"""What strongly typed TensorRT makes of a graph: kernels, the types they compute in, their bytes.

Types are those of the graph: int8 or FP8 where both operands of a product are dequantized, else
that of what the layer reads. float32 products run in TF32 where the GPU has it: builder flag kTF32
is set by default (trtexec: ``--noTF32``), under strong typing, too. Rates are those of the target.

What is fused, by NVIDIA's documentation ("Layer Fusion" and "Explicit Quantization"): a chain of
pointwise operators, biases, activation functions and residual additions runs in the kernel whose
result it alone reads; dequantization in front of what reads it and quantization behind what makes
it are part of these kernels, which read and write codes; reshapes move nothing. Taken for a lower
bound all the same: what TensorRT finds beyond that (attention as one kernel) is not counted, nor
what it does not manage to fuse, nor launches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ...ir.graph import constant_tensor, consumers, operator, producer, single_consumer
from ...ir.types.bound import Shapes
from ..rules.layers import layer_of
from ..schema import Target
from ..techniques import runs_on_tensorrt
from .fusion import fold
from .groups import DEQUANTIZE, QUANTIZE, Fusion
from .kernels import Work, work_of
from .passing import POINTWISE, VIEWS
from .roofline import Roof, roofline
from .sizes import UnknownSizeError, byte_count

_CODES = {
    ir.DataType.INT8: "int8", ir.DataType.FLOAT8E4M3FN: "fp8", ir.DataType.FLOAT4E2M1: "fp4"
}  # fmt: skip
_FLOATS = {ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum"})
_MOST = 16  # operators of a chain that is followed


@dataclass(frozen=True)
class Kernels:
    """What runs as one: by its first node, all nodes of it in order. gone: nodes without any."""

    nodes: Mapping[ir.Node, Sequence[ir.Node]]
    gone: frozenset[ir.Node]


def float_rate(node: ir.Node, target: Target) -> str:
    """The rate, by its name, at which a product runs on a GPU in the floats that it reads.

    Under other runtimes float32 is taken to stay float32: no source here says otherwise.
    """
    wide = "tf32" if runs_on_tensorrt(target) and target.rates.tf32 is not None else "fp32"
    dtype = next((v.dtype for v in node.inputs if v is not None), None)
    return wide if dtype is None else _FLOATS.get(dtype, wide)


def kernels(nodes: Sequence[ir.Node]) -> Kernels:
    """The kernels of a graph whose nodes are given in order."""
    folded = Fusion()
    fold(nodes, folded)
    home: dict[ir.Node, ir.Node] = {}
    found: dict[ir.Node, list[ir.Node]] = {}
    gone = set(folded.gone)
    for node in nodes:
        if node in gone:
            continue
        if operator(node)[1] in VIEWS or operator(node) == ("", DEQUANTIZE):
            gone.add(node)
            continue
        first = _taken_in(node, home)
        home[node] = node if first is None else first
        found.setdefault(home[node], []).append(node)
    return Kernels(found, frozenset(gone | {node for node in home if home[node] is not node}))


def typed_roof(members: Sequence[ir.Node], shapes: Shapes, target: Target) -> Roof | None:
    """The time of a kernel from rates and bandwidth; None where a size or a figure is unknown."""
    try:
        return roofline(_work(members, shapes, target), target, 0)
    except (UnknownSizeError, IndexError, ValueError):
        return None


def _work(members: Sequence[ir.Node], shapes: Shapes, target: Target) -> Work:
    """The operations of the first node, the bytes that enter and leave the kernel. A look-up reads
    the rows that it makes, not the table."""
    first, inside = members[0], set(members)
    work = work_of(first, shapes)
    read = dict.fromkeys(v for n in members for v in n.inputs if v is not None)
    entering = [v for v in read if v.producer() not in inside]
    leaving = [v for n in members for v in n.outputs if _leaves(v, inside)]
    made = sum(_bytes(v, shapes) for v in leaving)
    weights = sum(_stored(v) for v in entering)
    if work.parts[0].table == "streams.gather":
        weights = min(weights, made)
    moved = weights + sum(_bytes(v, shapes) for v in entering if not _stored(v)) + made
    return replace(work, numbers=_numbers(first, target), weights=weights, moved=moved)


def _taken_in(node: ir.Node, home: Mapping[ir.Node, ir.Node]) -> ir.Node | None:
    """The first node of the kernel that runs this one, too; None where it starts its own."""
    quantizes = operator(node) == ("", QUANTIZE)
    if not quantizes and operator(node)[1] not in POINTWISE:
        return None
    behind = {node, *_chain(node)}
    for value in reversed(node.inputs[: 1 if quantizes else None]):
        made = producer(value)
        first = None if made is None else home.get(made)
        if value is None or first is None or value.is_graph_output():
            continue
        fuses = quantizes or operator(first)[1] in _PRODUCTS | POINTWISE
        if fuses and behind.issuperset(consumers(value)):
            return first
    return None


def _chain(node: ir.Node) -> Iterator[ir.Node]:
    """Pointwise operators behind a node of which each alone reads the one before: x * sigmoid(x)
    is one kernel, though both operators read x."""
    for _ in range(_MOST):
        after = single_consumer(node.outputs[0])
        if after is None or operator(after)[1] not in POINTWISE:
            return
        yield after
        node = after


def _numbers(node: ir.Node, target: Target) -> str:
    """What a kernel computes with, by the name of a rate."""
    layer = layer_of(node)
    if layer is not None and layer.left is not None and layer.right is not None:
        codes = layer.left.dtype
        if codes == layer.right.dtype and codes in _CODES:
            return _CODES[codes]
    return float_rate(node, target)


def _leaves(value: ir.Value, inside: set[ir.Node]) -> bool:
    users = consumers(value)
    return value.is_graph_output() or any(user not in inside for user in users)


def _bytes(value: ir.Value, shapes: Shapes) -> int:
    """Of an activation, in codes where it was dequantized; views are what they show."""
    made = value.producer()
    while made is not None and (operator(made)[1] in VIEWS or operator(made) == ("", DEQUANTIZE)):
        if made.inputs[0] is None:
            break
        value = made.inputs[0]
        made = value.producer()
    return byte_count(value, shapes)


def _stored(value: ir.Value | None) -> int:
    """Bytes of a constant, in codes and scales where it is dequantized, else 0."""
    tensor = constant_tensor(value)
    if tensor is not None:
        return int(tensor.nbytes)
    made = producer(value)
    if made is None or operator(made)[1] not in (DEQUANTIZE, "Transpose", *VIEWS):
        return 0
    if not _stored(made.inputs[0]):
        return 0
    return sum(_stored(v) for v in made.inputs)
