"""What an attention or feed-forward block is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import onnx_ir as ir

BlockKind: TypeAlias = Literal["attention", "ffn"]


@dataclass(frozen=True, eq=False)
class Block:
    """A block and the layers that play its roles (indices into the list of layers).

    nodes: those between the layers, the one that makes it a block first. segments: by role, the
    columns of a packed layer. weight, bias: of an operator that holds its own projection.
    """

    kind: BlockKind
    nodes: tuple[ir.Node, ...]
    roles: Mapping[str, int]
    input: ir.Value | None
    output: ir.Value
    segments: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    weight: ir.Value | None = None
    bias: ir.Value | None = None
