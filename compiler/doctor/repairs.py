"""Repairs of quantized graphs: small rewrites that mend what a rule found, on the file itself.

Each leaves the numbers of the file as they are, but for rounding of a bias to int32 and for pairs
that are taken out, which makes results better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from ...ir.graph import (
    attribute,
    constant_array,
    constant_tensor,
    consumers,
    dims,
    given,
    producer,
    rank,
    scalar,
)
from ...ir.rewriter import Rewriter
from ...targets.rules.table import label
from ..backends.legalise import legalise
from .unsigned import obstacle, to_unsigned

Repair = Callable[[Rewriter, Sequence[ir.Node]], None]
"""Mends what it can of the nodes that break a rule; what it cannot is found again afterwards."""
_INT32 = float(2**31 - 1)


def _bypass(rewriter: Rewriter, nodes: Sequence[ir.Node]) -> None:
    """What a QuantizeLinear rounds goes on unrounded."""
    for node in nodes:
        value = node.inputs[0]
        if value is None or _no_pair(node):
            continue
        for reader in consumers(node.outputs[0]):
            rewriter.replace_uses(reader.outputs[0], value)
            rewriter.sweep(reader.outputs)


def _no_pair(node: ir.Node) -> str:
    """Why what a node rounds cannot go on unrounded; "" where it can."""
    if node.op_type != "QuantizeLinear":
        return f"{node.op_type} {label(node)} computes in codes, there is no pair to take out"
    kinds = [reader.op_type for reader in consumers(node.outputs[0])]
    if node.outputs[0].is_graph_output() or not kinds:
        return f"the codes of {label(node)} are no pair's"
    other = next((kind for kind in kinds if kind != "DequantizeLinear"), "")
    return other and f"the codes of {label(node)} are read by {other}, there is no pair to take out"


def _unsigned(rewriter: Rewriter, nodes: Sequence[ir.Node]) -> None:
    to_unsigned(rewriter)


def _integer_bias(rewriter: Rewriter, nodes: Sequence[ir.Node]) -> None:
    """Float biases as int32 behind a DequantizeLinear; those of MatMul by what compile does."""
    for node in nodes:
        if node.op_type == "Gemm" and node.graph is not None:
            _gemm_bias(rewriter, node)
    legalise(rewriter)


def _gemm_bias(rewriter: Rewriter, node: ir.Node) -> None:
    x, w = (producer(value, "DequantizeLinear") for value in node.inputs[:2])
    bias, columns = constant_array(given(node, 2)), _columns(node)
    step = None if x is None else scalar(given(x, 1))
    scales = None if w is None else constant_array(given(w, 1))
    if step is None or scales is None or bias is None or columns is None:
        return
    if bias.size not in (1, columns) or scales.size not in (1, columns):
        return
    scale = np.broadcast_to(np.float32(step) * scales.reshape(-1), (columns,)).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.rint(np.broadcast_to(bias.reshape(-1), (columns,)) / scale.astype(np.float64))
    if not np.isfinite(codes).all() or np.abs(codes).max(initial=0.0) > _INT32:
        return
    old, hint = node.inputs[2], str(node.name)
    inputs = [
        rewriter.initializer(f"{hint}_bias_quantized", codes.astype(np.int32)),
        rewriter.initializer(f"{hint}_bias_scale", scale),
    ]
    made = rewriter.insert(
        "DequantizeLinear", inputs, before=node, attributes={"axis": 0}, name=f"{hint}_bias",
        origins=[node],
    )  # fmt: skip
    rewriter.set_input(node, 2, made.outputs[0])
    rewriter.sweep([old])


def _columns(node: ir.Node) -> int | None:
    shape = dims(node.inputs[1])
    found = None if not shape else shape[0 if attribute(node, "transB", 0) else -1]
    return found if isinstance(found, int) else None


def _untransposed(rewriter: Rewriter, nodes: Sequence[ir.Node]) -> None:
    """Weights stored [K, N]: codes, scales and zero points turned once, in the file."""
    for node in nodes:
        stored = producer(given(node, 1))
        turn = stored if stored is not None and stored.op_type == "Transpose" else None
        made = producer(turn.inputs[0]) if turn is not None else stored
        if made is None or made.op_type != "DequantizeLinear" or rank(made.inputs[0]) != 2:
            continue
        if turn is None and not attribute(node, "transB", 0):
            continue
        turned = _turned_weight(rewriter, made, node)
        if turned is None:
            continue
        old = node.inputs[1]
        rewriter.set_input(node, 1, turned)
        if turn is None:
            rewriter.set_attribute(node, "transB", 0)
        rewriter.sweep([old])


def _turned_weight(rewriter: Rewriter, made: ir.Node, node: ir.Node) -> ir.Value | None:
    inputs: list[ir.Value | None] = []
    for value in made.inputs:
        array = constant_array(value)
        if value is None or array is None:
            return None
        turned = np.ascontiguousarray(array.T)
        tensor = ir.Tensor(turned, dtype=value.dtype) if value.dtype is not None else turned
        inputs.append(rewriter.initializer(f"{value.name}_turned", tensor))
    axis, block = attribute(made, "axis", 1), attribute(made, "block_size", 0)
    attributes = {"axis": 1 - axis % 2} | ({"block_size": block} if block else {})
    dequantize = rewriter.insert(
        "DequantizeLinear", inputs, before=node, attributes=attributes, name=f"{made.name}_turned",
        origins=[made],
    )  # fmt: skip
    return dequantize.outputs[0]


def _own_pair(rewriter: Rewriter, nodes: Sequence[ir.Node]) -> None:
    """A DequantizeLinear for each layer that reads a weight; the codes stay shared."""
    for node in nodes:
        for place in (0, 1):
            made = producer(given(node, place), "DequantizeLinear")
            if made is None or constant_tensor(made.inputs[0]) is None:
                continue
            if len(list(made.outputs[0].uses())) < 2:
                continue
            attributes = {k: attribute(made, k) for k in made.attributes}
            own = rewriter.insert(
                "DequantizeLinear", list(made.inputs), before=node, attributes=attributes,
                name=f"{made.name}_own", origins=[made],
            )  # fmt: skip
            rewriter.set_input(node, place, own.outputs[0])


def _rows_first(rewriter: Rewriter, nodes: Sequence[ir.Node]) -> None:
    """Rows of a table are fetched as codes, and dequantized then."""
    for node in nodes:
        made = producer(given(node, 0), "DequantizeLinear")
        if made is None or _many_scales(node):
            continue
        old = node.outputs[0]
        attributes = {key: attribute(node, key) for key in node.attributes}
        gather = rewriter.insert(
            "Gather", [made.inputs[0], node.inputs[1]], before=node, attributes=attributes,
            name=f"{node.name}_codes", origins=[node],
        )  # fmt: skip
        whole = [rewriter.initializer(f"{v.name}_one", _alone(v)) for v in made.inputs[1:] if v]
        rows = rewriter.insert(
            "DequantizeLinear", [gather.outputs[0], *whole], before=node,
            name=f"{node.name}_rows", origins=[made],
        )  # fmt: skip
        table = node.inputs[0]
        rewriter.take_over(old, rows.outputs[0])
        rewriter.remove(node)
        rewriter.sweep([table])


def _many_scales(node: ir.Node) -> str:
    """Why rows of a table cannot be fetched as codes; "" where they can."""
    made = producer(given(node, 0), "DequantizeLinear")
    one = made is not None and scalar(given(made, 1)) is not None
    if made is not None and one and not attribute(made, "block_size", 0):
        return ""
    return f"the table of {label(node)} has more than one scale"


def _alone(value: ir.Value) -> np.ndarray:
    """The one number of a scale or a zero point, without axes."""
    array = constant_array(value)
    assert array is not None
    return array.reshape(())


def _folded(rewriter: Rewriter, nodes: Sequence[ir.Node]) -> None:
    """A dequantized constant as the floats that it stands for."""
    for node in nodes:
        codes, scale, zero = (constant_array(given(node, i)) for i in range(3))
        if codes is None or scale is None or attribute(node, "block_size", 0):
            continue
        axis = attribute(node, "axis", 1)
        wide = [1] * codes.ndim
        if scale.size > 1:
            wide[axis] = scale.size
        offset = 0 if zero is None else zero.astype(np.float32).reshape(wide)
        floats = (codes.astype(np.float32) - offset) * scale.astype(np.float32).reshape(wide)
        value = rewriter.initializer(f"{node.name}_floats", floats.astype(scale.dtype))
        rewriter.replace_uses(node.outputs[0], value)
        rewriter.sweep(node.outputs)


def _kept_apart(rewriter: Rewriter, nodes: Sequence[ir.Node]) -> None:
    """The Add in front of a normalisation as a Sum, which the runtime does not merge with it."""
    for node in nodes:
        add = producer(node.inputs[0], "Add")
        if add is None or add.graph is None:
            continue
        made = rewriter.insert(
            "Sum", list(add.inputs), before=add, name=f"{add.name}_sum", origins=[add]
        )
        rewriter.take_over(add.outputs[0], made.outputs[0])
        rewriter.remove(add)


REPAIRS: Mapping[str, Repair] = MappingProxyType(
    {
        "softmax-range-blown": _bypass,
        "signed-and-shared": _unsigned,
        "signed-products": _unsigned,
        "table-dequantized-whole": _rows_first,
        "constant-dequantized": _folded,
        "bias-output-unquantized": _integer_bias,
        "quantized-unasked": _integer_bias,
        "weight-only-shared": _own_pair,
        "weight-only-transposed": _untransposed,
        "norm-merged-with-add": _kept_apart,
    }
)
"""By rule; in the order in which they are made."""

_BY_NODE: Mapping[str, Callable[[ir.Node], str]] = MappingProxyType(
    {"softmax-range-blown": _no_pair, "table-dequantized-whole": _many_scales}
)


def hindrance(rule: str, model: ir.Model, nodes: Sequence[ir.Node]) -> str:
    """Why none of the nodes that break a rule can be mended in the file; "" where that is not so,
    or not known before it is tried."""
    if REPAIRS.get(rule) is _unsigned:
        return obstacle(model)
    asked = _BY_NODE.get(rule)
    reasons = [] if asked is None else [asked(node) for node in nodes]
    return reasons[0] if reasons and all(reasons) else ""
