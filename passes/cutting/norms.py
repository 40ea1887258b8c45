"""Which outputs of a layer count: a norm behind it makes some of them small for all readers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...ir.graph import constant_array, is_constant, single_consumer
from ..math.refit import Doubles
from .consumers import Consumer

_THROUGH = frozenset({"Dropout", "Cast", "Identity"})
_NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})


def output_scale(consumer: Consumer) -> Doubles | None:
    """By what a norm multiplies each output of a layer, |scale| float64 [outputs].

    None where anything else reads the output, or the sum that it becomes part of: it then counts
    as it is.
    """
    if len(consumer.site.uses) != 1:
        return None
    node = _behind(consumer.site.uses[0].output)
    if node is not None and node.op_type == "Add" and not any(map(is_constant, node.inputs)):
        node = _behind(node.outputs[0])
    if node is None or node.op_type not in _NORMS or len(node.inputs) < 2:
        return None
    scale = constant_array(node.inputs[1])
    outputs = consumer.matrix().shape[1]
    return None if scale is None or scale.shape != (outputs,) else np.abs(scale.astype(np.float64))


def _behind(value: ir.Value) -> ir.Node | None:
    """The only node that reads a value, past those that hand it on."""
    node = single_consumer(value)
    while node is not None and node.op_type in _THROUGH:
        node = single_consumer(node.outputs[0])
    return node
