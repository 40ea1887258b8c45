"""Convolutions of k x l taps as one of k x 1 to few channels and one of 1 x l from these.

As a matrix of what the first reads (channels and rows of taps) by what the second makes of it
(outputs and columns of taps) the weight is factorized like that of a linear layer. Errors of the
columns are taken to add up independently. Source: Jaderberg et al., Speeding up Convolutional
Neural Networks with Low Rank Expansions (arXiv 1405.3866), scheme 2; the directions from data as
in ``math.lowrank``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ...ir.graph import attribute, constant_array
from ...ir.rewriter import Rewriter
from ...ir.sites import Site
from ..api import Looked, Patches, Window
from ..biases import set_bias
from .groups import Group, kernel_shape
from .lowering import Factors, in_front

_FIRST, _SECOND = slice(0, 1), slice(1, 2)


class Lines(Group):
    """A convolution along two axes, each with several taps."""

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs times rows of taps, outputs times columns of taps."""
        inputs, rows, columns = self.taps
        return inputs * rows, self.widths[0] * columns

    @property
    def taps(self) -> tuple[int, int, int]:
        """Inputs, rows and columns of the kernel."""
        inputs, rows, columns = kernel_shape(self.sites[0])
        return inputs, rows, columns

    @property
    def observes_outputs(self) -> bool:
        """What the first factor reads is looked at."""
        return False

    @property
    def observed(self) -> tuple[Looked, ...]:
        """Patches of one column."""
        inputs, rows, _ = self.taps
        placed = [tuple(sorted(along(use.nodes[0], _FIRST).items())) for use in self.uses]
        windows = [Window("Conv", inputs, (rows, 1), settings) for settings in placed]
        names = [str(use.input.name) for use in self.uses]
        return tuple(Patches(n, 1, window) for n, window in zip(names, windows, strict=True))

    @property
    def whole(self) -> tuple[tuple[str, int, int], ...]:
        """Products of the layer as it is."""
        inputs, rows, columns = self.taps
        return ((self.table, inputs * rows * columns, self.widths[0]),)

    def factored(self, rank: int) -> tuple[tuple[str, int, int], ...]:
        """Products of its factors."""
        inputs, rows, columns = self.taps
        return (
            (self.table, inputs * rows, rank),
            (self.table, rank * columns, self.widths[0]),
        )

    def matrix(self) -> np.ndarray:
        """[inputs and rows, outputs and columns]."""
        weight = constant_array(self.sites[0].weight)
        assert weight is not None
        return np.ascontiguousarray(weight.transpose(1, 2, 0, 3)).reshape(self.shape)

    def stored(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """The inverse."""
        (inputs, rows, columns), weight = self.taps, self.sites[0].weight
        assert weight is not None
        apart = matrix.reshape(inputs, rows, self.widths[0], columns)
        return {str(weight.name): np.ascontiguousarray(apart.transpose(2, 0, 1, 3))}

    def summed(self, change: np.ndarray) -> list[np.ndarray]:
        """A change of the mean of each column of an output is one of the output."""
        return [change.reshape(self.widths[0], -1).sum(axis=1)]


def lines_of(site: Site) -> Lines | None:
    """A convolution as two lines of taps; None where its kernel is none of two axes, or is one
    line already."""
    if site.kind != "conv":
        return None
    _, *taps = kernel_shape(site)
    return Lines((site,)) if len(taps) == 2 and min(taps) > 1 else None


def along(node: ir.Node, axes: slice) -> dict[str, Any]:
    """The settings of a convolution along one axis, those of the other as if it had one tap."""
    made = dict[str, Any]()
    for name, neutral in (("strides", 1), ("dilations", 1)):
        given = attribute(node, name, (1, 1))
        made[name] = _only(given, axes, neutral)
    padding = attribute(node, "auto_pad", "NOTSET")
    if padding != "NOTSET":
        return made | {"auto_pad": padding}
    pads = attribute(node, "pads", (0, 0, 0, 0))
    return made | {"pads": (*_only(pads[:2], axes, 0), *_only(pads[2:], axes, 0))}


def _only(values: tuple[int, ...], axes: slice, neutral: int) -> tuple[int, ...]:
    kept = range(*axes.indices(len(values)))
    return tuple(value if i in kept else neutral for i, value in enumerate(values))


def lower_lines(group: Lines, made: Factors, rewriter: Rewriter) -> None:
    """The two convolutions, the bias with the second."""
    (inputs, rows, columns), rank = group.taps, made.first.shape[1]
    site, down = group.sites[0], made.first.T.reshape(rank, inputs, rows, 1)
    across = made.second.reshape(rank, group.widths[0], 1, columns).transpose(1, 0, 2, 3)
    first = rewriter.initializer(f"{site.name}.weight_in", np.ascontiguousarray(down))
    second = rewriter.initializer(f"{site.name}.weight_out", np.ascontiguousarray(across))
    set_bias(site, made.biases[0] if made.biases else None, rewriter)
    for node in [use.nodes[0] for use in site.uses]:
        _replace(node, first, second, rewriter)


def _replace(node: ir.Node, first: ir.Value, second: ir.Value, rewriter: Rewriter) -> None:
    read = list(node.inputs)
    rows, columns = (v.const_value.shape.numpy()[2:] for v in (first, second) if v.const_value)
    before = along(node, _FIRST) | {"kernel_shape": tuple(rows)}
    behind = along(node, _SECOND) | {"kernel_shape": tuple(columns)}
    narrow = in_front(rewriter, node, [read[0], first], before)
    out = rewriter.insert(
        "Conv", [narrow, second, *read[2:]], before=node, attributes=behind,
        name=f"{node.name}_out", origins=[node],
    )  # fmt: skip
    rewriter.take_over(node.outputs[0], out.outputs[0])
    rewriter.remove(node)
    rewriter.sweep(read)
