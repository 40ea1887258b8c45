"""The float32 graph as TensorRT takes it: standard operators, Q/DQ in front of products only.

Everything here computes what the graph computed, but for the residual rule, which rounds a value
once more as it is rounded already for the layers beside.
Sources: NvInfer.h of TensorRT 11.1 (IQuantizeLayer, IDequantizeLayer), its ONNX parser
(onnxOpImporters.cpp), NVIDIA Model-Optimizer (modelopt/onnx/quantization).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ....ir.errors import TargetError
from ....ir.graph import all_nodes, constant_array, consumers, is_constant, operator, producer
from ....ir.qdq import is_dequantized
from ....ir.rewriter import Rewriter
from ....targets.schema import Target
from ..backend import Legalised
from .masks import bounded_masks
from .packed import int4_products
from .standard import written_in_standard

HALF = "native"


def lower(rewriter: Rewriter, target: Target) -> list[Legalised]:
    """Rewrite for TensorRT; what was done. Raises TargetError for what it cannot take."""
    done = [*int4_products(rewriter, target), *written_in_standard(rewriter)]
    refuse_foreign(rewriter.model, target)
    refuse_scales(rewriter.model, target)
    if target.floats.float16 == HALF:
        done.extend(bounded_masks(rewriter))
    done.extend(_residuals(rewriter))
    return done


def refuse_foreign(model: ir.Model, target: Target) -> None:
    """Raise TargetError where operators are of no ONNX domain: TensorRT would need plugins."""
    found = [node for node in all_nodes(model) if operator(node)[0]]
    if not found:
        return
    kinds = ", ".join(sorted({f"{n.domain}:{n.op_type}" for n in found}))
    raise TargetError(
        f"TensorRT has no operators {kinds} ({len(found)} of them, the first is "
        f"{found[0].name!r}): nothing can be built for {target.name}",
        where=f"node {found[0].name!r}",
        hint="export the model with operators of the default ONNX domain only, and leave out "
        "passes that make others (weight-only)",
    )


def refuse_scales(model: ir.Model, target: Target) -> None:
    """Raise TargetError for a scale that is no constant, or not a finite number above 0."""
    for node in all_nodes(model):
        if operator(node) not in (("", "QuantizeLinear"), ("", "DequantizeLinear")):
            continue
        scale = constant_array(node.inputs[1])
        if scale is None and producer(node.inputs[1], "DequantizeLinear") is not None:
            continue  # scales of two levels
        if scale is None:
            what = "is computed at run time"
        elif not np.all(np.isfinite(values := scale.astype(np.float64))):
            what = "is not finite"
        elif not np.all(values > 0):
            what = "is not above 0"
        else:
            continue
        raise TargetError(
            f"the scale of {node.op_type} {node.name!r} {what}; TensorRT wants constants above 0",
            where=f"node {node.name!r}",
            hint=f"quantize the float model for {target.name} instead, or repair the scale",
        )


def _residuals(rewriter: Rewriter) -> Iterator[Legalised]:
    """Additions to the output of an integer convolution read their other operand in 8 bits.

    The convolution takes the addition into itself, and reads an operand of 8 bits where there is
    one: only where the operand is rounded already for another layer, so that it costs nothing.
    """
    for node in list(rewriter.graph):
        if operator(node) != ("", "Add") or any(is_constant(v) for v in node.inputs):
            continue
        fused = [i for i, value in enumerate(node.inputs) if _integer_conv(value)]
        if len(fused) != 1:
            continue
        other = node.inputs[1 - fused[0]]
        view = None if other is None else _view_of(other)
        if view is None or node.graph is not rewriter.graph:
            continue
        rewriter.set_input(node, 1 - fused[0], view)
        yield Legalised(
            str(node.outputs[0].name),
            "residual-in-8-bits",
            "this sum takes its other branch in the 8 bits to which it is rounded for the next "
            "layer anyway: so TensorRT can add it inside the int8 convolution in front",
        )


def _integer_conv(value: ir.Value | None) -> bool:
    """Whether an integer convolution made it, and nobody else reads it."""
    node = producer(value, "Conv")
    if node is None or value is None or len(consumers(value)) != 1 or value.is_graph_output():
        return False
    return all(map(is_dequantized, node.inputs[:2]))


def _view_of(value: ir.Value) -> ir.Value | None:
    """The same value after a Q/DQ pair that stands already."""
    for quantize in consumers(value):
        if operator(quantize) != ("", "QuantizeLinear") or quantize.inputs[0] is not value:
            continue
        for back in consumers(quantize.outputs[0]):
            if operator(back) == ("", "DequantizeLinear") and back.graph is value.graph:
                return back.outputs[0]
    return None
