"""Which nodes the runtime will not run as they stand: folded away, or part of another kernel.

Known rules of ONNX Runtime's CPU provider (1.31), read off the graph alone, so that they hold for
a machine that is not here. Conservative: a pattern that is not recognised counts node by node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from ...ir.graph import (
    attribute,
    constant_tensor,
    consumers,
    dims,
    given,
    operator,
    producer,
    single_consumer,
    subgraphs,
)
from ...ir.types.bound import Shapes
from .groups import (
    DEQUANTIZE,
    Fusion,
    becomes_gemm,
    bias_add,
    is_row,
    of,
    with_scalar,
)
from .integer_groups import drop_readerless, dynamic_groups, static_groups

_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "HardSigmoid"})
_ELIMINATED = frozenset({"Identity", "Dropout"})
_RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike",
                     "Bernoulli", "Multinomial"})  # fmt: skip
_SCALING = frozenset({"Mul", "Div"})


def fuse(nodes: Sequence[ir.Node], shapes: Shapes) -> Fusion:
    """The nodes of a graph in order, with the shapes of its values."""
    found = Fusion()
    fold(nodes, found)
    for rule in (dynamic_groups, static_groups, _norms, _gelus, _silus, _convolutions, _biases,
                 _before_norms, _scalings):  # fmt: skip
        rule([n for n in nodes if n not in found.gone], shapes, found)
    drop_readerless(nodes, found)
    return found


def fold(nodes: Iterable[ir.Node], found: Fusion) -> None:
    """What is known before any feed is computed as the model is loaded."""
    known: set[ir.Value] = set()

    def constant(value: ir.Value | None) -> bool:
        return value is None or value in known or constant_tensor(value) is not None

    for node in nodes:
        name = operator(node)[1]
        if name in _ELIMINATED:
            found.gone.add(node)
        elif name in (DEQUANTIZE, *_RANDOM) or any(True for _ in subgraphs(node)):
            continue
        elif all(map(constant, node.inputs)) or (name == "Shape" and _fixed(node.inputs[0])):
            known.update(node.outputs)
            found.gone.add(node)


def _fixed(value: ir.Value | None) -> bool:
    shape = dims(value)
    return shape is not None and all(isinstance(size, int) for size in shape)


def _norms(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """x - mean(x) over the root of its variance, spelled out."""
    for centre in of(nodes, "Sub"):
        mean = producer(given(centre, 1), "ReduceMean")
        if mean is None or mean.inputs[0] is not centre.inputs[0]:
            continue
        divide = next((r for r in consumers(centre.outputs[0]) if r.op_type == "Div"), None)
        root = producer(given(divide, 1), "Sqrt") if divide is not None else None
        padded = producer(given(root, 0), "Add") if root is not None else None
        variance = producer(given(padded, 0), "ReduceMean") if padded is not None else None
        square = producer(given(variance, 0)) if variance is not None else None
        if divide is None or square is None or square.op_type not in ("Pow", "Mul"):
            continue
        scale = single_consumer(divide.outputs[0])
        scale = scale if scale is not None and scale.op_type == "Mul" else None
        found.kernel[divide] = "layer-norm"
        found.absorb(centre, mean, root, padded, variance, square, scale)
        found.absorb(bias_add(scale) if scale is not None else None)


def _gelus(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """x / 2 (1 + erf(x / root 2)), spelled out; then a bias in front."""
    for erf in of(nodes, "Erf"):
        scaled, plus = producer(erf.inputs[0]), single_consumer(erf.outputs[0])
        if scaled is None or scaled.op_type not in _SCALING or plus is None:
            continue
        times = single_consumer(plus.outputs[0])
        if plus.op_type != "Add" or times is None or times.op_type != "Mul":
            continue
        half = single_consumer(times.outputs[0])
        fused = half is not None and half.op_type in _SCALING and with_scalar(half)
        other = [producer(v, "Mul") for v in times.inputs if producer(v) is not plus]
        found.kernel[erf] = "gelu"
        found.absorb(scaled, plus, times, half if fused else next(iter(other), None))
        _absorb_bias(scaled.inputs[0], found)
    for gelu in of(nodes, "Gelu"):
        _absorb_bias(gelu.inputs[0], found)


def _absorb_bias(value: ir.Value | None, found: Fusion) -> None:
    add = producer(value, "Add")
    if add is not None and any(is_row(v) for v in add.inputs):
        found.absorb(add)


def _silus(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """x times sigmoid(x)."""
    for sigmoid in of(nodes, "Sigmoid"):
        if producer(sigmoid.inputs[0], DEQUANTIZE) is not None:
            continue  # each reader gets a dequantization of its own first: not one value any more
        times = single_consumer(sigmoid.outputs[0])
        if times is not None and times.op_type == "Mul" and sigmoid.inputs[0] in times.inputs:
            found.absorb(times)
            scale = producer(sigmoid.inputs[0], "Mul")
            if scale is not None and with_scalar(scale):
                found.absorb(scale)


def _convolutions(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """Behind a convolution: a normalisation with constants, then an activation function."""
    for node in nodes:
        if operator(node)[1] not in ("Conv", "Gemm") or node in found.kernel:
            continue
        follower = single_consumer(node.outputs[0])
        if follower is not None and follower.op_type == "BatchNormalization":
            found.absorb(follower)
            follower = single_consumer(follower.outputs[0])
        if follower is not None and follower.op_type in _ACTIVATIONS:
            found.absorb(follower)


def _biases(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """The product of two matrices takes the bias along; one of more axes does if they are fixed."""
    for node in of(nodes, "MatMul"):
        add = bias_add(node)
        if add is None or add in found.gone or node in found.kernel:
            continue
        if becomes_gemm(node):
            found.absorb(add)
            follower = single_consumer(add.outputs[0])
            if follower is not None and follower.op_type in _ACTIVATIONS:
                found.absorb(follower)


def _before_norms(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """The residual addition in front of a normalisation, and a bias in front of that."""
    for norm in of(nodes, "LayerNormalization"):
        add = producer(norm.inputs[0], "Add")
        if add is None or add in found.gone or any(constant_tensor(v) for v in add.inputs):
            continue
        shape = dims(norm.inputs[0])
        if shape is None or len(shape) != 3:
            continue
        found.absorb(add)
        for value in add.inputs:
            bias = producer(value, "Add")
            if bias is not None and value is not None and single_consumer(value) is add:
                _absorb_bias(value, found)
                break


def _scalings(nodes: Sequence[ir.Node], shapes: Shapes, found: Fusion) -> None:
    """A number that multiplies an operand or the result of a float product, and an operand whose
    last two axes change places."""
    for node in of(nodes, "MatMul"):
        if node in found.kernel:
            continue
        for value in node.inputs:
            made = producer(value)
            if made is not None and made.op_type in _SCALING and with_scalar(made):
                found.absorb(made)
            if made is not None and _swaps_last_two(made):
                found.absorb(made)
        behind = single_consumer(node.outputs[0])
        if behind is not None and behind.op_type in _SCALING and with_scalar(behind):
            found.absorb(behind)


def _swaps_last_two(node: ir.Node) -> bool:
    order = attribute(node, "perm", ()) if node.op_type == "Transpose" else ()
    size = len(order)
    swapped = (*range(size - 2), size - 1, size - 2)
    return size >= 2 and tuple(order) == swapped and len(consumers(node.outputs[0])) == 1
