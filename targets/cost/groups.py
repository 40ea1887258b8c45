"""What rules on fusion share: what they found, and small questions about nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from ...ir.graph import (
    constant_tensor,
    dims,
    operator,
    single_consumer,
)

QUANTIZE, DEQUANTIZE, DYNAMIC = "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"


@dataclass
class Fusion:
    """gone: nodes without a kernel of their own. kernel: what others run as: "u8s8", "dynamic",
    "nbits4", "nbits8", "conv-u8s8", "integer", "layer-norm", "gelu". copies: how often a
    dequantization runs, once for each reader that computes with floats."""

    gone: set[ir.Node] = field(default_factory=set)
    kernel: dict[ir.Node, str] = field(default_factory=dict)
    copies: dict[ir.Node, int] = field(default_factory=dict)

    def absorb(self, *nodes: ir.Node | None) -> None:
        """These nodes are done by another one."""
        self.gone.update(node for node in nodes if node is not None)


def of(nodes: Iterable[ir.Node], *names: str) -> Iterator[ir.Node]:
    """Those nodes that are one of the named operators."""
    return (node for node in nodes if operator(node)[1] in names)


def bias_add(node: ir.Node) -> ir.Node | None:
    """The addition of a constant row behind a node."""
    add = single_consumer(node.outputs[0])
    if add is None or add.op_type not in ("Add", "Sum") or len(add.inputs) != 2:
        return None
    return add if any(is_row(v) for v in add.inputs) else None


def is_row(value: ir.Value | None) -> bool:
    """Whether a value is a stored vector of more than one number."""
    tensor = constant_tensor(value)
    return tensor is not None and len(tensor.shape) == 1 and tensor.size > 1


def with_scalar(node: ir.Node) -> bool:
    """Whether an operand is one stored number."""
    return any((t := constant_tensor(v)) is not None and t.size == 1 for v in node.inputs)


def becomes_gemm(node: ir.Node) -> bool:
    """Whether the product with its bias becomes one kernel: two axes, or fixed sizes."""
    x, w = dims(node.inputs[0]), dims(node.inputs[1])
    if x is None or w is None or len(w) != 2 or constant_tensor(node.inputs[1]) is None:
        return False
    return len(x) == 2 or all(isinstance(size, int) for size in x)
