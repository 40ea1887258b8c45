"""Weights with zeros in a pattern that the target's kernels skip, stored so that they are seen.

TensorRT's builder, and tools that look for the pattern, do not see it in constant codes: such a
weight stands as floats in front of QuantizeLinear, which gives the codes that were there.
Source: NVIDIA/TensorRT, issue 4694; NVIDIA Model-Optimizer, option AddQDQPairToWeight.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ....ir.errors import TargetError
from ....ir.facts import has_pattern
from ....ir.finding.pattern import along, follows
from ....ir.graph import attribute, constant_array, constant_tensor, given, operator, producer
from ....ir.rewriter import Rewriter
from ....ir.sites import find_sites
from ....targets.schema import Target

SUMMED = {"MatMul": 0, "Conv": 1}
"""The axis of a product's weight that is summed over, of operators that Q/DQ stand in front of."""


def codes_as_floats(model: ir.Model, target: Target) -> None:
    """Put floats and QuantizeLinear in the place of int8 weights that keep a pattern."""
    rewriter = Rewriter(model)
    for back in list(_patterned(model, target)):
        codes, scale = constant_array(back.inputs[0]), constant_array(back.inputs[1])
        assert codes is not None and scale is not None and back.inputs[0] is not None
        axis = int(attribute(back, "axis", 1))
        weight = _floats(codes, scale, axis)
        if weight is None:
            continue
        old = back.inputs[0]
        stored = rewriter.initializer(str(old.name).removesuffix("_quantized"), weight)
        node = rewriter.insert(
            "QuantizeLinear", [stored, *back.inputs[1:]], before=back, attributes={"axis": axis},
            name=f"{old.name}", origins=[back],
        )  # fmt: skip
        rewriter.set_input(back, 0, node.outputs[0])
        rewriter.sweep([old])


def _patterned(model: ir.Model, target: Target) -> Iterator[ir.Node]:
    """The DequantizeLinear nodes of such weights."""
    for product in model.graph:
        domain, op = operator(product)
        if domain or op not in SUMMED or len(product.inputs) < 2:
            continue
        back = producer(product.inputs[1], "DequantizeLinear")
        tensor = constant_tensor(back.inputs[0]) if back is not None else None
        if back is None or tensor is None or tensor.dtype != ir.DataType.INT8:
            continue
        if given(back, 2) is None or constant_array(back.inputs[1]) is None:
            continue
        known = along(tensor, SUMMED[op])
        if any(follows(wanted, p) for wanted in target.sparse.patterns or () for p in known):
            yield back


def _floats(codes: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray | None:
    """Floats in the type of the scale that are rounded to these very codes; None without any."""
    shape = [1] * codes.ndim
    if scale.ndim:
        shape[axis] = -1
    steps = scale.reshape(shape)
    weight = (codes.astype(np.float64) * steps.astype(np.float64)).astype(scale.dtype)
    again = np.rint(weight.astype(np.float32) / steps.astype(np.float32))
    return weight if np.array_equal(again, codes) else None


def checked_zeros(lowered: ir.Model, model: ir.Model, target: Target) -> str:
    """That every layer which had a pattern keeps it, in words; "" where none had one.

    Raises TargetError where one lost it.
    """
    for pattern in target.sparse.patterns or ():
        before, after = _count(lowered, pattern), _count(model, pattern)
        if after < before:
            raise TargetError(
                f"{before - after} of {before} layers lost their zeros in the pattern {pattern}",
                where="model.onnx",
                hint="this is a fault of planish: report it",
            )
        if before:
            layers = "1 layer has" if before == 1 else f"{before} layers have"
            return f"the weights of {layers} zeros in the pattern {pattern}, in model.onnx too"
    return ""


def _count(model: ir.Model, pattern: str) -> int:
    return sum(has_pattern(site.facts, pattern) for site in find_sites(model))
