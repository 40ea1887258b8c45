"""Shapes of all values for one workload: symbolic axes of the inputs bound to numbers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from ..errors import PassError
from ..graph import (
    Array,
    all_graphs,
    attribute,
    constant_array,
    constant_tensor,
    dims,
    subgraphs,
)
from ..importing.limits import made_elements
from .contrib import contrib_dims
from .shapes import SMALL_BYTES, infer_node, infer_shapes

Dims: TypeAlias = tuple[int | str | None, ...]
Shapes: TypeAlias = Mapping[str, Dims]
"""Shapes by value name; an axis that no binding fixes keeps its name, or is None."""

_COUNTING = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Min", "Max", "Floor", "Ceil", "Round"),
        *("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "And", "Or", "Where"),
        *("Cast", "Identity", "Concat", "Gather", "Slice", "Split", "Reshape", "Squeeze", "Sqrt"),
        *("Unsqueeze", "Transpose", "Range", "ConstantOfShape", "ReduceProd", "ReduceSum", "Pow"),
    }
)
"""What exporters compute sizes with."""
_VIEWS = frozenset({"Squeeze", "Unsqueeze", "Reshape", "Identity"})
_EXPRESSION = re.compile(r"[\w.+\-*/%(), ]{1,100}")


def symbols(model: ir.Model) -> list[str]:
    """The names of symbolic axes of the inputs, in order of appearance: what can be bound."""
    sizes = (size for value in model.graph.inputs for size in dims(value) or ())
    return list(dict.fromkeys(size for size in sizes if isinstance(size, str)))


def bound_shapes(model: ir.Model, bindings: Mapping[str, int] | None = None) -> Shapes:
    """The shape of every value when the named input axes have the sizes in ``bindings``.

    Inferred anew on a copy that shares the tensors, so that what depends on a bound size
    (``Shape``, ``Reshape``, ``Range``) comes out as a number. Values of subgraphs are included;
    values of unknown rank are absent. The model stays as it is.
    """
    copy = model.clone()
    copy.graph.outputs.clear()  # inference leaves the shapes of outputs as the signature has them
    names = dict(bindings or {})
    for value in _values(copy):
        value.shape = _bound(value.shape, names)
    infer_shapes(copy)
    if any(not _is_known(v) for node in copy.graph for v in node.outputs):
        _compute_sizes(copy)
    return {str(v.name): shape for v in _values(copy) if (shape := dims(v)) is not None}


def _bound(shape: ir.Shape | None, bindings: Mapping[str, int]) -> ir.Shape | None:
    return None if shape is None else ir.Shape([axis_size(size, bindings) for size in shape])


def axis_size(size: int | ir.SymbolicDim, bindings: Mapping[str, int]) -> int | str | None:
    """The size of an axis where the symbols in its name are known, else the name.

    Names come from the file: what only looks like an expression, or could run for ever, is a name.
    """
    if isinstance(size, int):
        return size
    name = size.value
    if name is None or name in bindings or not _is_expression(name):
        return bindings.get(name or "", name)
    try:
        found = size.evaluate(bindings)
    except (ArithmeticError, RecursionError, TypeError, ValueError):  # only looks like one
        return name
    return found if isinstance(found, int) else found.value


def _is_expression(name: str) -> bool:
    """Whether an axis is named by what computes it, ``2*batch``; powers could run for ever."""
    return bool(_EXPRESSION.fullmatch(name)) and "**" not in name and name.count("(") <= 10


def _values(model: ir.Model) -> list[ir.Value]:
    found: list[ir.Value] = []
    for graph in all_graphs(model):
        found += [*graph.inputs, *graph.initializers.values()]
        found += [output for node in graph for output in node.outputs]
    return found


def _is_known(value: ir.Value) -> bool:
    shape = dims(value)
    return shape is not None and all(isinstance(size, int) for size in shape)


def _compute_sizes(model: ir.Model) -> None:
    """Evaluate what depends on sizes alone, node by node, where ONNX's inference does not."""
    _compute_graph(model.graph, model, dict(model.opset_imports))


def _compute_graph(graph: ir.Graph, model: ir.Model, opsets: Mapping[str, int]) -> None:
    for node in list(graph):
        bodies = list(subgraphs(node))
        for body in bodies:
            _compute_graph(body, model, opsets)
        if node.op_type == "If":
            _join(node, bodies)
        elif not all(_is_known(v) for v in node.outputs):
            _infer(node, model)
        for value, result in zip(node.outputs, _sizes(node, opsets), strict=False):
            _make_constant(graph, value, result)


def _join(node: ir.Node, branches: Sequence[ir.Graph]) -> None:
    """The outputs of an If: as in the branch it takes, else what all its branches agree in."""
    taken = constant_array(node.inputs[0])
    if taken is not None and taken.size == 1:
        wanted = "then_branch" if taken.reshape(-1)[0] else "else_branch"
        branches = [node.attributes[wanted].as_graph()]
    for index, value in enumerate(node.outputs):
        found = [dims(branch.outputs[index]) for branch in branches]
        known = [shape for shape in found if shape is not None]
        if len(known) < len(found) or len({len(shape) for shape in known}) != 1:
            continue
        agreed = [sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*known, strict=True)]
        value.shape = ir.Shape(agreed)


def _infer(node: ir.Node, model: ir.Model) -> None:
    if node.domain == "com.microsoft":
        _infer_contrib(node)
        return
    with contextlib.suppress(PassError):  # the operator cannot take these sizes: left unknown
        infer_node(node, model)


def _infer_contrib(node: ir.Node) -> None:
    shape, output = contrib_dims(node), node.outputs[0]
    if shape is None:
        return
    output.shape = ir.Shape(shape)
    floating = (v.dtype for v in node.inputs if v is not None and v.dtype is not None)
    dtype = next((d for d in floating if d.is_floating_point()), None)
    if output.type is None and dtype is not None:
        output.type = ir.TensorType(dtype)  # what reads it is only inferred from a typed value
    if node.op_type == "DynamicQuantizeLSTM":
        for state in node.outputs[1:]:
            state.shape, state.type = ir.Shape(shape[1:]), output.type


def _sizes(node: ir.Node, opsets: Mapping[str, int]) -> list[Array]:
    """The outputs of a node that computes with known small numbers, else none."""
    if node.op_type in ("Shape", "Size") and not node.domain:
        shape = dims(node.inputs[0])
        known = [size for size in shape or () if isinstance(size, int)]
        if shape is None or len(known) < len(shape):
            return []
        if node.op_type == "Size":
            return [np.asarray(prod(known), np.int64)]
        kept = slice(attribute(node, "start", 0), attribute(node, "end"))
        return [np.asarray(known[kept], np.int64)]
    if node.op_type in _VIEWS and not node.domain and _is_known(node.outputs[0]):
        # Not by the reference implementation: onnx 1.23 cannot, before opset 13.
        tensor = constant_tensor(node.inputs[0])
        sizes = [size for size in dims(node.outputs[0]) or () if isinstance(size, int)]
        small = tensor is not None and tensor.nbytes <= SMALL_BYTES
        return [np.asarray(constant_array(node.inputs[0])).reshape(sizes)] if small else []
    tensors = [constant_tensor(v) for v in node.inputs if v is not None]
    if (
        node.op_type not in _COUNTING
        or node.domain
        or not all(tensor is not None and tensor.nbytes <= SMALL_BYTES for tensor in tensors)
    ):
        return []
    feeds = {str(v.name): constant_array(v) for v in node.inputs if v is not None}
    if made_elements(node.op_type, [a for a in feeds.values() if a is not None]) > SMALL_BYTES:
        return []
    try:
        evaluator = ReferenceEvaluator(ir.to_proto(node), opsets=dict(opsets))
        results = [np.asarray(result) for result in evaluator.run(None, feeds)]
    except Exception:  # the reference implementation lacks much: the size stays unknown
        return []
    return results if all(r.nbytes <= SMALL_BYTES for r in results) else []


def _make_constant(graph: ir.Graph, value: ir.Value, result: Array) -> None:
    tensor = ir.tensor(result)
    constant = ir.Value(
        name=f"{value.name}/constant",
        shape=ir.Shape(result.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.initializers.add(constant)
    for node, index in list(value.uses()):
        node.replace_input_with(index, constant)
