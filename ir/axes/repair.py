"""What a repair may say, and the cut it is worked out for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .groups import Index
from .labels import CannotCutError
from .relations import DATA
from .size_table import SizeTable

Axis = tuple[ir.Value, int]


@dataclass(frozen=True)
class Setting:
    """An attribute of a node gets a new value."""

    node: ir.Node
    name: str
    value: Any


@dataclass(frozen=True)
class Constant:
    """A node reads a new constant."""

    node: ir.Node
    index: int
    data: np.ndarray


@dataclass(frozen=True, eq=False)
class Scaled:
    """One number: what a Mul computes, with another constant at one of its inputs."""

    node: ir.Node
    index: int
    factor: np.ndarray


@dataclass(frozen=True)
class Joined:
    """A node reads a Concat like the one it reads, with something else at some of its inputs."""

    node: ir.Node
    index: int
    parts: Mapping[int, np.ndarray | Scaled]


@dataclass(frozen=True)
class Uneven:
    """A Split into equal parts becomes one into parts of these sizes."""

    node: ir.Node
    sizes: Sequence[int]


Repair = Setting | Constant | Joined | Uneven


@dataclass(frozen=True)
class Cut:
    """What stays: by axis of a value, the positions kept, and the size that the axis had."""

    kept: Mapping[Axis, Index]
    sizes: Mapping[Axis, int]
    table: SizeTable

    def has(self, value: ir.Value | None, axis: int) -> bool:
        """Whether the axis gets shorter."""
        return value is not None and (value, axis) in self.kept

    def after(self, value: ir.Value | None, axis: int) -> int:
        """The size of an axis after the cut."""
        assert value is not None
        kept = self.kept.get((value, axis))
        if kept is not None:
            return len(kept)
        size = self.table.length(value, axis)
        if size is None:
            raise CannotCutError(DATA, f"an axis of {value.name!r} has no known size")
        return size
