"""Constants of a graph under scales per channel: what they become, and putting that in place."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import Array, constant_array
from ..rewriter import Rewriter
from .absorb import Scaled
from .channels import NONE
from .scale_groups import ScaleGroup

Scale = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rescaled:
    """The new contents of one constant input of a node."""

    node: ir.Node
    index: int
    array: Array


class Constants:
    """Constants as the scales given so far make them; nothing in the graph changes."""

    def __init__(self) -> None:
        self._factors: dict[tuple[ir.Node, int], list[Array]] = {}

    def scale(self, group: ScaleGroup, scale: Scale) -> None:
        """Divide by ``scale`` [channels] in front of the group's activation, multiply behind it."""
        for scaled in group.absorber.scaled:
            self._multiply(scaled, 1.0 / scale)
        for scaled in group.readers:
            self._multiply(scaled, scale)

    def array(self, scaled: Scaled) -> Array:
        """The contents of one constant, rounded to float32 once however many scales it took."""
        return self._array(scaled.node, scaled.index)

    def peaks(self, scaled: Scaled) -> Scale:
        """Largest magnitude of each channel's elements, float64 [channels]."""
        array, channels = np.abs(self.array(scaled)), scaled.channels
        alike = tuple(axis for axis, size in enumerate(channels.shape) if size == 1)
        largest, mine = array.max(axis=alike, keepdims=True), channels != NONE
        found = np.zeros(int(channels.max()) + 1)
        found[channels[mine]] = largest[mine]
        return found

    def rescaled(self) -> tuple[Rescaled, ...]:
        """All constants that change, in the order of their first scale."""
        return tuple(Rescaled(*key, self._array(*key)) for key in self._factors)

    def _array(self, node: ir.Node, index: int) -> Array:
        array = constant_array(node.inputs[index])
        assert array is not None
        factors = self._factors.get((node, index), [])
        if not factors:
            return array
        return np.asarray(array * functools.reduce(np.multiply, factors), np.float32)

    def _multiply(self, scaled: Scaled, factor: Scale) -> None:
        spread = np.where(scaled.channels == NONE, 1.0, factor[scaled.channels])
        self._factors.setdefault((scaled.node, scaled.index), []).append(spread)


def put_in_place(rewriter: Rewriter, items: Iterable[Rescaled]) -> None:
    """Give each of these inputs an initializer of its own; the old one may have other users."""
    for item in items:
        old = item.node.inputs[item.index]
        assert old is not None
        new = rewriter.initializer(_hint(item.node, old), item.array)
        rewriter.set_input(item.node, item.index, new)
        rewriter.sweep([old])


def _hint(node: ir.Node, old: ir.Value) -> str:
    """A name that still tells of the layer, unless the old one belongs to several."""
    if len(old.uses()) > 1:
        return f"{node.name}_equalized"
    return f"{str(old.name).removesuffix('_equalized')}_equalized"
