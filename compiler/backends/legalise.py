"""Rewrite a portable quantized graph so that ONNX Runtime's CPU provider runs it in integers.

Facts from the runtime's graph optimiser, checked by ``tests/conformance``:

- ``MatMul + Add`` on two-dimensional inputs, and with a constant vector on fully static ones,
  is merged into a float ``Gemm`` before the integer kernels are chosen; a ``Gemm`` with an int32
  bias is not, unless an activation follows that is not absorbed by a QuantizeLinear.
- A float layer between a DequantizeLinear and a QuantizeLinear gets a per-tensor int8 weight
  that nobody asked for, when its bias is part of it; behind ``Sum`` it does not. Both are moved
  through ops that only move numbers, so that they need not stand next to the layer.
- A quantized convolution is an integer kernel only where nobody but its QuantizeLinear reads
  its output.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ...ir.graph import (
    attribute,
    constant_array,
    consumers,
    dims,
    is_constant,
    operator,
    opset,
    producer,
    rank,
    scalar,
    single_consumer,
)
from ...ir.qdq import COMPUTE_OPS, is_dequantized
from ...ir.rewriter import Rewriter
from ...targets.rules.fusion import (
    ABSORBED,
    absorbs,
    activation_fuses,
    merged_add,
    merges,
    other_operand,
    quantized_unasked,
)
from .backend import Legalised
from .double_norms import unfuse_double_norm

INT32_LIMIT = float(2**31 - 1)
SCALE_PER_CHANNEL = 13
"""Opset from which on DequantizeLinear takes one."""


def legalise(rewriter: Rewriter) -> list[Legalised]:
    """Apply every rewrite the CPU provider needs; returns what was done."""
    done: list[Legalised] = []
    for node in list(rewriter.graph):
        if node.graph is None:
            continue
        done.extend(_read_unrounded(node, rewriter))
        done.extend(_bias_of_quantized(node, rewriter))
        done.extend(_float_between(node, rewriter))
        written = unfuse_double_norm(node, rewriter)
        if written is not None:
            sentence = "the runtime would merge a cast from float64 into the normalisation"
            done.append(Legalised(str(written.name), "norm-kept-apart", sentence))
    return done


def _read_unrounded(node: ir.Node, rewriter: Rewriter) -> Iterator[Legalised]:
    """A quantized convolution of which a float layer reads what is not rounded yet."""
    if node.op_type != "QuantizeLinear" or not _rounds_quantized_conv(node):
        return
    value, pair = node.inputs[0], single_consumer(node.outputs[0])
    if value is None or pair is None or pair.op_type != "DequantizeLinear":
        return
    readers = [reader for reader in consumers(value) if reader is not node]
    if not readers or value.is_graph_output():
        return
    if any(r.op_type not in COMPUTE_OPS or r.graph is not node.graph for r in readers):
        return
    rewriter.replace_uses(value, pair.outputs[0], only=readers)
    yield Legalised(
        str(value.name),
        "rounded-for-all",
        "float layers read it rounded, too, so that the convolution is one integer kernel",
    )


def _rounds_quantized_conv(node: ir.Node) -> bool:
    """Whether it rounds what a convolution of rounded inputs gives.

    An activation may stand between that the grid absorbs.
    """
    made = producer(node.inputs[0])
    if made is not None and made.op_type in ABSORBED and absorbs(node, made):
        made = producer(made.inputs[0])
    return made is not None and made.op_type == "Conv" and all(map(is_dequantized, made.inputs[:2]))


def _bias_of_quantized(node: ir.Node, rewriter: Rewriter) -> Iterator[Legalised]:
    """A quantized MatMul whose bias would pull it into a float Gemm."""
    if node.op_type != "MatMul" or node.domain or not all(is_dequantized(v) for v in node.inputs):
        return
    add, flat = single_consumer(node.outputs[0]), rank(node.inputs[0]) == 2
    if add is None or not (merges(add, node) or (flat and _adds_constant(add, node))):
        return
    name = str(add.outputs[0].name)
    bias = _int32_bias(node, add) if opset(rewriter.model) >= SCALE_PER_CHANNEL else None
    if bias is None or not flat or activation_fuses(add.outputs[0]):
        _as_sum(add, rewriter)
        yield Legalised(name, "bias-apart", "the bias is added apart, so that the product is int8")
        return
    _as_integer_gemm(node, add, bias, rewriter)
    yield Legalised(name, "int32-bias", "the bias is int32, so that one integer kernel takes it")


def _adds_constant(add: ir.Node, node: ir.Node) -> bool:
    """Whether it adds a constant that may become an int32 bias, be it one number for all."""
    if operator(add) != ("", "Add") or len(add.inputs) != 2:
        return False
    bias = other_operand(add, node.outputs[0])
    return is_constant(bias) and (rank(bias) or 0) <= 2


def _float_between(node: ir.Node, rewriter: Rewriter) -> Iterator[Legalised]:
    """A float layer that the runtime would quantize on its own."""
    if not quantized_unasked(node):
        return
    last = merged_add(node) or node
    if last is not node:
        _as_sum(last, rewriter)
    elif not _bias_apart(node, rewriter):
        return
    yield Legalised(
        str(last.outputs[0].name),
        "kept-float",
        "the bias is added apart, so that the runtime leaves this float layer float",
    )


def _as_integer_gemm(
    node: ir.Node, add: ir.Node, bias: tuple[np.ndarray, np.ndarray], rewriter: Rewriter
) -> None:
    codes, scale = bias
    hint = str(add.outputs[0].name)
    q = rewriter.initializer(f"{hint}_bias_quantized", codes)
    s = rewriter.initializer(f"{hint}_bias_scale", scale)
    b = rewriter.insert(
        "DequantizeLinear",
        [q, s],
        before=add,
        attributes={"axis": 0},
        name=f"{hint}_bias",
        origins=[add],
    )
    gemm = rewriter.insert(
        "Gemm",
        [*node.inputs, b.outputs[0]],
        before=add,
        name=f"{node.name}_gemm",
        origins=[node, add],
    )
    old = list(add.inputs)
    rewriter.take_over(add.outputs[0], gemm.outputs[0])
    rewriter.remove(add)
    rewriter.sweep(old)


def _int32_bias(node: ir.Node, add: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """The bias in steps of input scale times weight scale, [N]; None where it does not fit."""
    x, w = producer(node.inputs[0]), producer(node.inputs[1])
    array, weight_shape = constant_array(other_operand(add, node.outputs[0])), dims(node.inputs[1])
    if x is None or w is None or array is None or weight_shape is None:
        return None
    x_scale, w_scale = scalar(x.inputs[1]), constant_array(w.inputs[1])
    columns = weight_shape[-1]
    if x_scale is None or w_scale is None or not isinstance(columns, int):
        return None
    if array.shape[-1:] not in ((), (1,), (columns,)) or array.size not in (1, columns):
        return None
    scale = np.broadcast_to(np.float32(x_scale) * w_scale.astype(np.float32), columns).copy()
    if not np.all(scale > 0):
        return None
    codes = np.rint(array.reshape(-1).astype(np.float64) / scale.astype(np.float64))
    if np.abs(codes).max(initial=0.0) > INT32_LIMIT:
        return None
    return codes.astype(np.int32), scale


def _bias_apart(node: ir.Node, rewriter: Rewriter) -> bool:
    """Conv(x, w, b) -> Sum(Conv(x, w), b); False where the bias is no constant."""
    output, weight = node.outputs[0], constant_array(node.inputs[1])
    assert weight is not None
    given = node.inputs[2] if len(node.inputs) > 2 else None
    array = np.zeros(1, weight.dtype) if given is None else constant_array(given)
    if array is None:
        return False
    if node.op_type == "Gemm":
        array = (array * attribute(node, "beta", 1.0)).astype(array.dtype)
    else:
        array = array.reshape((-1,) + (1,) * (weight.ndim - 2))
    bias = rewriter.initializer(f"{output.name}_bias", array)
    added = rewriter.insert(
        "Sum", [output, bias], after=node, name=f"{node.name}_sum", origins=[node]
    )
    if given is not None:
        rewriter.set_input(node, 2, None)
        rewriter.sweep([given])
    users = [n for n in consumers(output) if n is not added]
    rewriter.replace_uses(output, added.outputs[0], only=users)
    return True


def _as_sum(add: ir.Node, rewriter: Rewriter) -> None:
    made = rewriter.insert(
        "Sum", list(add.inputs), before=add, name=f"{add.name}_sum", origins=[add]
    )
    rewriter.take_over(add.outputs[0], made.outputs[0])
    rewriter.remove(add)
