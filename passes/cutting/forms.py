"""How a stored weight is read as matrices [inputs, outputs] that rows of data are multiplied by.

A linear layer is one matrix. A convolution multiplies patches: of each of its g groups the matrix
is [inputs / g * taps, outputs / g], a row for each channel and tap. Read coarsely, all taps of a
channel are one row, [inputs / g, taps * outputs / g]: what makes up for a channel then mixes
others alike at all taps, which takes second moments of channels alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.axes.groups import NONE, Index
from ...ir.graph import attribute, rank
from ...ir.graph import operator as operator_of
from ...ir.sites import Use
from ..api import Looked, Patches, Window
from ..math.refit import Doubles

WIDEST = 4608
"""Columns of patches up to which a convolution is fitted tap by tap: 512 channels of 3 x 3."""
PLACES = 1 << 20
"""Numbers of patches of one sample that are looked at; of more, every second place, or third, …"""
_CONVOLUTIONS: Mapping[tuple[str, str], Literal["Conv", "ConvTranspose"]] = MappingProxyType(
    {("", "Conv"): "Conv", ("", "ConvTranspose"): "ConvTranspose"}
)
_PLACING = ("auto_pad", "dilations", "output_padding", "output_shape", "pads", "strides")
Array = NDArray[Any]


@dataclass(frozen=True)
class Form:
    """kind: linear [in, out], turned [out, in], Conv [out, in / g, …], ConvTranspose [in, out / g,
    …]. shape: of the weight. groups: g. coarse: see above; linear layers have one tap."""

    kind: Literal["linear", "turned", "Conv", "ConvTranspose"]
    shape: tuple[int, ...]
    groups: int = 1
    coarse: bool = False

    @property
    def axis(self) -> int:
        """Of the weight, the one that is contracted."""
        return 1 if self.kind in ("turned", "Conv") else 0

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the kernel, none for a linear layer."""
        return self.shape[2:]

    @property
    def inputs(self) -> int:
        """Channels that are read, of all groups."""
        return self.shape[self.axis] * (self.groups if self.kind == "Conv" else 1)

    @property
    def outputs(self) -> int:
        """Channels that are made, by all groups."""
        return self.shape[1 - self.axis] * (self.groups if self.kind == "ConvTranspose" else 1)

    @property
    def rows_each(self) -> int:
        """Rows of a channel."""
        return 1 if self.coarse else prod(self.kernel)

    @property
    def taps_each(self) -> int:
        """Columns of an output."""
        return prod(self.kernel) if self.coarse else 1

    @property
    def width(self) -> int:
        """Columns of a row of data, of all groups."""
        return self.inputs * self.rows_each

    def matrices(self, array: Array) -> Array:
        """The weight as [groups, rows, outputs of a row], in its own dtype."""
        apart = self._apart(array)
        groups, channels, _, outputs = apart.shape
        return apart.reshape(groups, channels * self.rows_each, outputs * self.taps_each)

    def stored(self, matrices: Array) -> Array:
        """The inverse of ``matrices``."""
        taps = prod(self.kernel)
        sizes = self.inputs // self.groups, taps, self.outputs // self.groups
        apart = matrices.reshape(self.groups, *sizes)
        order = (0, 1, 3, 2) if self.axis == 0 else (0, 3, 1, 2)
        return np.ascontiguousarray(apart.transpose(order)).reshape(self.shape)

    def summed(self, change: Doubles) -> Doubles:
        """What [groups, outputs of a row] means for each output: float64 [outputs]."""
        each = self.outputs // self.groups
        return np.asarray(change.reshape(self.groups, -1, each).sum(axis=1).reshape(-1))

    def rows(self, index: Index) -> list[Index]:
        """For each group the rows of its matrix that belong to units, [units, k] filled up with
        ``NONE``; index: positions [units, k] along the contracted axis."""
        each = self.inputs // self.groups
        spread = range(self.groups)
        if self.axis == 1:
            return [self._widened(index)] * self.groups
        return [self._widened(_inside(index, group * each, each)) for group in spread]

    def block(self, group: int) -> slice:
        """The columns of data that a group reads."""
        each = self.width // self.groups
        return slice(group * each, (group + 1) * each)

    def _apart(self, array: Array) -> Array:
        """[groups, channels, taps, outputs]."""
        taps, groups = prod(self.kernel), self.groups
        inputs, outputs = self.inputs // groups, self.outputs // groups
        if self.axis == 0:
            return array.reshape(groups, inputs, outputs, taps).transpose(0, 1, 3, 2)
        return array.reshape(groups, outputs, inputs, taps).transpose(0, 2, 3, 1)

    def _widened(self, index: Index) -> Index:
        each = self.rows_each
        rows = index[:, :, None] * each + np.arange(each)
        return np.where(index[:, :, None] == NONE, NONE, rows).reshape(len(index), -1)


def _inside(index: Index, start: int, size: int) -> Index:
    """Positions counted from ``start``, those outside as ``NONE``, as narrow as can be."""
    moved = np.where((index >= start) & (index < start + size), index - start, NONE)
    ordered = -np.sort(-moved, axis=1)  # none last
    width = max(1, int((ordered != NONE).sum(axis=1).max(initial=0)))
    return np.asarray(ordered[:, :width])


def conv_form(node: ir.Node, shape: Sequence[int]) -> Form | None:
    """Of a Conv or ConvTranspose; None for another operator."""
    kind = _CONVOLUTIONS.get(operator_of(node))
    if kind is None:
        return None
    form = Form(kind, tuple(shape), int(attribute(node, "group", 1)))
    return replace(form, coarse=form.width > WIDEST)


def looked_at(form: Form, use: Use) -> Looked | None:
    """What a use of the layer reads; None where the rank of it is unknown."""
    name, known = str(use.input.name), rank(use.input)
    if form.kind in ("linear", "turned"):
        return None if known is None else (name, known - 1)
    if form.coarse or _is_pointwise(form, use.nodes[0]):
        return None if known is None else (name, 1)
    return Patches(name, 1, _window(form, use))


def _is_pointwise(form: Form, node: ir.Node) -> bool:
    strides, pads = attribute(node, "strides", ()), attribute(node, "pads", ())
    placed = any(s != 1 for s in strides) or any(pads) or attribute(node, "output_padding", ())
    return prod(form.kernel) == 1 and not placed and not attribute(node, "output_shape", ())


def _window(form: Form, use: Use) -> Window:
    node = use.nodes[0]
    settings = {name: attribute(node, name) for name in _PLACING if name in node.attributes}
    step = _step(form, use)
    if step > 1:
        strides = settings.get("strides", (1,) * len(form.kernel))
        settings["strides"] = tuple(step * stride for stride in strides)
    return Window(form.kind, form.inputs, form.kernel, tuple(sorted(settings.items())))


def _step(form: Form, use: Use) -> int:
    """Every how manieth place along each axis is enough. Padding by name hangs on the strides."""
    node, shape = use.nodes[0], use.nodes[0].outputs[0].shape
    places = [size for size in (shape or ())[2:] if isinstance(size, int)]
    named = attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if form.kind != "Conv" or named or len(places) != len(form.kernel):
        return 1
    step = 1
    while prod(-(-size // step) for size in places) * form.width > PLACES:
        step += 1
    return step
