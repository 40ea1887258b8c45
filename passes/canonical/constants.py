"""Compute what depends on constants alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from ...ir.graph import constant_tensor, is_constant, opset, rank
from ...ir.rewriter import Rewriter
from ...ir.storage.stream import array_of
from ...ir.types.growth import elements_after
from .weights import fold_weight_transpose

FOLDED_OPS = frozenset(
    "Cast Concat ConstantOfShape Expand Flatten Gather Identity Range Reshape Shape Slice Split "
    "Squeeze Tile Transpose Unsqueeze".split()
)
"""Ops that move data or count: folding them changes no bit of any float.

Range only of integers (runtimes add up the steps of a float one differently), Cast only where
every number survives it (roundings and overflows differ).
"""
INTEGER_OPS = frozenset("Add Sub Mul Equal Less Greater And Or Not Where Min Max".split())
"""Folded only on integers and booleans, where every implementation agrees."""
MAX_FOLDED_ELEMENTS = 1 << 16
"""Larger results would trade file size for nothing (weight transposes are lazy instead)."""
VIEWS = frozenset("Flatten Reshape Squeeze Unsqueeze".split())
STORED_ONCE = 1 << 10
"""Elements from which a constant that others read as it is gets no copy in another shape."""


def fold_constants(node: ir.Node, rewriter: Rewriter) -> bool:
    """Compute what depends on constants alone, where the result is exact and small."""
    if node.op_type not in FOLDED_OPS | INTEGER_OPS or node.domain or not node.inputs:
        return False
    if any(o.is_graph_output() for o in node.outputs):
        return False
    if not all(v is None or is_constant(v) for v in node.inputs):
        return False
    if node.op_type == "Transpose" and rank(node.inputs[0]) == 2:
        return fold_weight_transpose(node, rewriter)
    if _views_shared(node):
        return False
    results = _evaluate(node, opset(rewriter.model))
    if results is None:
        return False
    inputs = list(node.inputs)
    for output, result in zip(node.outputs, results, strict=True):
        if output.uses():
            folded = rewriter.initializer(f"{output.name}_folded", result, graph=node.graph)
            rewriter.replace_uses(output, folded)
    rewriter.remove(node)
    rewriter.sweep(inputs)
    return True


def _views_shared(node: ir.Node) -> bool:
    """Whether it only shows a weight in another shape that others read as it is stored."""
    source, tensor = node.inputs[0], constant_tensor(node.inputs[0])
    if node.op_type not in VIEWS or source is None or tensor is None:
        return False
    return tensor.size >= STORED_ONCE and len(source.uses()) > 1


def _evaluate(node: ir.Node, version: int) -> list[np.ndarray] | None:
    """The outputs by ONNX's own reference; None where it cannot or could differ from others.

    Also where inputs or outputs are large, which is found out before memory is taken.
    """
    tensors = [constant_tensor(v) for v in node.inputs]
    if sum(0 if t is None else t.size for t in tensors) > MAX_FOLDED_ELEMENTS:
        return None
    arrays = [None if t is None else array_of(t) for t in tensors]
    given = [a for a in arrays if a is not None]
    if not _agreed(node.op_type, given) or elements_after(node, given) > MAX_FOLDED_ELEMENTS:
        return None
    feeds = {str(v.name): a for v, a in zip(node.inputs, arrays, strict=True) if v}
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(_single_node_model(node, version)).run(None, feeds)
    except Exception:  # the reference lacks an op or a dtype: the node just stays
        return None
    results = [np.asarray(r) for r in found]
    if node.op_type == "Cast" and not _survives(given[0], results[0]):
        return None
    return results


def _agreed(op_type: str, arrays: Iterable[np.ndarray]) -> bool:
    """Whether every implementation computes the same bits from these constants."""
    kinds = {a.dtype.kind for a in arrays}
    if op_type in INTEGER_OPS or op_type == "Range":
        return kinds <= set("iub")
    return not kinds & set("OSU")


def _survives(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a cast keeps every number; flags only ask whether one is zero."""
    if after.dtype.kind in "OSU" or before.dtype.kind in "OSU":
        return False
    if after.dtype == bool:
        return bool(np.all(before == before))
    with np.errstate(all="ignore"):
        return bool(np.all(after.astype(before.dtype) == before))


def _single_node_model(node: ir.Node, version: int) -> onnx.ModelProto:
    inputs = list(dict.fromkeys(str(v.name) for v in node.inputs if v is not None))
    graph = onnx.helper.make_graph(
        [ir.to_proto(node)],
        "constant",
        [onnx.helper.make_empty_tensor_value_info(name) for name in inputs],
        [onnx.helper.make_empty_tensor_value_info(str(o.name)) for o in node.outputs],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
