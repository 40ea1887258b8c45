"""Numbers that stand for "minus infinity" in attention masks, made to fit half precision."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ....ir.graph import constant_array, consumers, operator
from ....ir.rewriter import Rewriter
from ..backend import Legalised

MASKED = -3e4
"""exp of it is 0 beside any score; half of what float16 holds, so that sums with scores fit."""
_CARRIES = frozenset(
    "Add Cast Concat Expand Identity Mul Reshape Slice Squeeze Transpose Unsqueeze Where".split()
)


def bounded_masks(rewriter: Rewriter) -> Iterator[Legalised]:
    """Constants far below zero that only reach softmaxes become -30000.

    float16 has nothing below -65504: -3.4e38 would be minus infinity, and 0 times that is NaN. A
    row in which all is masked is spread otherwise than before; nothing meaningful is in it.
    """
    for value in list(rewriter.graph.initializers.values()):
        if value.dtype != ir.DataType.FLOAT or value.is_graph_input() or not value.uses():
            continue
        array = None if (value.const_value is None) else _small(value)
        if array is None or not np.any(array < 2 * MASKED) or not _only_masks(value):
            continue
        bounded = rewriter.initializer(f"{value.name}_bounded", np.maximum(array, MASKED))
        rewriter.replace_uses(value, bounded)
        rewriter.sweep([value])
        sentence = f"masked scores are {MASKED:g}, which float16 holds"
        yield Legalised(str(value.name), "mask-bounded", sentence)


def _small(value: ir.Value) -> np.ndarray | None:
    """The numbers of a constant that may be a mask; weights are not read."""
    assert value.const_value is not None
    return constant_array(value) if value.const_value.size <= 1 << 16 else None


def _only_masks(value: ir.Value) -> bool:
    """Whether everything that is made of the value goes into a softmax, and something does."""
    todo, seen, found = [value], {value}, False
    while todo:
        current = todo.pop()
        if current.is_graph_output():
            return False
        for node in consumers(current):
            domain, op = operator(node)
            if domain or (op not in _CARRIES and op != "Softmax"):
                return False
            found |= op == "Softmax"
            if op in _CARRIES:
                todo.extend(new := [v for v in node.outputs if v not in seen])
                seen.update(new)
    return found
