"""What several rules do to a graph or ask of a node."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ...ir.rewriter import Rewriter

Rule = Callable[[ir.Node, Rewriter], bool]
"""Looks at one node; whether it changed anything."""


def replace(node: ir.Node, value: ir.Value, rewriter: Rewriter) -> None:
    """Put a computed value in the place of the node's output, under the name of that."""
    inputs = list(node.inputs)
    rewriter.take_over(node.outputs[0], value)
    rewriter.remove(node)
    rewriter.sweep(inputs)


def has_input(node: ir.Node, index: int) -> bool:
    """Whether the input at ``index`` is there."""
    return len(node.inputs) > index and node.inputs[index] is not None
