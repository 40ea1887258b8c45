"""What a layer is: one application of a stored weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir

from ..graph import attribute, constant_tensor
from .stored import Stored, effective_dims

LayerKind: TypeAlias = Literal["linear", "conv", "embedding"]


@dataclass(frozen=True, eq=False)
class Layer:
    """One use of a weight. ``input`` and ``output`` are the activations, in float where the
    layer is quantized by the usual patterns; ``nodes`` start with the operator."""

    kind: LayerKind
    nodes: tuple[ir.Node, ...]
    weight: Stored
    bias: ir.Value | None
    input: ir.Value
    output: ir.Value

    @property
    def node(self) -> ir.Node:
        """The operator that applies the weight."""
        return self.nodes[0]

    @property
    def features(self) -> tuple[int | None, int | None]:
        """Inputs and outputs of a linear layer, None where unknown."""
        return features_of(self.node, self.weight)

    @property
    def quantized(self) -> bool:
        """Whether the weight is stored in 8 bits or fewer, or was rounded to them."""
        return is_quantized(self.weight)


def features_of(node: ir.Node, weight: Stored) -> tuple[int | None, int | None]:
    """Inputs and outputs of the linear layer that a node applies, None where unknown."""
    if node.op_type in ("MatMulNBits", "MatMulBnb4"):
        return int(attribute(node, "K")), int(attribute(node, "N"))
    shape = effective_dims(weight)
    if shape is None or len(shape) != 2:
        return None, None
    rows, columns = (size if isinstance(size, int) else None for size in shape)
    return (columns, rows) if attribute(node, "transB", 0) else (rows, columns)


def is_quantized(weight: Stored) -> bool:
    """Whether a weight is stored in integers or small floats, or rounded on its way."""
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in weight.path):
        return True
    tensor = constant_tensor(weight.value)
    return tensor is not None and (
        not tensor.dtype.is_floating_point() or tensor.dtype.bitwidth <= 8
    )
