"""Which columns of a packed weight (query, key and value in one) a role reads.

The column numbers themselves are sent through the nodes between the layer and its reader, batch
and sequence taken as 1, until the first node that selects from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import attribute, constant_array, dims, rank
from .walks import Step

Columns = npt.NDArray[np.int64]


def segment(source: ir.Value, steps: Sequence[Step], features: int) -> tuple[int, int] | None:
    """The columns [start, stop) of ``features`` that are left after ``steps``.

    None where they are not contiguous (heads interleaved) or the shapes are not known.
    """
    columns = np.arange(features).reshape([1] * ((rank(source) or 3) - 1) + [features])
    for step in steps:
        after = _through(step, columns)
        if after is None:
            return None
        columns = after
        if columns.size < features:
            break
    found = np.sort(columns, axis=None)
    start, stop = int(found[0]), int(found[-1]) + 1
    return (start, stop) if stop - start == found.size else None


def _through(step: Step, columns: Columns) -> Columns | None:
    handler = _HANDLERS.get(step.node.op_type)
    if handler is None:
        return columns
    try:
        result = handler(step, columns)
    except (IndexError, ValueError, TypeError):
        return None  # the nodes do not fit one token: nothing is known
    return columns if result is not None and result.size == 0 else result


def _reshape(step: Step, columns: Columns) -> Columns | None:
    """Only the features are told apart: the last axes of the result that make them up."""
    target = constant_array(step.node.inputs[1])
    shape = dims(step.output) or (None if target is None else tuple(target.tolist()))
    features = columns.shape[-1]
    if shape is None or features != columns.size:
        return None
    tail: list[int] = []
    for size in reversed(shape):
        if math.prod(tail) == features:
            break
        if not isinstance(size, int) or size <= 0:
            return None
        tail.insert(0, size)
    return columns.reshape([1] * (len(shape) - len(tail)) + tail)


def _transpose(step: Step, columns: Columns) -> Columns:
    return columns.transpose(attribute(step.node, "perm"))


def _split(step: Step, columns: Columns) -> Columns:
    node, axis = step.node, attribute(step.node, "axis", 0)
    given = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    sizes = attribute(node, "split", None if given is None else tuple(given.tolist()))
    if sizes is None:
        size = -(-columns.shape[axis] // len(node.outputs))
        sizes = (size,) * len(node.outputs)
    parts: list[Columns] = np.split(columns, np.cumsum(sizes)[:-1], axis)
    return parts[node.outputs.index(step.output)]


def _slice(step: Step, columns: Columns) -> Columns | None:
    bounds = _bounds(step.node)
    if len(bounds) < 2 or any(b is None for b in bounds[:2]):
        return None
    starts, ends, axes, strides = (*bounds, None, None)[:4]
    cut = [slice(None)] * columns.ndim
    for i, (start, end) in enumerate(zip(starts or (), ends or (), strict=True)):
        cut[axes[i] if axes else i] = slice(start, end, strides[i] if strides else 1)
    return columns[tuple(cut)]


def _bounds(node: ir.Node) -> list[tuple[int, ...] | None]:
    """Starts, ends, axes and strides; before opset 10 the first three were attributes."""
    if len(node.inputs) == 1:
        return [attribute(node, name) for name in ("starts", "ends", "axes")]
    arrays = [constant_array(v) for v in node.inputs[1:]]
    return [None if a is None else tuple(a.reshape(-1).tolist()) for a in arrays]


def _gather(step: Step, columns: Columns) -> Columns | None:
    indices = constant_array(step.node.inputs[1])
    axis = attribute(step.node, "axis", 0)
    return None if indices is None else np.take(columns, indices, axis)


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    given = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    named: tuple[int, ...] | None = attribute(node, "axes")
    return named if given is None else tuple(given.reshape(-1).tolist())


def _squeeze(step: Step, columns: Columns) -> Columns | None:
    axes = _axes(step.node)
    return None if axes is None else np.squeeze(columns, axes)


def _unsqueeze(step: Step, columns: Columns) -> Columns | None:
    axes = _axes(step.node)
    return None if axes is None else np.expand_dims(columns, axes)


_HANDLERS = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
