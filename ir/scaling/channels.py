"""Channel maps: which channel of some later value each element of an earlier value becomes.

A map is an int64 array with the rank of its value: axes that tell channels apart have the
value's size, all others size 1; ``NONE`` marks elements that become no channel (query and key
columns of a packed weight, seen from the values). Maps are sent backwards through data movement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import attribute, constant_array, dims, given, operator

ChannelMap: TypeAlias = npt.NDArray[np.int64]
Part: TypeAlias = slice | int | npt.NDArray[np.int64]
NONE = -1
_ENDLESS = 1 << 30


class NotMovedError(Exception):
    """The node mixes channels, or its shapes are not known well enough to tell."""


def moved_back(node: ir.Node, output: ir.Value, channels: ChannelMap) -> ChannelMap:
    """The map of a node's first input from that of its output; NotMovedError where there is none.

    For nodes in ``MOVES``. Sizes of batch and sequence may be unknown, those of channels not.
    """
    return _MOVED_BACK[node.op_type](node, output, channels)


def untouched(node: ir.Node, channels: ChannelMap) -> bool:
    """Whether a reader of a value takes none of its channels: its shape, or other parts of it."""
    if operator(node) in (("", "Shape"), ("", "Size")):
        return True
    if operator(node) not in (("", "Gather"), ("", "Slice")):
        return False
    try:
        index, axes = _selection(node, node.outputs[0])
    except NotMovedError:
        return False
    if any(channels.shape[axis] == 1 for axis in axes):
        return False
    return bool(np.all(channels[index] == NONE))


def aligned(value: ir.Value | None, channels: ChannelMap) -> ChannelMap:
    """The map of an operand that is broadcast along no axis of channels, else NotMovedError."""
    shape = dims(value)
    extra = -1 if shape is None else channels.ndim - len(shape)
    if shape is None or extra < 0 or any(size > 1 for size in channels.shape[:extra]):
        raise NotMovedError
    own = channels.reshape(channels.shape[extra:])
    if any(own.shape[i] not in (1, size) for i, size in enumerate(shape)):
        raise NotMovedError
    return own


def flat(channels: ChannelMap, axis: int) -> ChannelMap:
    """The map as [size of axis]; NotMovedError where other axes tell channels apart, too."""
    if channels.size != channels.shape[axis]:
        raise NotMovedError
    return channels.reshape(-1)


def _reshaped(node: ir.Node, output: ir.Value, channels: ChannelMap) -> ChannelMap:
    """Where the last axes of both sides hold exactly the channels, they hold them in order."""
    after, before = dims(output), dims(node.inputs[0])
    new, old = _tail(after, channels.size), _tail(before, channels.size)
    if new is None or old is None or channels.shape[channels.ndim - len(new) :] != new:
        raise NotMovedError
    return channels.reshape([1] * (len(before or ()) - len(old)) + list(old))


def _tail(shape: tuple[int | str | None, ...] | None, size: int) -> tuple[int, ...] | None:
    """The fewest last axes with ``size`` elements, None where there are none or not known."""
    if shape is None:
        return None
    tail: list[int] = []
    for axis in reversed(shape):
        if math.prod(tail) == size:
            break
        if not isinstance(axis, int) or axis <= 0:
            return None
        tail.insert(0, axis)
    return tuple(tail) if math.prod(tail) == size else None


def _transposed(node: ir.Node, output: ir.Value, channels: ChannelMap) -> ChannelMap:
    order = attribute(node, "perm", tuple(reversed(range(channels.ndim))))
    return channels.transpose(np.argsort(order))


def _selected(node: ir.Node, output: ir.Value, channels: ChannelMap) -> ChannelMap:
    """Elements that the node does not select become no channel."""
    index, axes = _selection(node, output)
    shape = dims(node.inputs[0]) or ()
    sizes = list(channels.shape)
    if len(sizes) < len(shape):  # one index was taken and its axis is gone
        sizes.insert(axes[0], 1)
    for axis in axes:
        size = shape[axis]
        if not isinstance(size, int):
            raise NotMovedError
        sizes[axis] = size
    before = np.full(sizes, NONE, np.int64)
    try:
        before[index] = channels
    except (ValueError, IndexError) as error:
        raise NotMovedError from error
    return before


def _selection(node: ir.Node, output: ir.Value) -> tuple[tuple[Part, ...], list[int]]:
    """What the node selects as a numpy index, and the axes along which it does."""
    shape = dims(node.inputs[0])
    if shape is None:
        raise NotMovedError
    found = _SELECTIONS[node.op_type](node, output, len(shape))
    index: list[Part] = [slice(None)] * len(shape)
    for axis, part in found.items():
        index[axis] = part
    return tuple(index), list(found)


def _gathered(node: ir.Node, output: ir.Value, rank: int) -> dict[int, Part]:
    indices = constant_array(node.inputs[1])
    if indices is None or indices.ndim > 1 or np.unique(indices).size != indices.size:
        raise NotMovedError
    axis = attribute(node, "axis", 0) % rank
    return {axis: int(indices) if indices.ndim == 0 else indices.astype(np.int64)}


def _split(node: ir.Node, output: ir.Value, rank: int) -> dict[int, Part]:
    axis, place = attribute(node, "axis", 0) % rank, list(node.outputs).index(output)
    sizes = [(dims(o) or (None,) * rank)[axis] for o in node.outputs[: place + 1]]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) != len(sizes):
        raise NotMovedError
    return {axis: slice(sum(known[:-1]), sum(known))}


def _sliced(node: ir.Node, output: ir.Value, rank: int) -> dict[int, Part]:
    arrays = [constant_array(given(node, i)) for i in range(1, 5)]
    if any(a is None and given(node, i + 1) is not None for i, a in enumerate(arrays)):
        raise NotMovedError
    if arrays[0] is None or arrays[1] is None:
        raise NotMovedError  # attributes, before opset 10
    count = arrays[0].size
    axes = range(count) if arrays[2] is None else [int(a) % rank for a in arrays[2].reshape(-1)]
    steps = [1] * count if arrays[3] is None else [int(s) for s in arrays[3].reshape(-1)]
    ends = zip(arrays[0].reshape(-1).tolist(), arrays[1].reshape(-1).tolist(), strict=True)
    found: dict[int, Part] = {}
    for axis, step, (start, end) in zip(axes, steps, ends, strict=True):
        if step <= 0:
            raise NotMovedError
        if (start, step) != (0, 1) or end < _ENDLESS:
            found[axis] = slice(start, end, step)
    return found


_MOVED_BACK: Mapping[str, Callable[[ir.Node, ir.Value, ChannelMap], ChannelMap]] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshaped),
    **dict.fromkeys(("Split", "Slice", "Gather"), _selected),
    "Transpose": _transposed,
}
_SELECTIONS = {"Gather": _gathered, "Slice": _sliced, "Split": _split}
MOVES = frozenset(("", name) for name in _MOVED_BACK)
"""Operators that ``moved_back`` knows, as ``graph.operator`` gives them."""


def is_move(node: ir.Node) -> bool:
    """Whether the node only moves data that is not constant."""
    return operator(node) in MOVES
