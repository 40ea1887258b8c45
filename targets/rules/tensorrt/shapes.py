"""Rules on shapes: what an optimization profile must say, and what no profile can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir

from ....ir.graph import all_nodes, dims, given, is_constant
from ..rule import Finding, Rule, View
from .scope import on_tensorrt

_OPERANDS = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2),
    "Tile": (1,),
}
"""Inputs whose values are the shape of the output, or decide it."""
_SHOWN = 4


_DECIDING = {**_OPERANDS, "OneHot": (1,), "Pad": (1,), "Range": (0, 1, 2), "TopK": (1,)}
"""Also those that are no shape themselves, but numbers that sizes are computed of."""


def _operands(view: View) -> Iterator[tuple[ir.Node, ir.Value]]:
    return _operands_of(view.of(*_OPERANDS), _OPERANDS)


def _operands_of(
    nodes: Iterable[ir.Node], positions: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[ir.Node, ir.Value]]:
    for node in nodes:
        for index in positions[node.op_type]:
            value = given(node, index)
            if value is not None and not is_constant(value):
                yield node, value


def shape_sources(model: ir.Model) -> Iterator[tuple[ir.Value, ir.Node]]:
    """Inputs whose numbers decide a shape, each once, with the first node whose shape it is."""
    left = {value for value in model.graph.inputs if not value.is_initializer()}
    deciding = (n for n in all_nodes(model) if not n.domain and n.op_type in _DECIDING)
    for node, value in _operands_of(deciding, _DECIDING):
        for source in _sources(value):
            if source in left:  # not what a Loop hands to its body
                left.remove(source)
                yield source, node


def _unknown_length(view: View) -> Iterator[Finding]:
    for node, value in _operands(view):
        shape = dims(value)
        if shape is not None and not all(isinstance(size, int) for size in shape):
            yield Finding(node, f"{value.name} of shape {list(shape)}")


def _dynamic(view: View) -> Iterator[Finding]:
    found = []
    for value in view.model.graph.inputs:
        shape = dims(value)
        if not value.is_initializer() and (shape is None or _open(shape)):
            sizes = "any shape" if shape is None else ", ".join(map(str, shape))
            found.append(f"{value.name} [{sizes}]")
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        yield Finding(None, ", ".join(found[:_SHOWN]) + more)


def _open(shape: tuple[int | str | None, ...]) -> bool:
    return not all(isinstance(size, int) for size in shape)


def _values_of_inputs(view: View) -> Iterator[Finding]:
    for source, node in shape_sources(view.model):
        yield Finding(node, f"the values of {source.name} decide it")


def _sources(value: ir.Value) -> Iterator[ir.Value]:
    """Inputs of the model whose numbers, not sizes, a value is computed of."""
    pending, seen = [value], set[ir.Value]()
    while pending:
        found = pending.pop()
        if found in seen:
            continue
        seen.add(found)
        node = found.producer()
        if node is None and found.is_graph_input():
            yield found
        elif node is not None and node.op_type not in ("Shape", "Size"):
            pending += [v for v in node.inputs if v is not None]


RULES = (
    Rule(
        "trt-shape-length",
        "Shapes that are computed: operands of Reshape, Expand, Tile, Slice, ConstantOfShape.",
        _unknown_length,
        "the number of axes must be known when the engine is built, and with it the length of "
        "every shape",
        "export the model so that the number of axes does not depend on data",
        "error",
        on_tensorrt,
    ),
    Rule(
        "trt-dynamic-shape",
        "Sizes of inputs that are not fixed.",
        _dynamic,
        "the engine is built for a range of sizes: without an optimization profile it is not built",
        "give --minShapes, --optShapes and --maxShapes, or fix the sizes",
        "note",
        on_tensorrt,
    ),
    Rule(
        "trt-shape-input",
        "Shapes that are computed of the values of inputs.",
        _values_of_inputs,
        "such an input needs the range of its values in the optimization profile, and on the CPU "
        "at run time",
        "make it a constant, or name its values in the profile",
        "note",
        on_tensorrt,
    ),
)
