"""Where a scale per channel of an activation can go: into constants in front of it.

``find_absorber`` walks from an activation x back to constants that can take 1/s, so that x / s is
computed instead of x and nothing else changes: the affine part of a normalisation, a constant
factor, the columns of a linear layer or the filters of a convolution. Between them only what
f(x / s) = f(x) / s holds for (s > 0), and only values that nothing else reads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ..finding.walks import FAR
from ..graph import attribute, dims, given, is_constant, operator, scalar
from .channels import (
    NONE,
    ChannelMap,
    NotMovedError,
    aligned,
    flat,
    is_move,
    moved_back,
    untouched,
)


class ObstacleError(Exception):
    """Why no scale can be absorbed: a stable code and a sentence for the user."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, eq=False)
class Scaled:
    """A constant input of a node, and the channel of x that each of its elements belongs to.

    channels: int64, broadcastable with the constant; -1 where an element stays as it is.
    """

    node: ir.Node
    index: int
    channels: ChannelMap

    @property
    def value(self) -> ir.Value:
        """The constant as the node reads it now."""
        value = self.node.inputs[self.index]
        assert value is not None
        return value


@dataclass(frozen=True, eq=False)
class Absorber:
    """Constants that take 1 / s, and the values between them and x.

    main: the weight or factor among ``scaled``. source: the activation that it is applied to.
    passed: the values that are scaled, x first. sides: others that the nodes between read.
    """

    main: Scaled
    source: ir.Value
    scaled: tuple[Scaled, ...]
    passed: tuple[ir.Value, ...]
    sides: tuple[ir.Value, ...]


@dataclass(frozen=True)
class _Trail:
    """What was met on the way from x back to here."""

    readers: frozenset[ir.Node]
    scaled: tuple[Scaled, ...] = ()
    passed: tuple[ir.Value, ...] = ()
    sides: tuple[ir.Value, ...] = ()

    def beside(self, *values: ir.Value | None) -> _Trail:
        """With other inputs of a node; constants need no mention."""
        new = tuple(v for v in values if v is not None and not is_constant(v))
        return replace(self, sides=self.sides + new)

    def onto(self, node: ir.Node) -> _Trail:
        """With the node as the only one that may read the next value."""
        return replace(self, readers=frozenset({node}))

    def ends(self, main: Scaled, source: ir.Value | None, *others: Scaled) -> Absorber:
        assert source is not None
        return Absorber(main, source, (*self.scaled, main, *others), self.passed, self.sides)


def find_absorber(x: ir.Value, axis: int, readers: Collection[ir.Node]) -> Absorber:
    """The constants that can take a scale for each index of ``axis`` of x.

    readers: the nodes that will undo the scale; nothing else may read x. Raises ``ObstacleError``.
    """
    shape = dims(x)
    size = None if shape is None else shape[axis]
    if shape is None or not isinstance(size, int):
        raise ObstacleError("unknown-shape", f"the number of channels of {_name(x)} is not known")
    layout = [size if i == axis % len(shape) else 1 for i in range(len(shape))]
    found = _behind(x, np.arange(size).reshape(layout), _Trail(frozenset(readers)))
    present = np.sort(found.main.channels[found.main.channels != NONE], axis=None)
    if not np.array_equal(present, np.arange(size)):
        raise ObstacleError("no-absorber", f"the channels of {_name(x)} are not each made once")
    return found


def _behind(value: ir.Value, channels: ChannelMap, trail: _Trail) -> Absorber:
    _check_readers(value, channels, trail.readers)
    node = value.producer()
    if node is None:
        what = "is an input of the model" if value.is_graph_input() else "is not computed"
        raise ObstacleError("no-absorber", f"{_name(value)} {what}")
    step = _handler(node)
    trail = replace(trail, passed=(*trail.passed, value)).onto(node)
    if step is None or len(trail.passed) > FAR:
        raise _blocked(node)
    try:
        return step(node, value, channels, trail)
    except NotMovedError as error:
        raise _blocked(node) from error


def _check_readers(value: ir.Value, channels: ChannelMap, readers: Collection[ir.Node]) -> None:
    if value.is_graph_output():
        raise ObstacleError("residual-use", f"{_name(value)} is also an output of the model")
    seen: set[ir.Node] = set()
    for usage in value.uses():
        user = usage.node
        if user in readers and user not in seen:
            seen.add(user)
        elif user in readers or not untouched(user, channels):
            raise ObstacleError(
                "residual-use", f"{_name(value)} is also read by {_name(user)} ({user.op_type})"
            )


def _handler(node: ir.Node) -> _Step | None:
    if is_move(node):
        return _move
    return _STEPS.get(operator(node))


def _move(node: ir.Node, output: ir.Value, channels: ChannelMap, trail: _Trail) -> Absorber:
    before = moved_back(node, output, channels)
    return _behind(_first(node), before, trail.beside(*node.inputs[1:]))


def _alike(node: ir.Node, output: ir.Value, channels: ChannelMap, trail: _Trail) -> Absorber:
    return _behind(_first(node), channels, trail)


def _pooled(node: ir.Node, output: ir.Value, channels: ChannelMap, trail: _Trail) -> Absorber:
    flat(channels, 1)
    return _behind(_first(node), channels, trail)


def _sum(node: ir.Node, output: ir.Value, channels: ChannelMap, trail: _Trail) -> Absorber:
    """y + b with b constant: b takes the scale as well."""
    constant = _constant_side(node)
    if constant is None:
        raise ObstacleError("no-absorber", f"{_name(node)} adds two activations")
    y = given(node, 1 - constant)
    shift = Scaled(node, constant, _stripped(channels, node.inputs[constant]))
    own = aligned(y, channels)
    assert y is not None
    return _behind(y, own, replace(trail, scaled=(*trail.scaled, shift)))


def _product(node: ir.Node, output: ir.Value, channels: ChannelMap, trail: _Trail) -> Absorber:
    """y * c with a constant for each channel, y * 2, or one branch of y * z."""
    constant = _constant_side(node)
    if constant is None:
        return _branch(node, channels, trail)
    y, factor = given(node, 1 - constant), node.inputs[constant]
    if scalar(factor) is not None:
        return _behind(_first(node, 1 - constant), aligned(y, channels), trail)
    own = _stripped(aligned(factor, channels), factor)
    return trail.ends(Scaled(node, constant, own), y)


def _branch(node: ir.Node, channels: ChannelMap, trail: _Trail) -> Absorber:
    """The later factor first: gates are written in front of what they gate."""
    obstacles: list[ObstacleError] = []
    for index in (1, 0):
        y, other = _first(node, index), _first(node, 1 - index)
        try:
            return _behind(y, aligned(y, channels), trail.beside(other))
        except (ObstacleError, NotMovedError) as error:
            obstacles.append(error if isinstance(error, ObstacleError) else _blocked(node))
    raise next((o for o in obstacles if o.code == "residual-use"), obstacles[0])


def _quotient(node: ir.Node, output: ir.Value, channels: ChannelMap, trail: _Trail) -> Absorber:
    y = _first(node)
    return _behind(y, aligned(y, channels), trail.beside(*node.inputs[1:]))


def _normalised(node: ir.Node, output: ir.Value, channels: ChannelMap, trail: _Trail) -> Absorber:
    """Scale and bias of a normalisation over the last axis."""
    own = flat(channels, -1)
    if attribute(node, "axis", -1) not in (-1, channels.ndim - 1):
        raise NotMovedError
    return _affine(node, output, own, trail)


def _batch_normalised(
    node: ir.Node, output: ir.Value, channels: ChannelMap, trail: _Trail
) -> Absorber:
    if attribute(node, "training_mode", 0):
        raise NotMovedError
    return _affine(node, output, flat(channels, 1), trail)


def _affine(node: ir.Node, output: ir.Value, own: ChannelMap, trail: _Trail) -> Absorber:
    constants = [i for i in (1, 2) if given(node, i) is not None]
    if output is not node.outputs[0] or not all(
        is_constant(node.inputs[i]) and dims(node.inputs[i]) == own.shape for i in constants
    ):
        raise NotMovedError
    main, *others = (Scaled(node, i, own) for i in constants)
    return trail.ends(main, node.inputs[0], *others)


def _multiplied(node: ir.Node, output: ir.Value, channels: ChannelMap, trail: _Trail) -> Absorber:
    """x W takes the scale in the columns of W; p v hands it on to the columns of v."""
    right = _first(node, 1)
    if is_constant(right):
        columns = flat(channels, -1)
        if dims(right) is None or len(dims(right) or ()) != 2:
            raise NotMovedError
        return trail.ends(Scaled(node, 1, columns.reshape(1, -1)), node.inputs[0])
    if channels.ndim < 2 or channels.shape[-2] != 1 or channels.shape[-1] == 1:
        raise NotMovedError
    return _behind(right, aligned(right, channels), trail.beside(node.inputs[0]))


def _convolved(node: ir.Node, output: ir.Value, channels: ChannelMap, trail: _Trail) -> Absorber:
    """The filters, first axis of the weight, and the bias."""
    own = flat(channels, 1)
    weight, bias = given(node, 1), given(node, 2)
    if not is_constant(weight) or not (bias is None or is_constant(bias)):
        raise NotMovedError
    main = Scaled(node, 1, own.reshape(-1, *[1] * (channels.ndim - 1)))
    others = [] if bias is None else [Scaled(node, 2, own)]
    return trail.ends(main, node.inputs[0], *others)


def _attended(node: ir.Node, output: ir.Value, channels: ChannelMap, trail: _Trail) -> Absorber:
    """The values of an Attention operator whose queries, keys and values have equal heads."""
    cached = any(given(node, i) is not None for i in (4, 5))
    escaped = any(o.uses() or o.is_graph_output() for o in node.outputs[1:])
    if output is not node.outputs[0] or cached or escaped:
        raise NotMovedError
    if attribute(node, "q_num_heads") != attribute(node, "kv_num_heads"):
        raise ObstacleError("grouped", f"the heads of {_name(node)} share their values")
    v = _first(node, 2)
    others = [x for i, x in enumerate(node.inputs) if i != 2]
    return _behind(v, aligned(v, channels), trail.beside(*others))


def _constant_side(node: ir.Node) -> int | None:
    return next((i for i in (1, 0) if is_constant(node.inputs[i])), None)


def _stripped(channels: ChannelMap, constant: ir.Value | None) -> ChannelMap:
    """Without the leading axes of size 1 that the constant does not have."""
    rank = max(len(dims(constant) or ()), 1)
    while channels.ndim > rank and channels.shape[0] == 1:
        channels = channels.reshape(channels.shape[1:])
    return channels


def _first(node: ir.Node, index: int = 0) -> ir.Value:
    value = given(node, index)
    if value is None:
        raise NotMovedError
    return value


def _name(thing: ir.Value | ir.Node) -> str:
    return repr(thing.name)


def _blocked(node: ir.Node) -> ObstacleError:
    return ObstacleError(
        "no-absorber", f"{_name(node)} ({node.op_type}) hands on no scale for each channel"
    )


_Step = Callable[[ir.Node, ir.Value, ChannelMap, _Trail], Absorber]
_STEPS: Mapping[tuple[str, str], _Step] = {
    **{("", name): _alike for name in ("Relu", "LeakyRelu", "Identity")},
    **{
        ("", name): _pooled
        for name in ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
    },
    **{("", name): _normalised for name in ("LayerNormalization", "RMSNormalization")},
    ("", "BatchNormalization"): _batch_normalised,
    ("", "Add"): _sum,
    ("", "Mul"): _product,
    ("", "Div"): _quotient,
    ("", "MatMul"): _multiplied,
    ("", "Conv"): _convolved,
    ("", "Attention"): _attended,
}
