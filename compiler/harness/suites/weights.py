"""Seeded random weights of sensible scale for a model whose own weights prove nothing.

Weights that are all equal hide every transposed, swapped or dropped channel, and weights that
are all positive drive a deep network into saturation. Matrices and kernels are drawn after He
(He et al., "Delving deep into rectifiers", 2015), so that activations keep their scale through
the layers; scales and variances lie around one, biases and means around zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from ....ir.graph import attribute
from .wheels import SEED

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]
Drawer: TypeAlias = Callable[[np.random.Generator, Shape, int], Array]

_MOVERS = frozenset(("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
_IR_WITH_INITIALIZERS = 4
_HALF = np.float32(0.5)


def seed_weights(model: ir.Model, seed: int = SEED) -> int:
    """Replace the float32 weights of the main graph in place; returns how many there were.

    Weights are initializers, ``Constant`` nodes and ``ConstantOfShape`` nodes of a known shape
    that a layer, a normalisation or an embedding reads as such; the last become initializers.
    """
    rng, count = np.random.default_rng(seed), 0
    for value in list(model.graph.initializers.values()):
        drawn = None if value.const_value is None else _drawn(value, value.const_value.shape, rng)
        if drawn is not None:
            value.const_value = ir.tensor(drawn, name=value.name)
            count += 1
    for node in list(model.graph):
        shape = _constant_shape(node)
        drawn = None if shape is None else _drawn(node.outputs[0], shape, rng)
        if drawn is not None:
            _SETTERS[node.op_type](model, node, drawn)
            count += 1
    _drop_unread(model.graph)
    return count


def _he(rng: np.random.Generator, shape: Shape, fan_in: int) -> Array:
    return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / max(fan_in, 1)))


def _kernel(rng: np.random.Generator, shape: Shape, fan_in: int) -> Array:
    """He's, each filter with mean zero: behind a ReLU all inputs are positive, and filters that
    see their mean make all images look alike."""
    drawn = _he(rng, shape, fan_in)
    means: Array = drawn.mean(axis=tuple(range(1, len(shape))), keepdims=True)
    return np.subtract(drawn, means)


def _around_one(rng: np.random.Generator, shape: Shape, fan_in: int) -> Array:
    return rng.uniform(0.6, 1.4, shape).astype(np.float32)


def _around_zero(rng: np.random.Generator, shape: Shape, fan_in: int) -> Array:
    return rng.standard_normal(shape, np.float32) * np.float32(0.1)


def _unit(rng: np.random.Generator, shape: Shape, fan_in: int) -> Array:
    return rng.standard_normal(shape, np.float32)


_DRAWERS: dict[tuple[str, int], Drawer] = {
    ("Conv", 1): _kernel,
    ("Conv", 2): _around_zero,
    ("Gemm", 1): _he,
    ("Gemm", 2): _around_zero,
    ("MatMul", 1): _he,
    ("Gather", 0): _unit,
    ("BatchNormalization", 1): _around_one,
    ("BatchNormalization", 2): _around_zero,
    ("BatchNormalization", 3): _around_zero,
    ("BatchNormalization", 4): _around_one,
    ("LayerNormalization", 1): _around_one,
    ("LayerNormalization", 2): _around_zero,
}
_VECTOR_DRAWERS: dict[str, Drawer] = {"Mul": _around_one, "Add": _around_zero}
"""Of vectors that scale and shift channels; other constants of these ops are no weights."""


def _drawn(value: ir.Value, shape: Any, rng: np.random.Generator) -> Array | None:
    """New numbers for a constant; None where it is no weight."""
    size = tuple(map(int, shape))
    if value.dtype not in (None, ir.DataType.FLOAT) or math.prod(size) < 2:
        return None
    for node, index, turned in _layers(value):
        drawer = _DRAWERS.get((node.op_type, index))
        if len(size) == 1 and drawer is None:
            drawer = _VECTOR_DRAWERS.get(node.op_type)
        if drawer is not None:
            drawn = drawer(rng, size, _fan_in(node, size, turned))
            return drawn * _HALF if _scales_a_residual(node, index) else drawn
    return None


def _layers(value: ir.Value, turned: bool = False) -> Iterator[tuple[ir.Node, int, bool]]:
    """What reads a constant, also moved; turned: whether an odd number of transposes is between."""
    for node, index in value.uses():
        if node.op_type in _MOVERS and index == 0:
            yield from _layers(node.outputs[0], turned != (node.op_type == "Transpose"))
        else:
            yield node, index, turned


def _fan_in(node: ir.Node, shape: Shape, turned: bool) -> int:
    """Numbers that are summed up for one output."""
    if node.op_type == "Conv":
        return math.prod(shape[1:])
    if len(shape) < 2:
        return 1
    by_rows = bool(attribute(node, "transB", 0))
    return shape[-1] if by_rows != turned else shape[-2]


def _scales_a_residual(node: ir.Node, index: int) -> bool:
    """Branches that are added up are scaled down, or every block would double the variance."""
    added = (n.op_type in ("Add", "Sum") for n, _ in node.outputs[0].uses())
    return (node.op_type, index) == ("BatchNormalization", 1) and any(added)


def _constant_shape(node: ir.Node) -> Any:
    """The shape of what a ``Constant`` or ``ConstantOfShape`` node makes, where it is known."""
    if node.op_type == "Constant" and "value" in node.attributes:
        tensor = node.attributes["value"].as_tensor()
        return tensor.shape if tensor.dtype == ir.DataType.FLOAT else None
    if node.op_type != "ConstantOfShape" or node.inputs[0] is None:
        return None
    shape = node.inputs[0].const_value  # in an old IR an input as well: no constant elsewhere
    return None if shape is None else shape.numpy()


def _set_constant(model: ir.Model, node: ir.Node, drawn: Array) -> None:
    node.attributes["value"] = ir.AttrTensor("value", ir.tensor(drawn))


def _set_filled(model: ir.Model, node: ir.Node, drawn: Array) -> None:
    """Put an initializer in the place of the node, as an input too where the IR asks for it."""
    output, graph = node.outputs[0], model.graph
    name, output.name = output.name, f"{output.name}_filled"
    tensor = ir.tensor(drawn, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(drawn.shape), const_value=tensor
    )
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    graph.register_initializer(value)
    if model.ir_version < _IR_WITH_INITIALIZERS:
        graph.inputs.append(value)


_SETTERS = {"Constant": _set_constant, "ConstantOfShape": _set_filled}


def _drop_unread(graph: ir.Graph) -> None:
    """Shapes that nobody fills any more."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
            if value in graph.inputs:
                graph.inputs.remove(value)
