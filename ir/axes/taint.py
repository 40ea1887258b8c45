"""Sizes that a graph reads with ``Shape``: where does the size of a cut axis go?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NoReturn

import numpy as np
import onnx_ir as ir

from ..graph import attribute, constant_array, dims, given, operator
from .labels import CannotCutError
from .movement import slices
from .relations import DATA
from .tables import SHAPE_ONLY

Places = Collection[int]
TARGETS = {("", "Reshape"): 1, ("", "Expand"): 1, ("", "Resize"): 3}
"""Operators whose targets are put right, and the input that is the target."""
BOUNDS = (1, 2)
"""Inputs of a Slice that are put right where the axis that they bound is cut."""


def check_shapes(axes: Collection[tuple[ir.Value, int]]) -> None:
    """CannotCutError where the size of one of these axes is computed with.

    A size may only become the number for an axis that is cut as well.
    """
    for value, axis in axes:
        for node in dict.fromkeys(usage.node for usage in value.uses()):
            if operator(node) in SHAPE_ONLY:
                _follow(node.outputs[0], _taken(node, axis, len(value.shape or ())), axes)


def _taken(node: ir.Node, axis: int, rank: int) -> Places:
    """The places at which a Shape gives the size of an axis."""
    if node.op_type == "Size":
        return {0}
    start, end, _ = slice(attribute(node, "start", 0), attribute(node, "end", None)).indices(rank)
    return {axis - start} if start <= axis < end else ()


def _follow(value: ir.Value, places: Places, axes: Collection[tuple[ir.Value, int]]) -> None:
    pending = [(value, frozenset(places))]
    while pending:
        vector, held = pending.pop()
        if not held:
            continue
        if vector.is_graph_output():
            _refuse(vector, "is an output")
        for usage in vector.uses():
            pending += _passed(usage.node, usage.idx, vector, held, axes)


def _passed(
    node: ir.Node,
    index: int,
    vector: ir.Value,
    held: frozenset[int],
    axes: Collection[tuple[ir.Value, int]],
) -> list[tuple[ir.Value, frozenset[int]]]:
    """Where the places of a vector go at one reader; CannotCutError where it computes with them."""
    key = operator(node)
    if TARGETS.get(key) == index:
        y = node.outputs[0]
        shift = len(dims(y) or ()) - (_length(vector) or 0)
        if all((y, place + shift) in axes for place in held):
            return []
    if key == ("", "Slice") and index in BOUNDS and held <= _bounded(node, axes):
        return []
    handler = _HANDLERS.get(key) if index == 0 or key in _JOINING else None
    found = None if handler is None else handler(node, index, held)
    if found is None:
        _refuse(vector, f"goes to {node.op_type} {node.name!r}")
    return [(node.outputs[0], found)]


def _length(vector: ir.Value | None) -> int | None:
    size = (dims(vector) or (None,))[0]
    return size if isinstance(size, int) else None


def _kept(node: ir.Node, index: int, held: frozenset[int]) -> frozenset[int] | None:
    integer = attribute(node, "to") in (ir.DataType.INT64, ir.DataType.INT32)
    return held if node.op_type != "Cast" or integer else None


def _gathered(node: ir.Node, index: int, held: frozenset[int]) -> frozenset[int] | None:
    indices, length = constant_array(node.inputs[1]), _length(node.inputs[0])
    if indices is None or indices.ndim > 1 or length is None:
        return None
    return _picked((indices.reshape(-1) % length).tolist(), held)


def _sliced(node: ir.Node, index: int, held: frozenset[int]) -> frozenset[int] | None:
    length = _length(node.inputs[0])
    bounds = None if length is None else slices(node, ((length, ()),))
    part = None if bounds is None else bounds.get(0, slice(None))
    if part is None or length is None:
        return None
    return _picked(np.arange(length)[part].tolist(), held)


def _picked(taken: Sequence[int], held: frozenset[int]) -> frozenset[int]:
    return frozenset(i for i, place in enumerate(taken) if place in held)


def _joined(node: ir.Node, index: int, held: frozenset[int]) -> frozenset[int] | None:
    before = [_length(v) for v in node.inputs[:index]]
    if None in before:
        return None
    start = sum(n for n in before if n is not None)
    return frozenset(place + start for place in held)


def _computed(node: ir.Node, index: int, held: frozenset[int]) -> frozenset[int] | None:
    """Arithmetic with one number: where the result ends, a target is put right."""
    other = constant_array(node.inputs[1 - index])
    return held if other is not None and other.size == 1 else None


def _bounded(node: ir.Node, axes: Collection[tuple[ir.Value, int]]) -> frozenset[int]:
    """The places of a Slice's bounds that belong to axes that are cut."""
    x, named = node.inputs[0], constant_array(given(node, 3))
    if x is None or x.shape is None:
        return frozenset()
    count = _length(node.inputs[1]) or 0
    listed = range(count) if named is None else named.reshape(-1).tolist()
    return frozenset(i for i, axis in enumerate(listed) if (x, axis % len(x.shape)) in axes)


_JOINING = (("", "Concat"), ("", "Mul"), ("", "Add"))
"""They may read a size at any of their inputs."""
_Handler = Callable[[ir.Node, int, frozenset[int]], frozenset[int] | None]
_HANDLERS: Mapping[tuple[str, str], _Handler] = {
    **{("", name): _kept for name in ("Squeeze", "Unsqueeze", "Identity", "Cast")},
    ("", "Gather"): _gathered,
    ("", "Slice"): _sliced,
    ("", "Concat"): _joined,
    **{("", name): _computed for name in ("Add", "Sub", "Mul", "Div")},
}


def _refuse(value: ir.Value, what: str) -> NoReturn:
    raise CannotCutError(DATA, f"the size of the axis, read as {value.name!r}, {what}")
